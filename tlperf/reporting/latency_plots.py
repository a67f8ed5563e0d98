"""Plots of timed rows: spread, throughput by batch, accuracy by time, roofline.

    for plot in draw_latency(run): ...
    write_latency_plots(workdir)          # WORKDIR/latency/*.svg

A picture that has nothing to show is left out.
"""

import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.drawing import INK, drawing_style, name_log_ticks, short_text
from tlperf.core.results import read_results
from tlperf.reporting.document import Plot
from tlperf.reporting.plots import PLOT_STYLE, new_figure, style_of, svg_text
from tlperf.reporting.ranking import find_alike
from tlperf.reporting.rows import (
    FINETUNED_MODEL,
    IMAGENET_MODEL,
    BackboneRows,
    Row,
    RunRows,
    cite,
    collect_rows,
    finite,
    is_valid,
)
from tlperf.reporting.sources import Source

_MOST_BOXES = 24
_LINE_STYLES = ("-", "--", ":", "-.")
_BOX = (5, 25, 50, 75, 95)  # percentiles
_INVALID = "hollow: INVALID, see the row's reasons"


def write_latency_plots(workdir: str | pathlib.Path) -> list[pathlib.Path]:
    """Draws the newest rows of a workdir; the files' paths."""
    run = collect_rows(read_results(workdir))
    written = []
    for plot in draw_latency(run):
        path = pathlib.Path(workdir) / "latency" / f"{plot.name}.svg"
        files.write_text(path, plot.svg)
        written.append(path)
    return written


def draw_latency(run: RunRows) -> list[Plot]:
    """The pictures that the rows of a run allow."""
    found = (
        draw_spread(run),
        draw_throughput(run),
        draw_tradeoff(run),
        draw_roofline(run),
    )
    return [plot for plot in found if plot is not None]


def _timed(run: RunRows) -> Iterator[tuple[BackboneRows, Row]]:
    for results in run.backbones:
        for row in results.latency_runs:
            if finite(row.get("p50_ms")):
                yield results, row


def _cite(drawn: Sequence[tuple[BackboneRows, Row]]) -> tuple[Source, ...]:
    return cite((results for results, _ in drawn), "latency")


def _is_smoke(run: RunRows) -> bool:
    return any(results.is_smoke("latency") for results in run.backbones)


def _label(results: BackboneRows, row: Row) -> str:
    words = [short_text(results.title, 18), str(row.get("protocol"))]
    words += [] if row.get("model") == IMAGENET_MODEL else [str(row.get("model"))]
    words += [] if row.get("runtime") == "tf" else [str(row.get("runtime"))]
    return ", ".join([*words, f"batch {row.get('batch_size')}"])


def _samples_ms(row: Row) -> list[float]:
    return [
        1e3 * secs
        for trial in row.get("trials") or ()
        for secs in trial.get("samples_secs") or ()
    ]


def draw_spread(run: RunRows) -> Plot | None:
    """All samples of each row as a box from the first to the third quarter, whiskers to
    p5 and p95, and the median; None without rows.

    Not by matplotlib's own, which imports its user interface.
    """
    import numpy as np

    found = [(r, row) for r, row in _timed(run) if _samples_ms(row)]
    rows = found[:_MOST_BOXES]
    if not rows:
        return None
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=_is_smoke(run))
        _set_height(figure, 0.36 * len(rows) + 0.2, below=0.5)
        figure.subplots_adjust(left=0.04)
        axes = figure.add_subplot()
        for place, (results, row) in enumerate(rows, 1):
            colour, _ = style_of(run, results)
            fill = colour if is_valid(row) else "none"
            p5, p25, p50, p75, p95 = np.percentile(_samples_ms(row), _BOX)
            axes.plot([p5, p95], [place, place], "|-", color=colour, linewidth=1)
            box = {"facecolor": fill, "edgecolor": colour, "zorder": 2}
            axes.barh(place, p75 - p25, left=p25, height=0.3, **box)
            axes.vlines(p50, place - 0.15, place + 0.15, INK, zorder=3)
            # Above its box: beside it, names would take half of a phone's width.
            where = {"transform": axes.get_yaxis_transform(), "fontsize": 7}
            axes.text(0.01, place - 0.3, _label(results, row), **where)
        axes.set_ylim(len(rows) + 0.5, 0.3)
        axes.set_yticks([])
        axes.set(xlabel="milliseconds a step", xlim=(0, None))
        axes.set_title(f"Spread of steps ({_INVALID})", fontsize=8)
        svg = svg_text(figure)
    more = len(found) - len(rows)
    caption = (
        "Samples of each timed row: box from the first to the third quarter, whiskers "
        "from p5 to p95, line at the median"
    ) + (f"; {more} more rows are not drawn" if more else "")
    return Plot("latency-spread", caption, svg, sources=_cite(rows))


def draw_throughput(run: RunRows) -> Plot | None:
    """Images a second by batch size, a line a backbone, protocol and runtime; None
    where no line has two points."""
    lines: dict[tuple[Any, ...], list[tuple[BackboneRows, Row]]] = {}
    for results, row in _timed(run):
        keys = ("model", "protocol", "runtime", "precision", "xla", "tf32")
        name = (results.name, *(row.get(key) for key in keys))
        if finite(row.get("images_per_sec")):
            lines.setdefault(name, []).append((results, row))
    shown = [points for points in lines.values() if len(points) > 1]
    if not shown:
        return None
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=_is_smoke(run))
        _set_height(figure, 2.3, below=0.6 + 0.14 * len(shown))
        axes = figure.add_subplot()
        for number, points in enumerate(shown):
            points.sort(key=lambda one: one[1]["batch_size"])
            colour, marker = style_of(run, points[0][0])
            axes.plot(
                [row["batch_size"] for _, row in points],
                [row["images_per_sec"] for _, row in points],
                color=colour,
                marker=marker,
                markerfacecolor="none",
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
                label=_line_label(*points[0]),
            )
            valid = [row for _, row in points if is_valid(row)]
            axes.plot(
                [row["batch_size"] for row in valid],
                [row["images_per_sec"] for row in valid],
                color=colour,
                marker=marker,
                linestyle="none",
            )
        axes.set_xscale("log", base=2)
        sizes = {row["batch_size"] for points in shown for _, row in points}
        axes.set_xticks(sorted(sizes), map(str, sorted(sizes)), minor=False)
        axes.set(xlabel="batch size", ylabel="images a second", ylim=(0, None))
        axes.set_title(f"Throughput by batch size ({_INVALID})", fontsize=8)
        figure.legend(loc="lower left", bbox_to_anchor=(0.02, 0.01), fontsize=7)
        svg = svg_text(figure)
    caption = "Images a second at the median step, by batch size"
    sources = _cite([one for points in shown for one in points])
    return Plot("latency-throughput", caption, svg, sources=sources)


def _set_height(figure: Any, inches: float, *, below: float) -> None:
    """The height of the axes, and of what is below them, whatever is drawn; 0.4 inches
    for the title."""
    height = inches + below + 0.4
    figure.set_figheight(height)
    figure.subplots_adjust(bottom=below / height, top=1 - 0.4 / height)


def _line_label(results: BackboneRows, row: Row) -> str:
    words = [short_text(results.title, 18), str(row.get("protocol"))]
    words += [] if row.get("model") == IMAGENET_MODEL else [str(row.get("model"))]
    words += [str(row.get("runtime")), str(row.get("precision"))]
    words += ["XLA"] if row.get("xla") else []
    return ", ".join(words)


def draw_tradeoff(run: RunRows) -> Plot | None:
    """Test accuracy, with its interval, against the median step of the fine-tuned
    networks, all timed in one way; None where no backbone has both of one training."""
    alike = find_alike(run)
    points = [
        (results, row, accuracy)
        for results in run.backbones
        if (row := alike.rows.get(results.name, {})).get("model") == FINETUNED_MODEL
        and (accuracy := finite(results.evaluate.get("accuracy"))) is not None
    ]
    if not points:
        return None
    with drawing_style(PLOT_STYLE):
        smoke = _is_smoke(run) or any(r.is_smoke("evaluate") for r, _, _ in points)
        figure = new_figure(smoke=smoke)
        figure.subplots_adjust(bottom=0.33)
        axes = figure.add_subplot()
        for results, row, accuracy in points:
            colour, marker = style_of(run, results)
            axes.errorbar(
                alike.image_ms(results.name),
                accuracy,
                yerr=_reach(results, accuracy),
                elinewidth=1,
                color=colour,
                marker=marker,
                markerfacecolor=colour if is_valid(row) else "none",
                linestyle="none",
                label=short_text(results.title),
            )
        axes.set(xlabel="milliseconds an image", ylabel="test accuracy", xlim=(0, None))
        axes.set_title(f"Accuracy by time ({_INVALID})", fontsize=8)
        figure.legend(
            loc="lower center", ncols=3, fontsize=8, bbox_to_anchor=(0.5, 0.03)
        )
        svg = svg_text(figure)
    told = ", ".join(
        f"{results.title} {accuracy:.4f} at {alike.image_ms(results.name):.2f} ms"
        for results, _, accuracy in points
    )
    caption = f"Test accuracy and its 95 % interval against time an image: {alike.way}"
    caption += f"; {alike.others_text}" if alike.others else ""
    alt = f"Test accuracy against time an image: {told}"
    sources = cite((r for r, _, _ in points), "evaluate", "latency")
    return Plot("latency-accuracy", caption, svg, alt, sources)


def _reach(results: BackboneRows, accuracy: float) -> list[list[float]] | None:
    """How far the interval goes below and above; None without one."""
    edges = [finite(edge) for edge in results.evaluate.get("interval") or ()]
    if len(edges) != 2 or edges[0] is None or edges[1] is None:
        return None
    return [[max(0.0, accuracy - edges[0])], [max(0.0, edges[1] - accuracy)]]


def draw_roofline(run: RunRows) -> Plot | None:
    """TFLOP/s reached against FLOP a byte, under what was measured of the device in
    each way of computing; None without rows that tell both."""
    keys = (
        *("gflop_per_step", "gbytes_per_step", "tflops_per_sec"),
        *("matmul_tflops_per_sec", "copy_gbytes_per_sec"),
    )
    rows = [
        (results, row)
        for results, row in _timed(run)
        if all(finite(row.get(key)) for key in keys)
    ]
    if not rows:
        return None
    roofs = _find_roofs([row for _, row in rows])
    places = [row["gflop_per_step"] / row["gbytes_per_step"] for _, row in rows]
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=_is_smoke(run))
        figure.subplots_adjust(bottom=0.33)
        axes = figure.add_subplot()
        ridges = [1e3 * peak / copy for peak, copy in roofs.values()]
        for number, (peak, copy) in enumerate(roofs.values()):
            edges = [min(*places, *ridges) / 2, ridges[number]]
            edges.append(max(*places, *ridges) * 2)
            axes.plot(
                edges,
                [min(peak, edge * copy / 1e3) for edge in edges],
                color=INK,
                linewidth=1,
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
            )
        drawn: set[str] = set()
        for (results, row), place in zip(rows, places, strict=True):
            colour, marker = style_of(run, results)
            label = short_text(results.title) if results.name not in drawn else None
            drawn.add(results.name)
            axes.plot(
                place,
                row["tflops_per_sec"],
                color=colour,
                marker=marker,
                markerfacecolor=colour if is_valid(row) else "none",
                linestyle="none",
                label=label,
            )
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            name_log_ticks(axis)
        axes.set(xlabel="FLOP a byte moved at least", ylabel="TFLOP/s")
        axes.set_title("Reached, under the measured roofs")
        figure.legend(
            loc="lower center", ncols=3, fontsize=8, bbox_to_anchor=(0.5, 0.03)
        )
        svg = svg_text(figure)
    told = "; ".join(
        f"{name}: {peak:.3g} TFLOP/s of matrix products, {copy:.3g} GB/s of memory"
        for name, (peak, copy) in roofs.items()
    )
    caption = f"Arithmetic reached by each timed row, under what was measured of {told}"
    return Plot("latency-roofline", caption, svg, sources=_cite(rows))


def _find_roofs(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Medians of TFLOP/s of products and GB/s of memory, by device and precision."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row.get('device')} in {row.get('precision')}"
        name += " (TF32)" if row.get("tf32") else ""
        groups.setdefault(name, []).append(row)
    return {
        name: (
            statistics.median(row["matmul_tflops_per_sec"] for row in group),
            statistics.median(row["copy_gbytes_per_sec"] for row in group),
        )
        for name, group in groups.items()
    }
