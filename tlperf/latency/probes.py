"""What the device can do, measured beside the rows: the bounds of a step.

    probes = Probes(compute)
    probes.facts()     # TFLOP/s of a large product, GB/s of memory

The best of a few, of sizes that grow until one takes long enough to be measured.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tlperf.device.setup import Compute

_ENOUGH_SECS = 0.05
_REPEATS = 5
_SIDES = (512, 1024, 2048, 4096, 8192)
_MEBIBYTES = (64, 256, 1024)


class Probes:
    """Measured once a process, when they are first asked for.

    Args:
        compute: whose first device is probed.
    """

    def __init__(self, compute: Compute):
        self._compute = compute

    def facts(self) -> dict[str, float]:
        """As rows have them."""
        return {
            "matmul_tflops_per_sec": self._matmul,
            "copy_gbytes_per_sec": self._copy,
        }

    @functools.cached_property
    def _matmul(self) -> float:
        return measure_matmul(self._compute)

    @functools.cached_property
    def _copy(self) -> float:
        return measure_copy(self._compute)


def _best_secs(run: Callable[[tf.Tensor], Any], x: tf.Tensor) -> float:
    """The shortest of a few calls, after one that is not counted."""
    run(x)
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return min(times)


def measure_matmul(compute: Compute) -> float:
    """TFLOP/s of the product of two square matrices in the compute dtype."""
    dtype = keras.dtype_policies.get(compute.precision).compute_dtype
    product = tf.function(tf.linalg.matmul, autograph=False)
    best = 0.0
    with tf.device(compute.devices[0]):
        for side in _SIDES:
            a = tf.ones([side, side], dtype)
            # One number is read back: the product stays on the device.
            secs = _best_secs(lambda x: product(x, x)[0, 0].numpy(), a)
            best = max(best, 2 * side**3 / secs / 1e12)
            if secs >= _ENOUGH_SECS:
                break
    return best


def measure_copy(compute: Compute) -> float:
    """GB/s (1e9 bytes) of an addition to a large array: what is read and written."""
    add = tf.function(lambda x: x + 1.0, autograph=False)
    best = 0.0
    with tf.device(compute.devices[0]):
        for mebibytes in _MEBIBYTES:
            x = tf.zeros([mebibytes * 2**18], tf.float32)
            secs = _best_secs(lambda x: add(x)[0].numpy(), x)
            best = max(best, 2 * mebibytes * 2**20 / secs / 1e9)
            if secs >= _ENOUGH_SECS:
                break
    return best
