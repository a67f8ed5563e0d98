"""Where the figures of a table or a picture come from, as links of a report.

    Source("results.jsonl", part="train", lines=(7,))
    spell_sources((source,))
    # [("From: ", ""), ("results.jsonl", "../results.jsonl"), (", train: line ", ""),
    #  ("7", "../results.jsonl#L7"), (".", "")]

A table or picture carries its sources; the renderers write what is spelt here.
"""

import dataclasses
import urllib.parse
from collections.abc import Iterator, Sequence

# From the folder of a report to its workdir.
_WORKDIR = "../"


@dataclasses.dataclass(frozen=True)
class Source:
    """A file or some of its lines, or what is only in print.

    Attributes:
        name: of a file, relative to the workdir, or of a printed table.
        part: what the lines are, or "".
        lines: of the file, from 1; none: all of it.
        is_file: whether there is anything to open.
    """

    name: str
    part: str = ""
    lines: tuple[int, ...] = ()
    is_file: bool = True

    @property
    def address(self) -> str:
        """Of the file, from the folder of a report; "" of what is no file."""
        if not self.is_file:
            return ""
        return _WORKDIR + urllib.parse.quote(self.name, errors="surrogateescape")


def study_source(table: str) -> Source:
    """A table as the study prints it."""
    return Source(f"the study's {table}", is_file=False)


def spell_sources(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Texts, each with the address that it links to, or ""; nothing of no sources."""
    return [*_spell(sources)] if sources else []


def _spell(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    before = ""
    for source in sources:
        yield ("; " if before else "From: "), ""
        if source.name != before:
            yield source.name, source.address
            if source.part:
                yield ", ", ""
        before = source.name
        many = "lines" if len(source.lines) > 1 else "line"
        words = f"{source.part}: {many}" if source.part else f", {many}"
        for place, line in enumerate(source.lines):
            yield (", " if place else f"{words} "), ""
            yield str(line), f"{source.address}#L{line}"
    yield ".", ""
