"""What a --dry_run found, as text for a terminal.

print(render_job_plan({"data": {...}, "runs": [...], ...}))
print(render_latency_plan({"rows": [...], ...}))
"""

from typing import Any

from tlperf.core.units import (
    NOT_AVAILABLE,
    format_amount,
    format_count,
    format_number,
    format_secs,
)
from tlperf.reporting.terminal_table import render_table, render_values


def render_job_plan(result: dict[str, Any]) -> str:
    """The data, a row a backbone, and what its times are."""
    rows = [
        [
            run["backbone"],
            str(run["image_size"]),
            str(run["epochs"]),
            *(str(run[f"{split}_steps"]) for split in ("train", "validation", "test")),
            str(run["dropped_images"]),
            _teraflop(run["train_gflop"]),
            format_secs(run["train_secs_at_cpu_matmul_rate"]),
            str(run["latency_rows"]),
            format_secs(run["latency_secs_at_cpu_matmul_rate"]),
        ]
        for run in result["runs"]
    ]
    columns = ["backbone", "pixels", "epochs", "steps an epoch", "of validation"]
    columns += ["of test", "images left out", "TFLOP of training", "its least time"]
    columns += ["timed rows", "their least time"]
    notes = [
        "images left out: of an epoch, as they fill no batch; others in each epoch",
        _rate_note(result),
    ]
    table = "\n".join([render_table(columns, rows), *notes])
    return "\n\n".join(["plan:", render_values(result["data"]), table])


def _teraflop(gflop: float | None) -> str:
    return NOT_AVAILABLE if gflop is None else format_number(gflop / 1e3, 1)


def _rate_note(result: dict[str, Any]) -> str:
    """What a time of a plan is, and is not."""
    rate = format_number(result["cpu_matmul_gflops_per_sec"], 0)
    return (
        "least time: what the arithmetic takes at this CPU's matrix-product rate, "
        f"{rate} GFLOP/s: a measure of size, not a forecast; decoding, building and "
        "warm-up come to it, and features of the frozen part that are kept save most "
        "of it"
    )


def render_latency_plan(result: dict[str, Any]) -> str:
    """A row a timed row, and how much of each is timed."""
    names = ("backbone", "kind", "protocol", "runtime", "batch_size", "precision")
    rows = [[str(row[name]) for name in names] for row in result["rows"]]
    columns = ["backbone", "model", "protocol", "runtime", "batch", "precision"]
    timed = format_amount(result["samples"], result["least_secs"], result["most_secs"])
    amount = (
        f"{format_count(len(rows), 'row')}, each of "
        f"{format_count(result['processes'], 'process', 'processes')}, {timed}"
    )
    rate = format_number(result["cpu_matmul_gflops_per_sec"], 0)
    secs = format_secs(result["timed_secs_at_cpu_matmul_rate"])
    time = (
        f"the timed steps take at least {secs} at this CPU's matrix-product rate, "
        f"{rate} GFLOP/s; every process also imports, builds and warms up"
    )
    return "\n".join([render_table(columns, rows), amount, time])
