"""Plots as SVG text: curves of one backbone, of all, and confusion matrices.

    draw_curves(results, quantity="accuracy", run=run, caption="...")  # a Plot, or None
    inline_svg(plot)  # the same picture for a page

The same input gives the same bytes. Text stays text in the file: it can be searched,
read aloud, and takes the page's colour.
"""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from tlperf.core.drawing import INK, drawing_style, short_text
from tlperf.core.errors import escape_text
from tlperf.reporting.document import NOT_MEASURED, Plot
from tlperf.reporting.readings import class_names, read_confusion
from tlperf.reporting.rows import BackboneRows, Row, RunRows, cite, finite

# Colour and marker by place in the report. Each colour has at least 3:1 against white
# and against a dark page; the marker tells apart what a colour-blind eye cannot.
BACKBONE_STYLES = (
    ("#2f81d0", "o"),
    ("#c77400", "s"),
    ("#1a9850", "^"),
    ("#c2559f", "D"),
    ("#d1453b", "v"),
    ("#8a63d2", "P"),
)
# Drawn in this ink on a white panel; inline, the panel goes and the ink is the page's.
PANEL = "panel"
_SIZE_INCHES = (4.4, 3.1)
_MOST_NAMED_CLASSES = 12
CELL_COLOURS = "Blues"
# From here on white has more contrast than black on the cell's blue.
_DARK_SHARE = 0.72
_SMOKE_MARK = "smoke figures, no comparison"

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"

PLOT_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tlperf",
    "axes.facecolor": "none",
    "axes.grid": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """What a curve shows: axis label, and its keys in an epoch's row."""

    label: str
    train_key: str
    validation_key: str


QUANTITIES = {
    "accuracy": _Quantity("accuracy (share of images)", "accuracy", "val_accuracy"),
    "loss": _Quantity("cross-entropy loss (nats)", "loss", "val_loss"),
}


def new_figure(*, smoke: bool) -> Any:
    """A figure on a white panel, marked where its figures are smoke figures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, facecolor="white")
    figure.patch.set_gid(PANEL)
    # Fixed margins: automatic layout triples the time and moves with the text.
    figure.subplots_adjust(left=0.16, right=0.96, bottom=0.17, top=0.88)
    if smoke:
        figure.text(0.01, 0.99, _SMOKE_MARK, ha="left", va="top", size=7)
    return figure


def svg_text(figure: Any) -> str:
    """The figure as SVG; equal figures give equal text."""
    stream = io.StringIO()
    # No date and no version of the library: equal rows give equal bytes.
    metadata = {"Date": None, "Creator": None}
    figure.savefig(stream, format="svg", metadata=metadata)
    return stream.getvalue()


def _points(epochs: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    known = [
        (number, value)
        for number, value in (
            (finite(row.get("epoch")), finite(row.get(key))) for row in epochs
        )
        if number is not None and value is not None
    ]
    return [number for number, _ in known], [value for _, value in known]


def _style_epochs(axes: Any, last_epoch: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    # Less than half an epoch, so that no tick stands at an epoch 0.
    margin = min(0.4, 0.05 * last_epoch)
    axes.set_xlim(1 - margin, last_epoch + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))


def _last_epoch(epochs: Sequence[Row]) -> float:
    return max((finite(row.get("epoch")) or 1 for row in epochs), default=1)


def style_of(run: RunRows, results: BackboneRows) -> tuple[str, str]:
    """Colour and marker of a backbone. Beyond the study's six, colours come again with
    other markers."""
    place, count = run.backbones.index(results), len(BACKBONE_STYLES)
    colour, _ = BACKBONE_STYLES[place % count]
    _, marker = BACKBONE_STYLES[(place + place // count) % count]
    return colour, marker


def draw_curves(
    results: BackboneRows, *, quantity: str, run: RunRows, caption: str
) -> Plot | None:
    """Training and validation over the epochs of one backbone; None without epochs."""
    if not results.epochs:
        return None
    colour, marker = style_of(run, results)
    shown = QUANTITIES[quantity]
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=results.is_smoke("train"))
        axes = figure.add_subplot()
        common = {"color": colour, "marker": marker}
        axes.plot(*_points(results.epochs, shown.train_key), label="training", **common)
        axes.plot(
            *_points(results.epochs, shown.validation_key),
            label="validation",
            linestyle="--",
            markerfacecolor="none",
            **common,
        )
        axes.set_ylabel(shown.label)
        axes.set_title(f"{short_text(results.title)}: {quantity}")
        _style_epochs(axes, _last_epoch(results.epochs))
        axes.legend()
        svg = svg_text(figure)
    name = f"{file_stem(results.name)}-{quantity}"
    told = [
        f"in {split} {_told(results, key)}"
        for split, key in (
            ("training", shown.train_key),
            ("validation", shown.validation_key),
        )
    ]
    alt = f"{results.title}, {quantity}: {'; '.join(told)}"
    return Plot(name, caption, svg, alt, results.sources("train"))


def _told(results: BackboneRows, key: str) -> str:
    """A curve in words."""
    numbers, values = _points(results.epochs, key)
    if not values:
        return NOT_MEASURED
    text = f"{values[-1]:.4f} after epoch {numbers[-1]:g}"
    return text if len(values) == 1 else f"from {values[0]:.4f} to {text}"


def draw_comparison(
    run: RunRows, *, quantity: str, split: str, caption: str
) -> Plot | None:
    """One curve a backbone, of `training` or `validation`; None without any epoch."""
    drawn = [results for results in run.backbones if results.epochs]
    if not drawn:
        return None
    shown = QUANTITIES[quantity]
    key = shown.train_key if split == "training" else shown.validation_key
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=any(rows.is_smoke("train") for rows in drawn))
        figure.subplots_adjust(bottom=0.33)
        axes = figure.add_subplot()
        for results in drawn:
            colour, marker = style_of(run, results)
            points = _points(results.epochs, key)
            label = short_text(results.title)
            axes.plot(*points, color=colour, marker=marker, label=label)
        axes.set_ylabel(shown.label)
        axes.set_title(f"{split}: {quantity}")
        _style_epochs(axes, max(_last_epoch(results.epochs) for results in drawn))
        figure.legend(
            loc="lower center", ncols=3, fontsize=8, bbox_to_anchor=(0.5, 0.03)
        )
        svg = svg_text(figure)
    told = "; ".join(f"{results.title} {_told(results, key)}" for results in drawn)
    alt = f"{quantity} in {split}: {told}"
    return Plot(f"all-{split}-{quantity}", caption, svg, alt, cite(drawn, "train"))


def draw_confusion(results: BackboneRows, *, caption: str) -> Plot | None:
    """Counts of the test images, true classes down; None where none were counted."""
    import numpy as np

    confusion = read_confusion(results.evaluate)
    if confusion is None:
        return None
    counts = np.array(confusion, dtype=float)
    classes = [short_text(name, 14) for name in class_names(results.evaluate)]
    # Colour by the share of the true class, so that small classes are seen too.
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=results.is_smoke("evaluate"))
        if _has_long_names(classes):
            figure.set_figheight(4.2)
            figure.subplots_adjust(left=0.36, bottom=0.34)
        axes = figure.add_subplot()
        axes.grid(visible=False)
        axes.pcolormesh(shares, cmap=CELL_COLOURS, vmin=0, vmax=1, edgecolors="face")
        axes.invert_yaxis()
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(f"{short_text(results.title)}: test images")
        _name_cells(axes, counts, shares, classes)
        svg = svg_text(figure)
    return Plot(
        name=f"{file_stem(results.name)}-confusion",
        caption=caption,
        svg=svg,
        alt=f"{results.title}, test images. {_told_counts(counts, classes)}",
        sources=results.sources("evaluate"),
    )


def _told_counts(counts: Any, classes: Sequence[str]) -> str:
    """A confusion matrix in words; of many classes only how many were right."""
    if len(classes) > _MOST_NAMED_CLASSES:
        return f"{counts.trace():.0f} of {counts.sum():.0f} are right"
    rows = []
    for name, row in zip(classes, counts, strict=True):
        taken = ", ".join(
            f"{count:.0f} as {other}"
            for other, count in zip(classes, row, strict=True)
            if count
        )
        rows.append(f"Of {row.sum():.0f} of {name}: {taken or 'none'}")
    return ". ".join(rows)


def _has_long_names(classes: Sequence[str]) -> bool:
    """Whether names would run into each other below the columns."""
    longest = max(map(len, classes), default=0)
    return len(classes) <= _MOST_NAMED_CLASSES and longest * len(classes) > 30


def _name_cells(axes: Any, counts: Any, shares: Any, classes: Sequence[str]) -> None:
    if len(classes) > _MOST_NAMED_CLASSES:
        return  # axes keep their class numbers
    centres = [place + 0.5 for place in range(len(classes))]
    turn = 40 if _has_long_names(classes) else 0
    axes.set_xticks(centres, classes, rotation=turn, ha="right" if turn else "center")
    axes.set_yticks(centres, classes)
    axes.tick_params(length=0)
    for row, column in itertools.product(*map(range, counts.shape)):
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{counts[row, column]:.0f}",
            ha="center",
            va="center",
            color=cell_ink(shares[row, column]),
        )


def cell_ink(share: float) -> str:
    """The colour of a count on a cell that is filled by its share of the true class."""
    return "#ffffff" if share > _DARK_SHARE else "#000000"


def file_stem(name: str) -> str:
    """A file name made of `name`, which comes from a row and may hold anything; two
    names never make one."""
    plain = re.sub(r"[^a-z0-9-]", "-", name.lower())[:40]
    if plain and plain == name:
        return plain
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{plain or 'backbone'}-{digest[:6]}"


def inline_svg(plot: Plot) -> str:
    """The picture for a page: no panel, ink of the page, identifiers of its own."""
    root = ElementTree.fromstring(plot.svg)
    for parent in root.iter():
        for element in list(parent):
            # A style sheet inside the picture would hold for the whole page.
            unwanted = element.tag.removeprefix(_SVG) in ("metadata", "style")
            if unwanted or element.get("id") == PANEL:
                parent.remove(element)
    for element in root.iter():
        _make_local(element, f"plot-{plot.name}")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": escape_text(plot.spoken)}
    return ElementTree.tostring(root, encoding="unicode")


def _make_local(element: ElementTree.Element, prefix: str) -> None:
    """Page-wide unique identifiers, and names as HTML wants them."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            value = f"{prefix}-{value}"
        elif name == _XLINK_HREF:
            name, value = "href", value.replace("#", f"#{prefix}-", 1)
        elif name == "clip-path":
            value = value.replace("url(#", f"url(#{prefix}-", 1)
        elif name == "style":
            value = value.replace(INK, "currentColor")
        if not name.startswith("{"):
            element.set(name, value)
