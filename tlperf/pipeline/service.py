"""Batches that other processes make (tf.data service), in the plan's order.

    recipe = WorkerRecipe.of(dataset, "train", decoder=decoder)
    ask = functools.partial(recipe.distributed, plan, address="grpc://host:5050", ...)
    counts = ServiceCounts("grpc://host:5050")
    for batch in ServiceBatches(plan, lambda: Puller(ask), local=load, counts=counts):

The service gives each step at most once and in any order: what a dead worker had is
lost. So steps are put in order here, and one that does not come is loaded here. What
the service adds is speed alone.
"""

import collections
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.python.eager import cancellation, context, execute

from tlperf.core.batch import Batch
from tlperf.core.errors import TlperfError
from tlperf.pipeline.endpoint import find_unreachable
from tlperf.pipeline.order import BatchPlan

GUARANTEE = (
    "exactly once in the plan's order; at most once from the service, the rest loaded "
    "here"
)
# Later batches that are held while an earlier one is awaited.
WINDOW = 16
# A worker gives its first batch within a second, one of large photos within two.
PATIENCE_SECS = 5.0
# Batches that have come and are not put in order yet.
_QUEUED = 2
# TensorFlow asks each worker for a batch ahead; so many workers are reckoned with.
_WORKERS = 8
# TensorFlow's messages may hold a whole graph.
_ERROR_CHARS = 300
# Memory of so many batches is taken here.
BATCHES_HELD = WINDOW + _WORKERS + _QUEUED


@dataclasses.dataclass
class ServiceCounts:
    """What became of the steps of one pass so far: each is one of the first two.

    Attributes:
        address: of the dispatcher.
        from_service: batches that the service gave in time.
        missed: batches that were loaded here instead.
        repeated: copies that came late or twice, and were dropped.
        error: what the service did wrong last, or None.
    """

    address: str
    from_service: int = 0
    missed: int = 0
    repeated: int = 0
    error: str | None = None


def add_counts(counts: Sequence[ServiceCounts]) -> dict[str, Any]:
    """What the service gave over some passes, and what is promised of it."""
    return {
        "address": counts[0].address,
        "guarantee": GUARANTEE,
        "steps": sum(one.from_service + one.missed for one in counts),
        "from_service": sum(one.from_service for one in counts),
        "missed": sum(one.missed for one in counts),
        "repeated": sum(one.repeated for one in counts),
        "errors": list(dict.fromkeys(one.error for one in counts if one.error)),
    }


def format_missed(totals: dict[str, Any]) -> str:
    """What `add_counts` gave, in words: how many batches were missed, and why."""
    why = f" ({'; '.join(totals['errors'])})" if totals["errors"] else ""
    return (
        f"{totals['missed']} of {totals['steps']} batches were loaded here, not by "
        f"{totals['address']}{why}"
    )


@dataclasses.dataclass(frozen=True)
class End:
    """The last thing that comes: the service has no more, or this error."""

    error: Exception | None = None


# What comes: step, image, label; or the end.
Item = tuple[tf.Tensor, tf.Tensor, tf.Tensor] | End


class Source(Protocol):
    """Where a pass takes what comes from."""

    def get(self, timeout_secs: float) -> Item:
        """The next thing that comes.

        Raises:
            queue.Empty: nothing came for so long.
        """

    def stop(self) -> None:
        """Ends it, whatever it waits for; what has come is dropped."""


class Puller:
    """Pulls a dataset to a bounded queue, on a thread of its own.

    Args:
        build: gives the dataset; it may wait for the service, so the thread calls it.
    """

    def __init__(self, build: Callable[[], tf.data.Dataset]):
        self._build = build
        self._queue: queue.Queue[Item] = queue.Queue(_QUEUED)
        self._is_stopped = threading.Event()
        self._cancellation = cancellation.CancellationManager()
        # A daemon: while it asks a dispatcher that has just ended, nothing ends it.
        self._thread = threading.Thread(
            target=self._run, name="tlperf-service", daemon=True
        )
        self._thread.start()

    def get(self, timeout_secs: float) -> Item:
        """The next thing that comes.

        Raises:
            queue.Empty: nothing came for so long.
        """
        return self._queue.get(timeout=timeout_secs)

    def _run(self) -> None:
        end = End()
        try:
            with tf.device("CPU:0"):
                for element in self._elements(self._build()):
                    self._queue.put(element)
        except Exception as error:  # the consumer tells an error of ours from theirs
            end = End(error)
        if not self._is_stopped.is_set():
            self._queue.put(end)

    def _elements(self, dataset: tf.data.Dataset) -> Iterator[Any]:
        iterator = iter(dataset)
        specs = tf.nest.flatten(dataset.element_spec)
        attributes = (
            "output_types",
            tuple(spec.dtype.as_datatype_enum for spec in specs),
            "output_shapes",
            tuple(spec.shape for spec in specs),
        )
        while not self._is_stopped.is_set():
            try:
                # As next(iterator), which could not be ended while it waits for a dead
                # worker: TensorFlow 2.21 asks one until its process ends.
                yield execute.execute_with_cancellation(
                    "IteratorGetNext",
                    len(specs),
                    [iterator._iterator_resource],
                    attributes,
                    context.context(),
                    self._cancellation,
                )
            except tf.errors.OutOfRangeError:
                return

    def stop(self) -> None:
        """Ends the thread, whatever it waits for; what has come is dropped."""
        self._is_stopped.set()
        self._cancellation.start_cancel()
        while True:  # it may wait for a place in the queue
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


@dataclasses.dataclass
class ServiceBatches:
    """The batches of one pass, from the service where it gives them in time.

    Iterating asks the service and gives each batch of the plan once, in order; it
    raises what loading here raises.

    Attributes:
        plan: the batches of the pass.
        ask: gives what comes from the service, in any order, with losses.
        local: loads the batches of a plan here, in order.
        counts: kept up to date.
        patience_secs: when nothing has come for so long, the next batches are loaded
            here; what comes later is taken again.
    """

    plan: BatchPlan
    ask: Callable[[], Source]
    _: dataclasses.KW_ONLY
    local: Callable[[BatchPlan], Iterable[Batch]]
    counts: ServiceCounts
    patience_secs: float = PATIENCE_SECS

    def __iter__(self) -> Iterator[Batch]:
        source = self.ask()
        try:
            yield from _Ordering(self, source).batches()
        finally:
            source.stop()


class _Ordering:
    """Puts what comes in the plan's order, and loads here what does not come.

    Args:
        batches: what is to be given.
        source: what comes.
    """

    def __init__(self, batches: ServiceBatches, source: Source):
        self._plan = batches.plan
        self._local = batches.local
        self._counts = batches.counts
        self._patience_secs = batches.patience_secs
        self._source = source
        self._next = 0
        self._come: dict[int, Batch] = {}
        self._is_over = self._is_silent = False

    def batches(self) -> Iterator[Batch]:
        """Each batch of the plan once, in order."""
        while self._next < self._plan.steps:
            missing = self._await_next()
            if missing:
                yield from self._load_here(missing)
            else:
                yield self._give()

    def _await_next(self) -> int:
        """Waits for the next step; 0 when it is there, else how many steps to load
        here."""
        while self._next not in self._come:
            if self._is_over:
                return self._plan.steps - self._next
            if len(self._come) >= WINDOW:
                return 1
            try:
                self._take(self._source.get(self._wait_secs()))
            except queue.Empty:
                if not self._is_silent:
                    self._is_silent = True
                    self._counts.error = self._why_silent()
                return WINDOW
        return 0

    def _wait_secs(self) -> float:
        # Once it was waited for in vain, whatever comes meanwhile ends the silence.
        return 0.001 if self._is_silent else self._patience_secs

    def _why_silent(self) -> str:
        found = find_unreachable(self._counts.address)
        return found or f"nothing came for {self._patience_secs:g} s"

    def _take(self, item: Item) -> None:
        self._is_silent = False
        if isinstance(item, End):
            self._is_over = True
            self._note_end(item.error)
            return
        step = int(item[0])
        if step < self._next or step in self._come:
            self._counts.repeated += 1
        else:
            self._come[step] = batch_of(self._plan, step, item[1], item[2])

    def _note_end(self, error: Exception | None) -> None:
        left = self._plan.steps - self._next - len(self._come)
        if error is not None:
            # Of the service or of the data; loading here tells the data's again.
            if not isinstance(error, (tf.errors.OpError, OSError, TlperfError)):
                raise error
            self._counts.error = " ".join(str(error).split())[:_ERROR_CHARS]
        elif left:
            self._counts.error = (
                f"it ended without {left} of {self._plan.steps} batches: a worker "
                "ended, or does not see the same files"
            )

    def _give(self) -> Batch:
        batch = self._come.pop(self._next)
        self._next += 1
        self._counts.from_service += 1
        return batch

    def _load_here(self, count: int) -> Iterator[Batch]:
        """The next `count` steps: those that have come, and the others loaded."""
        end = min(self._next + count, self._plan.steps)
        missing = [s for s in range(self._next, end) if s not in self._come]
        loaded = collections.deque(missing)
        for batch in self._local(self._plan.of_steps(missing)):
            while self._next != loaded[0]:
                yield self._give()
            loaded.popleft()
            self._next += 1
            self._counts.missed += 1
            yield batch


def batch_of(plan: BatchPlan, step: int, image: tf.Tensor, label: tf.Tensor) -> Batch:
    """What the service gave, with what the plan knows of that step."""
    rows = slice(step * plan.batch_size, (step + 1) * plan.batch_size)
    with tf.device("CPU:0"):
        return Batch(
            image=image,
            label=label,
            weight=tf.constant(plan.weight[rows]),
            index=tf.constant(plan.index[rows]),
            draw=tf.constant(plan.draw[rows]),
        )
