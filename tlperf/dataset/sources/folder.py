"""A folder with one sub-folder a class; a split's folder may be around them.

    FolderSource(Path("catsdogs")).read_listing().items[0].id     # 'cats/cat.1.jpg'

A symbolic link is not read, and then its file is refused as `special_file`;
`follow_links` reads those that lead to a file or folder inside the source.
"""

import dataclasses
import os
import pathlib
import stat

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import io_errors
from tlperf.dataset.sources.listing import (
    PHOTOS,
    Listing,
    OriginError,
    is_ignored,
)
from tlperf.dataset.sources.tree import Tree, list_tree

_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFDIR: "folder",
}


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
        descriptor = os.open(self.path, flags)
        try:
            before = os.fstat(descriptor)
            _check_regular(before)
            if before.st_size > max_bytes:
                found = f"{before.st_size} bytes, most {max_bytes} (--max_file_bytes)"
                raise OriginError("bomb:bytes", found)
            data = _read_bytes(descriptor, before.st_size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if len(data) != before.st_size or _time(before) != _time(after):
            raise OriginError("changed", "the file changed while it was read")
        return data

    def stamp(self) -> str:
        """Size, times, device and inode. The time of change of status moves with any
        write, whatever time of modification a copier gives back."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return ""
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        return f"{status.st_size} {times} {status.st_dev} {status.st_ino}"


def _read_bytes(descriptor: int, size: int) -> bytes:
    """Up to `size` bytes, by one call for all but huge files."""
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data


def _time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device or socket")
        raise OriginError("special_file", f"{kind}, not a regular file")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """A folder with one sub-folder a class; files below a class folder belong to it.

    Attributes:
        root: the folder.
        follow_links: whether symbolic links to what is inside `root` are read.
    """

    root: pathlib.Path
    follow_links: bool = False

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
                remedy=f"give {PHOTOS}, a folder with one sub-folder a class, an "
                "archive of one, a .csv or tfds:NAME",
            )
        walk = _Walk(os.fsencode(self.root), follow_links=self.follow_links)
        walk.read(b"", above=frozenset())
        return list_tree(walk.tree, path=os.fspath(self.root))


class _Walk:
    """Reads a folder into a Tree."""

    def __init__(self, root: bytes, *, follow_links: bool):
        self.tree = Tree()
        self._root = root
        self._real_root = os.path.realpath(root)
        self._follow_links = follow_links

    def read(self, folder: bytes, *, above: frozenset[bytes] | None) -> None:
        """Adds all that is below `folder`.

        Args:
            folder: relative to the root, "" for the root.
            above: real paths of the folders around it; None in a linked folder, where
                links to folders are followed no further: their number could explode.
        """
        here = os.path.join(self._root, folder)
        if self._follow_links and above is not None:
            above |= {os.path.realpath(here)}
        for entry in _entries(here):
            path = os.path.join(folder, entry.name)
            target = self._target(entry) if entry.is_symlink() else None
            is_linked = target is not None and os.path.isdir(target)
            is_folder = entry.is_dir(follow_symlinks=False) or (
                is_linked and above is not None and target not in above
            )
            if is_ignored(entry.name, is_folder=is_folder):
                self.tree.ignored += 1
            elif is_folder:
                self.tree.folders.add(path)
                self.read(path, above=None if is_linked else above)
            elif target and not is_linked:
                self.tree.files[path] = FileOrigin(target)
            else:
                # Of a link, reading it tells that it is one.
                self.tree.files[path] = FileOrigin(entry.path)
                if entry.is_symlink() and os.path.isdir(entry.path):
                    self.tree.links.add(path)

    def _target(self, entry: os.DirEntry[bytes]) -> bytes | None:
        """Where a link leads, None where it is not to be followed there."""
        return inside(self._real_root, entry.path) if self._follow_links else None


def inside(real_root: bytes, path: bytes) -> bytes | None:
    """The real path of a link, None where it leaves `real_root` or leads nowhere."""
    target = os.path.realpath(path)
    if target.startswith(os.path.join(real_root, b"")) and os.path.exists(target):
        return target
    return None


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    with io_errors(pathlib.Path(os.fsdecode(folder))), os.scandir(folder) as entries:
        return list(entries)
