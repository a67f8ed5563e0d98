"""Batches from the host's memory to where they are computed, one ahead of the step.

check_batch_size(32, replicas=2)
for batch in one_ahead(place_batch(batch, compute) for batch in batches): ...
"""

import concurrent.futures
from collections.abc import Generator, Iterator
from typing import TypeVar

import tensorflow as tf

from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.device.setup import Compute

Item = TypeVar("Item")
AnyBatch = TypeVar("AnyBatch", Batch, FeatureBatch)


def check_batch_size(
    batch_size: int, replicas: int, *, flag: str = "batch_size"
) -> None:
    """Refuses a global batch that replicas cannot share evenly (exit code 78).

    Args:
        batch_size: images a step.
        replicas: of the strategy.
        flag: that gives the batch.
    """
    if batch_size % replicas:
        raise TlperfError(
            ExitCode.CONFIG,
            "indivisible_batch",
            found=f"--{flag}={batch_size} cannot be split over {replicas} replicas",
            remedy=f"give a multiple of {replicas}",
        )


def place_batch(batch: AnyBatch, compute: Compute) -> AnyBatch:
    """A process' part of a batch on its device, or split over those of its replicas.

    Written for GPUs too, not measured on one.
    """
    if len(compute.devices) > 1:
        return split_batch(batch, compute)
    (device,) = compute.devices
    if device == "CPU:0":  # where it is
        return batch
    with tf.device(device):
        return tf.nest.map_structure(tf.identity, batch)


def split_batch(batch: AnyBatch, compute: Compute) -> AnyBatch:
    """A process' batch as per-replica values, each part on its replica's device."""
    count = len(compute.devices)
    with tf.device("CPU:0"):  # or TensorFlow would split some of them on the first GPU
        parts = [tf.split(value, count) for value in tf.nest.flatten(batch)]

    def part(context: tf.distribute.experimental.ValueContext) -> AnyBatch:
        replica = context.replica_id_in_sync_group % count
        with tf.device(compute.devices[replica]):
            own = [tf.identity(pieces[replica]) for pieces in parts]
        return tf.nest.pack_sequence_as(batch, own)

    return compute.strategy.experimental_distribute_values_from_function(part)


def one_ahead(items: Iterator[Item]) -> Generator[Item]:
    """Makes each item on a thread of its own while the one before it is used.

    Taking a batch from tf.data (0.3 ms on two cores) and copying it to its device would
    otherwise stand between two steps.
    """
    with concurrent.futures.ThreadPoolExecutor(1, "tlperf-ahead") as pool:
        ready = pool.submit(next, items, None)
        while (item := ready.result()) is not None:
            ready = pool.submit(next, items, None)
            yield item
