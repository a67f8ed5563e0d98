"""What one sample times, protocol by protocol; one table picks.

steps, traces = PROTOCOLS[Protocol.COMPILED](model, images, compute)
timing = measure(steps, config)
traces()   # how often the function was traced: 1, or the row is invalid
"""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.choices import Protocol
from tlperf.device.setup import Compute
from tlperf.latency.timer import Clock, Steps, repeat

SENTENCES = {
    Protocol.KERAS_PREDICT: (
        "one batch inside model.predict over a tf.data.Dataset that repeats a "
        "preprocessed float32 batch from host memory; a repetition is a predict call, "
        "whose set-up its first step carries; the clock stops when the batch's result "
        "is a NumPy array"
    ),
    Protocol.COMPILED: (
        "one call of the traced function on a preprocessed float32 batch that the "
        "device holds already; the clock stops when the result is a NumPy array"
    ),
}

Prepared = tuple[Steps, Callable[[], int]]


class _BatchClock(keras.callbacks.Callback):
    """Times every batch of a predict call up to its result on the host."""

    def __init__(self, clock: Clock, limit_secs: float):
        super().__init__()
        self._clock = clock
        self._limit_secs = limit_secs
        self._start = self._mark = clock()
        self.samples: list[float] = []

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None):
        del batch
        outputs = (logs or {})["outputs"]
        for output in keras.tree.flatten(outputs):
            np.asarray(output)
        now = self._clock()
        self.samples.append(now - self._mark)
        self._mark = now
        if now - self._start >= self._limit_secs:
            self.model.stop_predicting = True


def prepare_keras_predict(
    model: keras.Model,
    images: np.ndarray,
    compute: Compute,
    clock: Clock = time.perf_counter,
) -> Prepared:
    """`model.predict`; images: float32 [B, S, S, 3], preprocessed."""
    model.jit_compile = compute.jit_compile
    options = tf.data.Options()
    # Nothing to tune; and its thread can hold up the end of a predict call for seconds.
    options.autotune.enabled = False
    batch = tf.data.Dataset.from_tensors(images).with_options(options)

    def steps(count: int, limit_secs: float) -> list[float]:
        callback = _BatchClock(clock, limit_secs)
        model.predict(batch.repeat(count), callbacks=[callback], verbose=0)
        return callback.samples

    return steps, lambda: model.predict_function.experimental_get_tracing_count()


def prepare_compiled(
    model: keras.Model,
    images: np.ndarray,
    compute: Compute,
    clock: Clock = time.perf_counter,
) -> Prepared:
    """A traced call on the first device; images: float32 [B, S, S, 3], preprocessed."""
    function = tf.function(
        lambda x: model(x, training=False), jit_compile=compute.jit_compile
    )
    with tf.device(compute.devices[0]):
        resident = tf.constant(images)

    def step() -> np.ndarray:
        with tf.device(compute.devices[0]):
            return function(resident).numpy()

    return repeat(step, clock=clock), function.experimental_get_tracing_count


PROTOCOLS: dict[Protocol, Callable[..., Prepared]] = {
    Protocol.KERAS_PREDICT: prepare_keras_predict,
    Protocol.COMPILED: prepare_compiled,
}
