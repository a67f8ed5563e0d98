"""What input reaches and what bounds it, as a picture.

draw_input(result, path)      # result: the JSON of `tlperf input`; path: .svg or .png
"""

import pathlib
from typing import Any

from tlperf.core.drawing import INK, drawing_style
from tlperf.core.errors import SettingsError
from tlperf.core.files import atomic_path

_WHOLE, _STAGE, _BOUND, _WAY = "#2f81d0", "#b8c4d4", "#d1453b", "#1a9850"
_SIZE_INCHES = (6.4, 0.9)  # and a bar each
_BAR_INCHES = 0.28
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "tlperf", "axes.grid": True}


def check_plot(path: pathlib.Path) -> None:
    """Refuses a name that says no kind of picture (exit code 64)."""
    if path.suffix not in (".svg", ".png"):
        raise SettingsError(
            f"--plot={path} says no kind of picture", "give a name in .svg or .png"
        )


def draw_input(result: dict[str, Any], path: pathlib.Path) -> None:
    """Bars of the whole, each stage's ceiling and each other way, on a log scale."""
    from matplotlib.figure import Figure

    bars = [("as it is", result["images_per_sec"], _WHOLE)]
    for name, rate in result["stages"].items():
        if rate is not None:
            colour = _BOUND if name == result["bottleneck"] else _STAGE
            bars.append((f"{name} alone", rate, colour))
    bars += [(way["change"], way["images_per_sec"], _WAY) for way in result["ways"]]
    names, rates, colours = zip(*bars, strict=True)
    width, height = _SIZE_INCHES
    with drawing_style(_STYLE):
        figure = Figure(figsize=(width, height + _BAR_INCHES * len(bars)))
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        drawn = axes.barh(range(len(bars)), rates, color=colours)
        axes.bar_label(drawn, [f"{rate:,.0f}" for rate in rates], padding=3)
        axes.set_yticks(range(len(bars)), names)
        axes.invert_yaxis()
        axes.set(xscale="log", xlim=(min(rates) / 2, max(rates) * 3))
        axes.xaxis.set_major_formatter("{x:,.0f}")  # the log scale's own is a formula
        axes.set_xlabel("images/s, log scale")
        axes.set_title(
            f"input: {result['encoding']}, batch {result['batch_size']}, "
            f"{result['image_size']} px, {result['cores']} cores"
        )
        if result["demand"] is not None:
            demand = result["demand"]["images_per_sec"]
            axes.axvline(demand, color=INK, linestyle="--", linewidth=1)
            axes.text(demand, -0.6, "demand", ha="center", va="bottom", fontsize=8)
        figure.tight_layout()
        with atomic_path(path) as partial:
            figure.savefig(partial, format=path.suffix[1:])
