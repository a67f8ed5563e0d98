"""Whether two proportions, two sets of answers or two sets of times differ.

    difference_interval(Estimate(0.9, 0.86, 0.93), Estimate(0.96, 0.93, 0.98))
    mcnemar_p(9, 2)                     # 0.0654...: of the same images
    paired_interval(9, 2, images=400)
    ratio_interval([1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3])

Everything here is exact or in closed form: nothing is drawn at random, and equal input
gives equal output.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

from tlperf.core.statistics import Interval, binomial_interval

CONFIDENCE = 0.95
# Above this an exact test calls a difference noise.
SIGNIFICANCE = 1 - CONFIDENCE
_TAIL = SIGNIFICANCE / 2
# Halvings of [0, 1]: past these a double no longer changes.
_HALVINGS = 60


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and the edges of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def edges(self) -> tuple[float, float]:
        """Both edges."""
        return self.low, self.high


def estimate_proportion(hits: int, trials: int) -> Estimate | None:
    """A proportion with Wilson's interval, or None without trials."""
    edges = binomial_interval(hits, trials)
    return None if edges is None else Estimate(hits / trials, *edges)


def average(parts: Iterable[tuple[float, Estimate]], *, independent: bool) -> Estimate:
    """A weighted sum of estimates.

    Independent errors add up as squares, each edge's own (the method of variance
    estimates recovery of Zou and Donner, 2008). Errors that may move together are taken
    to do so wholly, which is the widest they can be.

    Args:
        parts: weight and estimate of each.
        independent: whether the estimates are.
    """
    known = list(parts)
    value = math.fsum(weight * part.value for weight, part in known)
    below = [weight * (part.value - part.low) for weight, part in known]
    above = [weight * (part.high - part.value) for weight, part in known]
    total = math.hypot if independent else _sum
    return Estimate(value, value - total(*below), value + total(*above))


def _sum(*values: float) -> float:
    return math.fsum(values)


def difference_interval(first: Estimate, second: Estimate) -> tuple[float, float]:
    """Newcombe's 95 % interval of `second - first`, of independent samples.

    Made from both intervals (method 10 of Newcombe, 1998, where they are Wilson's): it
    keeps its coverage near 0 and 1, where the usual normal one loses it.

    >>> [round(edge, 4) for edge in difference_interval(
    ...     estimate_proportion(48, 80), estimate_proportion(56, 70))]
    [0.0524, 0.3339]
    """
    difference = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return difference - below, difference + above


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test: how often as unequal a split, or a more
    unequal one, comes from a coin.

    Args:
        only_first: images that only the first network gets right.
        only_second: images that only the second does.

    >>> mcnemar_p(0, 6), mcnemar_p(5, 5)
    (0.03125, 1.0)
    """
    trials = only_first + only_second
    term = total = 1
    for k in range(1, min(only_first, only_second) + 1):
        term = term * (trials - k + 1) // k
        total += term
    # Whole numbers until here: the quotient alone is rounded.
    return min(1.0, 2 * total / 2**trials)


def paired_interval(
    only_first: int, only_second: int, *, images: int
) -> tuple[float, float] | None:
    """The 95 % interval of the second accuracy minus the first, of the same images.

    Clopper and Pearson's interval of the share of the images with one right answer that
    the second network has, times their number: it leaves 0 out where McNemar's exact
    test finds a difference, and only there. None where no image has just one.

    >>> [round(edge, 4) for edge in paired_interval(0, 6, images=100)]
    [0.0049, 0.06]
    """
    trials = only_first + only_second
    if trials == 0:
        return None
    low, high = _clopper_pearson(only_second, trials)
    return (2 * low - 1) * trials / images, (2 * high - 1) * trials / images


def _clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    return _lower_edge(hits, trials), 1 - _lower_edge(trials - hits, trials)


def _lower_edge(hits: int, trials: int) -> float:
    """The share under which as many hits or more are as rare as a tail."""
    if hits == 0:
        return 0.0
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        for k in range(hits, trials + 1)
    ]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        yes, no = math.log(share), math.log1p(-share)
        tail = math.fsum(
            math.exp(log + k * yes + (trials - k) * no)
            for k, log in enumerate(logs, start=hits)
        )
        low, high = (share, high) if tail < _TAIL else (low, share)
    return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times one is the other, and its interval."""

    value: float
    interval: Interval


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """How many times as long `second` takes as `first`: the median of all pairs' ratios
    (Hodges and Lehmann), and the interval that Mann and Whitney's exact test leaves.

    It takes the two to differ by a factor and nothing else, and whatever spread they
    have. Of five values each the confidence is 96.8 %.

    Args:
        first, second: independent values above 0, e.g. the medians of processes.

    Returns:
        None where there are too few for 95 %, e.g. three each.
    """
    pairs = sorted(two / one for one in first for two in second)
    counts = _rank_counts(len(first), len(second))
    arrangements = math.comb(len(first) + len(second), len(first))
    tails = [2 * below / arrangements for below in itertools.accumulate(counts)]
    left_out = sum(tail <= SIGNIFICANCE for tail in tails) - 1
    if left_out < 0:
        return None
    half = len(pairs) // 2
    middle = (pairs[half] + pairs[-half - 1]) / 2
    edges = pairs[left_out], pairs[-left_out - 1]
    return Ratio(middle, Interval(*edges, 1 - tails[left_out]))


def _rank_counts(first: int, second: int) -> list[int]:
    """In how many arrangements of two samples u pairs are in the other order, for u
    from 0: the coefficients of the Gaussian binomial of both sizes."""
    counts = [1] + [0] * (first * second)
    for step in range(1, first + 1):
        # Times 1 - q^(second + step), then divided by 1 - q^step.
        for place in range(len(counts) - 1, second + step - 1, -1):
            counts[place] -= counts[place - second - step]
        for place in range(step, len(counts)):
            counts[place] += counts[place - step]
    return counts
