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
from tlperf.core.choices import Protocol
from tlperf.core.drawing import drawing_style, short_text
from tlperf.core.results import read_results
from tlperf.reporting.document import Plot
from tlperf.reporting.plots import BACKBONE_STYLES, PLOT_STYLE, new_figure, svg_text
from tlperf.reporting.rows import BackboneRows, Row, RunRows, collect_rows, finite

_MOST_BOXES = 24
_LINE_STYLES = ("-", "--", ":", "-.")
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


def _style(run: RunRows, results: BackboneRows) -> tuple[str, str]:
    return BACKBONE_STYLES[run.backbones.index(results) % len(BACKBONE_STYLES)]


def _is_smoke(run: RunRows) -> bool:
    return any(results.is_smoke("latency") for results in run.backbones)


def _label(results: BackboneRows, row: Row) -> str:
    words = [short_text(results.title, 18), str(row.get("protocol"))]
    words += [] if row.get("model") == "imagenet" else [str(row.get("model"))]
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
    p5 and p95, and the median; None without rows."""
    found = [(r, row) for r, row in _timed(run) if _samples_ms(row)]
    if not found:
        return None
    rows, more = found[:_MOST_BOXES], len(found[_MOST_BOXES:])
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=_is_smoke(run))
        figure.set_size_inches(7.0, 1.2 + 0.28 * len(rows))
        figure.subplots_adjust(left=0.42, bottom=min(0.4, 0.6 / len(rows) + 0.08))
        axes = figure.add_subplot()
        boxes = axes.boxplot(
            [_samples_ms(row) for _, row in rows],
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            tick_labels=[_label(*one) for one in rows],
            medianprops={"color": "#1f2329"},
        )
        for box, (results, row) in zip(boxes["boxes"], rows, strict=True):
            colour, _ = _style(run, results)
            box.set_edgecolor(colour)
            box.set_facecolor(colour if row.get("valid") else "none")
        axes.invert_yaxis()
        axes.set(xlabel="milliseconds a step", xlim=(0, None))
        axes.set_title(f"Spread of steps ({_INVALID})", loc="right")
        svg = svg_text(figure)
    caption = (
        "Samples of each timed row: box from the first to the third quarter, whiskers "
        "from p5 to p95, line at the median"
        + (f"; {more} more rows are not drawn" if more else "")
    )
    return Plot(name="latency-spread", caption=caption, svg=svg)


def draw_throughput(run: RunRows) -> Plot | None:
    """Images a second by batch size, a line a backbone, protocol and runtime; None
    where no line has two points."""
    lines: dict[tuple[Any, ...], list[tuple[BackboneRows, Row]]] = {}
    for results, row in _timed(run):
        keys = ("model", "protocol", "runtime", "precision", "xla", "tf32")
        name = (results.name, *(row.get(key) for key in keys))
        lines.setdefault(name, []).append((results, row))
    shown = [points for points in lines.values() if len(points) > 1]
    if not shown:
        return None
    with drawing_style(PLOT_STYLE):
        figure = new_figure(smoke=_is_smoke(run))
        figure.set_size_inches(7.0, 4.2)
        figure.subplots_adjust(right=0.62, left=0.1)
        axes = figure.add_subplot()
        for number, points in enumerate(shown):
            points.sort(key=lambda one: one[1]["batch_size"])
            colour, marker = _style(run, points[0][0])
            axes.plot(
                [row["batch_size"] for _, row in points],
                [row["images_per_sec"] for _, row in points],
                color=colour,
                marker=marker,
                markerfacecolor="none",
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
                label=_line_label(*points[0]),
            )
            valid = [row for _, row in points if row.get("valid")]
            axes.plot(
                [row["batch_size"] for row in valid],
                [row["images_per_sec"] for row in valid],
                color=colour,
                marker=marker,
                linestyle="none",
            )
        axes.set_xscale("log", base=2)
        axes.set(xlabel="batch size", ylabel="images a second", ylim=(0, None))
        axes.set_title(f"Throughput by batch size ({_INVALID})")
        figure.legend(loc="center left", bbox_to_anchor=(0.63, 0.5), fontsize=7)
        svg = svg_text(figure)
    caption = "Images a second at the median step, by batch size"
    return Plot(name="latency-throughput", caption=caption, svg=svg)


def _line_label(results: BackboneRows, row: Row) -> str:
    words = [short_text(results.title, 18), str(row.get("protocol"))]
    words += [str(row.get("runtime")), str(row.get("precision"))]
    words += ["XLA"] if row.get("xla") else []
    return ", ".join(words)


def draw_tradeoff(run: RunRows) -> Plot | None:
    """Test accuracy against the median step of the fine-tuned network, of one protocol
    and batch; None where no backbone has both."""
    points = []
    for results in run.backbones:
        accuracy = finite(results.evaluate.get("accuracy"))
        own = [row for _, row in _timed(run) if row in results.latency_runs]
        tuned = [row for row in own if row.get("model") == "finetuned"]
        steps = [row for row in tuned if row.get("protocol") != Protocol.TRAIN_STEP]
        if accuracy is not None and steps:
            points.append((results, steps[0], accuracy))
    if not points:
        return None
    with drawing_style(PLOT_STYLE):
        smoke = _is_smoke(run) or any(r.is_smoke("evaluate") for r, _, _ in points)
        figure = new_figure(smoke=smoke)
        figure.subplots_adjust(bottom=0.33)
        axes = figure.add_subplot()
        for results, row, accuracy in points:
            colour, marker = _style(run, results)
            fill = colour if row.get("valid") else "none"
            axes.plot(
                row["p50_ms"] / row["batch_size"],
                accuracy,
                color=colour,
                marker=marker,
                markerfacecolor=fill,
                linestyle="none",
                label=short_text(results.title),
            )
        axes.set(xlabel="milliseconds an image", ylabel="test accuracy", xlim=(0, None))
        axes.set_title(f"Accuracy by time ({_INVALID})")
        figure.legend(
            loc="lower center", ncols=3, fontsize=8, bbox_to_anchor=(0.5, 0.03)
        )
        svg = svg_text(figure)
    protocol, batch = points[0][1].get("protocol"), points[0][1].get("batch_size")
    caption = f"Test accuracy against time an image: {protocol}, batch {batch}"
    return Plot(name="latency-accuracy", caption=caption, svg=svg)


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
                color="#1f2329",
                linewidth=1,
                linestyle=_LINE_STYLES[number % len(_LINE_STYLES)],
            )
        drawn: set[str] = set()
        for (results, row), place in zip(rows, places, strict=True):
            colour, marker = _style(run, results)
            label = short_text(results.title) if results.name not in drawn else None
            drawn.add(results.name)
            axes.plot(
                place,
                row["tflops_per_sec"],
                color=colour,
                marker=marker,
                markerfacecolor=colour if row.get("valid") else "none",
                linestyle="none",
                label=label,
            )
        axes.set(xscale="log", yscale="log")
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
    return Plot(name="latency-roofline", caption=caption, svg=svg)


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
