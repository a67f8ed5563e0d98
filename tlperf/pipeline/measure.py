"""How fast the input pipeline is alone, and where its time goes.

    measure_input(dataset, config, image_size=224, compute=compute, secs=3.0)

Each stage's ceiling is measured with every other stage taken out of its way, so the
lowest ceiling is what bounds the whole. Whether bytes came from the disk or from the
page cache is read from the system, not assumed.
"""

import concurrent.futures
import contextlib
import itertools
import pathlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.dataset.tfrecord import fresh_memory
from tlperf.device.setup import Compute
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.input import InputPipeline, input_options
from tlperf.pipeline.memory import Scratch

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
    decoder = Decoder.of(dataset.manifest, config.decode, image_size=image_size)
    # The rate of the whole is taken last: by then the data are where they will be.
    part_secs = secs / 4
    stages: dict[str, float | None] = {
        "read": _rate(_read_only(dataset), part_secs)[0],
        "decode": _rate(_decode_only(dataset, decoder), part_secs)[0],
        "augment": None,  # the device does it, inside the step
        "batch": _rate(_batch_only(config.batch_size, image_size), part_secs)[0],
        "transfer": _rate(
            _transfer_only(config.batch_size, image_size, compute), part_secs
        )[0],
    }
    disk_bytes = _bytes_from_disk()
    with (
        InputPipeline(dataset, config, image_size=image_size) as pipeline,
        contextlib.closing(_whole(pipeline, config.batch_size, compute)) as groups,
    ):
        rate, images, seconds = _rate(groups, secs)
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


def _whole(
    pipeline: InputPipeline, batch_size: int, compute: Compute
) -> Generator[int]:
    """Training batches of epoch after epoch."""
    for epoch in itertools.count():
        for _ in pipeline.training(epoch).distribute(compute):
            yield batch_size


def _read_only(dataset: StoredDataset) -> Iterator[int]:
    """Every record read, checked and parsed."""
    split = dataset.split("train")

    def read(number: int, scratch: Scratch) -> None:
        split.view(number, scratch.record)

    return _on_threads(read, range(split.count))


def _decode_only(dataset: StoredDataset, decoder: Decoder) -> Iterator[int]:
    """Records in memory decoded and resized, each into memory of its own."""
    split = dataset.split("train")
    images = min(split.count, _SAMPLE_IMAGES)
    views = [split.view(i, fresh_memory) for i in range(images)]
    side = decoder.image_size
    out = np.empty((len(views), side, side, 3), np.uint8)

    def decode(number: int, scratch: Scratch) -> None:
        decoder.decode_into(views[number], out[number], scratch)

    return _on_threads(decode, range(len(views)))


def _on_threads(work: Callable[[int, Scratch], None], numbers: range) -> Iterator[int]:
    """Does the work for all numbers over and over, on a thread a core, in memory
    that is used again, as in the pipeline; yields how many were done."""
    scratch = Scratch()

    def do(group: Sequence[int]) -> int:
        for number in group:
            work(number, scratch)
        return len(group)

    groups = [numbers[i : i + _GROUP] for i in range(0, len(numbers), _GROUP)]
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        while True:
            yield from pool.map(do, groups)


def _batch_only(batch_size: int, image_size: int) -> Iterator[int]:
    image = tf.zeros([image_size, image_size, 3], tf.uint8)
    images = tf.data.Dataset.from_tensors(image).repeat()
    batches = images.batch(batch_size, drop_remainder=True).prefetch(2)
    options = input_options(deterministic=True)
    return (batch_size for _ in batches.with_options(options))


def _transfer_only(batch_size: int, image_size: int, compute: Compute) -> Iterator[int]:
    shape = [batch_size, image_size, image_size, 3]
    with tf.device("CPU:0"):
        batch = tf.zeros(shape, tf.uint8)
    while True:
        with tf.device(compute.devices[0]):
            # Adding copies on every device; reading one number waits for it.
            int((batch + tf.constant(1, tf.uint8))[0, 0, 0, 0])
        yield batch_size
