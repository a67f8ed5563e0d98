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

# Columns of `plan_job`'s rows, and what each tells of a row; the latter where a run is
# timed.
_TRAINING = {
    "backbone": lambda run: run["backbone"],
    "pixels": lambda run: str(run["image_size"]),
    "epochs": lambda run: str(run["epochs"]),
    "steps an epoch": lambda run: str(run["train_steps"]),
    "of validation": lambda run: str(run["validation_steps"]),
    "of test": lambda run: str(run["test_steps"]),
    "images left out": lambda run: str(run["dropped_images"]),
    "TFLOP of training": lambda run: _teraflop(run["train_gflop"]),
    "at CPU rate": lambda run: format_secs(run["train_secs_at_cpu_matmul_rate"]),
}
_TIMING = {
    "timed rows": lambda run: str(run["latency_rows"]),
    "their steps at CPU rate": lambda run: format_secs(
        run["latency_secs_at_cpu_matmul_rate"]
    ),
}


def render_job_plan(result: dict[str, Any]) -> str:
    """The data, a row a backbone, and what its times are."""
    runs = result["runs"]
    is_timed = all("latency_rows" in run for run in runs)
    columns = _TRAINING | (_TIMING if is_timed else {})
    rows = [[value(run) for value in columns.values()] for run in runs]
    notes = [
        "images left out: of an epoch, as they fill no batch; others in each epoch",
        f"{_rate_note(result)}; decoding, building and warm-up come to it, and "
        "features of the frozen part that are kept save most of training",
    ]
    table = "\n".join([render_table([*columns], rows), *notes])
    return "\n\n".join(["plan:", render_values(result["data"]), table])


def _teraflop(gflop: float | None) -> str:
    return NOT_AVAILABLE if gflop is None else format_number(gflop / 1e3, 1)


def _rate_note(result: dict[str, Any]) -> str:
    """What a time of a plan is, and is not."""
    rate = format_number(result["cpu_matmul_gflops_per_sec"], 0)
    return (
        "at CPU rate: what the arithmetic takes at this CPU's matrix-product rate, "
        f"{rate} GFLOP/s: a measure of size, no forecast and no bound"
    )


def render_latency_plan(result: dict[str, Any]) -> str:
    """A row a timed row, and how much of each is timed."""
    columns = {
        "backbone": "backbone",
        "kind": "model",
        "protocol": "protocol",
        "runtime": "runtime",
        "batch_size": "batch",
        "precision": "precision",
    }
    # What a sweep alone varies.
    for name, title in (("xla", "XLA"), ("tf32", "TF32")):
        if len({row[name] for row in result["rows"]}) > 1:
            columns[name] = title
    rows = [[_word(row[name]) for name in columns] for row in result["rows"]]
    timed = format_amount(result["samples"], result["least_secs"], result["most_secs"])
    amount = (
        f"{format_count(len(rows), 'row')}, each of "
        f"{format_count(result['processes'], 'process', 'processes')}, {timed}"
    )
    secs = format_secs(result["timed_secs_at_cpu_matmul_rate"])
    time = (
        f"all timed steps: {secs} at CPU rate; every process also imports, builds and "
        "warms up"
    )
    table = render_table([*columns.values()], rows)
    return "\n".join([table, amount, time, _rate_note(result)])


def _word(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
