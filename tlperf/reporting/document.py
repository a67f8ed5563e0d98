"""What a report says, apart from how it is written down.

    Document(title="...", banner="", sections=(Section("Summary", (Table(...),)),))

Every text here is plain: the renderers escape, the builders never do.
"""

import dataclasses
import re

from tlperf.core.units import NOT_AVAILABLE

# Nothing to put beside a published figure, or a stage without a row; `n/a` is a value
# of our own that a finished stage could not give.
NOT_MEASURED = "not measured"

# Digits first, and a unit only after a space: a hexadecimal digest is no number.
_NUMBER = re.compile(r"[-+]?\d[\d.,:e%+-]*(\s.*)?")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of plain text under a title.

    Attributes:
        title: caption.
        columns: headings, with units where the column has one.
        rows: cells, as many in each row as there are columns.
        notes: sentences under the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.title}: expected {len(self.columns)} cells, got {row}"
                )

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers and are set flush right."""
        return tuple(map(_is_numeric, zip(*self.rows, strict=True)))


def _is_numeric(cells: tuple[str, ...]) -> bool:
    known = [cell for cell in cells if cell not in (NOT_AVAILABLE, NOT_MEASURED, "")]
    return bool(known) and all(_NUMBER.fullmatch(cell) for cell in known)


@dataclasses.dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        name: file name without `.svg`, unique in a report.
        caption: what it shows, and the study's figure it stands beside.
        svg: the whole file, legible on any background.
    """

    name: str
    caption: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures that stand side by side where the page is wide enough."""

    plots: tuple[Plot, ...]


Block = Paragraph | Bullets | Table | Gallery


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Attributes:
        title: heading.
        blocks: in reading order.
        level: 2 for a part of the report, 3 for a part of a part.
    """

    title: str
    blocks: tuple[Block, ...]
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: heading of the page.
        banner: warning that stands above everything, or "".
        sections: in reading order.
    """

    title: str
    banner: str
    sections: tuple[Section, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Every picture, in reading order."""
        return tuple(
            plot
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Gallery)
            for plot in block.plots
        )
