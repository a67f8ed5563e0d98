"""Whose a data directory is, and whether what it holds may stay or be replaced.

    manifest = read_stored(data_dir)         # None: nothing finished is there
    check_equal(data_dir, manifest, settings=settings, classes=classes)
    begin(data_dir, "pets")                  # clears unfinished work of our own

Nothing of another owner is deleted and nothing finished is replaced by something else.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import write_text
from tlperf.dataset.manifest import (
    COMPLETE,
    MANIFEST,
    QUARANTINE,
    Manifest,
    read_manifest,
)

# Written first and kept: the files of a folder that has it are ours to clear.
OWNER = ".tlperf-data"
_LOCK = ".lock"
_PARTIAL = ".partial-"


def read_stored(data_dir: pathlib.Path) -> Manifest | None:
    """The manifest of a finished dataset, or None where there is none.

    Raises:
        TlperfError: 73 where the folder holds files of somebody else, 76 where a
            finished dataset's manifest is damaged.
    """
    if (data_dir / COMPLETE).exists():
        return read_manifest(data_dir)
    others = sorted(
        path.name
        for path in data_dir.iterdir()
        if path.name != _LOCK and not path.name.startswith(_PARTIAL)
    )
    if others and not (data_dir / OWNER).exists():
        raise TlperfError(
            ExitCode.EXISTS,
            "other_files",
            path=data_dir,
            found=f"files that are not tlperf's, e.g. {others[0]!r}",
            remedy="give an empty or new --data_dir",
        )
    return None


def check_equal(
    data_dir: pathlib.Path,
    manifest: Manifest,
    *,
    settings: dict[str, Any],
    classes: tuple[str, ...],
) -> None:
    """Refuses a stored dataset of other settings or classes (exit code 73)."""
    wanted = {**settings, "classes": list(classes)}
    stored = {**manifest.settings, "classes": list(manifest.classes)}
    differing = [
        f"{name} is {stored.get(name)!r} there, {wanted.get(name)!r} here"
        for name in sorted(set(wanted) | set(stored))
        if wanted.get(name) != stored.get(name)
    ]
    if differing:
        raise _differs(data_dir, ", ".join(differing))


def check_equal_digest(
    data_dir: pathlib.Path, manifest: Manifest, *, digest: str
) -> None:
    """Refuses a stored dataset of other source files (exit code 73)."""
    if digest != manifest.digest:
        found = f"the source's files: digest {manifest.digest[:12]} there, "
        raise _differs(data_dir, f"{found}{digest[:12]} here")


def _differs(data_dir: pathlib.Path, found: str) -> TlperfError:
    return TlperfError(
        ExitCode.EXISTS,
        "other_dataset",
        path=data_dir,
        found=f"another dataset is there: {found}",
        remedy="give another --data_dir, or delete this one",
    )


def find_damage(
    data_dir: pathlib.Path, manifest: Manifest
) -> Iterator[tuple[str, str]]:
    """(file, what) of each shard or index that is not there, or not at its size."""
    for shard in manifest.shards:
        path = data_dir / shard.file
        if not path.is_file():
            yield shard.file, "shard missing"
        elif (size := path.stat().st_size) != shard.bytes:
            word = "cut" if size < shard.bytes else "too long"
            what = f"shard {word}: expected {shard.bytes} bytes, found {size}"
            yield shard.file, what
        if shard.index and not (data_dir / shard.index).is_file():
            yield shard.index, "index missing"


def begin(data_dir: pathlib.Path, name: str) -> None:
    """Clears what is left of unfinished work, and claims the folder.

    COMPLETE goes first: from then on no reader takes what is there for a dataset.
    Finished shards are not kept yet.
    """
    (data_dir / COMPLETE).unlink(missing_ok=True)
    owner = data_dir / OWNER
    names = {name}
    if owner.exists():
        names.add(owner.read_text().strip())
        for path in sorted(data_dir.iterdir()):
            if _is_ours(path.name, names):
                path.unlink()
    write_text(owner, f"{name}\n")


def _is_ours(file: str, names: set[str]) -> bool:
    return (
        file in (MANIFEST, QUARANTINE, "dataset_info.json", "features.json")
        or file.endswith(".labels.txt")
        or file.startswith(_PARTIAL)
        or any(
            file.startswith(f"{name}-") and (".tfrecord-" in file or file[-3:] == ".h5")
            for name in names
        )
    )
