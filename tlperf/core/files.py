"""Durable files: what is visible under its final name is whole and on disk.

    with atomic_path(folder / "weights.h5") as partial:
        write(partial)              # folder/.weights.h5.partial-PID
    # here: data fsynced, renamed, directory fsynced

TensorFlow's and Keras' writers neither fsync nor rename; everything the project keeps
passes through here.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Self

from tlperf.core import faults
from tlperf.core.errors import ExitCode, TlperfError

# The disk, or one's share of it, is full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Sent to disk at once while a file is written: large for a disk, little for its end.
_SYNC_BYTES = 8 * 1024 * 1024


def fsync_directory(folder: pathlib.Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: pathlib.Path) -> None:
    """Makes the bytes of `path` durable, whoever wrote them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _io_remedy(number: int | None) -> str:
    if number in _FULL:
        return "free space and run again"
    if number == errno.EMFILE:
        return "raise ulimit -n, or shard with a larger --shard_bytes"
    return "check the path and its permissions"


def check_writable(folder: pathlib.Path) -> None:
    """Raises TlperfError 74 where no file can be written to a folder, which is made
    where there is none."""
    with io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not say it: root may all, but not on every file system.
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"tlperf")


@contextlib.contextmanager
def io_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError of the body into one line that names `path` (exit code 74)."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        raise TlperfError(
            ExitCode.IO,
            "disk_full" if full else "io_error",
            path=path,
            found=error.strerror or str(error),
            remedy=_io_remedy(error.errno),
        ) from error


def publish(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a written file its name: data fsync, rename, directory fsync."""
    faults.hit("written")
    fsync_file(partial)
    faults.hit("synced")
    os.rename(partial, target)
    faults.hit("renamed")
    fsync_directory(target.parent)
    faults.hit("published")


def check_free_space(folder: pathlib.Path, needed_bytes: int, *, remedy: str) -> None:
    """Refuses to begin what the disk cannot hold (exit code 74)."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise TlperfError(
            ExitCode.IO,
            "disk_full",
            path=folder,
            found=f"{needed_bytes} bytes are needed, {free} are free",
            remedy=remedy,
        )


# What a file is called while it is written; the group is its name to be.
PARTIAL = re.compile(r"\.partial-\d+-(.+)")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`; renamed to `path` when the body succeeds.

    Order: data fsync, rename, directory fsync. On any error the temporary file is
    removed and `path` keeps what it had.

    Raises:
        TlperfError: exit code 74, naming the path, where the system refuses a write.
    """
    target = pathlib.Path(path)
    # The suffix stays last: Keras and h5py choose the format by it.
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    with io_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            publish(partial, target)
        except BaseException:
            # What went wrong first is what is told.
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def staging_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `target` to make it in, with what belongs to it; gone at the end,
    whatever happens. `publish_all` gives names before.

    Raises:
        TlperfError: exit code 74, naming `target`, where the system refuses a write.
    """
    folder = target.with_name(f".partial-{os.getpid()}-{target.name}")
    with io_errors(target):
        try:
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish_all(names: Sequence[str], staging: pathlib.Path) -> None:
    """Gives files and folders that were made in a staging folder their names beside it,
    in that order: all data fsync, then each rename, directory fsync. What has a name
    already is replaced."""
    for name in names:
        _sync_tree(staging / name)
    for name in names:
        target = staging.parent / name
        if target.is_dir():  # a rename replaces only empty ones
            os.rename(target, staging / f".former-{name}")
        os.rename(staging / name, target)
        fsync_directory(staging.parent)


def _sync_tree(path: pathlib.Path) -> None:
    if not path.is_dir():
        fsync_file(path)
        return
    for child in path.iterdir():
        _sync_tree(child)
    fsync_directory(path)


class SyncedWriter:
    """Writes a file whose bytes go to disk while the next ones are made; a context
    manager. What remains for the fsync at the end is little."""

    def __init__(self, path: pathlib.Path):
        self._stream = open(path, "wb")
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "fdatasync")
        self._pending: concurrent.futures.Future[None] | None = None
        self._written = 0

    def write(self, data: bytes) -> None:
        """Appends `data`; raises the OSError of any byte so far."""
        self._stream.write(data)
        self._written += len(data)
        if self._written < _SYNC_BYTES or not self._is_synced():
            return
        self._written = 0
        self._stream.flush()
        self._pending = self._pool.submit(os.fdatasync, self._stream.fileno())

    def _is_synced(self) -> bool:
        if self._pending is None:
            return True
        if self._pending.done():
            self._pending.result()
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        with self._stream:
            if kind is None and self._pending is not None:
                self._pending.result()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` atomically and durably."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 `text` atomically and durably."""
    write_bytes(path, text.encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys; NaN and infinities are refused, not written.

    Text that is not Unicode, as of a path that is not UTF-8, is escaped as JSON has it.
    """
    text = _encoder(indent).encode(value)
    return text.encode(errors="backslashreplace").decode()


@functools.cache  # json.dumps would build one for each of many thousand rows
def _encoder(indent: int | None) -> json.JSONEncoder:
    return json.JSONEncoder(
        sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False
    )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON with a final newline."""
    write_text(path, to_json(value, indent=1) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        TlperfError: 66 where the file is missing, 76 where it is not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise TlperfError(
            ExitCode.NO_INPUT,
            "missing_file",
            path=path,
            found="no such file",
            remedy="run the stage that writes it",
        ) from error
    except ValueError as error:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_file",
            path=path,
            found=f"not JSON ({error})",
            remedy="delete it and run the stage that writes it again",
        ) from error


def seal_line(text: str) -> str:
    """A line that `unseal_line` tells from a damaged one: with a checksum in front.

    >>> seal_line("{}")
    '99c9a213 {}'
    """
    return f"{zlib.crc32(text.encode()):08x} {text}"


def unseal_line(line: str) -> str:
    """The text of a sealed line; ValueError where it is another."""
    text = line[9:]
    if line != seal_line(text):
        raise ValueError("a damaged line")
    return text


def append_json_line(path: str | os.PathLike[str], value: Any) -> None:
    """Appends one JSON object as one line and makes it durable.

    A torn last line, left by a writer that was killed or a full disk, is cut off first:
    glued to the new one it would make a damaged line in the middle.
    """
    line = (to_json(value) + "\n").encode()
    target = pathlib.Path(path)
    with io_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # two writers never cut each other
            stream.truncate(_whole_lines_bytes(stream))
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def _whole_lines_bytes(stream: BinaryIO) -> int:
    """Size of the file up to and with its last newline."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        stream.seek(start)
        newline = stream.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """Reads a file of JSON lines; a missing file is an empty list.

    An unfinished last line (the writer was killed) is left out; any other line that is
    not JSON raises TlperfError 76.
    """
    source = pathlib.Path(path)
    with io_errors(source):
        data = source.read_bytes() if source.exists() else b""
    # Before it is decoded: a line may end within a letter.
    *lines, unfinished = data.split(b"\n")
    del unfinished  # empty after a whole last line
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except ValueError as error:
            raise TlperfError(
                ExitCode.INTEGRITY,
                "damaged_file",
                path=path,
                record=number,
                found=f"not JSON ({error})",
                remedy="delete the file and run the stage again",
            ) from error
    return rows


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
