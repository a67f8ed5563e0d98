"""From the trials of a cell to one row of the `latency` JSON.

    row = build_row(cell, trials, config)
    row["valid"], row["invalid"]    # the rules of `tlperf.core.trials` that it breaks

What follows from the trials alone is derived there, so that `tlperf check` can do it
again; here are the names of a row, its bounds and the published figure beside it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tlperf.core.choices import PROTOCOL_TEXTS, Precision, Protocol
from tlperf.core.machine import usable_cores
from tlperf.core.settings import LatencyConfig
from tlperf.core.trials import PLACES, derive_figures, find_faults
from tlperf.latency.cells import IMAGENET, Cell
from tlperf.reference import paper

Trial = dict[str, Any]
# What a row keeps of each of its trials.
_KEPT = (
    *("process", "samples_secs", "first_step_secs", "warmup_steps", "steady"),
    *("prepare_secs", "measured_secs", "traces", "retraces", "load", "checks"),
    *("matmul_tflops_per_sec", "copy_gbytes_per_sec", *PLACES),
)


def build_row(
    cell: Cell, trials: Sequence[Trial], config: LatencyConfig
) -> dict[str, Any]:
    """One row, raw samples included.

    Args:
        cell: what was timed.
        trials: of its processes, at least one.
        config: what was asked for.
    """
    first = trials[0]
    gflop, gbytes = first["gflop_per_step"], first["gbytes_per_step"]
    invalid = list(find_faults(trials, cores=usable_cores()))
    row = {
        **_names(cell, first),
        **derive_figures(
            trials, batch_size=cell.batch_size, gflop=gflop, gbytes=gbytes
        ),
        "requested_samples": config.requested_samples,
        "gflop_per_step": gflop,
        "gbytes_per_step": gbytes,
        **{key: first[key] for key in ("image_size", "params", "depth", "size_mib")},
        "process_peak_memory_bytes": max(
            trial["process_peak_memory_bytes"] for trial in trials
        ),
        "device_peak_memory_bytes": _most_by_device(trials),
        "published": paper.published_step(cell.backbone, gflop, cell.batch_size)
        if cell.kind == IMAGENET
        else None,
        "code": first["code"],
        "seed": first["seed"],
        "valid": not invalid,
        "invalid": invalid,
        "trials": [_raw(trial) for trial in trials],
    }
    return {**row, "warnings": [*invalid, *_find_warnings(cell, trials, row)]}


def _names(cell: Cell, trial: Trial) -> dict[str, Any]:
    facts = trial["device"]
    return {
        "backbone": cell.backbone,
        "model": cell.kind,
        "protocol": cell.protocol.value,
        "protocol_text": PROTOCOL_TEXTS[cell.protocol],
        "runtime": cell.runtime.value,
        "runtime_version": trial["runtime_version"],
        "winograd_convolutions": trial["winograd_convolutions"],
        # Of the training whose network it is, as its evaluation has it; None of random
        # weights.
        "weights_sha256": trial["weights_sha256"],
        "batch_size": cell.batch_size,
        "precision": facts["precision"],
        "xla": facts["xla"],
        "tf32": facts["tf32"] and facts["precision"] == Precision.FLOAT32,
        # One is timed; steps of training take all.
        "device": facts["text"]
        if cell.protocol is Protocol.TRAIN_STEP
        else trial["device_text"],
    }


def _most_by_device(trials: Sequence[Trial]) -> list[int] | None:
    peaks = [trial["device_peak_memory_bytes"] for trial in trials]
    known = [peak for peak in peaks if peak is not None]
    return [max(column) for column in zip(*known, strict=True)] or None


def _raw(trial: Trial) -> dict[str, Any]:
    """What a trial alone knows."""
    return {key: trial[key] for key in _KEPT}


def _find_warnings(
    cell: Cell, trials: Sequence[Trial], row: dict[str, Any]
) -> Iterator[str]:
    """What else a reader of the row has to know."""
    if row["samples"] < row["requested_samples"]:
        yield f"{row['samples']} of {row['requested_samples']} samples"
    if not all(trial["steady"] for trial in trials):
        yield "the warm-up ended before steps were steady"
    if any(is_alike(trial["checks"]) for trial in trials if trial["checks"]):
        yield (
            "the network hardly tells images apart: whether timed steps looked at "
            "theirs cannot be seen"
        )
    if (row["share_of_matmul"] or 0.0) > 1.0:
        yield "faster than the measured peak of products: " + (
            f"{row['winograd_convolutions']} convolutions take a quarter of those "
            "counted (Winograd's method)"
            if row["winograd_convolutions"]
            else "kernels that multiply less, or a wrong count"
        )
    if row["published"] is None:
        return
    if cell.batch_size != paper.PUBLISHED_BATCH_SIZE:
        yield (
            f"batch {cell.batch_size}, the published figure states batch "
            f"{paper.PUBLISHED_BATCH_SIZE}"
        )


def is_alike(checks: Trial) -> bool:
    """Whether outputs of other images pass for those of the timed ones."""
    variety = checks["variety"]
    return variety is not None and variety <= checks["tolerance"]
