"""How fast the input pipeline is alone, and where its time goes.

    measure_input(dataset, config, image_size=224, compute=compute, secs=3.0)

Each stage's ceiling is measured with every other stage taken out of its way, so the
lowest ceiling is what bounds the whole. Whether bytes came from the disk or from the
page cache is read from the system, not assumed.
"""

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.pipeline.input import (
    RecordReader,
    decode_records,
    input_options,
    read_records,
    training_batches,
)
from tlperf.pipeline.order import plan_evaluation

# Images held in memory for the decode ceiling.
_SAMPLE_IMAGES = 256
# Records that one turn of a timing loop takes.
_GROUP = 16


def measure_input(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    secs: float = 3.0,
) -> dict[str, Any]:
    """The JSON of `input`; every rate is images a second over about `secs` seconds."""

    def whole() -> Iterator[int]:
        epoch = 0
        while True:
            batches = training_batches(
                dataset, config, image_size=image_size, epoch=epoch
            )
            for _ in batches.distribute(compute):
                yield config.batch_size
            epoch += 1

    # The rate of the whole is taken last: by then the data are where they will be.
    part_secs = secs / 4
    stages: dict[str, float | None] = {
        "read": _rate(_read_only(dataset), part_secs)[0],
        "decode": _rate(_decode_only(dataset, image_size), part_secs)[0],
        "augment": None,  # no augmentation in this recipe
        "batch": _rate(_batch_only(config.batch_size, image_size), part_secs)[0],
        "transfer": _rate(
            _transfer_only(config.batch_size, image_size, compute), part_secs
        )[0],
    }
    disk_bytes = _bytes_from_disk()
    rate, images, seconds = _rate(whole(), secs)
    from_disk = _bytes_from_disk() - disk_bytes
    measured = {name: value for name, value in stages.items() if value is not None}
    bottleneck = min(measured, key=lambda name: measured[name])
    return {
        "images_per_sec": rate,
        "batches": images // config.batch_size,
        "seconds": seconds,
        "stages": stages,
        "bottleneck": bottleneck,
        "batch_size": config.batch_size,
        "image_size": image_size,
        "data_from": "disk" if from_disk else "page cache",
        "bytes_from_disk": from_disk,
        "device": compute.text,
    }


def _rate(groups: Iterator[int], secs: float) -> tuple[float, int, float]:
    """Images a second, images and seconds; the first group (start-up) is not timed.

    Args:
        groups: yields how many images have just come.
        secs: stop after so many.
    """
    next(groups)
    start, images = time.perf_counter(), 0
    for count in groups:
        images += count
        if time.perf_counter() - start >= secs:
            break
    elapsed = time.perf_counter() - start
    return images / elapsed, images, elapsed


def _bytes_from_disk() -> int:
    """Bytes this process has read from storage so far (proc(5), /proc/PID/io)."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def _read_only(dataset: StoredDataset) -> Iterator[int]:
    split = dataset.split("train")
    plan = plan_evaluation(count=split.count, batch_size=1)
    order = tf.data.Dataset.from_tensor_slices((plan.index, plan.weight)).repeat()
    return _in_groups(read_records(order, RecordReader(split)))


def _decode_only(dataset: StoredDataset, image_size: int) -> Iterator[int]:
    split = dataset.split("train")
    examples = split.read(range(min(split.count, _SAMPLE_IMAGES)))
    records = tf.data.Dataset.from_tensor_slices(
        (
            [example.encoded for example in examples],
            [example.orientation for example in examples],
        )
    )
    return _in_groups(decode_records(records.repeat(), dataset.manifest, image_size))


def _in_groups(dataset: tf.data.Dataset) -> Iterator[int]:
    # Iterated record by record, the loop in Python would be what is timed.
    grouped = dataset.batch(_GROUP).prefetch(2).with_options(input_options())
    return (_GROUP for _ in grouped)


def _batch_only(batch_size: int, image_size: int) -> Iterator[int]:
    image = tf.zeros([image_size, image_size, 3], tf.uint8)
    images = tf.data.Dataset.from_tensors(image).repeat()
    batches = images.batch(batch_size, drop_remainder=True).prefetch(2)
    return (batch_size for _ in batches.with_options(input_options()))


def _transfer_only(batch_size: int, image_size: int, compute: Compute) -> Iterator[int]:
    shape = [batch_size, image_size, image_size, 3]
    with tf.device("CPU:0"):
        batch = tf.zeros(shape, tf.uint8)
    while True:
        with tf.device(compute.devices[0]):
            # Adding copies on every device; reading one number waits for it.
            int((batch + tf.constant(1, tf.uint8))[0, 0, 0, 0])
        yield batch_size
