"""One picture of a dataset: how many of what, of which sizes, and some of each.

write_sheet(Sheet(title="pets", classes=("cats", "dogs"), ...), Path("sheet.png"))

Top: images by class and split, sizes, payloads. Below: a row of images for each split
and class. Drawing alone; what to draw is read elsewhere.
"""

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from tlperf.core.drawing import drawing_style, name_log_ticks, short_text
from tlperf.core.files import atomic_path

MOST_CLASSES = 30
# More groups of upright bars than this have no room for their counts and names.
_MOST_UPRIGHT = 5
_MOST_UPRIGHT_LETTERS = 48
_THUMBNAIL_SIDE = 320  # pixels; a cell is about 2 inches at _DPI
_DPI = 120
_WIDTH_INCHES = 11.0
_LABEL_LETTERS = 16
_LABEL_SHARE = 0.13  # of the width
_MORE_SHARE = 0.2  # of a row's height, for the line that says how many are left out
_HISTOGRAMS_INCHES = 3.6
# A histogram that goes this many times beyond its median is drawn over a log axis.
_SKEWED = 8

# Each has 3:1 against white, and a colour-blind eye tells one from the next.
_SPLIT_COLOURS = {"train": "#2f81d0", "validation": "#c77400", "test": "#1a9850"}
_WIDTH_COLOUR, _HEIGHT_COLOUR, _PAYLOAD_COLOUR = "#8a63d2", "#d1453b", "#5b6573"
_RC = {
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "legend.fontsize": 8,
}


class Picture(NamedTuple):
    """An image to show.

    Attributes:
        image: at most 320 pixels a side.
        width, height: pixels of the image itself.
    """

    image: Image.Image
    width: int
    height: int

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """The picture of an image of any size."""
        small = image.copy()
        small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        return cls(small, image.width, image.height)


class SheetRow(NamedTuple):
    """Some images of one class in one split, and how many there are in all."""

    split: str
    class_name: str
    total: int
    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """All that is drawn.

    Attributes:
        title: one line.
        classes: names by label.
        splits: images by split and class.
        sizes: int64 [N] each, over all splits: `width` and `height` in pixels,
            `payload_bytes`.
        rows: of the contact sheet, from top to bottom.
        rows_left_out: how many more there would be.
    """

    title: str
    classes: Sequence[str]
    splits: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, np.ndarray]
    rows: Sequence[SheetRow]
    rows_left_out: int

    @property
    def classes_left_out(self) -> int:
        """How many classes have no bars."""
        return max(0, len(self.classes) - MOST_CLASSES)


def write_sheet(sheet: Sheet, png: pathlib.Path) -> None:
    """Draws the sheet into a PNG file."""
    with drawing_style(_RC):
        figure = _draw(sheet)
        with atomic_path(png) as partial:
            figure.savefig(partial, format="png", dpi=_DPI)


def _draw(sheet: Sheet) -> Any:
    from matplotlib.figure import Figure

    classes = sheet.classes[:MOST_CLASSES]
    upright = (
        len(classes) <= _MOST_UPRIGHT
        and sum(map(len, classes)) <= _MOST_UPRIGHT_LETTERS
    )
    bars = len(classes) * len(sheet.splits)
    bars_inches = 0 if upright else 1.0 + 0.16 * bars
    charts_inches = max(_HISTOGRAMS_INCHES, bars_inches)
    rows_inches = 2.0 * len(sheet.rows)
    figure = Figure(
        figsize=(_WIDTH_INCHES, charts_inches + rows_inches),
        facecolor="white",
    )
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    figure.suptitle(short_text(sheet.title, 100), fontsize=12, fontweight="bold")
    charts, images = figure.subfigures(
        2, 1, squeeze=False, height_ratios=[charts_inches, rows_inches]
    ).flat
    # Beside many bars the histograms keep their height, and white is left below them.
    white = charts_inches / _HISTOGRAMS_INCHES - 1
    heights = [0.57, 0.43, *([white] if white > 0 else [])]
    grid = charts.add_gridspec(
        len(heights), 2, width_ratios=[1.5, 1], height_ratios=heights
    )
    _draw_counts(charts.add_subplot(grid[:, 0]), sheet, classes, upright=upright)
    _draw_sizes(charts.add_subplot(grid[0, 1]), sheet.sizes)
    _draw_payloads(charts.add_subplot(grid[1, 1]), sheet.sizes["payload_bytes"])
    _draw_rows(images, sheet)
    return figure


def _draw_counts(
    axes: Any, sheet: Sheet, classes: Sequence[str], *, upright: bool
) -> None:
    """A group of bars a class, a bar a split."""
    places = np.arange(len(classes))
    thickness = 0.84 / len(sheet.splits)
    draw = axes.bar if upright else axes.barh
    for number, (split, counts) in enumerate(sheet.splits.items()):
        bars = draw(
            places + (number - (len(sheet.splits) - 1) / 2) * thickness,
            [counts[name] for name in classes],
            thickness * 0.94,
            label=split,
            color=_SPLIT_COLOURS[split],
        )
        axes.bar_label(bars, fontsize=8 if upright else 7, padding=2)
    names = [short_text(name, 24) for name in classes]
    if upright:
        axes.set_xticks(places, names)
        axes.set_ylabel("images")
        axes.margins(x=0.04, y=0.1)
    else:
        axes.set_yticks(places, names)
        axes.set_xlabel("images")
        axes.margins(x=0.1, y=0.01)
        axes.invert_yaxis()
    axes.tick_params(axis="x" if upright else "y", length=0)
    _count_along(axes.yaxis if upright else axes.xaxis)
    more = sheet.classes_left_out
    capped = f", the first {len(classes)} classes; {more} more" if more else ""
    axes.set_title(f"images by class and split{capped}", pad=24)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(sheet.splits),
        borderaxespad=0.3,
        borderpad=0,
        handlelength=1,
    )


def _draw_sizes(axes: Any, sizes: Mapping[str, np.ndarray]) -> None:
    widths, heights = sizes["width"], sizes["height"]
    axes.set_title("image size (pixels)")
    if np.ptp(widths) == 0 and np.ptp(heights) == 0:
        _write_only(axes, f"all {widths[0]} x {heights[0]} pixels")
        return
    series = {"width": (widths, _WIDTH_COLOUR), "height": (heights, _HEIGHT_COLOUR)}
    _draw_histogram(axes, series)
    axes.legend(loc="best", handlelength=1)


def _draw_payloads(axes: Any, payload_bytes: np.ndarray) -> None:
    axes.set_title("payload (KiB)")
    if np.ptp(payload_bytes) == 0:
        _write_only(axes, f"all {payload_bytes[0] / 1024:.1f} KiB")
        return
    series = {"payload": (payload_bytes, _PAYLOAD_COLOUR)}
    _draw_histogram(axes, series, unit=1024)


def _write_only(axes: Any, text: str) -> None:
    # One bar would say no more, and look like a mistake.
    axes.set_axis_off()
    axes.text(0, 0.9, text, va="top", transform=axes.transAxes)


def _draw_histogram(
    axes: Any, series: Mapping[str, tuple[np.ndarray, str]], *, unit: int = 1
) -> None:
    """Whole numbers by name, each in its colour; the axis counts in `unit`."""
    bins = plan_bins(np.concatenate([values for values, _ in series.values()]))
    edges = bins.edges / unit
    for name, (values, colour) in series.items():
        shown = values / unit
        axes.hist(shown, edges, label=name, color=colour, alpha=0.35)
        axes.hist(shown, edges, histtype="step", color=colour, linewidth=1.2)
    if bins.log:
        axes.set_xscale("log")
    axes.set_ylabel("images")
    axes.margins(x=0.01)
    if bins.log:
        name_log_ticks(axes.xaxis)
    _count_along(axes.yaxis)


def _count_along(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axis.set_major_locator(locator)
    axis.grid(visible=True)


class Bins(NamedTuple):
    """Edges of a histogram, float64 [bins + 1], and whether their ratios are equal
    instead of their distances."""

    edges: np.ndarray
    log: bool


def plan_bins(values: np.ndarray) -> Bins:
    """At most 40 bins that hold all `values`, whole numbers above 0, one at least.

    >>> plan_bins(np.array([20, 21, 22])).edges.tolist()
    [19.5, 20.5, 21.5, 22.5]
    """
    low, high = int(values.min()), int(values.max())
    most = int(np.clip(2 * np.sqrt(len(values)), 8, 40))
    if high > _SKEWED * np.median(values):
        return Bins(np.geomspace(low - 0.5, high + 0.5, most + 1), log=True)
    # Whole steps: others would hold now more, now fewer of the whole numbers.
    step = -(-(high - low + 1) // most)
    count = -(-(high - low + 1) // step)
    return Bins(low - 0.5 + step * np.arange(count + 1), log=False)


def _draw_rows(figure: Any, sheet: Sheet) -> None:
    """A row of `figure` for each of the sheet: its label, then its images."""
    # Placed by hand: all cells are alike, and an automatic layout of 120 takes seconds.
    bottom = _MORE_SHARE / len(sheet.rows) if sheet.rows_left_out else 0
    height = (1 - bottom) / len(sheet.rows)
    columns = max(1, *(len(row.pictures) for row in sheet.rows))
    width = (1 - _LABEL_SHARE) / columns
    for place, row in enumerate(sheet.rows):
        base = 1 - (place + 1) * height
        _write_label(figure, row, middle=base + 0.5 * height)
        for column, picture in enumerate(row.pictures):
            left = _LABEL_SHARE + column * width
            box = (left, base + 0.04 * height, 0.96 * width, 0.83 * height)
            axes = figure.add_axes(box, anchor="N")
            axes.set_axis_off()
            axes.imshow(picture.image)
            size = f"{picture.width} x {picture.height}"
            axes.set_title(size, fontsize=7, loc="center", pad=3)
    if sheet.rows_left_out:
        text = f"{sheet.rows_left_out} more rows are not shown"
        figure.text(0.5, 0.3 * bottom, text, ha="center")


def _write_label(figure: Any, row: SheetRow, *, middle: float) -> None:
    colour = _SPLIT_COLOURS[row.split]
    title = {"va": "bottom", "color": colour, "fontweight": "bold"}
    figure.text(0.012, middle, row.split, **title)
    name = textwrap.fill(short_text(row.class_name, 3 * _LABEL_LETTERS), _LABEL_LETTERS)
    figure.text(0.012, middle, f"{name}\n{row.total} images", va="top", fontsize=8)
