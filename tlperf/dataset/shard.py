"""The whole way from a source to a sealed data directory.

    summary = write_dataset(DataConfig(source="catsdogs"), Path("data"))
    summary["splits"]["train"]               # {'cats': 600, 'dogs': 600}

Plan, then act: list, inspect, split and plan are done before a shard is written; then
shards, tfds metadata, manifest and, last of all, COMPLETE. What is written is a formula
of the source's bytes and the settings, for any number of workers. A run that ends early
leaves what it has done to the next (`tlperf.dataset.resume`).
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlperf.core.choices import Format
from tlperf.core.files import sha256_file, write_text
from tlperf.core.locks import directory_lock
from tlperf.core.progress import ImageBar, log
from tlperf.core.settings import DataConfig
from tlperf.core.units import format_count
from tlperf.dataset import directory, resume
from tlperf.dataset.ingest import (
    check_bad,
    hash_items,
    ingest_items,
    quarantine_lines,
)
from tlperf.dataset.job import Job, plan_job, plan_records
from tlperf.dataset.manifest import (
    QUARANTINE,
    Manifest,
    ShardEntry,
    tlperf_version,
    write_manifest,
)
from tlperf.dataset.tfds_metadata import write_tfds_metadata
from tlperf.dataset.workers import Workers
from tlperf.dataset.writing import ShardTask, write_shard

# tfds metadata, manifest and what the file system takes for names.
_METADATA_BYTES = 256 * 1024


def write_dataset(
    config: DataConfig, data_dir: pathlib.Path, *, workers: Workers | None = None
) -> dict[str, Any]:
    """Stores the source's images in `data_dir`, or finds them stored there already.

    Args:
        config: what to store.
        data_dir: where.
        workers: processes that are there already; None starts `config.workers`.

    Returns:
        What was done: `name format encoding classes seen accepted quarantined ignored
        duplicates reasons flags splits shards shards_kept bytes digest seconds
        images_per_sec reused`; `shards_kept` were finished by an earlier run.

    Raises:
        TlperfError: 65 data that cannot be used, 66 no source, 73 `data_dir` holds
            something else, 74 disk full or refused, 75 another process writes there.
    """
    if workers is None:
        with Workers(config.workers) as workers:
            return write_dataset(config, data_dir, workers=workers)
    start = time.monotonic()
    with contextlib.ExitStack() as held:
        # Listing may take long, and whose turn it is comes first; but no folder is made
        # for a source that is none.
        if data_dir.is_dir():
            held.enter_context(directory_lock(data_dir))
            job = plan_job(config)
        else:
            job = plan_job(config)
            held.enter_context(directory_lock(data_dir))
        stored = directory.read_stored(data_dir)
        if stored and not config.name:
            # The folder's or archive's name, and the same files may have another.
            job = dataclasses.replace(job, name=stored.name)
        is_whole = False
        if stored:
            is_whole = _is_whole(stored, job, data_dir, workers=workers)
        if stored and is_whole:
            manifest, kept = _recount(stored, job), len(stored.shards)
        else:
            if stored:
                # What is whole of it is kept like the shards of an unfinished run.
                for shard in stored.shards:
                    resume.write_note(data_dir, shard)
            manifest, kept = _write(job, data_dir, workers=workers)
        resume.clear_work(data_dir)
    _tell_quarantined(manifest.reasons, data_dir)
    seconds = time.monotonic() - start
    return {
        **_summary(manifest),
        "shards_kept": kept,
        "seconds": seconds,
        # Of a reused dataset nothing was written, so there is no rate to tell.
        "images_per_sec": None if is_whole else manifest.counts.accepted / seconds,
        "reused": is_whole,
    }


def _recount(manifest: Manifest, job: Job) -> Manifest:
    """The manifest with what is ignored now, which no setting or digest has."""
    counts, ignored = manifest.counts, job.listing.ignored
    seen = counts.seen - counts.ignored + ignored
    counts = dataclasses.replace(counts, seen=seen, ignored=ignored)
    return dataclasses.replace(manifest, counts=counts)


def plan_dataset(config: DataConfig, data_dir: pathlib.Path) -> dict[str, Any]:
    """What `write_dataset` would do; reads every file and writes nothing.

    Returns:
        As `write_dataset`, but `forecast_bytes` and `free_bytes` (of the disk) for
        what only writing tells: `bytes images_per_sec shards_kept reused`.
    """
    start = time.monotonic()
    job = plan_job(config)
    with Workers(config.workers) as workers:
        found = ingest_items(job.listing, job.items, config=config, workers=workers)
    check_bad(found.reasons, found.counts, config=config, path=found.first_bad)
    planned = plan_records(job, found)
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    return {
        "name": job.name,
        "format": config.format.value,
        "encoding": config.encoding.value,
        "classes": list(job.listing.classes),
        **dataclasses.asdict(found.counts),
        "reasons": found.reasons,
        "flags": found.flags,
        "splits": planned.class_counts,
        "shards": len(planned.shards),
        "forecast_bytes": sum(shard.forecast_bytes for shard in planned.shards),
        "free_bytes": shutil.disk_usage(existing).free,
        "digest": found.digest,
        "seconds": time.monotonic() - start,
    }


def _is_whole(
    manifest: Manifest, job: Job, data_dir: pathlib.Path, *, workers: Workers
) -> bool:
    """Whether what is sealed there is what the job would store, to the byte.

    Raises:
        TlperfError: exit code 73, where it is another dataset.
    """
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
    check_bad(
        manifest.reasons,
        manifest.counts,
        config=job.config,
        path=str(data_dir / QUARANTINE),
    )
    is_whole = True
    for file, what in _find_damage(data_dir, manifest, workers=workers):
        log(f"tlperf shard: {file}: {what}; writing what is damaged again")
        is_whole = False
    return is_whole


def _tell_quarantined(reasons: Mapping[str, int], data_dir: pathlib.Path) -> None:
    """One line on stderr where files are left out; which they are stands in a file."""
    if reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        count = format_count(sum(reasons.values()), "file")
        log(f"tlperf shard: {count} left out ({told}): {data_dir / QUARANTINE}")


def _find_damage(
    data_dir: pathlib.Path, manifest: Manifest, *, workers: Workers
) -> Iterator[tuple[str, str]]:
    """(file, what) of whatever is not as it was written, to the byte."""
    damaged = dict(directory.find_damage(data_dir, manifest))
    yield from damaged.items()
    check = functools.partial(resume.is_whole, data_dir)
    answers = workers.map(check, manifest.shards)
    for shard, is_whole in zip(manifest.shards, answers, strict=True):
        if not is_whole and shard.file not in damaged:
            yield shard.file, "it or its index differs from the manifest (sha256)"


def _write(
    job: Job, data_dir: pathlib.Path, *, workers: Workers
) -> tuple[Manifest, int]:
    """The sealed manifest, and how many of its shards were there before."""
    directory.begin(data_dir, job.name)
    found = ingest_items(
        job.listing,
        job.items,
        config=job.config,
        workers=workers,
        journal=resume.Journal(data_dir, job.limits),
    )
    # Before any refusal: this file tells what to mend.
    write_text(data_dir / QUARANTINE, quarantine_lines(found))
    check_bad(found.reasons, found.counts, config=job.config, path=found.first_bad)
    planned = plan_records(job, found)
    tasks = planned.tasks(data_dir)
    finished = _find_finished(job, tasks, data_dir)
    shards = _write_shards(tasks, data_dir, finished=finished, workers=workers)
    names = [QUARANTINE]
    if job.config.format is Format.TFRECORD:
        names += write_tfds_metadata(data_dir, planned.tfds_facts(shards))
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
        reasons=found.reasons,
        flags=found.flags,
        splits=planned.class_counts,
        shards=tuple(shards),
        files={name: sha256_file(data_dir / name) for name in names},
        tlperf_version=tlperf_version(),
    )
    write_manifest(data_dir, manifest)
    return manifest, len(finished)


def _find_finished(
    job: Job, tasks: Sequence[ShardTask], data_dir: pathlib.Path
) -> dict[str, ShardEntry]:
    """Shards of an earlier run that are just what is planned; the others go."""
    noted = resume.find_finished(data_dir)
    finished = {}
    for task in tasks:
        entry = noted.get(task.plan.file)
        if entry is None or entry.plan != task.plan_digest():
            continue
        if resume.is_whole(data_dir, entry):
            finished[entry.file] = entry
    keep = {
        name for entry in finished.values() for name in (entry.file, *entry.sidecars)
    }
    directory.remove_shards(data_dir, job.name, keep=keep)
    return finished


def _write_shards(
    tasks: Sequence[ShardTask],
    data_dir: pathlib.Path,
    *,
    finished: dict[str, ShardEntry],
    workers: Workers,
) -> list[ShardEntry]:
    """All shards in the order of the plan, those written that are not there yet."""
    entries = dict(finished)
    missing = [task for task in tasks if task.plan.file not in finished]
    needed = sum(task.plan.forecast_bytes for task in missing)
    directory.check_space(data_dir, needed + _METADATA_BYTES)
    # HDF5's library has crashed on a full disk: not in this process.
    in_child = any(task.format is Format.HDF5 for task in missing)
    with ImageBar(sum(len(task.records) for task in tasks), "shard") as bar:
        bar.add(sum(entry.count for entry in finished.values()))
        for entry in workers.map(write_shard, missing, in_child=in_child):
            entries[entry.file] = entry
            bar.add(entry.count, entry.bytes)
    return [entries[task.plan.file] for task in tasks]


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "format": manifest.format,
        "encoding": manifest.encoding,
        "classes": list(manifest.classes),
        **dataclasses.asdict(manifest.counts),
        "reasons": manifest.reasons,
        "flags": manifest.flags,
        "splits": manifest.splits,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "digest": manifest.digest,
    }
