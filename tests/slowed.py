"""A pytest plugin that slows a build down: work on top of every timed call.

    python -m pytest -p tests.slowed benchmarks/bench_latency.py --benchmark-only

Each call of the runtime `tf` is followed, before its result is given back, by as much
other work as takes 30 % of its time.
"""

import dataclasses
import time

import numpy as np

SHARE = 0.3


def slow_down(load):
    """A runtime's loader whose network takes longer."""

    def slowed(*arguments):
        loaded = load(*arguments)
        matrix = np.ones((64, 64), np.float32)

        def run(placed):
            start = time.perf_counter()
            output = loaded.run(placed)
            end = time.perf_counter()
            while time.perf_counter() < end + SHARE * (end - start):
                matrix @ matrix
            return output

        return dataclasses.replace(loaded, run=run)

    return slowed


def pytest_configure():
    """Plants it where the benchmarks find their runtimes."""
    from tlperf.core.choices import Runtime
    from tlperf.latency.runtimes import RUNTIMES

    RUNTIMES[Runtime.TF] = slow_down(RUNTIMES[Runtime.TF])
