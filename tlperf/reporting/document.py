"""What a report says, apart from how it is written down.

    Document(title="...", banner="", sections=(Section("Summary", (Table(...),)),))

Every text here is plain: the renderers escape, the builders never do.
"""

import dataclasses
import re

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reporting.sources import Source

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
        sources: where its figures come from.
        folded: what stands in its place until a reader opens it; "" where it is open.
            Only a page can fold.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    folded: str = ""

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
        alt: its figures in words, for who cannot see it; "" where the caption says all.
        sources: where its figures come from.
    """

    name: str
    caption: str
    svg: str
    alt: str = ""
    sources: tuple[Source, ...] = ()

    @property
    def spoken(self) -> str:
        """What is read aloud in its place."""
        return self.alt or self.caption


@dataclasses.dataclass(frozen=True)
class Photo:
    """One small photograph.

    Attributes:
        name: file name without `.jpg`, unique in a report.
        caption: what stands below it.
        alt: what it shows, for who cannot see it.
        jpeg: its bytes; None where the file is gone or is not what its row says.
    """

    name: str
    caption: str
    alt: str
    jpeg: bytes | None


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


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photographs in rows, under a title.

    Attributes:
        title: above them.
        photos: in reading order.
        sources: where what is said of them comes from.
    """

    title: str
    photos: tuple[Photo, ...]
    sources: tuple[Source, ...] = ()


Block = Paragraph | Bullets | Table | Gallery | Photos


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
        """Every drawing, in reading order."""
        return tuple(
            plot
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Gallery)
            for plot in block.plots
        )

    @property
    def photos(self) -> tuple[Photo, ...]:
        """Every photograph whose file is there, in reading order."""
        return tuple(
            photo
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Photos)
            for photo in block.photos
            if photo.jpeg is not None
        )

    @property
    def anchors(self) -> tuple[str, ...]:
        """A name for each section, unique, made of its title."""
        found: list[str] = []
        for section in self.sections:
            words = re.findall(r"[a-z0-9]+", section.title.lower())
            name = "-".join(words)[:60] or "section"
            while name in found:
                name = f"{name}-{len(found)}"
            found.append(name)
        return tuple(found)
