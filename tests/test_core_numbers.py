"""Statistics and units against plain definitions and NumPy."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlperf.core import errors, statistics, units
from tlperf.dataset import framing
from tlperf.model import weights

samples = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200)


@pytest.mark.parametrize("module", [units, statistics, errors, framing, weights])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@given(samples, st.floats(1, 99))
def test_a_percentile_is_the_smallest_sample_not_exceeded_by_q_percent(values, q):
    found = statistics.percentile(values, q)
    if found is None:
        assert len(values) * (1 - q / 100) < 1
        return
    assert found in values
    covered = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert covered >= len(values) * q / 100 - 1e-6
    assert below < len(values) * q / 100 + 1e-6


@given(samples)
def test_p50_is_numpys_inverted_cdf(values):
    if len(values) >= 2:
        expected = np.percentile(values, 50, method="inverted_cdf")
        assert statistics.percentile(values, 50) == expected


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (0, set()),
        (1, set()),
        (2, {50}),
        (9, {50}),
        (10, {50, 90}),
        (20, {50, 90, 95}),
        (99, {50, 90, 95}),
        (100, {50, 90, 95, 99}),
    ],
)
def test_a_percentile_of_too_few_samples_is_unknown(count, known):
    summary = statistics.summarise([0.001] * count)
    found = {q for q in (50, 90, 95, 99) if getattr(summary, f"p{q}_ms") is not None}
    assert found == known
    assert summary.samples == count


def test_the_mean_is_exact_and_in_milliseconds():
    summary = statistics.summarise([0.001, 0.002, 0.006])
    assert summary.mean_ms == pytest.approx(3.0)
    assert summary.min_ms == pytest.approx(1.0)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_binomial_interval_holds_its_estimate(hits, trials):
    hits = min(hits, trials)
    interval = statistics.binomial_interval(hits, trials)
    assert interval is not None
    low, high = interval
    assert 0 <= low <= hits / trials + 1e-12
    assert hits / trials - 1e-12 <= high <= 1


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_missing_is_written_as_not_available(value):
    for text in (
        units.format_secs(value),
        units.format_bytes(value),
        units.format_number(value),
        units.format_ratio(value, 1.0),
        units.format_ratio(1.0, value),
    ):
        assert text == "n/a"
