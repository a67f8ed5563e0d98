"""Statistics of timing samples and of counts.

summary = summarise(samples_secs)
summary.p50_ms, summary.p99_ms   # None where there are too few samples
"""

import dataclasses
import itertools
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


def percentile_interval(
    samples: Sequence[float], q: float, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """An interval for a percentile between two observed values, whatever the samples'
    distribution is, as long as they are independent.

    As many samples lie below the percentile as a binomial count of n trials at q %
    says; the ranks leave at most half of what is not covered on either side.

    Args:
        samples: any order, any unit.
        q: in (0, 100).
        confidence: at least this, in (0, 1).

    Returns:
        Lower and upper edge; None where there are too few samples for it.

    >>> percentile_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0], 50)
    (1.0, 6.0)
    >>> percentile_interval([1.0] * 5, 50) is None
    True
    """
    count, tail = len(samples), (1 - confidence) / 2
    below = _binomial_cumulative(count, q / 100)
    # Ranks from 1: P(count below >= rank) and P(count below < rank) are the tails.
    lower = [rank for rank in range(1, count + 1) if below[rank - 1] <= tail]
    upper = [rank for rank in range(1, count + 1) if 1 - below[rank - 1] <= tail]
    if not lower or not upper:
        return None
    ordered = sorted(samples)
    return ordered[lower[-1] - 1], ordered[upper[0] - 1]


def _binomial_cumulative(trials: int, p: float) -> list[float]:
    """P(hits <= k) for k from 0 to `trials`."""
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(trials + 1)
    ]
    return list(itertools.accumulate(map(math.exp, logs)))


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval and how often such intervals hold what they are for."""

    low: float
    high: float
    confidence: float

    @property
    def half_width(self) -> float | None:
        """As a share of the middle; None where that is not positive."""
        total = self.low + self.high
        return (self.high - self.low) / total if total > 0 else None


def range_interval(values: Sequence[float]) -> Interval | None:
    """The range of a few independent values as an interval for their median: it misses
    it where all lie on one side; None of fewer than two.

    >>> range_interval([2.0, 1.0, 3.0, 2.5, 1.5])
    Interval(low=1.0, high=3.0, confidence=0.9375)
    """
    if len(values) < 2:
        return None
    return Interval(min(values), max(values), 1 - 0.5 ** (len(values) - 1))


def scaled_mad(samples: Sequence[float]) -> float | None:
    """1.4826 x the median distance from the median: the standard deviation of a normal
    distribution, unmoved by outliers; None without samples.

    >>> scaled_mad([1.0, 2.0, 3.0, 4.0, 100.0])
    1.4826
    """
    middle = median(samples)
    if middle is None:
        return None
    distance = median([abs(sample - middle) for sample in samples])
    assert distance is not None
    return 1.4826 * distance


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
