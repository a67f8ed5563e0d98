"""How a worker of the data service makes a batch, of TensorFlow's operations alone.

    recipe = WorkerRecipe.of(dataset, "train", decoder=decoder)
    asked = recipe.distributed(plan, address="grpc://host:5050", options=options)

Python functions do not travel, so this is `tlperf.pipeline.load` once more: equal
order, checks and labels, pixels to within 1 of `--decode=exact`.
"""

import dataclasses
from typing import Self

import numpy as np
import tensorflow as tf

from tlperf.dataset.examples import ENCODED, LABEL, ORIENTATION
from tlperf.dataset.framing import FRAMING_BYTES
from tlperf.dataset.store import StoredDataset, StoredSplit
from tlperf.dataset.tfrecord import Places
from tlperf.pipeline.checksum import crc32c
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.endpoint import find_unreachable
from tlperf.pipeline.order import BatchPlan

# Steps that a worker loads at once: it goes on where the last images of one are slow.
_STEPS_AT_ONCE = 2

# By EXIF orientation, 0 to 8: whether rows and columns are exchanged, then whether
# columns and rows are reversed (as `tlperf.pipeline.decode.turn`).
_SWAPS = [orientation in (5, 6, 7, 8) for orientation in range(9)]
_FLIPS_X = [orientation in (2, 3, 6, 7) for orientation in range(9)]
_FLIPS_Y = [orientation in (3, 4, 7, 8) for orientation in range(9)]


@dataclasses.dataclass(frozen=True)
class WorkerRecipe:
    """How a worker makes the batches of one split.

    Attributes:
        split: whose records.
        files: path of each shard.
        decoder: what records become; always `exact`.
    """

    split: StoredSplit
    files: tuple[str, ...]
    decoder: Decoder

    @classmethod
    def of(cls, dataset: StoredDataset, split: str, *, decoder: Decoder) -> Self:
        """The recipe of a TFRecord split."""
        folder, shards = dataset.data_dir.resolve(), dataset.manifest.shards_of(split)
        return cls(
            split=dataset.split(split),
            files=tuple(str(folder / shard.file) for shard in shards),
            decoder=decoder,
        )

    def distributed(
        self, plan: BatchPlan, *, address: str, options: tf.data.Options
    ) -> tf.data.Dataset:
        """Asks the service for a plan's batches; waits until it knows of them.

        Returns:
            Yields (step int64, image uint8 [B, S, S, 3], label int32 [B]).

        Raises:
            tf.errors.UnavailableError: nothing answers there.
        """
        if found := find_unreachable(address):
            # TensorFlow would ask for ever, and could not be stopped.
            raise tf.errors.UnavailableError(None, None, found)
        service = tf.data.experimental.service
        served = self.batches(plan, options=options).apply(
            service.distribute(
                processing_mode=service.ShardingPolicy.DYNAMIC,
                service=address,
                # Requests at once: one a worker, TensorFlow's own choice. With fewer,
                # those that wait for dead workers leave none for the others.
                compression=None,  # pixels of photos hardly shrink
            )
        )
        return served.with_options(options)

    def batches(self, plan: BatchPlan, *, options: tf.data.Options) -> tf.data.Dataset:
        """What the workers run, in any order; a batch with a record that cannot be used
        is left out, for the client to load, skip or name."""
        places = self.split.find_places(plan.index)
        shape = (plan.steps, plan.batch_size)
        rows = Places(*(column.reshape(shape) for column in places))
        steps = np.arange(plan.steps, dtype=np.int64)

        def load_row(step: tf.Tensor, row: Places) -> tuple[tf.Tensor, ...]:
            images = (
                tf.data.Dataset.from_tensor_slices(row)
                # Without the autotuner this is the worker's number of cores.
                .map(self.load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .batch(plan.batch_size, drop_remainder=True)
            )
            return step, *images.get_single_element()

        def load_or_leave_out(step: tf.Tensor, row: Places) -> tf.data.Dataset:
            # Here, not around all: an error of the service itself is to be told.
            one = tf.data.Dataset.from_tensors((step, row))
            return one.map(load_row).ignore_errors()

        dataset = tf.data.Dataset.from_tensor_slices((steps, rows)).interleave(
            load_or_leave_out,
            cycle_length=_STEPS_AT_ONCE,
            num_parallel_calls=_STEPS_AT_ONCE,
            deterministic=False,
        )
        return dataset.with_options(options)

    def load(self, place: Places) -> tuple[tf.Tensor, tf.Tensor]:
        """The image, uint8 [S, S, 3], and the label, int32, of the record at a place,
        whose values are scalars."""
        path = tf.gather(tf.constant(self.files), place.shard)
        features = tf.io.parse_single_example(
            read_payload(path, place),
            {
                ENCODED: tf.io.FixedLenFeature([], tf.string),
                LABEL: tf.io.FixedLenFeature([], tf.int64),
                ORIENTATION: tf.io.FixedLenFeature([], tf.int64),
            },
        )
        image = decode_pixels(features[ENCODED], raw_size=self.decoder.raw_size)
        if self.decoder.turns:
            image = turn(image, features[ORIENTATION])
        side = self.decoder.image_size
        if self.decoder.raw_size != side:
            image = tf.cast(tf.round(tf.image.resize(image, [side, side])), tf.uint8)
        image = tf.ensure_shape(image, [side, side, 3])
        return image, tf.cast(features[LABEL], tf.int32)


def read_payload(path: tf.Tensor, place: Places) -> tf.Tensor:
    """The payload of a record, string, checked as `tlperf.dataset.tfrecord.read_record`
    does: its own checksums by TensorFlow, then that it is the one written there.

    A length that was forged together with its checksum ends the process: TensorFlow
    takes the memory first, and can read no part of a file but a record.
    """
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=place.size,
        byte_offsets=[place.offset],
    )
    payloads = tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))
    payload = payloads.take(1).get_single_element()
    length = tf.cast(tf.strings.length(payload), tf.int64)
    tf.debugging.assert_equal(length, place.size - FRAMING_BYTES)
    tf.debugging.assert_equal(tf.cast(crc32c(payload), tf.int64), place.crc)
    return payload


def decode_pixels(encoded: tf.Tensor, *, raw_size: int | None) -> tf.Tensor:
    """An image file, or raw pixels of that side: uint8 [H, W, 3]."""
    if raw_size:
        pixels = tf.io.decode_raw(encoded, tf.uint8)
        return tf.reshape(pixels, [raw_size, raw_size, 3])

    def jpeg() -> tf.Tensor:
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")

    def other() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)
    return tf.ensure_shape(image, [None, None, 3])


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Applies an EXIF orientation to uint8 [H, W, 3]; numbers that are none do
    nothing."""
    is_known = (orientation >= 1) & (orientation <= 8)
    number = tf.where(is_known, orientation, 1)
    swaps = tf.gather(tf.constant(_SWAPS), number)
    image = tf.transpose(image, tf.where(swaps, [1, 0, 2], [0, 1, 2]))
    flips = [tf.gather(tf.constant(table), number) for table in (_FLIPS_Y, _FLIPS_X)]
    axes = tf.boolean_mask(tf.constant([0, 1]), tf.stack(flips))
    return tf.ensure_shape(tf.reverse(image, axes), [None, None, 3])
