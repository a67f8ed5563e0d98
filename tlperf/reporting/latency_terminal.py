"""Timed rows as text for a terminal: the table, the fastest runtime, what is INVALID.

print(render_latency({"runs": [...]}))
print(render_check({"rows": [...]}))     # of tlperf check
"""

from collections.abc import Sequence
from typing import Any

from tlperf.core.errors import escape_text
from tlperf.core.units import NOT_AVAILABLE, format_number, format_secs
from tlperf.reference.backbones import BACKBONES
from tlperf.reporting.plan_terminal import render_latency_plan
from tlperf.reporting.reasons import describe_unfinished, render_invalid, render_lacking
from tlperf.reporting.terminal_table import render_table


def _ms(value: float | None) -> str:
    return format_secs(None if value is None else value / 1e3)


def render_latency(result: dict[str, Any]) -> str:
    """A row a measurement, backbones in the order of Table 1; the published figure's
    device is another one. Or the plan of a dry run."""
    if "runs" not in result:
        return render_latency_plan(result)
    order = {spec.name: place for place, spec in enumerate(BACKBONES)}
    runs = sorted(
        result["runs"], key=lambda run: order.get(run["backbone"], len(order))
    )
    rows = [
        [
            *(run["backbone"], run["model"], run["protocol"], run["runtime"]),
            _compute_words(run),
            str(run["batch_size"]),
            *(_ms(run[key]) for key in ("mean_ms", "p50_ms")),
            _interval(run),
            *(_ms(run[key]) for key in ("p90_ms", "p99_ms")),
            format_number(run["images_per_sec"], 1),
            _percent(run["share_of_matmul"]),
            f"{run['samples']} in {run['processes']}",
            _ms((run["published"] or {}).get("ms")),
            "yes" if run["valid"] else "NO",
        ]
        for run in runs
    ]
    columns = ["backbone", "model", "protocol", "runtime", "computes in", "batch"]
    columns += ["mean", "p50", "interval", "p90", "p99", "images/s", "of matmul"]
    columns += ["samples", "published (A100)", "valid"]
    devices = sorted({run["device"] for run in runs})
    lines = [render_table(columns, rows)]
    lines.append(f"measured on {', '.join(devices) or NOT_AVAILABLE}")
    lines += _fastest(runs)
    lines += render_invalid([run["invalid"] for run in runs])
    lines += [f"plot: {path}" for path in result.get("plots", ())]
    return "\n".join(lines)


def _compute_words(run: dict[str, Any]) -> str:
    words = [str(run["precision"] or ""), "XLA" if run["xla"] else ""]
    words += ["TF32" if run["tf32"] else ""]
    return " ".join(filter(None, words))


def _interval(run: dict[str, Any]) -> str:
    interval = run["interval_ms"]
    if interval is None:
        return NOT_AVAILABLE
    return f"{interval['low']:.1f} to {interval['high']:.1f}"


def _percent(share: float | None) -> str:
    return NOT_AVAILABLE if share is None else f"{100 * share:.0f} %"


def _fastest(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The fastest runtime of each network, where several were timed alike and their
    rows are valid."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        keys = ("backbone", "model", "protocol", "batch_size", "precision")
        if run["p50_ms"] is not None and run["valid"]:
            groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    lines = []
    for (backbone, model, protocol, batch_size, precision), group in groups.items():
        best = min(group, key=lambda run: run["p50_ms"])
        others = [run for run in group if run["runtime"] != best["runtime"]]
        ratios = [
            f"{run['runtime']} takes {run['p50_ms'] / best['p50_ms']:.2f} of its time"
            for run in others
        ]
        if ratios:
            lines.append(
                f"{backbone}, {model}, {protocol}, batch {batch_size}, {precision}: "
                f"fastest is {best['runtime']}; {', '.join(ratios)}"
            )
    return lines


def render_check(result: dict[str, Any]) -> str:
    """A row a measurement, then what they lack."""
    what = ("backbone", "model", "protocol", "runtime")
    rows, table = result["rows"], []
    for row in rows:
        words = [*(row[name] for name in what), _compute_words(row)]
        words += [row["batch_size"], _ms(row["p50_ms"]), "yes" if row["ok"] else "NO"]
        table.append([escape_text(str(word or NOT_AVAILABLE)) for word in words])
    names = [f"{', '.join(words[:4])}, batch {words[5]}" for words in table]
    lacking = render_lacking(names, [row["problems"] for row in rows])
    columns = [*what, "computes in", "batch", "p50", "can be published"]
    good = sum(row["ok"] for row in rows)
    lines = [*lacking, f"{good} of {len(rows)} rows can be published"]
    if result["unfinished"]:
        lines.append(describe_unfinished(result["unfinished"]))
    return "\n".join([render_table(columns, table), *lines])
