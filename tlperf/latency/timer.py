"""The timer: first step apart, warm-up until steady, then samples.

    timing = measure(steps, plan, keep=keeper.offer)
    timing.samples_secs   # every raw sample, in the order measured

Warm-up ends when a window of steps is no longer faster than the one before it: its
median is at least 0.95 of that one's. A window is `warmup_steps` steps, and as many
more as 0.2 seconds take; after twenty windows the timer goes on and says that it was
not steady. Python's garbage collector rests while steps are timed.
"""

import contextlib
import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

Clock = Callable[[], float]
# Called with a step's result once the clock has stopped.
Keep = Callable[[np.ndarray], None]

_STEADY = 0.95
_WINDOW_SECS = 0.2
_MOST_WINDOWS = 20
# Outputs of timed steps that are compared with an untimed run.
_MOST_KEPT = 20


class Steps(Protocol):
    """Runs steps one after the other."""

    def __call__(self, count: int, limit_secs: float, keep: Keep) -> list[float]:
        """Up to `count` steps, fewer once `limit_secs` are spent on them.

        Args:
            count: of steps.
            limit_secs: after which no step is started.
            keep: called with each result, outside of what is timed.

        Returns:
            Seconds of each step, up to its result in the host's memory.
        """


@dataclasses.dataclass(frozen=True)
class TimerPlan:
    """How much a process times.

    Attributes:
        warmup_steps: least steps of a window of the warm-up.
        batches: steps of a repetition.
        repetitions: that are timed at least.
        min_secs: of timed steps; more repetitions are added until they are spent.
        limit_secs: of timed steps, after which no other is begun; 0 for no limit.
    """

    warmup_steps: int = 3
    batches: int = 30
    repetitions: int = 10
    min_secs: float = 0.0
    limit_secs: float = 0.0


@dataclasses.dataclass(frozen=True)
class Timing:
    """Raw times.

    Attributes:
        first_step_secs: of the first step.
        warmup_steps: untimed steps after it.
        is_steady: whether the warm-up ended by its rule.
        samples_secs: one value a step, in order.
    """

    first_step_secs: float
    warmup_steps: int
    is_steady: bool
    samples_secs: tuple[float, ...]


class Keeper:
    """Outputs of twenty timed steps, each as likely as any other (reservoir sampling,
    Vitter 1985, algorithm R); all where there are fewer.

    Args:
        seed: of the choice.
    """

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)
        self._offered = 0
        self.outputs: list[np.ndarray] = []

    def offer(self, output: np.ndarray) -> None:
        """Keeps a copy of it, or not."""
        self._offered += 1
        if len(self.outputs) < _MOST_KEPT:
            self.outputs.append(np.array(output))
            return
        place = int(self._generator.integers(self._offered))
        if place < _MOST_KEPT:
            self.outputs[place] = np.array(output)


def drop(output: np.ndarray) -> None:
    """Keeps nothing."""
    del output


def measure(
    steps: Steps,
    plan: TimerPlan,
    *,
    keep: Keep = drop,
    on_warm: Callable[[], None] = lambda: None,
) -> Timing:
    """Times a protocol in this process.

    Args:
        steps: of the protocol.
        plan: how many.
        keep: is offered the result of each timed step.
        on_warm: called before the first of them.
    """
    (first_step_secs,) = steps(1, math.inf, drop)
    warmup_steps, is_steady = warm_up(steps, least_steps=plan.warmup_steps)
    on_warm()
    with _collector_at_rest():
        samples = _sample(steps, plan, keep)
    return Timing(first_step_secs, warmup_steps, is_steady, tuple(samples))


def warm_up(steps: Steps, *, least_steps: int) -> tuple[int, bool]:
    """Untimed windows of steps until they are steady; how many steps, and whether."""
    before = steps(least_steps, math.inf, drop)
    # The window's first steps may be slow ones: the fastest tells how many fit.
    window = max(least_steps, math.ceil(_WINDOW_SECS / max(min(before), 1e-6)))
    done = len(before)
    for _ in range(_MOST_WINDOWS):
        now = steps(window, math.inf, drop)
        done += len(now)
        if statistics.median(now) >= _STEADY * statistics.median(before):
            return done, True
        before = now
    return done, False


def _sample(steps: Steps, plan: TimerPlan, keep: Keep) -> list[float]:
    limit_secs = plan.limit_secs or math.inf
    samples: list[float] = []
    spent, repetition = 0.0, 0
    while repetition < plan.repetitions or spent < plan.min_secs:
        found = steps(plan.batches, limit_secs - spent, keep)
        samples += found
        spent += sum(found)
        repetition += 1
        if spent >= limit_secs:
            break
    return samples


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def repeat(step: Callable[[], Any], *, clock: Clock = time.perf_counter) -> Steps:
    """Steps from a call that returns once its result is a NumPy array."""

    def steps(count: int, limit_secs: float, keep: Keep) -> list[float]:
        samples: list[float] = []
        spent = 0.0
        while len(samples) < count and spent < limit_secs:
            start = clock()
            output = step()
            samples.append(clock() - start)
            spent += samples[-1]
            keep(output)
        return samples

    return steps
