"""Cells measured in this process, one after the other.

    runs = measure_cells(cells, config, subjects=subjects, compute=compute)

For a first look, as `tlperf run` takes it: rows of one process have no interval and are
INVALID. `tlperf latency` measures each cell in several fresh processes.
"""

from collections.abc import Sequence
from typing import Any

from tlperf.core.progress import log
from tlperf.core.settings import LatencyConfig
from tlperf.core.units import format_count, format_secs
from tlperf.device.setup import Compute
from tlperf.latency.cells import Cell
from tlperf.latency.probes import Probes
from tlperf.latency.rows import build_row
from tlperf.latency.subjects import Subjects
from tlperf.latency.timer import TimerPlan
from tlperf.latency.trial import take_trial


def process_plan(config: LatencyConfig) -> TimerPlan:
    """A process' share of a row."""
    return TimerPlan(
        warmup_steps=config.warmup_steps,
        batches=config.batches,
        repetitions=config.process_repetitions,
        min_secs=config.min_secs / config.processes,
        limit_secs=config.latency_secs / config.processes,
    )


def measure_cells(
    cells: Sequence[Cell],
    config: LatencyConfig,
    *,
    subjects: Subjects,
    compute: Compute,
) -> list[dict[str, Any]]:
    """A row a cell.

    Args:
        cells: of one backbone; their precision, XLA and TF32 are those of `compute`.
        config: how much is timed.
        subjects: the networks.
        compute: its first device is timed.
    """
    rows, probes = [], Probes(compute)
    log(f"latency: {format_count(len(cells), 'row')}, each of {config.amount}")
    for cell in cells:
        trial = take_trial(
            cell,
            subjects.find(cell),
            process_plan(config),
            compute=compute,
            probes=probes,
        )
        row = build_row(cell, [trial], config)
        log(
            f"{cell.text}: p50 {format_secs((row['p50_ms'] or 0) / 1e3)}, "
            f"{row['samples']} of {row['requested_samples']} samples"
        )
        rows.append(row)
    return rows
