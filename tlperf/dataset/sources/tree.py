"""From a tree of files to labelled items: the same rules for folders and archives.

    tree = Tree({b"cats/1.jpg": origin, b"dogs/1.jpg": other}, {b"cats", b"dogs"})
    list_tree(tree, path="pets").classes      # ('cats', 'dogs')

The first folder of a path is the class. Where all first folders are words for splits
(train, val or valid or validation, test; two of them or more), the second is.
"""

import dataclasses
import functools
from collections.abc import Iterable

from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.dataset.sources.listing import (
    Item,
    Listing,
    Origin,
    check_listing,
    is_ignored,
    text_of_path,
)

SPLIT_WORDS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


@dataclasses.dataclass
class Tree:
    """Files and folders by path relative to a root, `/` between the parts.

    Attributes:
        files: all but ignored ones.
        folders: all but ignored ones; those of the first two levels are enough.
        ignored: how many were left out, an ignored folder counted as one.
        links: those of `files` that are symbolic links to folders.
    """

    files: dict[bytes, Origin] = dataclasses.field(default_factory=dict)
    folders: set[bytes] = dataclasses.field(default_factory=set)
    ignored: int = 0
    links: set[bytes] = dataclasses.field(default_factory=set)


def split_of_word(word: str) -> str | None:
    """The split a word stands for.

    >>> split_of_word("Val"), split_of_word("cats")
    ('validation', None)
    """
    return SPLIT_WORDS.get(word.lower())


def list_tree(tree: Tree, *, path: str) -> Listing:
    """The items of a tree; TlperfError 65 where it is no labelled data set.

    Args:
        tree: the root's files and folders.
        path: of the source, for errors.
    """
    tops = {name for name in tree.folders | tree.links if b"/" not in name}
    splits = [split_of_word(text_of_path(name)) for name in tops]
    # How many folders tell something: the class, or the split and the class.
    levels = 2 if len(set(splits)) >= 2 and None not in splits else 1
    for link in sorted(tree.links):
        if link.count(b"/") < levels:
            # Following it could leave the source; leaving it out would lose a class.
            raise TlperfError(
                ExitCode.DATA,
                "special_file",
                path=f"{path}/{text_of_path(link)}",
                found="a class folder that is a symbolic link",
                remedy="put the folder itself there (--follow_links reads links that "
                "stay inside the source)",
            )
    items, ignored = [], tree.ignored
    for name, origin in tree.files.items():
        parts = name.split(b"/", levels)
        if len(parts) <= levels:
            ignored += 1
            continue
        split = split_of_word(text_of_path(parts[0])) if levels == 2 else None
        items.append(
            Item(text_of_path(name), name, class_text(parts[-2]), origin, split)
        )
    items.sort(key=lambda item: item.id)
    classes = {
        name.rpartition(b"/")[2]
        for name in tree.folders
        if name.count(b"/") == levels - 1
    }
    listing = Listing(tuple(sorted(map(class_text, classes))), tuple(items), ignored)
    return check_listing(listing, path=path)


@functools.lru_cache(maxsize=1024)
def class_text(name: bytes) -> str:
    """The printable name of a class."""
    return escape_text(text_of_path(name))


def strip_tops(files: dict[bytes, Origin], folders: Iterable[bytes]) -> Tree:
    """The tree below a chain of single folders; what is ignored is left out.

    A single folder is gone into where it holds folders itself, so that a single class
    folder stays one.
    """
    tree = Tree()
    hidden: set[bytes] = set()
    children: dict[bytes, list[bytes]] = {}
    for name in sorted(folders):  # a folder after the one it is in
        parent, _, base = name.rpartition(b"/")
        if parent in hidden:
            hidden.add(name)
        elif is_ignored(base, is_folder=True):
            hidden.add(name)
            tree.ignored += 1
        else:
            children.setdefault(parent, []).append(name)
    root = b""
    while len(tops := children.get(root, [])) == 1 and children.get(tops[0]):
        root = tops[0]
    prefix = root + b"/" if root else b""
    for name, origin in files.items():
        parent, _, base = name.rpartition(b"/")
        if parent in hidden:
            continue
        if is_ignored(base) or not name.startswith(prefix):
            tree.ignored += 1
        else:
            tree.files[name[len(prefix) :]] = origin
    tree.folders = {
        name[len(prefix) :]
        for members in children.values()
        for name in members
        if name.startswith(prefix)
    }
    return tree
