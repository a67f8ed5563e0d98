"""Profiler traces whose steps XProf recognises.

    tracer = StepTracer(folder, first=10, last=15)
    for number in steps:
        with tracer.step(number, finish=...): ...  # fetch and step
    tracer.close()

`tensorboard --logdir=FOLDER` shows them (extra `profile`): a trace has steps only where
an event around each bears its number and is marked as a root (`_r=1`), which Keras'
`fit` writes around the step without the fetch.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import tensorflow as tf


class StepTracer:
    """Traces the steps from `first` to `last`.

    Args:
        folder: TensorBoard's, where `plugins/profile` is made.
        name: of the steps' events.
        first, last: numbers of steps, both in the trace.
    """

    def __init__(
        self, folder: pathlib.Path, *, first: int, last: int, name: str = "train"
    ):
        self._folder, self._first, self._last = folder, first, last
        self._name = name
        self._is_on = False

    @contextlib.contextmanager
    def step(self, number: int, *, finish: Callable[[], None]) -> Iterator[None]:
        """Around the fetch and the step of this number.

        Args:
            number: of the step.
            finish: waits for the devices, before a trace is written.
        """
        if not self._first <= number <= self._last:
            yield
            return
        if not self._is_on:  # the first of them, or where a training went on
            tf.profiler.experimental.start(str(self._folder))
            self._is_on = True
        with tf.profiler.experimental.Trace(self._name, step_num=number, _r=1):
            yield
        if number == self._last:
            finish()
            self.close()

    def close(self) -> None:
        """Writes what was traced, where the training ended before the last step."""
        if self._is_on:
            self._is_on = False
            tf.profiler.experimental.stop()
