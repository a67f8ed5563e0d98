"""Statistics of timing samples and of counts.

summary = summarise(samples_secs)
summary.p50_ms, summary.p99_ms   # None where there are too few samples
"""

import dataclasses
import math
from collections.abc import Sequence

# A percentile q is given only where at least this many samples lie beyond it, so that
# one outlier cannot be the whole tail: p99 needs 100 samples, p95 20, p90 10, p50 2.
MIN_SAMPLES_BEYOND = 1


def percentile(samples: Sequence[float], q: float) -> float | None:
    """The nearest-rank percentile: an observed value, never an interpolated one.

    Args:
        samples: any order, any unit.
        q: in (0, 100).

    Returns:
        The smallest sample that at least q % of the samples do not exceed; None where
        fewer than one sample is expected beyond it (p99 of 50 samples).

    >>> percentile([5.0, 1.0, 3.0, 2.0, 4.0], 50), percentile([1.0] * 50, 99)
    (3.0, None)
    """
    if not 0 < q < 100:
        raise ValueError(f"q: expected a number between 0 and 100, got {q}")
    count = len(samples)
    # 1e-9: 100 * (1 - 0.99) is 0.9999... in floating point.
    if count * (1 - q / 100) + 1e-9 < MIN_SAMPLES_BEYOND:
        return None
    return sorted(samples)[max(0, math.ceil(count * q / 100 - 1e-9) - 1)]


def median(samples: Sequence[float]) -> float | None:
    """The middle sample, the mean of the middle two, or None of none."""
    if not samples:
        return None
    ordered, half = sorted(samples), len(samples) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def binomial_interval(hits: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a proportion, or None without trials.

    >>> [round(edge, 4) for edge in binomial_interval(768, 800)]
    [0.9441, 0.9715]
    """
    if not 0 <= hits <= trials:
        raise ValueError(f"hits: expected 0 to {trials}, got {hits}")
    if trials == 0:
        return None
    z, p = 1.959963984540054, hits / trials
    scale = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclasses.dataclass(frozen=True)
class TimingSummary:
    """Milliseconds of one step; a percentile of too few samples is None."""

    samples: int
    mean_ms: float | None
    min_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def summarise(samples_secs: Sequence[float]) -> TimingSummary:
    """The summary of per-step times given in seconds."""

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * 1e3

    count = len(samples_secs)
    return TimingSummary(
        samples=count,
        mean_ms=scaled(math.fsum(samples_secs) / count if count else None),
        min_ms=scaled(min(samples_secs, default=None)),
        p50_ms=scaled(percentile(samples_secs, 50)),
        p90_ms=scaled(percentile(samples_secs, 90)),
        p95_ms=scaled(percentile(samples_secs, 95)),
        p99_ms=scaled(percentile(samples_secs, 99)),
    )
