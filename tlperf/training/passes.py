"""One pass over a split: run a step over its batches, timed.

result = run_pass(train_step, batches, compute=compute, title="xception epoch 1/10")
result.loss, result.timed_steps / result.timed_secs
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import tensorflow as tf

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import progress_bar
from tlperf.device.setup import Compute
from tlperf.model.steps import StepSums, SumStep, SumSteps
from tlperf.pipeline.input import Batches
from tlperf.training.feature_cache import FeatureBatches

# Calls that the host may be ahead of a device that computes on its own: so much later a
# loss that is no number is seen. Unbounded, the time a GPU computes would be spent, and
# counted, waiting for the next batch. To read a GPU's sums TensorFlow waits for all it
# was given before that, the newest call too, which `--steps_per_call` makes rarer.
_CALLS_AHEAD = 1

# Loss, right answers and images of a step.
Sums = tuple[float, float, float]

Item = TypeVar("Item")


@dataclasses.dataclass
class Waits:
    """Iterates and adds up the seconds spent waiting for the next item."""

    clock: Callable[[], float] = time.perf_counter
    secs: float = 0.0

    def over(self, items: Iterable[Item]) -> Generator[Item]:
        """Yields the items; the wait for the end is not counted."""
        iterator = iter(items)
        while True:
            start = self.clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.secs += self.clock() - start
            yield item


@dataclasses.dataclass(frozen=True)
class PassResult:
    """One pass over a split.

    Attributes:
        loss: mean over the images that count.
        accuracy: share of them classified right.
        count: images that counted.
        steps: batches, with those that were done before.
        sums: of each step.
        secs: wall time of the pass.
        first_step_secs: of the first step, tracing and compiling included.
        timed_steps: steps that rates are taken from: all but the first, or the first
            where it is the only one.
        timed_secs: their wall time.
        timed_wait_secs: of that, waiting for batches. On a GPU an upper bound: a batch
            is asked for while up to two steps are still being computed.
    """

    loss: float
    accuracy: float
    count: int
    steps: int
    sums: list[Sums]
    secs: float
    first_step_secs: float
    timed_steps: int
    timed_secs: float
    timed_wait_secs: float


class NotFinite(Exception):
    """The loss of a step is no number.

    Attributes:
        loss: what it is.
        step: of the pass, from 1.
        index: int64 [B], the images of its batch.
    """

    def __init__(self, loss: float, step: int, index: np.ndarray):
        super().__init__(f"loss {loss} in step {step}")
        self.loss, self.step, self.index = loss, step, index


class Watch(Protocol):
    """What looks on between two steps.

    Where several processes train together, each asks its own watch whether to stop, and
    a step tells all of them what all wish: they look after the same step.
    """

    def wishes_to_stop(self) -> bool:
        """Whether this process was asked to."""

    def is_due(self, steps: int, *, new: int) -> bool:
        """Whether it wants to see the state after so many steps.

        Args:
            steps: of the pass.
            new: of them, since it was asked before.
        """

    def look(self, done: Sequence[Sums], *, is_stopping: bool) -> None:
        """Called then, and where any process wishes to stop, with what these steps
        gave; the device has done them all."""

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Around the fetch and the step of this number, from 1; `finish` waits for the
        device."""


class _Nobody:
    def wishes_to_stop(self) -> bool:
        return False

    def is_due(self, steps: int, *, new: int) -> bool:
        return False

    def look(self, done: Sequence[Sums], *, is_stopping: bool) -> None:
        raise AssertionError("never due")

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def run_pass(
    step: SumStep,
    batches: Batches | FeatureBatches,
    *,
    compute: Compute,
    title: str,
    steps: SumSteps | None = None,
    per_call: int = 1,
    before: Sequence[Sums] = (),
    watch: Watch | None = None,
) -> PassResult:
    """Runs a step over all batches of a pass.

    Sums stay on the device; the host reads those of a call one call later, so it
    neither waits between two steps nor runs far ahead of the device. They are float32
    sums of a batch each and are added up in float64.

    Args:
        step: the compiled step.
        batches: of the pass, or what is left of it.
        compute: where they go.
        title: of the progress bar.
        steps: several steps in one call.
        per_call: so many of them; the first step of a pass, and those left at its end,
            go one at a time.
        before: what the steps gave that were done before.
        watch: looks on.

    Raises:
        NotFinite: a loss is no number.
        TlperfError: 65 where no image could be used.
    """
    plan, watch = batches.plan, watch or _Nobody()
    is_alone = compute.workers == 1
    run = _Progress(batches, done=[*before], watch=watch, is_alone=is_alone)
    batch_of = run.waits.over(batches.distribute(compute))
    with (
        contextlib.closing(batch_of),
        progress_bar(total=len(plan.index), unit="img", title=title) as bar,
    ):
        number = 0
        while number < plan.steps:
            is_whole = steps and number and plan.steps - number >= per_call > 1
            size = per_call if is_whole else 1
            with watch.around(len(before) + number + 1, run.read_all):
                wish = None if is_alone else tf.constant(float(watch.wishes_to_stop()))
                taken = [next(batch_of) for _ in range(size)]
                if steps is None or size == 1:
                    run.add([step(taken[0], wish)])
                else:
                    run.add(steps(taken, wish))
            number += size
            bar.update(size * plan.batch_size)
        run.read_all()
    done = run.done
    first_secs, first_wait_secs, waits = run.first_secs, run.first_wait_secs, run.waits
    secs, own_steps = time.perf_counter() - run.start, len(done) - len(before)
    loss, correct, count = (math.fsum(column) for column in zip(*done, strict=True))
    if not count:
        raise TlperfError(
            ExitCode.DATA,
            "no_images",
            found=f"{title}: none of {len(plan.index)} images could be used",
            remedy="run tlperf verify, and shard again",
        )
    is_single = own_steps <= 1
    return PassResult(
        loss=loss / count,
        accuracy=correct / count,
        count=int(count),
        steps=len(done),
        sums=done,
        secs=secs,
        first_step_secs=first_secs,
        timed_steps=own_steps if is_single else own_steps - 1,
        timed_secs=secs if is_single else secs - first_secs,
        timed_wait_secs=waits.secs if is_single else waits.secs - first_wait_secs,
    )


class _Progress:
    """A pass that goes on: what its steps gave, and what was not read yet."""

    def __init__(
        self,
        batches: Batches | FeatureBatches,
        *,
        done: list[Sums],
        watch: Watch,
        is_alone: bool,
    ):
        self._plan, self._watch, self._is_alone = batches.plan, watch, is_alone
        self._is_stopping = False
        self._pending: list[list[StepSums]] = []
        self._before = len(done)
        self.done = done
        self.waits = Waits()
        self.first_secs = self.first_wait_secs = 0.0
        self.start = time.perf_counter()

    def add(self, sums: list[StepSums]) -> None:
        """Steps that were begun by one call."""
        self._pending.append(sums)
        steps = len(self.done) + sum(map(len, self._pending))
        if len(self.done) == self._before:
            # The first step is waited for, so that it is timed whole.
            self.read_all()
            self.first_secs = time.perf_counter() - self.start
            self.first_wait_secs = self.waits.secs
        elif len(self._pending) > _CALLS_AHEAD:
            self._read_first()
        is_due = self._watch.is_due(steps, new=len(sums))
        if self._is_alone:
            self._is_stopping = self._watch.wishes_to_stop()
        if is_due or self._is_stopping:
            self.read_all()
            self._watch.look(self.done, is_stopping=self._is_stopping)

    def read_all(self) -> None:
        """Waits for all steps."""
        while self._pending:
            self._read_first()

    def _read_first(self) -> None:
        for sums in self._pending.pop(0):
            loss, correct, count, wishes = map(float, sums)
            if not math.isfinite(loss):
                row = len(self.done) - self._before
                index = self._plan.index.reshape(self._plan.steps, -1)[row]
                raise NotFinite(loss, len(self.done) + 1, index)
            self.done.append((loss, correct, count))
            self._is_stopping = self._is_stopping or wishes > 0
