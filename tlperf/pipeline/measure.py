"""How fast the input pipeline is alone, and where its time goes.

    measure_input(dataset, config, image_size=224, compute=compute, secs=3.0)

Each stage's ceiling is measured with every other stage taken out of its way, so the
lowest ceiling is what bounds the whole. Data come from the page cache after the first
pass: the rate says nothing about a cold disk.
"""

import time
from collections.abc import Callable, Iterable
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


def measure_input(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    secs: float = 3.0,
) -> dict[str, Any]:
    """The JSON of `input`; every rate is images a second over about `secs` seconds."""

    def whole() -> Iterable[Any]:
        epoch = 0
        while True:
            yield from training_batches(
                dataset, config, image_size=image_size, epoch=epoch
            )
            epoch += 1

    rate, batches, seconds = _rate(whole, config.batch_size, secs)
    stages: dict[str, float | None] = {
        "read": _rate(lambda: _read_only(dataset), 1, secs / 3)[0],
        "decode": _rate(lambda: _decode_only(dataset, image_size), 1, secs / 3)[0],
        "augment": None,  # no augmentation in this recipe
        "batch": _rate(
            lambda: _batch_only(config.batch_size, image_size),
            config.batch_size,
            secs / 3,
        )[0],
        "transfer": _rate(
            lambda: _transfer_only(config.batch_size, image_size, compute),
            config.batch_size,
            secs / 3,
        )[0],
    }
    measured = {name: value for name, value in stages.items() if value is not None}
    bottleneck = min(measured, key=lambda name: measured[name])
    return {
        "images_per_sec": rate,
        "batches": batches,
        "seconds": seconds,
        "stages": stages,
        "bottleneck": bottleneck,
        "batch_size": config.batch_size,
        "image_size": image_size,
        "data_from": "page cache",
        "device": compute.text,
    }


def _rate(
    make: Callable[[], Iterable[Any]], images: int, secs: float
) -> tuple[float, int, float]:
    """Images a second, items and seconds; the first item (start-up) is not timed."""
    iterator = iter(make())
    next(iterator)
    start, items = time.perf_counter(), 0
    for _ in iterator:
        items += 1
        if time.perf_counter() - start >= secs:
            break
    elapsed = time.perf_counter() - start
    return items * images / elapsed, items, elapsed


def _read_only(dataset: StoredDataset) -> Iterable[Any]:
    split = dataset.split("train")
    plan = plan_evaluation(count=split.count, batch_size=1)
    order = tf.data.Dataset.from_tensor_slices((plan.index, plan.weight)).repeat()
    return read_records(order, RecordReader(split)).with_options(input_options())


def _decode_only(dataset: StoredDataset, image_size: int) -> Iterable[Any]:
    split = dataset.split("train")
    examples = split.read(range(min(split.count, _SAMPLE_IMAGES)))
    records = tf.data.Dataset.from_tensor_slices(
        (
            [example.encoded for example in examples],
            [example.orientation for example in examples],
        )
    )
    decoded = decode_records(records.repeat(), dataset.manifest, image_size)
    # Iterating image by image would time Python: groups of 16 pass that by.
    grouped = decoded.batch(16).prefetch(2).with_options(input_options())
    return (image for group in grouped for image in range(len(group[0])))


def _batch_only(batch_size: int, image_size: int) -> Iterable[Any]:
    image = tf.zeros([image_size, image_size, 3], tf.uint8)
    images = tf.data.Dataset.from_tensors(image).repeat()
    return (
        images.batch(batch_size, drop_remainder=True)
        .prefetch(2)
        .with_options(input_options())
    )


def _transfer_only(batch_size: int, image_size: int, compute: Compute) -> Iterable[Any]:
    shape = [batch_size, image_size, image_size, 3]
    with tf.device("CPU:0"):
        batch = tf.zeros(shape, tf.uint8)
    while True:
        with tf.device(compute.devices[0]):
            # Adding copies on every device; reading one number waits for it.
            yield int((batch + tf.constant(1, tf.uint8))[0, 0, 0, 0])
