"""Every promise of the manifest checked against the files; problems are returned.

report = verify_dataset(Path("data"))
report["ok"], report["problems"]         # False, [{"file": ..., "what": ...}]
"""

import collections
import hashlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from tlperf.core.choices import Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes, sha256_file
from tlperf.core.progress import progress_bar
from tlperf.dataset.directory import find_damage
from tlperf.dataset.examples import RecordError, parse_example
from tlperf.dataset.hdf5 import Hdf5Reader
from tlperf.dataset.manifest import Manifest, ShardEntry, read_manifest
from tlperf.dataset.tfrecord import (
    INDEX_SUFFIX,
    format_index,
    iterate_records,
    unframe,
)

Problem = dict[str, Any]


def problem(file: str, what: str, record: int | None = None) -> Problem:
    """One line of the report; `record` counts within the file."""
    return {"file": file, "record": record, "what": what}


def verify_dataset(data_dir: pathlib.Path, *, full: bool = True) -> dict[str, Any]:
    """Checks a data directory.

    Args:
        data_dir: the directory.
        full: every byte and record; else the manifest, names and sizes alone.

    Returns:
        `ok shards records problems [{file, record, what}] bytes seconds full`;
        `records` are those that were read and found sound (with `full`).

    Raises:
        TlperfError: exit code 66, where there is no dataset.
    """
    start = time.monotonic()
    try:
        manifest = read_manifest(data_dir)
    except TlperfError as error:
        if error.code != ExitCode.INTEGRITY:
            raise
        file = pathlib.Path(error.path or "").name
        return _report([problem(file, error.text())], start=start, full=full)
    problems = list(_check_names(data_dir, manifest))
    problems += [problem(*found) for found in find_damage(data_dir, manifest)]
    records = 0
    shards = manifest.shards if full else ()
    check = _CHECKS[Format(manifest.format)]
    with progress_bar(total=len(shards), unit="shards", title="verify") as bar:
        for shard in shards:
            if (data_dir / shard.file).is_file():
                sound, found = check(data_dir, manifest, shard)
                records += sound
                problems += found
            bar.update()
    return _report(problems, start=start, full=full, manifest=manifest, records=records)


def _report(
    problems: list[Problem],
    *,
    start: float,
    full: bool,
    manifest: Manifest | None = None,
    records: int = 0,
) -> dict[str, Any]:
    return {
        "ok": not problems,
        "shards": len(manifest.shards) if manifest else 0,
        "records": records,
        "problems": problems,
        "bytes": manifest.bytes if manifest else 0,
        "seconds": time.monotonic() - start,
        "full": full,
    }


def _check_names(data_dir: pathlib.Path, manifest: Manifest) -> Iterator[Problem]:
    """Files beside the shards, sums over shards, and shards of somebody else."""
    for name, digest in manifest.files.items():
        path = data_dir / name
        if not path.is_file():
            yield problem(name, "file missing")
        elif sha256_file(path) != digest:
            yield problem(name, "differs from the manifest (sha256)")
    known = {shard.file for shard in manifest.shards}
    known |= {shard.index for shard in manifest.shards if shard.index}
    for path in sorted(data_dir.iterdir()):
        is_shard = ".tfrecord-" in path.name or path.suffix == ".h5"
        if is_shard and not path.name.startswith(".") and path.name not in known:
            yield problem(path.name, "not in the manifest")
    for split, classes in manifest.splits.items():
        sums: collections.Counter[str] = collections.Counter()
        for shard in manifest.shards_of(split):
            sums.update(shard.labels)
        if sums != collections.Counter(classes):
            yield problem("manifest.json", f"counts of {split} are not its shards' sum")


def _check_tfrecord(
    data_dir: pathlib.Path, manifest: Manifest, shard: ShardEntry
) -> tuple[int, list[Problem]]:
    path = data_dir / shard.file
    problems: list[Problem] = []
    digest = hashlib.sha256()
    sizes: list[int] = []
    labels: list[int] = []
    try:
        with open(path, "rb") as stream:
            records = iterate_records(stream, file_bytes=path.stat().st_size)
            for number, record in enumerate(records):
                digest.update(record)
                sizes.append(len(record))
                try:
                    labels.append(parse_example(unframe(record)).label)
                except RecordError as error:
                    problems.append(problem(shard.file, str(error), number))
    except RecordError as error:
        problems.append(problem(shard.file, str(error), len(sizes)))
    else:
        if digest.hexdigest() != shard.sha256:
            problems.append(problem(shard.file, "differs from the manifest (sha256)"))
    problems.extend(_check_labels(manifest, shard, labels))
    problems.extend(_check_index(data_dir, shard, sizes))
    return len(labels), problems


def _check_index(
    data_dir: pathlib.Path, shard: ShardEntry, sizes: list[int]
) -> Iterator[Problem]:
    name = shard.index or shard.file + INDEX_SUFFIX
    path = data_dir / name
    if not path.is_file():
        return  # told already
    text = path.read_bytes()
    if sha256_bytes(text) != shard.index_sha256:
        yield problem(name, "differs from the manifest (sha256)")
    if text != format_index(sizes).encode():
        yield problem(name, "index does not fit its shard")


def _check_hdf5(
    data_dir: pathlib.Path, manifest: Manifest, shard: ShardEntry
) -> tuple[int, list[Problem]]:
    if sha256_file(data_dir / shard.file) != shard.sha256:
        # Not opened: HDF5's library is no safe reader of altered files.
        return 0, [problem(shard.file, "differs from the manifest (sha256)")]
    problems: list[Problem] = []
    reader = Hdf5Reader(data_dir, [shard])
    labels: list[int] = []
    try:
        for number in range(shard.count):
            try:
                labels.append(reader.read(number).label)
            except TlperfError as error:
                problems.append(problem(shard.file, error.found, number))
    finally:
        reader.close()
    problems.extend(_check_labels(manifest, shard, labels))
    return len(labels), problems


def _check_labels(
    manifest: Manifest, shard: ShardEntry, labels: list[int]
) -> Iterator[Problem]:
    found = collections.Counter(labels)
    expected = collections.Counter(
        {manifest.classes.index(name): count for name, count in shard.labels.items()}
    )
    if found != expected:
        counts = f"expected {sum(expected.values())} records, found {len(labels)} sound"
        yield problem(shard.file, f"labels differ from the manifest ({counts})")


_CHECKS = {Format.TFRECORD: _check_tfrecord, Format.HDF5: _check_hdf5}
