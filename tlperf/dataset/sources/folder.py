"""A folder with one sub-folder a class."""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.core.files import io_errors
from tlperf.dataset.sources.listing import (
    PHOTOS,
    Item,
    Listing,
    OriginError,
    check_listing,
    is_ignored,
    text_of_path,
)


@dataclasses.dataclass(frozen=True)
class FileOrigin:
    """A file on this machine."""

    path: bytes

    def read(self, *, max_bytes: int) -> bytes:
        """The whole file, where it is a regular one."""
        # lstat first: opening a FIFO blocks, a device acts. O_NOFOLLOW and O_NONBLOCK
        # hold where the file is exchanged between the two calls.
        _check_regular(os.lstat(self.path))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.path, flags), "rb", buffering=0) as stream:
            before = os.fstat(stream.fileno())
            _check_regular(before)
            if before.st_size > max_bytes:
                found = f"{before.st_size} bytes, most {max_bytes} (--max_file_bytes)"
                raise OriginError("bomb:bytes", found)
            data = stream.readall()
            after = os.fstat(stream.fileno())
        if len(data) != before.st_size or _time(before) != _time(after):
            raise OriginError("changed", "the file changed while it was read")
        return data

    def stamp(self) -> str:
        """Size, time of change and inode."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device or socket")
        raise OriginError("special_file", f"{kind}, not a regular file")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """A folder with one sub-folder a class; files below a class folder belong to it."""

    root: pathlib.Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def read_listing(self) -> Listing:
        """All files of the class folders."""
        if not self.root.is_dir():
            raise TlperfError(
                ExitCode.NO_INPUT,
                "missing_source",
                path=self.root,
                found="not a folder" if self.root.exists() else "no such folder",
                remedy=f"give {PHOTOS}, or a folder with one sub-folder a class",
            )
        listing = self._walk_classes(os.fsencode(self.root))
        return check_listing(listing, path=os.fspath(self.root))

    def _walk_classes(self, root: bytes) -> Listing:
        classes: list[str] = []
        items: list[Item] = []
        ignored = 0
        for entry in _entries(root):
            if not self._is_class(entry):
                ignored += 1
                continue
            class_name = escape_text(text_of_path(entry.name))
            classes.append(class_name)
            for path in _walk(entry.path):
                if path is None:
                    ignored += 1
                    continue
                relative = os.path.relpath(path, root)
                text = text_of_path(relative)
                items.append(Item(text, relative, class_name, FileOrigin(path)))
        items.sort(key=lambda item: item.id)
        return Listing(tuple(sorted(classes)), tuple(items), ignored)

    def _is_class(self, entry: os.DirEntry[bytes]) -> bool:
        if is_ignored(entry.name, is_folder=True):
            return False
        if entry.is_symlink() and entry.is_dir():
            # Following it could leave the source; leaving it out would lose a class.
            raise TlperfError(
                ExitCode.DATA,
                "special_file",
                path=text_of_path(entry.path),
                found="a class folder that is a symbolic link",
                remedy="put the folder itself there",
            )
        return entry.is_dir(follow_symlinks=False)


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    with io_errors(pathlib.Path(os.fsdecode(folder))), os.scandir(folder) as entries:
        return list(entries)


def _walk(folder: bytes) -> Iterator[bytes | None]:
    """Paths of all files below `folder`, links unfollowed; None for an ignored one."""
    for entry in _entries(folder):
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_ignored(entry.name, is_folder=is_folder):
            yield None
        elif is_folder:
            yield from _walk(entry.path)
        else:
            yield entry.path
