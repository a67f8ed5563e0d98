"""Whose a data directory is, and whether what it holds may stay or be replaced.

    manifest = read_stored(data_dir)         # None: nothing finished is there
    check_equal(data_dir, manifest, settings=settings, classes=classes)
    begin(data_dir, "pets")                  # claims it, clears what cannot go on

Nothing of another owner is deleted and nothing finished is replaced by something else.
"""

import pathlib
from collections.abc import Collection, Iterator
from typing import Any

from tlperf.core import faults
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import (
    PARTIAL,
    check_free_space,
    fsync_directory,
    io_errors,
    sha256_file,
    write_text,
)
from tlperf.core.locks import LOCK
from tlperf.dataset.manifest import (
    COMPLETE,
    MANIFEST,
    OWNER,
    QUARANTINE,
    Manifest,
    read_manifest,
)
from tlperf.dataset.plan import is_shard_file


def read_stored(data_dir: pathlib.Path) -> Manifest | None:
    """The manifest of a finished dataset, or None where there is none.

    Raises:
        TlperfError: 73 where the folder holds files of somebody else, 76 where a
            finished dataset's manifest is damaged.
    """
    with io_errors(data_dir):
        names = sorted(path.name for path in data_dir.iterdir())
    is_ours = OWNER in names or (COMPLETE in names and MANIFEST in names)
    if is_ours:
        return read_manifest(data_dir) if COMPLETE in names else None
    others = [name for name in names if name != LOCK and _partial_of(name) != OWNER]
    if others:
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
    """(file, what) of each file that is not there, each shard that is not at its size,
    and each file of metadata that is not what was written."""
    for name, digest in manifest.files.items():
        path = data_dir / name
        if not path.is_file():
            yield name, "file missing"
        elif sha256_file(path) != digest:
            yield name, "differs from the manifest (sha256)"
    for shard in manifest.shards:
        path = data_dir / shard.file
        if not path.is_file():
            yield shard.file, "shard missing"
        elif (size := path.stat().st_size) != shard.bytes:
            word = "cut" if size < shard.bytes else "too long"
            what = f"shard {word}: expected {shard.bytes} bytes, found {size}"
            yield shard.file, what
        for name in shard.sidecars:
            if not (data_dir / name).is_file():
                yield name, "missing"


def begin(data_dir: pathlib.Path, name: str) -> None:
    """Claims the folder, and clears what unfinished work cannot go on with.

    COMPLETE goes first: from then on no reader takes what is there for a dataset.
    Shards of this name stay, for `remove_shards`.

    Raises:
        TlperfError: exit code 74, where the system refuses a change.
    """
    owner = data_dir / OWNER
    with io_errors(data_dir):
        (data_dir / COMPLETE).unlink(missing_ok=True)
        former = owner.read_text("utf-8").strip() if owner.exists() else ""
        for path in sorted(data_dir.iterdir()):
            target = _partial_of(path.name)
            if target == OWNER or (former and target):
                path.unlink()
            elif former and _is_metadata(path.name):
                path.unlink()
            elif former not in ("", name) and is_shard_file(path.name, name=former):
                path.unlink()
    if former != name:
        write_text(owner, f"{name}\n")
        fsync_directory(data_dir.parent)  # the folder itself may be new


def remove_shards(data_dir: pathlib.Path, name: str, *, keep: Collection[str]) -> None:
    """Removes shards and sidecars of the dataset `name` that are not to be kept.

    Raises:
        TlperfError: exit code 74, where the system refuses it.
    """
    with io_errors(data_dir):
        for path in sorted(data_dir.iterdir()):
            if is_shard_file(path.name, name=name) and path.name not in keep:
                path.unlink()


def check_space(data_dir: pathlib.Path, needed_bytes: int) -> None:
    """Refuses to begin what the disk cannot hold (exit code 74)."""
    remedy = "free space, or give a --data_dir on another disk, and run again"
    check_free_space(data_dir, needed_bytes, remedy=remedy)
    faults.hit("space_checked")


def _partial_of(file: str) -> str:
    """What a file that is being written will be called; "" for any other."""
    match = PARTIAL.fullmatch(file)
    return match[1] if match else ""


def _is_metadata(file: str) -> bool:
    names = (MANIFEST, QUARANTINE, "dataset_info.json", "features.json")
    return file in names or file.endswith(".labels.txt")
