"""Two thin renderers of a document: Markdown and one self-contained HTML page.

render_markdown(document), render_html(document)
"""

import base64
import importlib.resources
import re
from collections.abc import Callable, Sequence
from typing import Any

from tlperf.core.errors import escape_text
from tlperf.reporting.document import (
    Bullets,
    Document,
    Gallery,
    Paragraph,
    Photo,
    Photos,
    Section,
    Table,
)
from tlperf.reporting.plots import inline_svg
from tlperf.reporting.sources import Source, spell_sources

_TEMPLATE = "page.html.jinja"
# In place of a photograph that its row describes.
GONE = "no picture: its file is gone or altered"
# Characters that Markdown or a formula would take for markup, GitHub's links of bare
# addresses included. An underscore inside a word is none, and escaping it would spoil
# every name of a protocol.
_MARKUP = re.compile(r"([\\`*\[\]|~$#]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=[wW]{3})\.)")
_ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}


def escape_markdown(text: str) -> str:
    r"""`text` as one line of Markdown that shows exactly its characters.

    >>> escape_markdown("a|b\n<script> mixed_float16")
    'a\\|b\\\\n&lt;script&gt; mixed_float16'
    """
    return _MARKUP.sub(r"\\\1", escape_text(text)).translate(_ENTITIES)


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def _markdown_table(table: Table) -> str:
    numeric = table.numeric if table.rows else (False,) * len(table.columns)
    rule = tuple("---:" if flag else "---" for flag in numeric)
    lines = [
        f"**{escape_markdown(table.title)}**",
        "",
        _markdown_row(table.columns),
        f"| {' | '.join(rule)} |",
        *map(_markdown_row, table.rows),
    ]
    for note in table.notes:
        lines += ["", escape_markdown(note)]
    return "\n".join([*lines, *_markdown_sources(table.sources)])


def _markdown_sources(sources: Sequence[Source]) -> list[str]:
    """A paragraph, with the empty line before it; nothing of no sources."""
    spelt = [
        f"[{escape_markdown(text)}]({address})" if address else escape_markdown(text)
        for text, address in spell_sources(sources)
    ]
    return ["", "".join(spelt)] if spelt else []


def _markdown_photos(photos: Photos) -> str:
    """A row a picture: Markdown has no other way to keep a text beside one."""
    titles = [f"**{escape_markdown(photos.title)}**", "", "| picture | what it is |"]
    lines = [*titles, "| --- | --- |"]
    for photo in photos.photos:
        shown = f"![{escape_markdown(photo.alt)}]({photo.name}.jpg)"
        shown = GONE if photo.jpeg is None else shown
        lines.append(f"| {shown} | {escape_markdown(photo.caption)} |")
    return "\n".join([*lines, *_markdown_sources(photos.sources)])


def _markdown_gallery(gallery: Gallery) -> str:
    lines: list[str] = []
    for plot in gallery.plots:
        lines += ["", f"![{escape_markdown(plot.spoken)}]({plot.name}.svg)"]
        lines += ["", escape_markdown(plot.caption), *_markdown_sources(plot.sources)]
    return "\n".join(lines[1:])


def _markdown_bullets(bullets: Bullets) -> str:
    return "\n".join(f"- {escape_markdown(item)}" for item in bullets.items)


def _markdown_paragraph(paragraph: Paragraph) -> str:
    return escape_markdown(paragraph.text)


_MARKDOWN: dict[type, Callable[[Any], str]] = {
    Table: _markdown_table,
    Gallery: _markdown_gallery,
    Photos: _markdown_photos,
    Bullets: _markdown_bullets,
    Paragraph: _markdown_paragraph,
}


def _markdown_section(section: Section) -> list[str]:
    heading = f"{'#' * section.level} {escape_markdown(section.title)}"
    return [heading, *(_MARKDOWN[type(block)](block) for block in section.blocks)]


def render_markdown(document: Document) -> str:
    """The document as Markdown that names its pictures' files."""
    parts = [f"# {escape_markdown(document.title)}"]
    if document.banner:
        parts.insert(0, f"> **{escape_markdown(document.banner)}**")
    for section in document.sections:
        parts += _markdown_section(section)
    return "\n\n".join(parts) + "\n"


def render_html(document: Document) -> str:
    """The document as one page with its pictures inside."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline_svg"] = inline_svg
    # A control character is no text in HTML either.
    environment.filters["printable"] = escape_text
    environment.filters["data_address"] = _data_address
    environment.filters["spelt"] = spell_sources
    environment.globals["gone"] = GONE
    environment.filters["kind"] = lambda block: type(block).__name__
    source = importlib.resources.files(__package__).joinpath(_TEMPLATE)
    return environment.from_string(source.read_text("utf-8")).render(document=document)


def _data_address(photo: Photo) -> str:
    """The photograph as an address that asks nobody for anything."""
    encoded = base64.b64encode(photo.jpeg or b"").decode()
    return f"data:image/jpeg;base64,{encoded}"
