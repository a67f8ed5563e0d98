"""The ceiling of each stage of input: how fast it is with the others out of its way.

target = Target(224, compute, device_half)
measure_ceilings(dataset, config, target, secs=1.0)      # {"read": 18000.0, ...}
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Sequence

import numpy as np
import tensorflow as tf

from tlperf.core.choices import Cache, OnBadRecord
from tlperf.core.errors import TlperfError
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.examples import Memory, RecordError, RecordView
from tlperf.dataset.store import StoredDataset, StoredSplit
from tlperf.dataset.tfrecord import fresh_memory
from tlperf.device.setup import Compute
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.input import Loaded, build_recipe, input_options, load_batch
from tlperf.pipeline.load import is_left_out, name_record
from tlperf.pipeline.memory import Recycler, Scratch
from tlperf.pipeline.order import DRAWS
from tlperf.pipeline.rates import rate_of

# Images held in memory for the ceilings of decoding and of a cache's copies.
_SAMPLE_IMAGES = 256
# What a thread keeps of memory, as in the pipeline.
_SCRATCH_BYTES = 16 << 20
# Records that one turn of a timing loop takes, and turns that wait for each thread.
_GROUP, _WAITING = 16, 2
# Steps of one pass over batches without images in them.
_HAND_OVER_STEPS = 4096

# image uint8 [B, S, S, 3] and draw float32 [B, 4] to what the network takes.
DeviceHalf = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Target:
    """What input is for.

    Attributes:
        image_size: side in pixels.
        compute: where batches go.
        device_half: what the steps there begin with.
    """

    image_size: int
    compute: Compute
    device_half: DeviceHalf


def measure_ceilings(
    dataset: StoredDataset, config: InputConfig, target: Target, *, secs: float
) -> dict[str, float | None]:
    """Images a second of `read decode augment batch transfer`, `secs` seconds each;
    None for what every epoch after the first goes without, as decoding from raw pixels
    or from a cache.

    Raises:
        TlperfError: as of a pass, at a record that cannot be used, unless those are to
            be skipped.
    """
    decoder = Decoder.of(dataset.manifest, config.decode, image_size=target.image_size)
    records = _Records(dataset.split("train"), decoder, config.on_bad_record)
    has_read = config.cache is Cache.NONE
    has_decode = config.cache is not Cache.DECODED and not decoder.is_copying()
    stages: dict[str, Generator[int] | None] = {
        "read": _read_only(records, config.batch_size) if has_read else None,
        "decode": _decode_only(records) if has_decode else None,
        "augment": _augment_only(config, target),
        "batch": _batch_only(config, target.image_size),
        "transfer": _transfer_only(config, target),
    }
    return {
        name: rate_of(groups, secs=secs).images_per_sec if groups else None
        for name, groups in stages.items()
    }


@dataclasses.dataclass(frozen=True)
class _Records:
    """A split as a pass takes it: what cannot be used ends it or is left out."""

    split: StoredSplit
    decoder: Decoder
    on_bad_record: OnBadRecord

    def view(self, number: int, memory: Memory) -> RecordView | None:
        """The record, read and checked; None where it is left out."""
        try:
            return self.split.view(number, memory)
        except TlperfError as error:
            self._leave_out(error)
            return None

    def decode(
        self, number: int, view: RecordView, out: np.ndarray, scratch: Scratch
    ) -> None:
        """Fills `out`, uint8 [S, S, 3]."""
        try:
            self.decoder.decode_into(view, out, scratch)
        except RecordError as error:
            self._leave_out(name_record(self.split, number, error))

    def copy(self, numbers: np.ndarray, out: np.ndarray, memory: Memory) -> None:
        """Reads raw pixels to the rows of `out`."""
        try:
            self.split.copy_images(numbers, out, memory)
        except TlperfError as error:
            self._leave_out(error)

    def _leave_out(self, error: TlperfError) -> None:
        if not is_left_out(error, self.on_bad_record):
            raise error


def _read_only(records: _Records, batch_size: int) -> Generator[int]:
    """Every record read, checked and parsed; pixels to where they are wanted."""
    count, decoder = records.split.count, records.decoder
    if not decoder.is_copying():

        def read(number: int, scratch: Scratch) -> None:
            records.view(number, scratch.record)

        yield from _on_threads(read, range(count))
        return
    scratch = Scratch(_SCRATCH_BYTES)
    out = np.empty((batch_size, 3 * decoder.image_size**2), np.uint8)
    # One thread, as in the pipeline: two would take turns at Python's lock.
    for start in itertools.cycle(range(0, count, batch_size)):
        numbers = np.arange(start, min(start + batch_size, count))
        records.copy(numbers, out[: len(numbers)], scratch.record)
        yield len(numbers)


def _decode_only(records: _Records) -> Generator[int]:
    """Records in memory decoded and resized, each into memory of its own."""
    count = min(records.split.count, _SAMPLE_IMAGES)
    found = [(number, records.view(number, fresh_memory)) for number in range(count)]
    views = [(number, view) for number, view in found if view is not None]
    side = records.decoder.image_size
    out = np.empty((len(views), side, side, 3), np.uint8)

    def decode(row: int, scratch: Scratch) -> None:
        number, view = views[row]
        records.decode(number, view, out[row], scratch)

    yield from _on_threads(decode, range(len(views)))


def _on_threads(work: Callable[[int, Scratch], None], numbers: range) -> Generator[int]:
    """Does the work for all numbers over and over, on a thread a core, in memory that
    is used again, as in the pipeline; yields how many were done."""
    scratch = Scratch(_SCRATCH_BYTES)

    def do(group: Sequence[int]) -> int:
        for number in group:
            work(number, scratch)
        return len(group)

    groups = [numbers[i : i + _GROUP] for i in range(0, len(numbers), _GROUP)]
    cores = usable_cores()
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        endless = itertools.cycle(groups)
        # A few ahead, so that little is left to do when this is closed.
        ahead = collections.deque(
            pool.submit(do, next(endless)) for _ in range(_WAITING * cores)
        )
        while True:
            done = ahead.popleft().result()
            ahead.append(pool.submit(do, next(endless)))
            yield done


def _augment_only(config: InputConfig, target: Target) -> Generator[int]:
    """The device half of a replica's part on the first device, taken to go on at the
    same time on every other one."""
    compute = target.compute
    part = config.batch_size // compute.replicas
    compiled = tf.function(target.device_half, jit_compile=compute.jit_compile)
    device, side = compute.devices[0], target.image_size
    with tf.device(device):
        image = tf.zeros([part, side, side, 3], tf.uint8)
        draw = tf.random.stateless_uniform([part, DRAWS], [0, config.seed])
    while True:
        with tf.device(device):
            float(compiled(image, draw)[0, 0, 0, 0])  # reading one number waits for it
        yield config.batch_size


def _batch_only(config: InputConfig, image_size: int) -> Generator[int]:
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


def _transfer_only(config: InputConfig, target: Target) -> Generator[int]:
    """Batches from the host's memory to the devices, each its part."""
    devices, side = target.compute.devices, target.image_size
    with tf.device("CPU:0"):
        image = tf.zeros([config.batch_size // len(devices), side, side, 3], tf.uint8)
    while True:
        for device in devices:
            with tf.device(device):
                # Adding copies on every device; reading one number waits for it.
                int((image + tf.constant(1, tf.uint8))[0, 0, 0, 0])
        yield config.batch_size
