"""The order of examples: a formula of (seed, epoch, index), of nothing else.

    order = training_order(count=1200, seed=0, epoch=3)    # int64 permutation
    plan = plan_training(count=1200, batch_size=32, seed=0, epoch=3)
    plan.from_step(17)                                     # what is left of the epoch
    plan.for_worker(1, workers=4)                          # a quarter of each batch
    plan = plan_evaluation(count=400, batch_size=32)       # padded, weight 0 at the end
    plan = plan_view(np.arange(400), batch_size=32, seed=0, view=1)     # with draws

The store's format, the number of threads and of replicas do not enter, so TFRecord and
HDF5 give equal batches and a run can go on at any (epoch, step).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tlperf.core.errors import ExitCode, TlperfError

# Random numbers of an image and epoch: flip, size of the crop, its top, its left.
DRAWS = 4

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: uint64 to uint64, a bijection that mixes every bit."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def training_order(*, count: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch: int64 [count].

    Indexes are sorted by a 64-bit mix of (seed, epoch, index). Unlike a random
    generator's stream it is the same on every platform and NumPy version, and unlike a
    shuffle buffer it is exact.
    """
    keys = _keyed(np.arange(count), seed, epoch)
    return np.argsort(keys, kind="stable").astype(np.int64)


def random_draws(index: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Numbers for the augmentation of each image: float32 [N, DRAWS], from 0 to below
    1, a formula of (seed, epoch, index, position in the row)."""
    columns = [_keyed(index, seed, epoch, 1 + column) for column in range(DRAWS)]
    bits = np.stack(columns, axis=1) >> np.uint64(40)  # float32 holds 24
    return bits.astype(np.float32) / np.float32(1 << 24)


def _keyed(index: np.ndarray, *keys: int) -> np.ndarray:
    """64 mixed bits of (keys, index): uint64, the shape of `index`."""
    with np.errstate(over="ignore"):
        # Chained, not combined: (1, 2) and (2, 1) must not give one key.
        key = np.zeros(1, np.uint64)
        for part in keys:
            key = _mix(key + np.array([part], np.uint64) + _GOLDEN)
        return _mix((index + 1).astype(np.uint64) * _GOLDEN + key)


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Which examples make the batches of one pass.

    Attributes:
        index: int64 [steps * batch_size], indexes in stored order.
        weight: float32, same shape; 0 marks padding.
        draw: float32 [steps * batch_size, DRAWS], for augmentation; 0 in evaluation.
        batch_size: of this plan's batches: global, or a worker's part.
        dropped: examples that this pass leaves out (training's remainder).
    """

    index: np.ndarray
    weight: np.ndarray
    draw: np.ndarray
    batch_size: int
    dropped: int = 0

    @property
    def steps(self) -> int:
        """Batches of the pass."""
        return len(self.index) // self.batch_size

    def from_step(self, step: int) -> "BatchPlan":
        """The plan without its first `step` batches, 0 to all of them: all the state a
        resumed run needs is (seed, epoch, step).

        Raises:
            ValueError: the plan has no such step.
        """
        if not 0 <= step <= self.steps:
            raise ValueError(f"step: expected 0 to {self.steps}, got {step}")
        return self._take(np.arange(step * self.batch_size, len(self.index)))

    def of_steps(self, steps: Sequence[int]) -> "BatchPlan":
        """The plan of some of its batches."""
        rows = np.arange(len(self.index)).reshape(self.steps, self.batch_size)
        return self._take(rows[list(steps)].reshape(-1))

    def for_worker(self, worker: int, *, workers: int) -> "BatchPlan":
        """A worker's rows of every batch: as many steps for each worker, and each
        example for one of them, whatever files they are in.

        Raises:
            TlperfError: exit code 78, where workers cannot share a batch evenly.
        """
        if self.batch_size % workers:
            raise TlperfError(
                ExitCode.CONFIG,
                "indivisible_batch",
                found=f"--batch_size={self.batch_size} cannot be split over {workers} "
                "workers",
                remedy=f"give a multiple of {workers}",
            )
        rows = np.arange(len(self.index)).reshape(self.steps, workers, -1)[:, worker]
        part = self._take(rows.reshape(-1))
        return dataclasses.replace(part, batch_size=self.batch_size // workers)

    def _take(self, rows: np.ndarray) -> "BatchPlan":
        return dataclasses.replace(
            self,
            index=self.index[rows],
            weight=self.weight[rows],
            draw=self.draw[rows],
        )


def join_plans(plans: Sequence[BatchPlan]) -> BatchPlan:
    """One plan after the other, of one batch size, as one pass."""
    return dataclasses.replace(
        plans[0],
        index=np.concatenate([plan.index for plan in plans]),
        weight=np.concatenate([plan.weight for plan in plans]),
        draw=np.concatenate([plan.draw for plan in plans]),
        dropped=sum(plan.dropped for plan in plans),
    )


def plan_training(*, count: int, batch_size: int, seed: int, epoch: int) -> BatchPlan:
    """Full batches in the epoch's order; another remainder is left out each epoch.

    Raises:
        TlperfError: 65 where there are fewer images than a batch.
    """
    if count < batch_size:
        raise TlperfError(
            ExitCode.DATA,
            "too_few_images",
            found=f"the training split has {count} images, a batch needs {batch_size}",
            remedy=f"give --batch_size={max(1, count)} or less, or more images",
        )
    order = training_order(count=count, seed=seed, epoch=epoch)
    used = count - count % batch_size
    return BatchPlan(
        index=order[:used],
        weight=np.ones(used, np.float32),
        draw=random_draws(order[:used], seed=seed, epoch=epoch),
        batch_size=batch_size,
        dropped=count - used,
    )


def plan_view(index: np.ndarray, *, batch_size: int, seed: int, view: int) -> BatchPlan:
    """The examples at `index` once, in that order, augmented as in epoch `view`; the
    last batch is padded with weight 0."""
    plan = plan_evaluation(count=len(index), batch_size=batch_size)
    chosen = np.asarray(index, np.int64)[plan.index]
    draw = random_draws(chosen, seed=seed, epoch=view)
    return dataclasses.replace(plan, index=chosen, draw=draw)


def plan_evaluation(*, count: int, batch_size: int) -> BatchPlan:
    """Every example once in stored order; the last batch is padded with weight 0."""
    padding = -count % batch_size
    return BatchPlan(
        index=np.concatenate([np.arange(count), np.zeros(padding, int)]).astype(
            np.int64
        ),
        weight=np.concatenate([np.ones(count), np.zeros(padding)]).astype(np.float32),
        draw=np.zeros((count + padding, DRAWS), np.float32),
        batch_size=batch_size,
    )
