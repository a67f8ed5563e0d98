"""The order of examples: a formula of (seed, epoch, index), of nothing else.

    order = training_order(count=1200, seed=0, epoch=3)    # int64 permutation
    plan = plan_training(count=1200, batch_size=32, seed=0, epoch=3)
    plan = plan_evaluation(count=400, batch_size=32)       # padded, weight 0 at the end

The store's format, the number of threads and of replicas do not enter, so TFRecord and
HDF5 give equal batches and a run can go on at any (epoch, step).
"""

import dataclasses

import numpy as np

from tlperf.core.errors import ExitCode, TlperfError

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
    with np.errstate(over="ignore"):
        # Chained, not combined: (1, 2) and (2, 1) must not give one key.
        key = _mix(np.array([seed], np.uint64) + _GOLDEN)
        key = _mix(key + np.array([epoch], np.uint64) + _GOLDEN)
        keys = _mix(np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + key)
    return np.argsort(keys, kind="stable").astype(np.int64)


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Which examples make the batches of one pass.

    Attributes:
        index: int64 [steps * batch_size], indexes in stored order.
        weight: float32, same shape; 0 marks padding.
        batch_size: global batch.
        dropped: examples that this pass leaves out (training's remainder).
    """

    index: np.ndarray
    weight: np.ndarray
    batch_size: int
    dropped: int = 0

    @property
    def steps(self) -> int:
        """Batches of the pass."""
        return len(self.index) // self.batch_size


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
        batch_size=batch_size,
        dropped=count - used,
    )


def plan_evaluation(*, count: int, batch_size: int) -> BatchPlan:
    """Every example once in stored order; the last batch is padded with weight 0."""
    padding = -count % batch_size
    return BatchPlan(
        index=np.concatenate([np.arange(count), np.zeros(padding, int)]).astype(
            np.int64
        ),
        weight=np.concatenate([np.ones(count), np.zeros(padding)]).astype(np.float32),
        batch_size=batch_size,
    )
