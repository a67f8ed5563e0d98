"""The timer with a clock of our own: what is a sample, and when the warm-up ends."""

import gc
import itertools
import time

import numpy as np
import pytest

from tlperf.latency.timer import (
    Keeper,
    TimerPlan,
    Timing,
    drop,
    measure,
    repeat,
    warm_up,
)

NOTHING = np.zeros(1)


def fake_steps(durations):
    """A step that takes the given times by a clock that only it advances."""
    now, times = [0.0], iter(durations)

    def step():
        now[0] += next(times)
        return NOTHING

    return repeat(step, clock=lambda: now[0])


def test_first_step_and_warm_up_stay_out_of_the_samples():
    plan = TimerPlan(warmup_steps=2, batches=2, repetitions=2)
    durations = [9.0, *(5.0, 4.0), *(2.0, 2.0), *(2.0, 1.9), 1.0, 2.0, 3.0, 2.5]
    timing = measure(fake_steps(durations), plan)
    assert timing == Timing(9.0, 6, True, (1.0, 2.0, 3.0, 2.5))


@pytest.mark.parametrize(
    ("limit_secs", "min_secs", "samples"),
    [
        (0.0, 0.0, 300),
        (1000.0, 0.0, 300),
        (4.5, 0.0, 5),
        (5.0, 0.0, 5),
        (0.1, 0.0, 1),
        (31.0, 0.0, 31),
        (0.0, 301.0, 330),  # a repetition more
        (0.0, 300.0, 300),
        (40.0, 1000.0, 40),  # the limit holds
    ],
)
def test_a_process_stops_at_its_count_or_its_seconds(limit_secs, min_secs, samples):
    plan = TimerPlan(limit_secs=limit_secs, min_secs=min_secs)
    timing = measure(fake_steps(itertools.repeat(1.0)), plan)
    assert len(timing.samples_secs) == samples


@pytest.mark.parametrize(
    ("durations", "steps", "steady"),
    [
        # Three windows of three, the last no faster than the one before.
        ([4, 4, 4, 2, 2, 2, 2, 2, 2], 9, True),
        # 4 % faster is steady, 6 % is not.
        ([1.0] * 3 + [0.96] * 3, 6, True),
        ([1.0] * 3 + [0.94] * 3 + [0.94] * 3, 9, True),
        # Slower is: a machine that slows down is not warming up.
        ([1.0] * 3 + [2.0] * 3, 6, True),
        # Ever faster: after twenty windows it goes on, and says so.
        ([0.9**n for n in range(63)], 63, False),
        # Of short steps a window is 0.2 s.
        ([0.015] * 17, 17, True),
    ],
)
def test_warm_up_ends_when_a_window_is_no_faster(durations, steps, steady):
    assert warm_up(fake_steps(durations), least_steps=3) == (steps, steady)


def test_the_collector_rests_while_steps_are_timed():
    seen = []

    def step():
        seen.append(gc.isenabled())
        return NOTHING

    measure(repeat(step), TimerPlan(warmup_steps=1, batches=4, repetitions=1))
    assert seen[-4:] == [False] * 4
    assert gc.isenabled()


def test_the_timers_own_time_is_under_a_hundredth_of_a_step():
    """A sample of nothing, against the shortest step of a backbone: milliseconds."""
    steps = repeat(lambda: NOTHING)
    samples = sorted(steps(20_000, float("inf"), Keeper(0).offer))
    assert samples[len(samples) // 2] < 1e-5


def test_what_keeps_outputs_is_not_timed():
    def keep(output):
        time.sleep(0.01)

    assert max(repeat(lambda: NOTHING)(5, float("inf"), keep)) < 0.005


def test_a_planted_sleep_is_in_every_sample():
    def slow():
        time.sleep(0.02)
        return NOTHING

    assert min(repeat(slow)(5, float("inf"), drop)) >= 0.02


@pytest.mark.parametrize("count", [1, 20, 21, 2000])
def test_outputs_that_are_kept_are_of_any_step(count):
    """Each as likely as another: over many choices, each third has its third."""
    thirds = np.zeros(3)
    for seed in range(200):
        keeper = Keeper(seed)
        for number in range(count):
            keeper.offer(np.array([number]))
        kept = {int(output[0]) for output in keeper.outputs}
        assert len(kept) == len(keeper.outputs) == min(count, 20)
        for number in kept:
            thirds[3 * number // count] += 1
    if count == 2000:
        assert np.ptp(thirds / thirds.sum()) < 0.05


def test_kept_outputs_are_copies():
    keeper, output = Keeper(0), np.zeros(2)
    keeper.offer(output)
    output[:] = 7
    assert keeper.outputs[0].tolist() == [0, 0]
