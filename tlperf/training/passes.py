"""One pass over a split: run a step over its batches, timed.

result = run_pass(train_step, batches, compute=compute, title="xception epoch 1/10")
result.loss, result.timed_steps / result.timed_secs
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tlperf.core.batch import Batch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import progress_bar
from tlperf.device.setup import Compute
from tlperf.model.steps import StepSums
from tlperf.pipeline.input import Batches

# Steps that the host may be ahead of a device that computes on its own. Unbounded, the
# time a GPU computes would be spent, and counted, waiting for the next batch.
_STEPS_AHEAD = 2

Item = TypeVar("Item")


@dataclasses.dataclass
class Waits:
    """Iterates and adds up the seconds spent waiting for the next item."""

    clock: Callable[[], float] = time.perf_counter
    secs: float = 0.0

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
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
        planned: images of the plan; those that were skipped did not count.
        steps: batches.
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
    planned: int
    steps: int
    secs: float
    first_step_secs: float
    timed_steps: int
    timed_secs: float
    timed_wait_secs: float


def run_pass(
    step: Callable[[Batch], StepSums], batches: Batches, *, compute: Compute, title: str
) -> PassResult:
    """Runs a step over all batches of a pass.

    Sums stay on the device; the host reads those of a step two steps later, so it
    neither waits between two steps nor runs far ahead of the device. They are float32
    sums of a batch each and are added up in float64.
    """
    waits = Waits()
    pending: list[StepSums] = []
    done: list[tuple[float, float, float]] = []
    first_secs = first_wait_secs = 0.0
    start = time.perf_counter()
    plan = batches.plan
    with progress_bar(total=len(plan.index), unit="img", title=title) as bar:
        for batch in waits.over(batches.distribute(compute)):
            pending.append(step(batch))
            if not done:  # the first step is waited for, so that it is timed whole
                done.append(_read(pending.pop()))
                first_secs, first_wait_secs = time.perf_counter() - start, waits.secs
            elif len(pending) > _STEPS_AHEAD:
                done.append(_read(pending.pop(0)))
            bar.update(plan.batch_size)
        done += [_read(sums) for sums in pending]
    secs = time.perf_counter() - start
    loss, correct, count = (math.fsum(column) for column in zip(*done, strict=True))
    if not count:
        raise TlperfError(
            ExitCode.DATA,
            "no_images",
            found=f"{title}: none of {len(plan.index)} images could be used",
            remedy="run tlperf verify, and shard again",
        )
    is_single = len(done) == 1
    return PassResult(
        loss=loss / count,
        accuracy=correct / count,
        count=int(count),
        planned=int(plan.weight.sum()),
        steps=len(done),
        secs=secs,
        first_step_secs=first_secs,
        timed_steps=1 if is_single else len(done) - 1,
        timed_secs=secs if is_single else secs - first_secs,
        timed_wait_secs=waits.secs if is_single else waits.secs - first_wait_secs,
    )


def _read(sums: StepSums) -> tuple[float, float, float]:
    return float(sums.loss), float(sums.correct), float(sums.count)
