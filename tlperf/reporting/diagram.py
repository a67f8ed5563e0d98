"""A network drawn as its blocks, from the image down, with the cut into frozen and
trained layers.

draw_architecture(results, caption="...")   # a Plot; None where no facts were written

Drawn by hand: boxes and texts need no plotting library, and of six networks it takes
milliseconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tlperf.core.drawing import INK, short_text
from tlperf.core.errors import escape_text
from tlperf.core.units import NOT_AVAILABLE
from tlperf.reporting.document import Plot
from tlperf.reporting.plots import PANEL, file_stem
from tlperf.reporting.rows import BackboneRows, Row, child, finite

# Units are those of a page's pixels: as wide as a phone, so that letters stay legible.
_WIDTH, _MARGIN, _BOX, _GAP, _LINE = 400, 10, 38, 12, 15
_FROZEN, _TRAINED, _CUT = "#2f81d0", "#c77400", "#d1453b"
_MOST_LETTERS = 30
# More could not be looked at; a network has some 5 to 20.
_MOST_BLOCKS = 80


class _Box(NamedTuple):
    """A part of the network: all its layers are frozen, or all are trained.

    Attributes:
        name, shape: as people read them; the shape is of what leaves it.
        facts: second line.
        is_frozen: None of the image, which has no layers.
    """

    name: str
    shape: str
    facts: str
    is_frozen: bool | None


def format_shape(shape: Any) -> str:
    """`14 × 14 × 512`; `n/a` where it is none."""
    sides = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    text = " × ".join("?" if side is None else str(side) for side in sides)
    return text or NOT_AVAILABLE


def cut_tensors(architecture: Row) -> list[str]:
    """Each tensor that crosses from frozen to trained layers, in words."""
    return [
        f"{tensor.get('layer', NOT_AVAILABLE)}, {format_shape(tensor.get('shape'))}"
        for tensor in architecture.get("cut") or ()
        if isinstance(tensor, Mapping)
    ]


def draw_architecture(results: BackboneRows, *, caption: str) -> Plot | None:
    """The blocks that training wrote down; None where it wrote none."""
    architecture = child(results.train, "architecture")
    blocks = [
        block
        for block in architecture.get("blocks") or ()
        if isinstance(block, Mapping) and "name" in block
    ]
    if not blocks:
        return None
    boxes = [_Box("image", format_shape(architecture.get("input")), "", None)]
    boxes += [box for block in blocks[:_MOST_BLOCKS] for box in _split(block)]
    crossing = cut_tensors(architecture)
    return Plot(
        name=f"{file_stem(results.name)}-architecture",
        caption=caption,
        svg=_draw(boxes, crossing, left_out=len(blocks) - _MOST_BLOCKS),
        alt=f"{results.title}, from the image down: {_told(boxes, crossing)}",
        sources=results.sources("train"),
    )


def _split(block: Row) -> Iterator[_Box]:
    """One box, or two where the cut goes through."""
    layers = finite(block.get("layers")) or 0
    frozen = finite(block.get("frozen_layers")) or 0
    name, shape = str(block["name"]), format_shape(block.get("shape"))
    params = finite(block.get("params"))
    parts = finite(block.get("parts")) or 1
    facts = [f"{parts} blocks"] if parts > 1 else []
    told = f"{params:,} parameters" if params else "no parameters"
    if not 0 < frozen < layers:
        facts += [_count(layers), told]
        yield _Box(name, shape, ", ".join(facts), is_frozen=frozen > 0)
        return
    yield _Box(name, "", f"{_count(frozen)} of {layers}", is_frozen=True)
    facts += [f"{_count(layers - frozen)} of {layers}", f"{told} in all"]
    yield _Box(name, shape, ", ".join(facts), is_frozen=False)


def _count(layers: float) -> str:
    return f"{layers} layer" if layers == 1 else f"{layers} layers"


def _told(boxes: Sequence[_Box], crossing: Sequence[str]) -> str:
    words = {True: "frozen", False: "trained", None: ""}
    texts = [
        ", ".join(filter(None, (box.name, box.shape, words[box.is_frozen])))
        for box in boxes
    ]
    cut = f". At the cut cross {'; '.join(crossing)}" if crossing else ""
    return "; ".join(texts) + cut


def _draw(boxes: Sequence[_Box], crossing: Sequence[str], *, left_out: int) -> str:
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg"})
    panel = ElementTree.SubElement(root, "rect", {"id": PANEL, "width": str(_WIDTH)})
    top, before = _MARGIN, None
    for box in boxes:
        is_cut = before is not None and before.is_frozen and not box.is_frozen
        if is_cut:
            top = _draw_cut(root, top, crossing)
        elif before is not None:
            _draw_arrow(root, top)
            top += _GAP
        _draw_box(root, top, box)
        top += _BOX
        before = box
    if left_out > 0:
        top += _LINE
        _text(root, _MARGIN, top, f"{left_out} more blocks", size=12)
    height = top + _MARGIN
    panel.set("height", str(height))
    panel.set("style", "fill: #ffffff")
    root.attrib |= {
        "viewBox": f"0 0 {_WIDTH} {height}",
        "width": f"{_WIDTH}",
        "height": f"{height}",
        "font-family": "sans-serif",
    }
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _draw_box(root: ElementTree.Element, top: int, box: _Box) -> None:
    colour = INK if box.is_frozen is None else _FROZEN if box.is_frozen else _TRAINED
    fill = "none" if box.is_frozen is None else colour
    ElementTree.SubElement(
        root,
        "rect",
        {
            **{"x": str(_MARGIN), "y": str(top), "rx": "4"},
            **{"width": str(_WIDTH - 2 * _MARGIN), "height": str(_BOX)},
            "style": f"fill: {fill}; fill-opacity: 0.13; stroke: {colour}",
        },
    )
    left, right = _MARGIN + 8, _WIDTH - _MARGIN - 8
    _text(root, left, top + 16, short_text(box.name, _MOST_LETTERS), bold=True)
    _text(root, right, top + 16, box.shape, anchor="end")
    _text(root, left, top + 31, box.facts, size=11)
    words = {True: "frozen", False: "trained", None: ""}[box.is_frozen]
    _text(root, right, top + 31, words, size=11, anchor="end")


def _draw_arrow(root: ElementTree.Element, top: int) -> None:
    middle, end = _WIDTH // 2, top + _GAP
    path = f"M{middle} {top}V{end - 1}M{middle - 3} {end - 5}L{middle} {end - 1}"
    path += f"L{middle + 3} {end - 5}"
    ElementTree.SubElement(
        root, "path", {"d": path, "style": f"fill: none; stroke: {INK}"}
    )


def _draw_cut(root: ElementTree.Element, top: int, crossing: Sequence[str]) -> int:
    """A dashed line and what crosses it; returns where the next box begins."""
    line = top + _GAP // 2
    ElementTree.SubElement(
        root,
        "path",
        {
            "d": f"M0 {line}H{_WIDTH}",
            "style": f"fill: none; stroke: {_CUT}; stroke-width: 2; "
            "stroke-dasharray: 6 4",
        },
    )
    texts = ["cut: frozen above, trained below", *(f"crosses: {x}" for x in crossing)]
    for number, text in enumerate(texts):
        below = line + _LINE * (number + 1)
        _text(root, _MARGIN + 8, below, short_text(text, 58), size=11, bold=not number)
    return line + _LINE * len(texts) + 8


def _text(
    root: ElementTree.Element,
    x: int,
    y: int,
    text: str,
    *,
    size: int = 13,
    anchor: str = "start",
    bold: bool = False,
) -> None:
    if not text:
        return
    style = f"fill: {INK}; font-size: {size}px; text-anchor: {anchor}"
    style += "; font-weight: bold" if bold else ""
    place = {"x": str(x), "y": str(y), "style": style}
    ElementTree.SubElement(root, "text", place).text = escape_text(text)
