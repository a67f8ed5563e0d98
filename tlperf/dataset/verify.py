"""Every promise of the manifest checked against the files; problems are returned.

report = verify_dataset(Path("data"))
report["ok"], report["problems"]         # False, [{"file": ..., "what": ...}]
"""

import collections
import concurrent.futures
import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_file
from tlperf.core.machine import usable_cores
from tlperf.core.progress import progress_bar
from tlperf.dataset.directory import find_damage
from tlperf.dataset.manifest import Manifest, ShardEntry, read_manifest
from tlperf.dataset.store import build_reader

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
    if full:
        for sound, found in _check_shards(data_dir, manifest):
            records += sound
            problems += found
    return _report(problems, start=start, full=full, manifest=manifest, records=records)


def _check_shards(
    data_dir: pathlib.Path, manifest: Manifest
) -> Iterator[tuple[int, list[Problem]]]:
    """Records found sound and problems of each shard that is there, in their order."""
    shards = [s for s in manifest.shards if (data_dir / s.file).is_file()]
    total = sum(shard.bytes for shard in shards)
    check = functools.partial(_check_shard, data_dir, manifest)
    # Threads: hashing and reading let go of Python's lock, and start at once.
    with (
        concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool,
        progress_bar(total=total, unit="B", title="verify") as bar,
    ):
        for shard, found in zip(shards, pool.map(check, shards), strict=True):
            bar.update(shard.bytes)
            yield found


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
    """Shards of somebody else, and sums over shards."""
    known = {shard.file for shard in manifest.shards}
    known |= {name for shard in manifest.shards for name in shard.sidecars}
    for path in sorted(data_dir.iterdir()):
        # Whatever a pattern for the files of a dataset might catch.
        is_shard = ".tfrecord-" in path.name or path.suffix == ".h5"
        if is_shard and not path.name.startswith(".") and path.name not in known:
            yield problem(path.name, "not in the manifest")
    for split, classes in manifest.splits.items():
        sums: collections.Counter[str] = collections.Counter()
        for shard in manifest.shards_of(split):
            sums.update(shard.labels)
        if sums != collections.Counter(classes):
            yield problem("manifest.json", f"counts of {split} are not its shards' sum")


def _check_shard(
    data_dir: pathlib.Path, manifest: Manifest, shard: ShardEntry
) -> tuple[int, list[Problem]]:
    """A file of the sealed hash holds what was written, to the last byte. In any other
    each record is read, to tell which are lost and which are not."""
    problems = [
        problem(name, "differs from the manifest (sha256)")
        for name, digest in shard.sidecars.items()
        if (data_dir / name).is_file() and sha256_file(data_dir / name) != digest
    ]
    if sha256_file(data_dir / shard.file) == shard.sha256:
        return shard.count, problems
    problems.append(problem(shard.file, "differs from the manifest (sha256)"))
    if problems[1:]:
        return 0, problems  # nothing tells where its records are
    sound = 0
    with contextlib.closing(build_reader(data_dir, manifest, [shard])) as reader:
        for number in range(shard.count):
            try:
                reader.read(number)
            except TlperfError as error:
                if error.record is None:
                    break  # not readable at all, and that was said
                problems.append(problem(shard.file, error.found, number))
            else:
                sound += 1
    return sound, problems
