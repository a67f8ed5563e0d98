"""The whole way from a source to a sealed data directory.

    summary = write_dataset(DataConfig(source="catsdogs"), Path("data"))
    summary["splits"]["train"]               # {'cats': 600, 'dogs': 600}

Plan, then act: list, inspect, split and plan are done before a shard is written; then
shards, tfds metadata, manifest and, last of all, COMPLETE. What is written is a formula
of the source's bytes and the settings, for any number of workers.
"""

import dataclasses
import pathlib
import shutil
import time
from typing import Any

from tlperf.core.choices import Encoding, Format
from tlperf.core.files import directory_lock, sha256_file, write_text
from tlperf.core.progress import log, progress_bar
from tlperf.core.settings import DataConfig
from tlperf.dataset import directory, plan, splits
from tlperf.dataset.ingest import (
    Ingest,
    Inspected,
    check_bad,
    hash_items,
    ingest_items,
    quarantine_lines,
)
from tlperf.dataset.manifest import (
    QUARANTINE,
    Manifest,
    ShardEntry,
    tlperf_version,
    write_manifest,
)
from tlperf.dataset.payload import Layout
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.listing import Item, Listing, fit_name
from tlperf.dataset.tfds_metadata import TfdsFacts, write_tfds_metadata
from tlperf.dataset.workers import Workers
from tlperf.dataset.writing import ShardTask, write_shard


@dataclasses.dataclass(frozen=True)
class Job:
    """A source and how it is to be stored; nothing is read yet but the list of files.

    Attributes:
        name: of the dataset.
        config: as given.
        listing: all files of the source.
        items: those that --limit keeps.
    """

    name: str
    config: DataConfig
    listing: Listing
    items: tuple[Item, ...]

    @property
    def has_given_splits(self) -> bool:
        """Whether the source deals the splits itself."""
        return any(item.split for item in self.items)

    @property
    def layout(self) -> Layout:
        """How images are stored."""
        is_source = self.config.encoding is Encoding.SOURCE
        return Layout(
            encoding=self.config.encoding,
            image_size=None if is_source else self.config.image_size,
            exif=self.config.exif,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that decides what is stored, as JSON values."""
        given, config = self.has_given_splits, self.config
        return {
            "name": self.name,
            "format": config.format.value,
            "encoding": config.encoding.value,
            "image_size": self.layout.image_size,
            "exif": config.exif.value,
            "split": None if given else list(config.split),
            "split_mode": "source" if given else config.split_mode.value,
            "seed": config.seed,
            "limit": config.limit,
            "max_pixels": config.max_pixels,
        }


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
    """All that is decided before the first shard is written.

    Attributes:
        ingest: where each file goes.
        records: accepted images of each split, in stored order.
        shards: files to write.
        forecast_bytes: size of all shards.
    """

    ingest: Ingest
    records: dict[str, list[Inspected]]
    shards: list[plan.ShardPlan]
    forecast_bytes: int

    def class_counts(self, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Images by split and class."""
        counts = {split: dict.fromkeys(classes, 0) for split in self.records}
        for split, records in self.records.items():
            for one in records:
                counts[split][one.item.class_name] += 1
        return counts


def write_dataset(config: DataConfig, data_dir: pathlib.Path) -> dict[str, Any]:
    """Stores the source's images in `data_dir`, or finds them stored there already.

    Returns:
        What was done: `name format encoding classes seen accepted quarantined ignored
        duplicates flags splits shards bytes digest seconds images_per_sec reused`.

    Raises:
        TlperfError: 65 data that cannot be used, 66 no source, 73 `data_dir` holds
            something else, 74 disk full or refused, 75 another process writes there.
    """
    start = time.monotonic()
    job = plan_job(config)
    with directory_lock(data_dir), Workers(config.workers) as workers:
        reused = _find_stored(job, data_dir, workers=workers)
        manifest = reused or _write(job, data_dir, workers=workers)
    return _summary(manifest, seconds=time.monotonic() - start, reused=bool(reused))


def plan_dataset(config: DataConfig, data_dir: pathlib.Path) -> dict[str, Any]:
    """What `write_dataset` would do; reads every file and writes nothing.

    Returns:
        As `write_dataset`, but `forecast_bytes` and `free_bytes` (of the disk) for
        what only writing tells: `bytes images_per_sec reused`.
    """
    start = time.monotonic()
    job = plan_job(config)
    with Workers(config.workers) as workers:
        found = ingest_items(job.listing, job.items, config=config, workers=workers)
    check_bad(found, max_bad=config.max_bad)
    planned = plan_records(job, found)
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    return {
        "name": job.name,
        "format": config.format.value,
        "encoding": config.encoding.value,
        "classes": list(job.listing.classes),
        **dataclasses.asdict(found.counts),
        "flags": found.flags,
        "splits": planned.class_counts(job.listing.classes),
        "shards": len(planned.shards),
        "forecast_bytes": planned.forecast_bytes,
        "free_bytes": shutil.disk_usage(existing).free,
        "digest": found.digest,
        "seconds": time.monotonic() - start,
    }


def plan_job(config: DataConfig) -> Job:
    """Lists the source and applies --limit."""
    source = open_source(config)
    listing = source.read_listing()
    items = listing.items
    if 0 < config.limit < len(items):
        ids: dict[tuple[str, str], list[str]] = {}
        for item in items:
            ids.setdefault((item.class_name, item.split or ""), []).append(item.id)
        kept = splits.choose_within_limit(ids, limit=config.limit, seed=config.seed)
        items = tuple(item for item in items if item.id in kept)
    return Job(config.name or fit_name(source.name), config, listing, items)


def plan_records(job: Job, found: Ingest) -> DatasetPlan:
    """Deals the accepted images to splits and files; pure.

    Raises:
        TlperfError: exit code 65, where a split has no image of some class.
    """
    config, classes = job.config, job.listing.classes
    by_id = {one.item.id: one for one in found.accepted}
    if job.has_given_splits:
        assert all(item.split in splits.SPLITS for item in job.items)
        split_of = {text: str(one.item.split) for text, one in by_id.items()}
    else:
        ids: dict[str, list[str]] = {name: [] for name in classes}
        for text, one in by_id.items():
            ids[one.item.class_name].append(text)
        split_of = splits.assign_splits(
            ids, shares=config.split, mode=config.split_mode, seed=config.seed
        )
    # One order over all classes, so that any stretch of it mixes them.
    ordered = splits.seeded_order(by_id, seed=config.seed, purpose="order")
    records = {
        split: [by_id[text] for text in ordered if split_of[text] == split]
        for split in splits.SPLITS
    }
    sizes = {
        split: [
            plan.record_bytes(
                one.bytes or 0,
                encoding=config.encoding,
                image_size=job.layout.image_size,
            )
            for one in members
        ]
        for split, members in records.items()
    }
    planned = DatasetPlan(
        ingest=found,
        records=records,
        shards=plan.plan_shards(job.name, sizes, file_format=config.format),
        forecast_bytes=sum(sum(part) for part in sizes.values()),
    )
    splits.check_splits(planned.class_counts(classes))
    return planned


def _find_stored(
    job: Job, data_dir: pathlib.Path, *, workers: Workers
) -> Manifest | None:
    """The manifest of an equal dataset that is whole; None where one is to be written.

    Raises:
        TlperfError: exit code 73, where `data_dir` holds something else.
    """
    manifest = directory.read_stored(data_dir)
    if manifest is None:
        return None
    directory.check_equal(
        data_dir, manifest, settings=job.settings, classes=job.listing.classes
    )
    digest = hash_items(
        job.listing,
        job.items,
        max_bytes=job.config.max_file_bytes,
        workers=workers,
    )
    directory.check_equal_digest(data_dir, manifest, digest=digest)
    for file, what in directory.find_damage(data_dir, manifest):
        log(f"tlperf shard: {file}: {what}; writing all shards again")
        return None
    return manifest


def _write(job: Job, data_dir: pathlib.Path, *, workers: Workers) -> Manifest:
    directory.begin(data_dir, job.name)
    found = ingest_items(job.listing, job.items, config=job.config, workers=workers)
    # Before any refusal: this file tells what to mend.
    write_text(data_dir / QUARANTINE, quarantine_lines(found))
    check_bad(found, max_bad=job.config.max_bad)
    planned = plan_records(job, found)
    shards = _write_shards(job, planned, data_dir, workers=workers)
    names = [QUARANTINE]
    if job.config.format is Format.TFRECORD:
        names += write_tfds_metadata(data_dir, _tfds_facts(job, shards))
    manifest = Manifest(
        name=job.name,
        format=job.config.format.value,
        encoding=job.config.encoding.value,
        image_size=job.layout.image_size,
        exif=job.config.exif.value,
        settings=job.settings,
        layout=job.layout.describe(),
        classes=job.listing.classes,
        digest=found.digest,
        counts=found.counts,
        flags=found.flags,
        splits=planned.class_counts(job.listing.classes),
        shards=tuple(shards),
        files={name: sha256_file(data_dir / name) for name in names},
        tlperf_version=tlperf_version(),
    )
    write_manifest(data_dir, manifest)
    return manifest


def _write_shards(
    job: Job, planned: DatasetPlan, data_dir: pathlib.Path, *, workers: Workers
) -> list[ShardEntry]:
    tasks = [
        ShardTask(
            plan=shard,
            data_dir=data_dir,
            records=tuple(planned.records[shard.split][shard.start : shard.stop]),
            classes=job.listing.classes,
            layout=job.layout,
            format=job.config.format,
        )
        for shard in planned.shards
    ]
    entries: list[ShardEntry] = []
    total = planned.ingest.counts.accepted
    with progress_bar(total=total, unit="images", title="shard") as bar:
        for entry in workers.map(write_shard, tasks):
            entries.append(entry)
            bar.update(entry.count)
    return entries


def _tfds_facts(job: Job, shards: list[ShardEntry]) -> TfdsFacts:
    by_split = {
        split: [shard for shard in shards if shard.split == split]
        for split in splits.SPLITS
    }
    return TfdsFacts(
        name=job.name,
        classes=job.listing.classes,
        shard_files=tuple(shard.file for shard in shards),
        shard_lengths={
            split: tuple(shard.count for shard in members)
            for split, members in by_split.items()
        },
        split_bytes={
            split: sum(shard.bytes for shard in members)
            for split, members in by_split.items()
        },
        raw_size=job.layout.raw_size,
    )


def _summary(manifest: Manifest, *, seconds: float, reused: bool) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "format": manifest.format,
        "encoding": manifest.encoding,
        "classes": list(manifest.classes),
        **dataclasses.asdict(manifest.counts),
        "flags": manifest.flags,
        "splits": manifest.splits,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "digest": manifest.digest,
        "seconds": seconds,
        # Of a reused dataset nothing was written, so there is no rate to tell.
        "images_per_sec": None if reused else manifest.counts.accepted / seconds,
        "reused": reused,
    }
