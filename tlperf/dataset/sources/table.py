"""A .csv of images: `path,label[,split][,group]`, one row an image.

    TableSource(Path("pets.csv")).read_listing().items[0].id     # 'images/1.jpg'

The first row names the columns, in any order. Paths are relative to the table's folder
or absolute. `split` is train, val or validation, or test, in every row or in none;
images of one `group` never go to two splits.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterator

from tlperf.core.errors import ExitCode, TlperfError, escape_text
from tlperf.core.files import io_errors
from tlperf.dataset.sources.folder import FileOrigin, check_special, inside
from tlperf.dataset.sources.listing import Item, Listing, check_listing
from tlperf.dataset.sources.tree import SPLIT_WORDS, split_of_word

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")


@dataclasses.dataclass(frozen=True)
class TableSource:
    """A table of paths and labels.

    Attributes:
        path: of the .csv.
        follow_links: whether symbolic links to files in the table's folder are read.
    """

    path: pathlib.Path
    follow_links: bool = False

    @property
    def name(self) -> str:
        """The table's name without its suffix."""
        return self.path.stem

    def read_listing(self) -> Listing:
        """All rows; whether their files exist is found when they are read."""
        items: dict[str, Item] = {}
        lines: dict[str, int] = {}
        labels: set[str] = set()
        for line, row in self._read_rows():
            labels.add(row["label"].strip())
            item = self._item(line, row)
            if item.id in items:
                raise self._error(
                    line,
                    f"{item.id!r}, as in line {lines[item.id]}",
                    "leave one of them",
                    reason="same_name",
                )
            items[item.id], lines[item.id] = item, line
        unsplit = [text for text, item in items.items() if item.split is None]
        if unsplit and len(unsplit) < len(items):
            found = "no split, though other rows have one"
            raise self._error(
                lines[unsplit[0]], found, "fill the column in each row or in none"
            )
        return self._listing(list(items.values()), labels=labels)

    def _listing(self, items: list[Item], *, labels: set[str]) -> Listing:
        items.sort(key=lambda item: item.id)
        classes = tuple(sorted(map(escape_text, labels)))
        if len(classes) < 2:
            found = f"only label {classes[0]!r}" if classes else "no row of an image"
            raise TlperfError(
                ExitCode.DATA,
                "one_class" if classes else "no_classes",
                path=self.path,
                found=found,
                remedy="give rows of at least two labels",
            )
        listing = Listing(classes, tuple(items), ignored=0)
        return check_listing(listing, path=os.fspath(self.path))

    def _read_rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and values by column, of each row that is not empty."""
        if not self.path.exists():
            raise TlperfError(
                ExitCode.NO_INPUT,
                "missing_source",
                path=self.path,
                found="no such file",
                remedy="give a .csv of path,label[,split][,group]",
            )
        check_special(self.path)
        # A byte-order mark, as spreadsheets write it, is no part of the first name.
        with (
            io_errors(self.path),
            open(self.path, encoding="utf-8-sig", newline="") as stream,
        ):
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            try:
                names = self._read_header(next(reader, []))
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(names):
                        found = f"{len(row)} values for {len(names)} columns"
                        raise self._error(reader.line_num, found, "mend the row")
                    yield reader.line_num, dict(zip(names, row, strict=True))
            except csv.Error as error:
                found = f"no row of a .csv ({error})"
                raise self._error(reader.line_num, found, "mend the row") from None
            except UnicodeDecodeError as error:
                found = f"no UTF-8 text ({error.reason})"
                raise self._error(
                    reader.line_num + 1, found, "store the table as UTF-8"
                ) from None

    def _read_header(self, row: list[str]) -> list[str]:
        names = [name.strip().lower() for name in row]
        unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
        missing = [name for name in REQUIRED if name not in names]
        if not (unknown or missing or len(set(names)) < len(names)):
            return names
        found = "a column twice"
        if unknown or missing:
            parts = [f"unknown column {name!r}" for name in unknown]
            parts += [f"no column {name!r}" for name in missing]
            found = ", ".join(parts)
        remedy = "let the first line be path,label[,split][,group]"
        raise self._error(1, found, remedy, reason="bad_columns")

    def _item(self, line: int, row: dict[str, str]) -> Item:
        path, label = row["path"], row["label"].strip()
        if not path or not label:
            found = f"no {'label' if path else 'path'}"
            raise self._error(line, found, "mend the row")
        if "\0" in path:
            raise self._error(line, f"NUL in path {path!r}", "mend the row")
        word = row.get("split", "").strip()
        split = split_of_word(word)
        if word and split is None:
            found = f"unknown split {word!r}"
            raise self._error(line, found, f"use one of {', '.join(SPLIT_WORDS)}")
        text = os.path.normpath(path)
        return Item(
            id=text,
            path=text.encode(),
            class_name=escape_text(label),
            origin=self._origin(text.encode()),
            split=split,
            group=row.get("group", "").strip() or None,
        )

    def _origin(self, relative: bytes) -> FileOrigin:
        folder = os.fsencode(self.path.parent)
        path = os.path.join(folder, relative)
        if self.follow_links and os.path.islink(path):
            return FileOrigin(inside(os.path.realpath(folder), path) or path)
        return FileOrigin(path)

    def _error(
        self, line: int, found: str, remedy: str, *, reason: str = "bad_row"
    ) -> TlperfError:
        return TlperfError(
            ExitCode.DATA,
            reason,
            path=self.path,
            found=f"line {line}: {found}",
            remedy=remedy,
        )
