"""The timer: first call apart, warm-up, then samples until enough or out of time.

timing = measure(step, config, clock=time.perf_counter)
timing.samples_secs   # every raw sample, in the order measured
"""

import dataclasses
import time
from collections.abc import Callable

from tlperf.core.settings import LatencyConfig

Clock = Callable[[], float]
# Runs up to so many steps and gives each step's seconds; may stop early once the given
# seconds are spent. A step ends when its result is on the host.
Steps = Callable[[int, float], list[float]]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Raw times of one row.

    Attributes:
        first_call_secs: first step, tracing and compiling included.
        warmup_steps: untimed steps after the first.
        samples_secs: one value a step, in order.
        traces: how often the timed function was traced.
    """

    first_call_secs: float
    warmup_steps: int
    samples_secs: tuple[float, ...]
    traces: int = 1


def measure(steps: Steps, config: LatencyConfig) -> Timing:
    """Measures a protocol: 1 first step, warm-up, then repetitions of timed steps.

    A row ends after batches x repetitions samples, or once `latency_secs` of timed
    steps are spent (0: never), whichever comes first.
    """
    unlimited = float("inf")
    (first_call_secs,) = steps(1, unlimited)
    steps(config.warmup_steps, unlimited)
    left = config.latency_secs or unlimited
    samples: list[float] = []
    for _ in range(config.repetitions):
        found = steps(config.batches, left)
        samples += found
        left -= sum(found)
        if left <= 0:
            break
    return Timing(first_call_secs, config.warmup_steps, tuple(samples))


def repeat(step: Callable[[], object], *, clock: Clock = time.perf_counter) -> Steps:
    """Steps from a call that returns once its result is on the host."""

    def steps(count: int, limit_secs: float) -> list[float]:
        samples: list[float] = []
        spent = 0.0
        while len(samples) < count and spent < limit_secs:
            start = clock()
            step()
            samples.append(clock() - start)
            spent += samples[-1]
        return samples

    return steps
