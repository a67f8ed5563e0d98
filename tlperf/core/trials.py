"""From what a row's processes measured to its figures, and what makes it INVALID.

    derive_figures(trials, batch_size=32, gflop=248.0, gbytes=1.9)
    list(find_faults(trials, cores=2))
    # ["the processes' medians lie 14% around their middle"]

A trial is what one process measured, as a row keeps it: whoever reads a row can derive
its figures anew.

The figure of a row is the median over all its samples. Its interval is the range of the
processes' medians: samples of one process move together, processes do not. A row is
INVALID, which beats any number in it, where

- it has fewer than 10 samples, or comes from fewer than 5 processes;
- the half-width of the interval is more than 10 % of its middle;
- the last third of the samples differs from the first by more than 10 %;
- other programs used more than a tenth of the cores meanwhile, or of the GPU just
  before, or the host of a virtual machine gave as much of it to others;
- its processes ran on unlike machines, devices, versions, code or weights;
- the network was traced again while it was timed;
- outputs of timed steps are not those of an untimed run;
- a step on images that it has seen is faster than one on new images.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlperf.core.choices import Precision
from tlperf.core.files import to_json
from tlperf.core.statistics import (
    median,
    percentile_interval,
    range_interval,
    scaled_mad,
    summarise,
)
from tlperf.core.units import format_count, ratio

# In a workdir: what was measured of rows that are not written yet.
TRIALS_FOLDER = "trials"
LEAST_SAMPLES = 10
LEAST_PROCESSES = 5
MOST_HALF_WIDTH = 0.1
MOST_DRIFT = 0.1
MOST_LOAD = 0.1  # of the cores
# A step on the same images by one on new ones.
LEAST_REPEAT_RATIO = 0.9
# By the precision of the step; 1.6 times and more of what the study's networks with
# folded normalisations differ by on a CPU, 7e-5, 0.07 and 0.21.
TOLERANCES = {
    Precision.FLOAT32: 1e-3,
    Precision.MIXED_FLOAT16: 0.15,
    Precision.MIXED_BFLOAT16: 0.35,
}
_PERCENTILES = (50, 90, 95, 99)
# Of a trial: where and by what it was measured.
PLACES = (
    *("machine", "device", "device_text", "runtime_version", "winograd_convolutions"),
    *("code", "weights_sha256"),
)

Trial = Mapping[str, Any]


def largest_difference(precision: str, *, tf32: bool) -> float:
    """The most by which a logit may differ from Keras' own call, as a share of the
    largest one: rounding of other kernels in another order, not another result.

    Args:
        precision: dtype policy.
        tf32: whether float32 products take TensorFloat-32, whose factors have the 10
            bits that float16 has after the point.
    """
    is_rounded = tf32 and precision == Precision.FLOAT32
    return TOLERANCES[Precision.MIXED_FLOAT16 if is_rounded else Precision(precision)]


def all_samples(trials: Sequence[Trial]) -> list[float]:
    """Seconds of every timed step, process by process."""
    return [secs for trial in trials for secs in trial["samples_secs"]]


def derive_figures(
    trials: Sequence[Trial],
    *,
    batch_size: int,
    gflop: float | None,
    gbytes: float | None,
) -> dict[str, Any]:
    """All of a row that follows from its trials.

    Args:
        trials: at least one.
        batch_size: images a step.
        gflop, gbytes: 1e9 operations of a step, and bytes that it moves at least; None
            where they are not counted.
    """
    summary = dataclasses.asdict(summarise(all_samples(trials)))
    step_ms = summary["p50_ms"]
    tflops = ratio(gflop, step_ms)
    peak = median([trial["matmul_tflops_per_sec"] for trial in trials])
    copy = median([trial["copy_gbytes_per_sec"] for trial in trials])
    intensity, roof = ratio(gflop, gbytes), None
    if intensity is not None and peak is not None and copy is not None:
        # What the product's rate or the memory's allows, whichever is less.
        roof = min(peak, intensity * copy / 1e3)
    return {
        **summary,
        **_derive_spread(trials),
        **_derive_preparation(trials, step_ms),
        "images_per_sec": ratio(batch_size * 1e3, step_ms),
        "tflops_per_sec": tflops,
        "matmul_tflops_per_sec": peak,
        "copy_gbytes_per_sec": copy,
        "share_of_matmul": ratio(tflops, peak),
        "share_of_roofline": ratio(tflops, roof),
    }


def _derive_spread(trials: Sequence[Trial]) -> dict[str, Any]:
    """How sure the figures are."""
    samples = all_samples(trials)
    medians = [median(trial["samples_secs"]) for trial in trials]
    interval = range_interval([1e3 * secs for secs in medians if secs is not None])
    jitter_secs = scaled_mad(samples)
    edges = {q: percentile_interval(samples, q) for q in _PERCENTILES}
    return {
        "processes": len(trials),
        "interval_ms": None if interval is None else dataclasses.asdict(interval),
        "half_width": None if interval is None else interval.half_width,
        "jitter_ms": None if jitter_secs is None else 1e3 * jitter_secs,
        "percentile_intervals_ms": {
            f"p{q}": None if found is None else [1e3 * edge for edge in found]
            for q, found in edges.items()
        },
    }


def _derive_preparation(
    trials: Sequence[Trial], step_ms: float | None
) -> dict[str, Any]:
    """What comes before the samples: medians over the processes."""
    names = trials[0]["prepare_secs"]
    prepared = {
        name: statistics.median(trial["prepare_secs"][name] for trial in trials)
        for name in names
    }
    first_step = statistics.median(trial["first_step_secs"] for trial in trials)
    return {
        "first_call_secs": sum(prepared.values()) + first_step,
        "prepare_secs": prepared,
        "first_step_secs": first_step,
        # Optimising and compiling is what the first step takes longer.
        "compile_secs": max(0.0, first_step - (step_ms or 0.0) / 1e3),
        "warmup_steps": max(trial["warmup_steps"] for trial in trials),
    }


def find_faults(trials: Sequence[Trial], *, cores: int) -> Iterator[str]:
    """The rules that a row breaks, in words.

    Args:
        trials: at least one.
        cores: of the machine.
    """
    samples = all_samples(trials)
    if len(samples) < LEAST_SAMPLES:
        count = format_count(len(samples), "sample")
        yield f"{count}, fewer than {LEAST_SAMPLES}"
    spread = _derive_spread(trials)
    if len(trials) < LEAST_PROCESSES:
        count = format_count(len(trials), "process", "processes")
        what = "no interval: " if spread["interval_ms"] is None else "an interval of "
        yield (
            f"{what}{count}, where {LEAST_PROCESSES} are needed (tlperf latency takes "
            "as many)"
        )
    half_width = spread["half_width"] or 0.0
    if half_width > MOST_HALF_WIDTH:
        yield f"the processes' medians lie {half_width:.0%} around their middle"
    drift = find_drift([trial["samples_secs"] for trial in trials])
    if drift is not None and not 1 - MOST_DRIFT <= drift <= 1 + MOST_DRIFT:
        yield f"the last steps took {drift:.2f} of the first steps' time"
    yield from _load_faults(trials, cores)
    if unlike := [name for name in PLACES if len(_distinct(trials, name)) > 1]:
        yield f"its processes had unlike {', '.join(unlike)}".replace("_", " ")
    if retraces := sum(trial["retraces"] for trial in trials):
        yield f"traced {retraces} times while it was timed"
    yield from _work_faults([trial["checks"] for trial in trials if trial["checks"]])


def _distinct(trials: Sequence[Trial], name: str) -> set[str]:
    # Older rows do not tell of the weights.
    return {to_json(trial.get(name)) for trial in trials}


def find_drift(samples: Sequence[Sequence[float]]) -> float | None:
    """Median over the processes of the last third's median by the first's; None where
    none has three samples."""
    drifts = []
    for own in samples:
        if third := len(own) // 3:
            drifts.append(
                statistics.median(own[-third:]) / statistics.median(own[:third])
            )
    return median(drifts)


def _load_faults(trials: Sequence[Trial], cores: int) -> Iterator[str]:
    loads = [trial["load"] for trial in trials if trial["load"]]
    for key, text in (
        ("others_cores", "other programs used"),
        ("stolen_cores", "the machine's host gave others"),
    ):
        used = median([load[key] for load in loads]) or 0.0
        if used > MOST_LOAD * cores:
            yield f"{text} {used:.1f} of {cores} cores"
    busy = median([load["gpu_busy"] for load in loads if load["gpu_busy"] is not None])
    if busy is not None and busy > MOST_LOAD:
        yield f"the GPU was busy for {busy:.0%} of the moment before"


def _work_faults(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not checks:
        return
    differences = [check["difference"] for check in checks]
    known = [one for one in differences if one is not None]
    if len(known) < len(differences):
        yield "outputs of timed steps are no numbers, or of another shape"
    if max(known, default=0.0) > checks[0]["tolerance"]:
        yield f"outputs of timed steps differ by {max(known):.2g} from an untimed run's"
    if changes := sum(check["top1_changes"] for check in checks):
        yield f"{changes} images got another class than in an untimed run"
    ratios = [one for check in checks for one in check["repeat_ratios"]]
    if is_memoising(ratios):
        yield (
            f"a step on images it has seen takes {statistics.median(ratios):.2f} of "
            "one on new images"
        )


def is_memoising(ratios: Sequence[float]) -> bool:
    """Whether steps on the same images are too fast to have been computed: in nearly
    all pairs, and by more than a tenth."""
    if not ratios:
        return False
    faster = sum(ratio < 1 for ratio in ratios)
    return statistics.median(ratios) < LEAST_REPEAT_RATIO and faster >= 0.9 * len(
        ratios
    )
