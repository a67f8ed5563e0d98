"""What is to be done, decided before a shard is written: pure, but for listing files.

job = plan_job(config)                   # lists the source
planned = plan_records(job, found)       # which record goes to which file
planned.tasks(data_dir)                  # what the workers get
"""

import dataclasses
import enum
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from tlperf.core.choices import Encoding
from tlperf.core.files import to_json
from tlperf.core.settings import DataConfig
from tlperf.dataset import plan, splits
from tlperf.dataset.findings import Inspected
from tlperf.dataset.guard import Limits
from tlperf.dataset.ingest import Ingest
from tlperf.dataset.manifest import ShardEntry, codec_versions, tlperf_version
from tlperf.dataset.payload import Layout
from tlperf.dataset.sources import open_source
from tlperf.dataset.sources.listing import Item, Listing, fit_name
from tlperf.dataset.tfds_metadata import TfdsFacts
from tlperf.dataset.writing import ShardTask

# Settings an inspection depends on, under their own names.
_LIMITS = ("max_file_bytes", *(field.name for field in dataclasses.fields(Limits)))
# All settings that decide what is stored, but for those that `Job.settings` works out.
_STORED_SETTINGS = (
    *("format", "encoding", "exif", "seed", "limit", "keep_splits", "shard_bytes"),
    *_LIMITS,
)


def _plain(config: DataConfig, names: Sequence[str]) -> dict[str, Any]:
    """Settings as JSON values."""
    values = {name: getattr(config, name) for name in names}
    return {
        name: value.value if isinstance(value, enum.StrEnum) else value
        for name, value in values.items()
    }


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

    @functools.cached_property
    def layout(self) -> Layout:
        """How images are stored."""
        is_source = self.config.encoding is Encoding.SOURCE
        return Layout(
            encoding=self.config.encoding,
            image_size=None if is_source else self.config.image_size,
            exif=self.config.exif,
        )

    @property
    def limits(self) -> dict[str, Any]:
        """The settings that an inspection depends on, as JSON values."""
        return _plain(self.config, _LIMITS)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that decides what is stored, as JSON values."""
        given, config = self.has_given_splits, self.config
        return {
            **_plain(config, _STORED_SETTINGS),
            "name": self.name,
            "image_size": self.layout.image_size,
            "split": None if given else list(config.split),
            "split_mode": "source" if given else config.split_mode.value,
        }


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
    """All that is decided before the first shard is written.

    Attributes:
        job: what was asked for.
        ingest: where each file goes.
        records: accepted images of each split, in stored order.
        shards: files to write.
    """

    job: Job
    ingest: Ingest
    records: dict[str, list[Inspected]]
    shards: list[plan.ShardPlan]

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class."""
        classes = self.job.listing.classes
        counts = {split: dict.fromkeys(classes, 0) for split in self.records}
        for split, records in self.records.items():
            for one in records:
                counts[split][one.item.class_name] += 1
        return counts

    def tasks(self, data_dir: pathlib.Path) -> list[ShardTask]:
        """What is to be written, a task a file."""
        return [self._task(shard, data_dir) for shard in self.shards]

    def _task(self, shard: plan.ShardPlan, data_dir: pathlib.Path) -> ShardTask:
        records = tuple(self.records[shard.split][shard.start : shard.stop])
        return ShardTask(
            plan=shard,
            data_dir=data_dir,
            records=records,
            classes=self.job.listing.classes,
            layout=self.job.layout,
            format=self.job.config.format,
            choices=_plan_choices(self.job, shard),
        )

    def tfds_facts(self, shards: list[ShardEntry]) -> TfdsFacts:
        """What tfds has to know of the shards that were written."""
        by_split = {
            split: [shard for shard in shards if shard.split == split]
            for split in splits.SPLITS
        }
        return TfdsFacts(
            name=self.job.name,
            classes=self.job.listing.classes,
            shard_files=tuple(shard.file for shard in shards),
            shard_lengths={
                split: tuple(shard.count for shard in members)
                for split, members in by_split.items()
            },
            split_bytes={
                split: sum(shard.bytes for shard in members)
                for split, members in by_split.items()
            },
            raw_size=self.job.layout.raw_size,
        )


def _plan_choices(job: Job, shard: plan.ShardPlan) -> str:
    """All that decides a shard's bytes but for its records."""
    choices = {
        "file": shard.file,
        "format": job.config.format,
        "layout": dataclasses.asdict(job.layout),
        "choices": job.layout.describe(),
        "classes": job.listing.classes,
        "tlperf_version": tlperf_version(),
    }
    if job.config.encoding is not Encoding.SOURCE:
        choices["encoders"] = codec_versions()
    return to_json(choices)


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
        TlperfError: exit code 65, where a split has no image of some class, or given
            splits share a group or the same bytes.
    """
    by_id = {one.item.id: one for one in found.accepted}
    if job.has_given_splits:
        # Duplicates too: the copy that is left out may be of another split.
        offered = (*found.accepted, *found.duplicates)
        splits.check_leaks(
            {one.item.id: str(one.item.split) for one in offered},
            groups={one.item.id: one.item.group for one in offered},
            digests={one.item.id: one.sha256 for one in offered},
        )
    split_of = _split_of(job, found)
    # One order over all classes, so that any stretch of it mixes them.
    ordered = splits.seeded_order(by_id, seed=job.config.seed, purpose="order")
    records: dict[str, list[Inspected]] = {split: [] for split in splits.SPLITS}
    for text in ordered:
        records[split_of[text]].append(by_id[text])
    sizes = {
        split: [
            plan.record_bytes(
                one.bytes or 0,
                encoding=job.config.encoding,
                image_size=job.layout.image_size,
            )
            for one in members
        ]
        for split, members in records.items()
    }
    shards = plan.plan_shards(
        job.name,
        sizes,
        file_format=job.config.format,
        shard_bytes=job.config.shard_bytes,
    )
    planned = DatasetPlan(job, found, records, shards)
    splits.check_splits(planned.class_counts)
    return planned


def _split_of(job: Job, found: Ingest) -> dict[str, str]:
    """The split of each accepted image."""
    config = job.config
    if job.has_given_splits:
        assert all(item.split in splits.SPLITS for item in job.items)
        return {one.item.id: str(one.item.split) for one in found.accepted}
    # A copy that is left out still ties its group to the one that is kept.
    offered = (*found.accepted, *found.duplicates)
    groups = splits.join_groups(
        {one.item.id: one.item.group for one in offered},
        {one.item.id: one.sha256 for one in offered},
    )
    ids: dict[str, list[str]] = {name: [] for name in job.listing.classes}
    for one in found.accepted:
        ids[one.item.class_name].append(one.item.id)
    return splits.assign_splits(
        ids,
        shares=config.split,
        mode=config.split_mode,
        seed=config.seed,
        groups=groups,
    )
