"""What a source gives: items with labels, each of which can read its bytes.

Paths are bytes as the system has them, so that no locale changes an id. Ids are their
UTF-8 text, and the order of items is the code-point order of ids: no listing order of
the system shows in anything that is written.
"""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Protocol

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.splits import SPLITS

PHOTOS = "photos"

# What file managers and people leave beside images: counted, never called bad.
_IGNORED_FOLDERS = frozenset([b"__macosx"])
_IGNORED_FILES = frozenset(
    [b"thumbs.db", b"desktop.ini"]
    + [stem + end for stem in (b"readme", b"license") for end in (b"", b".txt", b".md")]
)


class OriginError(Exception):
    """The bytes of one item cannot be used; the others may.

    Attributes:
        reason: slug for counting, e.g. `special_file`.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Origin(Protocol):
    """How to get an item's bytes, in any process."""

    def read(self, *, max_bytes: int) -> bytes:
        """The whole file.

        Raises:
            OriginError: larger than `max_bytes` (`bomb:bytes`, before it is read), no
                regular file, changed while it was read, damaged in its archive.
            OSError: as the system says.
        """

    def stamp(self) -> str:
        """What differs when the bytes may differ, e.g. size and time of change.

        Kept to go on with unfinished work; "" where nothing tells, and then the bytes
        are read again. Cheap, and never an error: a lost file has the stamp "".
        """


@dataclasses.dataclass(frozen=True)  # slots would take twice as long to pickle
class Item:
    """One listed file.

    Attributes:
        id: path relative to the source as text, unique in it; `image/filename`.
        path: the same as the system has it.
        class_name: its class, printable.
        origin: how to get its bytes.
        split: the split the source puts it in, or None where it leaves that to us.
        group: items of one group never go to two splits; None is a group of its own.
    """

    id: str
    path: bytes
    class_name: str
    origin: Origin
    split: str | None = None
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        classes: class names by code point; a label is a position in here. One for
            each class of the source: two that are equal are refused.
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


def text_of_path(path: bytes) -> str:
    r"""The text of a path; bytes that are not UTF-8 as `\xNN`.

    >>> text_of_path(b"cats/1.jpg"), text_of_path(b"\xff.jpg")
    ('cats/1.jpg', '\\xff.jpg')
    """
    return path.decode("utf-8", "backslashreplace")


def stamp_of(status: os.stat_result) -> str:
    """Size, times, device and inode of a file. The time of change of status moves with
    any write, whatever time of modification a copier gives back."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_size} {times} {status.st_dev} {status.st_ino}"


def reading_place(origin: Origin) -> int:
    """Where an item is in a container that is read from front to back, else 0: items
    read in this order cost it least."""
    return getattr(origin, "place", 0)


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
        TlperfError: exit code 65: no class, one class, a class without files, classes
            that differ in case only, or two classes or two files of one name.
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
    for name, like in find_like_names(listing.classes):
        if name == like:  # the source has them apart, escaped they are one
            raise error("same_name", f"two classes are shown as {name!r}", "rename one")
        raise error(
            "case_collision",
            f"classes {name!r} and {like!r} differ in case only",
            "put them together or rename one",
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


def find_like_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that some file system, or some reader, takes for one.

    Args:
        names: one for each thing that has a name, so that two may be equal.

    >>> find_like_names(["cats", "dogs", "Cats"])
    [('Cats', 'cats')]
    """
    first: dict[str, str] = {}
    found = []
    for name in sorted(names):
        # An accent may be a character of its own, and looks the same.
        key = unicodedata.normalize("NFC", name).casefold()
        if key in first:
            found.append((first[key], name))
        else:
            first[key] = name
    return found


def settle_splits(listing: Listing, *, keep: bool, path: str) -> Listing:
    """The listing with all three splits given, or none.

    Args:
        listing: of any source.
        keep: whether splits that the source gives are kept; else they are dropped.
        path: of the source, for errors.

    Raises:
        TlperfError: exit code 65, where a split is given and another is not.
    """
    given = {item.split for item in listing.items} - {None}
    if not given:
        return listing
    if not keep:
        items = (dataclasses.replace(item, split=None) for item in listing.items)
        return dataclasses.replace(listing, items=tuple(items))
    unknown = sorted(given - {None, *SPLITS}, key=str)
    if unknown:
        raise TlperfError(
            ExitCode.DATA,
            "unknown_split",
            path=path,
            found=f"the source gives a split {unknown[0]!r}",
            remedy=f"use {', '.join(SPLITS)}, or give --nokeep_splits",
        )
    missing = [name for name in SPLITS if name not in given]
    if missing:
        there = ", ".join(name for name in SPLITS if name in given)
        raise TlperfError(
            ExitCode.DATA,
            "missing_split",
            path=path,
            found=f"the source gives {there}, but no {' and no '.join(missing)}",
            remedy="add it, or give --nokeep_splits to deal all images by --split",
        )
    return listing
