"""The ceiling of each stage of input: how fast it is with the others out of its way.

measure_ceilings(dataset, config, image_size=224, compute=compute,
                 device_half=half, secs=1.0)      # {"read": 18000.0, ...}
"""

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tlperf.core.choices import Cache
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.dataset.tfrecord import fresh_memory
from tlperf.device.setup import Compute
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.input import Loaded, build_recipe, input_options, load_batch
from tlperf.pipeline.memory import Recycler, Scratch
from tlperf.pipeline.order import DRAWS
from tlperf.pipeline.rates import rate_of

# Images held in memory for the ceilings of decoding and of a cache's copies.
_SAMPLE_IMAGES = 256
# What a thread keeps of memory, as in the pipeline.
_SCRATCH_BYTES = 16 << 20
# Records that one turn of a timing loop takes.
_GROUP = 16
# Steps of one pass over batches without images in them.
_HAND_OVER_STEPS = 4096

# image uint8 [B, S, S, 3] and draw float32 [B, 4] to what the network takes.
DeviceHalf = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def measure_ceilings(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    device_half: DeviceHalf,
    secs: float,
) -> dict[str, float | None]:
    """Images a second of `read decode augment batch transfer`, `secs` seconds each;
    None for what every epoch after the first goes without, as decoding from raw pixels
    or from a cache."""
    decoder = Decoder.of(dataset.manifest, config.decode, image_size=image_size)
    stages: dict[str, Iterator[int] | None] = {
        "read": _read_only(dataset, decoder, config.batch_size),
        "decode": _decode_only(dataset, decoder),
        "augment": _augment_only(config, image_size, compute, device_half),
        "batch": _batch_only(config, image_size),
        "transfer": _transfer_only(config, image_size, compute),
    }
    if config.cache is not Cache.NONE:
        stages["read"] = None
    if config.cache is Cache.DECODED or decoder.is_copying():
        stages["decode"] = None
    return {
        name: rate_of(groups, secs=secs).images_per_sec if groups else None
        for name, groups in stages.items()
    }


def _read_only(
    dataset: StoredDataset, decoder: Decoder, batch_size: int
) -> Iterator[int]:
    """Every record read, checked and parsed; pixels to where they are wanted."""
    split = dataset.split("train")
    if not decoder.is_copying():

        def view(number: int, scratch: Scratch) -> None:
            split.view(number, scratch.record)

        return _on_threads(view, range(split.count))
    scratch = Scratch(_SCRATCH_BYTES)
    out = np.empty((batch_size, 3 * decoder.image_size**2), np.uint8)

    def read(numbers: np.ndarray) -> int:
        split.copy_images(numbers, out[: len(numbers)], scratch.record)
        return len(numbers)

    # One thread, as in the pipeline: two would take turns at Python's lock.
    starts = itertools.cycle(range(0, split.count, batch_size))
    return (
        read(np.arange(start, min(start + batch_size, split.count))) for start in starts
    )


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
    scratch = Scratch(_SCRATCH_BYTES)

    def do(group: Sequence[int]) -> int:
        for number in group:
            work(number, scratch)
        return len(group)

    groups = [numbers[i : i + _GROUP] for i in range(0, len(numbers), _GROUP)]
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        while True:
            yield from pool.map(do, groups)


def _augment_only(
    config: InputConfig, image_size: int, compute: Compute, device_half: DeviceHalf
) -> Iterator[int]:
    """The device half of a replica's part, on every replica at the same time."""
    part = config.batch_size // compute.replicas
    compiled = tf.function(device_half, jit_compile=compute.jit_compile)
    with tf.device(compute.devices[0]):
        image = tf.zeros([part, image_size, image_size, 3], tf.uint8)
        draw = tf.random.stateless_uniform([part, DRAWS], [0, config.seed])
        while True:
            float(compiled(image, draw)[0, 0, 0, 0])  # reading one number waits for it
            yield config.batch_size


def _batch_only(config: InputConfig, image_size: int) -> Iterator[int]:
    """Batches through the recipe as they are handed over, with nothing loaded; from a
    cache of pixels, with their copies."""
    shape = (config.batch_size, image_size, image_size, 3)
    arena = Recycler(shape)
    kept = None
    if config.cache is Cache.DECODED:
        kept = np.zeros((max(_SAMPLE_IMAGES, config.batch_size), *shape[1:]), np.uint8)

    def load(index: np.ndarray, weight: np.ndarray) -> Loaded:
        image = arena.take()
        if kept is not None:
            np.take(kept, index % len(kept), axis=0, out=image)
        return image, np.zeros(len(index), np.int32), weight

    recipe = build_recipe(
        functools.partial(load_batch, load, image_size),
        batch_size=config.batch_size,
        at_once=1,
        options=input_options(deterministic=True),
    )
    steps = (_HAND_OVER_STEPS, config.batch_size)
    index = np.arange(_HAND_OVER_STEPS * config.batch_size).reshape(steps)
    plan = index, np.ones(steps, np.float32), np.zeros((*steps, DRAWS), np.float32)
    while True:
        for _ in recipe(*plan):
            yield config.batch_size


def _transfer_only(
    config: InputConfig, image_size: int, compute: Compute
) -> Iterator[int]:
    """Batches from the host's memory to the devices, each its part."""
    part = config.batch_size // compute.replicas
    with tf.device("CPU:0"):
        image = tf.zeros([part, image_size, image_size, 3], tf.uint8)
    while True:
        for device in compute.devices:
            with tf.device(device):
                # Adding copies on every device; reading one number waits for it.
                int((image + tf.constant(1, tf.uint8))[0, 0, 0, 0])
        yield config.batch_size
