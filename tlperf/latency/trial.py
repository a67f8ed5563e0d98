"""One process' measurement of one cell: everything raw, as JSON.

    trial = take_trial(cell, subject, plan, compute=compute, process=0)

Rows of several trials, what makes them invalid and their intervals are made by
`tlperf.latency.rows`.
"""

import dataclasses
import math
import pathlib
import time
from typing import Any

import numpy as np

from tlperf.core.choices import Precision, Protocol, Runtime
from tlperf.core.load import LoadReading, load_between, read_load
from tlperf.core.machine import (
    code_facts,
    machine_and_gpu_facts,
    peak_memory_bytes,
)
from tlperf.core.trials import largest_difference
from tlperf.device.setup import Compute
from tlperf.device.trace import StepTracer
from tlperf.latency.cells import Cell
from tlperf.latency.checks import (
    REPEAT_PAIRS,
    count_top1_changes,
    output_difference,
    repeat_ratios,
)
from tlperf.latency.probes import Probes
from tlperf.latency.protocols import PROTOCOLS, SEED, Subject, Timed
from tlperf.latency.timer import Keeper, Steps, TimerPlan, drop, measure
from tlperf.model.facts import (
    count_macs,
    count_moved_values,
    depth,
    size_mib,
)


def take_trial(
    cell: Cell,
    subject: Subject,
    plan: TimerPlan,
    *,
    compute: Compute,
    probes: Probes,
    process: int = 0,
    gpu_busy: float | None = None,
    traced: tuple[pathlib.Path, int, int] | None = None,
) -> dict[str, Any]:
    """Times a cell in this process.

    Args:
        cell: what to time; its precision, XLA and TF32 are those of `compute`.
        subject: the network.
        plan: of the timer.
        compute: whose first device is timed, but for steps of training.
        probes: what the device can do.
        process: number of the process among those that share the row.
        gpu_busy: share of the moment before this process used the GPU; None for a CPU
            and where it is not known.
        traced: a folder of TensorBoard's for a trace of more steps, the number of the
            first of them and of the last; None for none. They are no samples.
    """
    bounds = probes.facts()  # first: they take memory that the step may need
    timed = PROTOCOLS[cell.protocol](
        subject, cell.batch_size, compute, runtime=cell.runtime
    )
    images = timed.make_images(SEED)
    placed = timed.place(images)
    keeper, traces = Keeper(SEED), [0]

    compute.reset_peak_memory()

    def on_warm() -> None:
        traces.append(timed.traces())

    load_before, start = read_load(), time.perf_counter()
    timing = measure(timed.steps(placed), plan, keep=keeper.offer, on_warm=on_warm)
    secs, load_after = time.perf_counter() - start, read_load()
    trial = {
        "process": process,
        "seed": SEED,
        "samples_secs": list(timing.samples_secs),
        "first_step_secs": timing.first_step_secs,
        "warmup_steps": timing.warmup_steps,
        "steady": timing.is_steady,
        "prepare_secs": timed.prepare_secs,
        "runtime_version": timed.version,
        "winograd_convolutions": timed.winograd,
        "weights_sha256": subject.weights_sha256,
        "measured_secs": secs,
        "traces": timed.traces(),
        "retraces": timed.traces() - traces[-1],
        "load": _load_facts(load_before, load_after, gpu_busy),
        # Before what only the checks take.
        "process_peak_memory_bytes": peak_memory_bytes(),
        # TensorFlow's own; other runtimes do not tell theirs.
        "device_peak_memory_bytes": compute.peak_memory_bytes()
        if cell.runtime is Runtime.TF
        else None,
        "machine": machine_and_gpu_facts(),
        "device": compute.facts(),
        "device_text": compute.texts[0],
        "code": code_facts(),
        "checks": check_work(
            timed,
            placed,
            keeper.outputs,
            tolerance=largest_difference(
                compute.precision, tf32=compute.facts()["tf32"]
            ),
        ),
        **network_facts(cell, subject, compute.precision),
        **bounds,
    }
    if traced is not None:
        trace_steps(timed.steps(placed), *traced)
    return trial


def _load_facts(
    before: LoadReading | None, after: LoadReading | None, gpu_busy: float | None
) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {**dataclasses.asdict(load_between(before, after)), "gpu_busy": gpu_busy}


def trace_steps(steps: Steps, folder: pathlib.Path, first: int, last: int) -> None:
    """Runs steps, numbered from 1, and writes a trace of some (see
    `tlperf.device.trace`).

    Args:
        steps: of a protocol, warm.
        folder: TensorBoard's.
        first, last: numbers of the steps that are in the trace.
    """
    tracer = StepTracer(folder, name="inference", first=first, last=last)
    for number in range(1, last + 1):
        # A step ends when its result is in the host's memory.
        with tracer.step(number, finish=lambda: None):
            steps(1, math.inf, drop)


def check_work(
    timed: Timed, placed: Any, outputs: list[np.ndarray], *, tolerance: float
) -> dict[str, Any] | None:
    """Whether timed steps did the work; None where steps change the network.

    Args:
        timed: the protocol.
        placed: the images of the timed steps.
        outputs: some of theirs.
        tolerance: of their logits, as a share of the largest one.
    """
    if timed.reference is None:
        return None
    reference = timed.reference(timed.make_images(SEED))
    # Of a batch, each image's neighbour is another one.
    others = np.roll(reference, 1, axis=0)
    if len(reference) == 1:
        others = timed.reference(timed.make_images(SEED + 1))

    def finite(difference: float) -> float | None:  # infinity is no JSON
        return difference if math.isfinite(difference) else None

    return {
        "outputs": len(outputs),
        "difference": finite(output_difference(outputs, reference)),
        "tolerance": tolerance,
        # What a step that did not look at its images could give.
        "variety": finite(output_difference([others], reference)),
        "top1_changes": count_top1_changes(outputs, reference, tolerance=tolerance),
        "repeat_ratios": repeat_ratios(timed, placed, pairs=REPEAT_PAIRS),
    }


def network_facts(cell: Cell, subject: Subject, precision: str) -> dict[str, Any]:
    """Size of the network and of a step's work; training's is not counted."""
    model = subject.model
    number_bytes = 4 if precision == Precision.FLOAT32 else 2
    values = cell.batch_size * count_moved_values(model) + model.count_params()
    is_training = cell.protocol is Protocol.TRAIN_STEP
    gflop = 2 * count_macs(model) * cell.batch_size / 1e9
    return {
        "image_size": subject.image_size,
        "gflop_per_step": None if is_training else gflop,
        "gbytes_per_step": None if is_training else values * number_bytes / 1e9,
        "params": model.count_params(),
        "depth": depth(model),
        "size_mib": size_mib(model),
    }
