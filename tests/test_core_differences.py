"""Differences: published examples, brute force, and what must hold of any counts."""

import fractions
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlperf.core.differences import (
    Estimate,
    average,
    difference_interval,
    estimate_proportion,
    mcnemar_p,
    paired_interval,
    ratio_interval,
)


# Newcombe, Statistics in Medicine 17 (1998), 873-890, Table II, method 10.
@pytest.mark.parametrize(
    ("second", "first", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombes_examples(second, first, low, high):
    left, right = estimate_proportion(*first), estimate_proportion(*second)
    assert left is not None
    assert right is not None
    found = difference_interval(left, right)
    assert [round(edge, 4) for edge in found] == [low, high]


def test_no_trials_no_estimate():
    assert estimate_proportion(0, 0) is None


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),
        (1, 1, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (1, 8, 20 / 512),
        (2, 10, 158 / 4096),
        (5, 15, 2 * 21_700 / 2**20),
        (10, 10, 1.0),
        (0, 40, 2 / 2**40),
    ],
)
def test_mcnemar_table(only_first, only_second, p):
    assert mcnemar_p(only_first, only_second) == p
    assert mcnemar_p(only_second, only_first) == p


@pytest.mark.parametrize("trials", range(1, 13))
def test_mcnemar_is_what_coins_do(trials):
    """Every sequence of so many coins, counted."""
    heads = [sum(coins) for coins in itertools.product((0, 1), repeat=trials)]
    for seen in range(trials + 1):
        far = abs(2 * seen - trials)
        share = sum(abs(2 * one - trials) >= far for one in heads) / 2**trials
        assert mcnemar_p(seen, trials - seen) == share


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_exact(only_first, only_second):
    trials = only_first + only_second
    fewest = min(only_first, only_second)
    below = sum(math.comb(trials, k) for k in range(fewest + 1))
    exact = min(fractions.Fraction(1), fractions.Fraction(2 * below, 2**trials))
    assert mcnemar_p(only_first, only_second) == float(exact)


def test_mcnemar_of_many_images():
    """Too many for doubles on the way; far too unlike for one at the end."""
    assert mcnemar_p(9_900, 10_100) == pytest.approx(0.159, abs=0.001)
    assert mcnemar_p(0, 20_000) == 0.0


# Clopper and Pearson's limits of 7 of 10 are 0.3475 and 0.9333.
def test_paired_interval_of_known_limits():
    found = paired_interval(3, 7, images=10)
    assert found == pytest.approx((2 * 0.3475 - 1, 2 * 0.9333 - 1), abs=1e-4)
    assert paired_interval(0, 0, images=10) is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_interval_and_test_never_contradict(only_first, only_second):
    edges = paired_interval(only_first, only_second, images=200)
    if edges is None:
        assert only_first == only_second == 0
        return
    low, high = edges
    difference = (only_second - only_first) / 200
    assert low <= difference + 1e-12
    assert high >= difference - 1e-12
    assert (low > 0 or high < 0) == (mcnemar_p(only_first, only_second) <= 0.05)
    other = paired_interval(only_second, only_first, images=200)
    assert other == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "confidence"),
    [
        (5, 5, 1 - 2 * 4 / 252),
        (4, 4, 1 - 2 * 1 / 70),
        (5, 3, 1 - 2 * 1 / 56),
        (6, 5, 1 - 2 * 7 / 462),
        (3, 3, 0),
        (1, 1, 0),
    ],
)
def test_ratio_holds_the_truth_as_often_as_it_says(first, second, confidence):
    """Both samples are of one kind, so the true ratio is 1: of all orders in which
    their values can lie, the interval holds 1 in exactly that share."""
    ranks = range(first + second)
    held = total = 0
    for chosen in itertools.combinations(ranks, first):
        left = [2.0**rank for rank in chosen]
        right = [2.0**rank for rank in ranks if rank not in chosen]
        found = ratio_interval(left, right)
        if found is None:
            assert confidence == 0
            return
        total += 1
        held += found.interval.low <= 1 <= found.interval.high
        assert found.interval.low <= found.value <= found.interval.high
    assert found is not None
    assert held / total == pytest.approx(found.interval.confidence)
    assert found.interval.confidence == pytest.approx(confidence)


def test_ratio_of_times():
    first = [1.0, 1.01, 1.02, 0.99, 1.0]
    found = ratio_interval(first, [0.5 * secs for secs in first])
    assert found is not None
    assert found.value == pytest.approx(0.5, rel=0.01)
    assert 0.48 < found.interval.low <= 0.5 <= found.interval.high < 0.52


def test_average_of_independent_parts_is_narrower():
    part = Estimate(0.9, 0.8, 0.95)
    alone = average([(1.0, part)], independent=True)
    assert alone.edges == pytest.approx(part.edges)
    both = [(0.5, part), (0.5, part)]
    together = average(both, independent=False)
    apart = average(both, independent=True)
    assert together.edges == pytest.approx(part.edges)
    assert apart.value == pytest.approx(0.9)
    assert 0.9 - apart.low == pytest.approx(0.1 / math.sqrt(2))
    assert apart.high - 0.9 == pytest.approx(0.05 / math.sqrt(2))
