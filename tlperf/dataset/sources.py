"""Where images come from: a source lists items; an item can read its bytes.

    listing = open_source("catsdogs").read_listing()
    listing.items[0].id, listing.items[0].class_name    # 'cats/cat.1.jpg', 'cats'

Paths are bytes as the system has them, so that no locale changes an id. Ids are their
UTF-8 text, and the order of items is the code-point order of ids: no listing order of
the system shows in anything that is written.
"""

import dataclasses
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Protocol

from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.core.files import io_errors

PHOTOS = "photos"

# What file managers and people leave beside images: counted, never called bad.
_IGNORED_FOLDERS = frozenset([b"__macosx"])
_IGNORED_FILES = frozenset(
    [b"thumbs.db", b"desktop.ini"]
    + [stem + end for stem in (b"readme", b"license") for end in (b"", b".txt", b".md")]
)


class SpecialFileError(Exception):
    """The path is no regular file; the text says what it is."""


class Origin(Protocol):
    """How to get an item's bytes, in any process."""

    def read(self) -> bytes:
        """The whole file; OSError or SpecialFileError where there is none."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One listed file.

    Attributes:
        id: path relative to the source as text, unique in it; `image/filename`.
        path: the same as the system has it.
        class_name: its class, printable.
        origin: how to get its bytes.
        split: the split the source puts it in, or None where it leaves that to us.
    """

    id: str
    path: bytes
    class_name: str
    origin: Origin
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        classes: class names by code point; a label is a position in here.
        items: by id.
        ignored: files that are no images of a class by their name or place.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    ignored: int


class Source(Protocol):
    """A place of labelled images."""

    @property
    def name(self) -> str:
        """What the source is called."""

    def read_listing(self) -> Listing:
        """All items; TlperfError where they make no labelled data set."""


@dataclasses.dataclass(frozen=True)
class FileOrigin:
    """A file on this machine."""

    path: bytes

    def read(self) -> bytes:
        """The whole file, where it is a regular one."""
        # lstat first: opening a FIFO blocks, a device acts. O_NOFOLLOW and O_NONBLOCK
        # hold where the file is exchanged between the two calls.
        _check_regular(os.lstat(self.path))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.path, flags), "rb", buffering=0) as stream:
            _check_regular(os.fstat(stream.fileno()))
            return stream.readall()


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device or socket")
        raise SpecialFileError(f"{kind}, not a regular file")


def text_of_path(path: bytes) -> str:
    r"""The text of a path; bytes that are not UTF-8 as `\xNN`.

    >>> text_of_path(b"cats/1.jpg"), text_of_path(b"\xff.jpg")
    ('cats/1.jpg', '\\xff.jpg')
    """
    return path.decode("utf-8", "backslashreplace")


def fit_name(name: str) -> str:
    """`name` made to fit `[a-zA-Z]\\w*`, the names tfds accepts.

    >>> [fit_name(name) for name in ("catsdogs", "my pets", "2024-pets", "猫")]
    ['catsdogs', 'my_pets', 'data_2024_pets', 'data']
    """
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    if plain and not plain[0].isalpha():
        plain = f"data_{plain}"
    return plain or "data"


def is_ignored(name: bytes, *, is_folder: bool = False) -> bool:
    """Whether a file, or a whole folder, is left out by its name alone."""
    names = _IGNORED_FOLDERS if is_folder else _IGNORED_FILES
    return name.startswith(b".") or name.lower() in names


def check_listing(listing: Listing, *, path: str) -> Listing:
    """The listing, where it makes a labelled data set.

    Raises:
        TlperfError: exit code 65: no class, one class, a class without files, or two
            files whose ids are equal.
    """

    def error(reason: str, found: str, remedy: str) -> TlperfError:
        return TlperfError(ExitCode.DATA, reason, path=path, found=found, remedy=remedy)

    if not listing.classes:
        raise error("no_classes", "no class folder", "put each class in a sub-folder")
    if len(listing.classes) == 1:
        raise error(
            "one_class",
            f"only one class folder, {listing.classes[0]!r}",
            "give at least two classes",
        )
    filled = {item.class_name for item in listing.items}
    empty = [name for name in listing.classes if name not in filled]
    if empty:
        raise error(
            "empty_class",
            f"class folder {empty[0]!r} holds no image file",
            "put images in it or remove it",
        )
    for one, other in zip(listing.items, listing.items[1:], strict=False):
        if one.id == other.id:
            raise error("same_name", f"two files are called {one.id!r}", "rename one")
    return listing


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


def open_source(text: str) -> Source:
    """The source that `--source` names: `photos` (then `./photos` is the folder), or a
    folder with one sub-folder a class."""
    if text == PHOTOS:
        from tlperf.dataset.photos import PhotosSource  # imports Pillow

        return PhotosSource()
    return FolderSource(pathlib.Path(text))
