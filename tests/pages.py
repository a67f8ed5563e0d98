"""Rules that a page of ours has to keep, looked for without a browser.

assert find_faults(page) == []

They are the checkable part of WCAG 2.2 A and AA for such a page, after axe-core's rules
of the same names; `test_reporting_browser.py` runs axe-core itself where it is there.
"""

import dataclasses
import html.parser
import re
from collections.abc import Iterator

_EMPTY = frozenset({"meta", "link", "img", "br", "hr", "input"})
_FORBIDDEN = frozenset({"script", "iframe", "object", "embed", "form", "base", "video"})
# Attributes that name an address.
_ADDRESSES = frozenset(
    {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
)
# Texts and what they stand on, by the names of the page's colours.
_TEXTS = (
    *(("ink", "page"), ("soft", "page"), ("link", "page"), ("ink", "band")),
    *(("soft", "band"), ("warn-ink", "warn-page")),
)
TEXT_CONTRAST, GRAPHICS_CONTRAST = 4.5, 3.0


@dataclasses.dataclass
class Element:
    """One element of a page.

    Attributes:
        tag, attributes: as written, names in lower case.
        children: elements and texts.
    """

    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = dataclasses.field(default_factory=list)

    def walk(self) -> "Iterator[Element]":
        """This element and all in it."""
        yield self
        for child in self.elements:
            yield from child.walk()

    def find_all(self, *tags: str) -> "list[Element]":
        """All in it of those tags."""
        return [element for element in self.walk() if element.tag in tags]

    @property
    def elements(self) -> "list[Element]":
        """Direct children."""
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        """All text in it."""
        parts = (c if isinstance(c, str) else c.text for c in self.children)
        return " ".join("".join(parts).split())


class _TreeReader(html.parser.HTMLParser):
    """Builds the tree; a tag that is not closed, or closed twice, is a fault."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)
        if tag in _EMPTY:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs)
        self.open.pop()

    def _add(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"{tag}: an attribute twice")
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag != tag:
            self.faults.append(f"</{tag}> where <{self.open[-1].tag}> is open")
            return
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(page: str) -> tuple[Element, list[str]]:
    """The page as a tree, and what is wrong with its tags."""
    reader = _TreeReader()
    reader.feed(page)
    reader.close()
    unclosed = [f"<{element.tag}> is not closed" for element in reader.open[1:]]
    return reader.root, [*reader.faults, *unclosed]


def find_faults(page: str) -> list[str]:
    """A line for each rule that a page breaks."""
    root, faults = read_page(page)
    rules = (
        *(_find_frame, _find_references, _find_addresses, _find_headings),
        *(_find_pictures, _find_tables, _find_lists, _find_scroll_areas),
    )
    return [*faults, *(line for rule in rules for line in rule(root)),
            *_find_contrasts(root)]  # fmt: skip


def _find_frame(root: Element) -> Iterator[str]:
    pages = root.find_all("html")
    if not pages or not pages[0].attributes.get("lang"):
        yield "html-has-lang"
    if not any(title.text for title in root.find_all("title")):
        yield "document-title"
    for tag in ("main", "h1", "header"):
        if len(root.find_all(tag)) != 1:
            yield f"one {tag}: {len(root.find_all(tag))}"
    for viewport in root.find_all("meta"):
        content = viewport.attributes.get("content", "")
        if viewport.attributes.get("name") == "viewport" and (
            "user-scalable=no" in content or "maximum-scale" in content
        ):
            yield "meta-viewport: cannot be enlarged"


def _find_references(root: Element) -> Iterator[str]:
    ids = [e.attributes["id"] for e in root.walk() if "id" in e.attributes]
    yield from (f"duplicate-id: {name}" for name in sorted(set(ids)) if
                ids.count(name) > 1)  # fmt: skip
    known = set(ids)
    for element in root.walk():
        named = element.attributes.get("aria-labelledby", "").split()
        href = element.attributes.get("href", "")
        named += [href[1:]] if href.startswith("#") else []
        for value in element.attributes.values():
            named += re.findall(r"url\(#([^)]*)\)", value)
        yield from (f"refers to nothing: {name}" for name in named if name not in known)


def _find_addresses(root: Element) -> Iterator[str]:
    for element in root.walk():
        if element.tag in _FORBIDDEN:
            yield f"forbidden element: {element.tag}"
        for name, value in element.attributes.items():
            if name.startswith("on"):
                yield f"runs code: {element.tag} {name}"
            is_link = (element.tag, name) == ("a", "href")  # asks when it is followed
            own = ("#", "data:", "../") if is_link else ("#", "data:")
            if name in _ADDRESSES and not value.startswith(own):
                yield f"external address: {value}"
            yield from _external_styles(value if name == "style" else "")
    for style in root.find_all("style"):
        yield from _external_styles(style.text)


def _external_styles(text: str) -> Iterator[str]:
    if "@import" in text:
        yield "external address: @import"
    for place in re.findall(r"url\(([^)]*)\)", text):
        if not place.strip("'\" ").startswith(("#", "data:")):
            yield f"external address: {place}"


def _find_headings(root: Element) -> Iterator[str]:
    before = 0
    for heading in root.find_all("h1", "h2", "h3", "h4", "h5", "h6"):
        level = int(heading.tag[1])
        if level > before + 1:
            yield f"heading-order: h{level} after h{before}"
        if not heading.text:
            yield "empty-heading"
        before = level


def _find_pictures(root: Element) -> Iterator[str]:
    for image in root.find_all("img"):
        if not image.attributes.get("alt", "").strip():
            yield "image-alt"
    for drawing in root.find_all("svg"):
        label = drawing.attributes.get("aria-label", "").strip()
        if drawing.attributes.get("role") != "img" or not label:
            yield "svg-img-alt"


def _find_tables(root: Element) -> Iterator[str]:
    for table in root.find_all("table"):
        captions = table.find_all("caption")
        name = captions[0].text if captions else ""
        if not name:
            yield "table without a caption"
        heads = table.find_all("thead")
        columns = heads[0].find_all("th") if heads else []
        if not columns or not all(cell.text for cell in columns):
            yield f"empty-table-header: {name}"
        for cell in table.find_all("th"):
            if cell.attributes.get("scope") not in ("col", "row"):
                yield f"th without a scope: {name}"
        for row in table.find_all("tr"):
            if len(row.elements) != len(columns):
                yield f"{name}: {len(row.elements)} cells, {len(columns)} columns"


def _find_lists(root: Element) -> Iterator[str]:
    for group in root.find_all("ul", "ol"):
        strange = {element.tag for element in group.elements} - {"li"}
        loose = [c for c in group.children if isinstance(c, str) and c.strip()]
        if strange or loose:
            yield f"list: {sorted(strange) or loose}"
    inside = {id(e) for group in root.find_all("ul", "ol") for e in group.elements}
    if any(id(item) not in inside for item in root.find_all("li")):
        yield "listitem"


def _find_scroll_areas(root: Element) -> Iterator[str]:
    for element in root.walk():
        if "scroll" not in element.attributes.get("class", "").split():
            continue
        if element.attributes.get("tabindex") != "0":
            yield "scrollable-region-focusable"
        named = {"aria-label", "aria-labelledby"} & set(element.attributes)
        if "role" not in element.attributes or not named:
            yield "scroll area without a name"


def _find_contrasts(root: Element) -> Iterator[str]:
    style = " ".join(element.text for element in root.find_all("style"))
    for theme, colours in read_themes(style).items():
        for ink, ground in _TEXTS:
            found = contrast(colours[ink], colours[ground])
            if found < TEXT_CONTRAST:
                yield f"color-contrast: {theme}, {ink} on {ground}: {found:.2f}"


def read_themes(style: str) -> dict[str, dict[str, str]]:
    """Colours by name, of the page in light, in dark and in print."""
    first, *others = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    names = ("light", "dark", "print")
    themes = zip(names, (first, *others), strict=True)
    return {
        theme: dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", text))
        for theme, text in themes
    }


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours `#rrggbb`, 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
