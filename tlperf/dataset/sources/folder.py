"""A folder with one sub-folder a class; a split's folder may be around them.

    FolderSource(Path("catsdogs")).read_listing().items[0].id     # 'cats/cat.1.jpg'

A symbolic link is not read, and then its file is refused as `special_file`;
`follow_links` reads those that lead to a file or folder inside the source.
"""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import io_errors
from tlperf.dataset.sources.listing import (
    PHOTOS,
    Listing,
    OriginError,
    is_ignored,
    stamp_of,
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
        """What tells the file from another."""
        try:
            return stamp_of(os.lstat(self.path))
        except OSError:
            return ""


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


def check_special(path: pathlib.Path) -> None:
    """Refuses a source that is a FIFO or device before it is opened (exit code 65)."""
    with io_errors(path):
        status = os.stat(path)
    try:
        _check_regular(status)
    except OriginError as error:
        raise TlperfError(
            ExitCode.DATA,
            error.reason,
            path=path,
            found=error.detail,
            remedy="store it as a file, which can be read more than once",
        ) from None


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
        tree = read_tree(self.root, follow_links=self.follow_links)
        return list_tree(tree, path=os.fspath(self.root))


def read_tree(root: pathlib.Path, *, follow_links: bool) -> Tree:
    """All that is below a folder.

    Args:
        root: the folder.
        follow_links: whether symbolic links to what is inside `root` are followed.
    """
    walk = _Walk(os.fsencode(root), follow_links=follow_links)
    walk.read_all()
    return walk.tree


class _Walk:
    """Reads a folder into a Tree."""

    def __init__(self, root: bytes, *, follow_links: bool):
        self.tree = Tree()
        self._root = root
        self._real_root = os.path.realpath(root)
        self._follow_links = follow_links

    def read_all(self) -> None:
        """Adds all that is below the root, which may be deeper than Python recurses."""
        pending = [(b"", False)]
        while pending:
            folder, in_link = pending.pop()
            pending.extend(self._read(folder, in_link=in_link))

    def _read(self, folder: bytes, *, in_link: bool) -> Iterator[tuple[bytes, bool]]:
        """Adds what is in `folder`; gives the folders in it, and whether by a link.

        Args:
            folder: relative to the root, "" for the root.
            in_link: whether a link leads to it: there, links to folders are followed no
                further, as their number could explode.
        """
        real_folder = os.path.join(self._real_root, folder, b"")  # outside of links
        for entry in _entries(os.path.join(self._root, folder)):
            path = os.path.join(folder, entry.name)
            target = self._target(entry)
            is_linked = os.path.isdir(target)
            is_folder = entry.is_dir(follow_symlinks=False) or (
                is_linked
                and not in_link
                and not real_folder.startswith(os.path.join(target, b""))  # a circle
            )
            if is_ignored(entry.name, is_folder=is_folder):
                self.tree.ignored += 1
            elif is_folder:
                self.tree.folders.add(path)
                yield path, in_link or is_linked
            elif target and not is_linked:
                self.tree.files[path] = FileOrigin(target)
            else:
                # Of a link, reading it tells that it is one.
                self.tree.files[path] = FileOrigin(entry.path)
                if entry.is_symlink() and os.path.isdir(entry.path):
                    self.tree.links.add(path)

    def _target(self, entry: os.DirEntry[bytes]) -> bytes:
        """Where a link leads, b"" where it is none or not to be followed there."""
        if not (self._follow_links and entry.is_symlink()):
            return b""
        return inside(self._real_root, entry.path) or b""


def inside(real_root: bytes, path: bytes) -> bytes | None:
    """The real path of a link, None where it leaves `real_root` or leads nowhere."""
    target = os.path.realpath(path)
    if target.startswith(os.path.join(real_root, b"")) and os.path.exists(target):
        return target
    return None


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    with io_errors(pathlib.Path(os.fsdecode(folder))), os.scandir(folder) as entries:
        return list(entries)
