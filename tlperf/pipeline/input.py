"""The one visible tf.data recipe: stored examples to uint8 batches.

    batches = training_batches(dataset, config, image_size=150, epoch=0)
    batches = evaluation_batches(dataset, config, split="test", image_size=150)
    for batch in batches: ...                      # Batch, on one device
    for batch in batches.distribute(compute): ...  # per replica under a strategy

Both recipes share read, decode, resize and batch; they differ in the plan only:
training takes full batches in the epoch's order, evaluation every image once, padded.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from tlperf.core.batch import Batch
from tlperf.core.choices import Encoding, Exif
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.manifest import Manifest
from tlperf.dataset.store import StoredDataset, StoredSplit
from tlperf.device.setup import Compute
from tlperf.pipeline.order import BatchPlan, plan_evaluation, plan_training

# Records fetched by one Python call: large enough that the call costs under 1 % of
# their decoding, small enough that the first batch comes soon.
_READ_GROUP = 16
# Groups read at once; reading is tens of times faster than decoding.
_READ_PARALLEL = 2
# Images that an error line names.
_NAMED = 20
# Batches ready ahead of the step: one being copied, one waiting.
_PREFETCH_BATCHES = 2


class RecordReader:
    """Reads groups of records for tf.data and keeps the error TensorFlow would blur."""

    def __init__(self, split: StoredSplit):
        self._split = split
        self.failure: TlperfError | None = None

    def __call__(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [G] to encoded bytes [G], labels int32 [G], orientations int32 [G]."""
        try:
            examples = self._split.read(index)
        except TlperfError as error:
            self.failure = error
            raise
        return (
            np.array([example.encoded for example in examples], dtype=object),
            np.array([example.label for example in examples], dtype=np.int32),
            np.array([example.orientation for example in examples], dtype=np.int32),
        )

    def name_undecodable(self, error: tf.errors.InvalidArgumentError) -> TlperfError:
        """The error that names every image TensorFlow cannot decode.

        TensorFlow's own names none, so the split is decoded once more, one by one.
        """
        bad = []
        for index in range(self._split.count):
            (example,) = self._split.read([index])
            try:
                tf.io.decode_jpeg(example.encoded, channels=3)
            except tf.errors.InvalidArgumentError:
                bad.append(example.filename)
        names = ", ".join(bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
        cause = error.message.splitlines()[0]
        return TlperfError(
            ExitCode.DATA,
            "bad_record",
            path=self._split.name,
            found=f"{len(bad)} of {self._split.count} images cannot be decoded: "
            f"{names or cause}",
            remedy="mend or remove them and shard again with --image_check=decode",
        )


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of one pass, with their plan.

    Attributes:
        dataset: yields Batch with the global batch size.
        plan: which examples make which batch.
        reader: what reads the records.
    """

    dataset: tf.data.Dataset
    plan: BatchPlan
    reader: RecordReader

    def __iter__(self) -> Iterator[Batch]:
        return self._named_errors(iter(self.dataset))

    def distribute(self, compute: Compute) -> Iterator[Batch]:
        """Each global batch on its device, or split evenly over the replicas.

        TensorFlow's own distributed datasets are not used: see `input_options`.
        """
        check_batch_size(self.plan.batch_size, compute.replicas)
        if compute.replicas > 1:
            return one_ahead(split_batch(batch, compute) for batch in self)
        dataset = self.dataset
        if compute.kind == "GPU":  # written for GPUs, not measured on one
            dataset = copied_ahead(dataset, compute.devices[0])
        return self._named_errors(iter(dataset))

    def _named_errors(self, iterator: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                if self.reader.failure is not None:
                    raise self.reader.failure from error
                if not isinstance(error, tf.errors.InvalidArgumentError):
                    raise  # memory, device: not the data's fault
                raise self.reader.name_undecodable(error) from error
            yield batch


def copied_ahead(dataset: tf.data.Dataset, device: str) -> tf.data.Dataset:
    """Batches copied to `device` while the step before them computes."""
    to_device = tf.data.experimental.prefetch_to_device(device, _PREFETCH_BATCHES)
    # Once more: the part on the device does not inherit the options.
    return dataset.apply(to_device).with_options(input_options())


def split_batch(batch: Batch, compute: Compute) -> Batch:
    """A global batch as per-replica values, each part on its replica's device."""
    with tf.device("CPU:0"):  # or TensorFlow would split some of them on the first GPU
        parts = [tf.split(value, compute.replicas) for value in batch]

    def part(context: tf.distribute.experimental.ValueContext) -> Batch:
        replica = context.replica_id_in_sync_group
        with tf.device(compute.devices[replica]):
            return Batch(*(tf.identity(pieces[replica]) for pieces in parts))

    return compute.strategy.experimental_distribute_values_from_function(part)


def one_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Makes each batch before the one before it is used."""
    iterator = iter(batches)
    try:
        ready = next(iterator)
    except StopIteration:
        return
    for batch in iterator:
        yield ready
        ready = batch
    yield ready


def check_batch_size(batch_size: int, replicas: int) -> None:
    """Refuses a global batch that replicas cannot share evenly (exit code 78)."""
    if batch_size % replicas:
        raise TlperfError(
            ExitCode.CONFIG,
            "indivisible_batch",
            found=f"--batch_size={batch_size} cannot be split over {replicas} replicas",
            remedy=f"give a multiple of {replicas}",
        )


def training_batches(
    dataset: StoredDataset, config: InputConfig, *, image_size: int, epoch: int
) -> Batches:
    """One epoch of the training split, in the order of (seed, epoch).

    Raises:
        TlperfError: 65 where the split has fewer images than a batch.
    """
    split = dataset.split("train")
    plan = plan_training(
        count=split.count, batch_size=config.batch_size, seed=config.seed, epoch=epoch
    )
    return _batches(split, dataset.manifest, plan, image_size=image_size)


def evaluation_batches(
    dataset: StoredDataset, config: InputConfig, *, split: str, image_size: int
) -> Batches:
    """Every image of a split exactly once, in stored order."""
    stored = dataset.split(split)
    plan = plan_evaluation(count=stored.count, batch_size=config.batch_size)
    return _batches(stored, dataset.manifest, plan, image_size=image_size)


def _batches(
    split: StoredSplit, manifest: Manifest, plan: BatchPlan, *, image_size: int
) -> Batches:
    reader = RecordReader(split)
    dataset = tf.data.Dataset.from_tensor_slices((plan.index, plan.weight))
    # In groups, before the parallel map: records are small, images are not.
    dataset = read_records(dataset, reader)
    # Decoding bounds the recipe, so this stage gets the cores.
    dataset = decode_records(dataset, manifest, image_size)
    # The plan holds whole batches only: drop_remainder makes the shape static.
    dataset = dataset.batch(plan.batch_size, drop_remainder=True)
    dataset = dataset.map(Batch)
    dataset = dataset.prefetch(_PREFETCH_BATCHES)
    return Batches(dataset.with_options(input_options()), plan, reader)


def read_records(dataset: tf.data.Dataset, reader: RecordReader) -> tf.data.Dataset:
    """(index, weight) to (encoded, orientation, label, weight, index), one a record."""

    def read(index: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        stored = tf.numpy_function(reader, [index], (tf.string, tf.int32, tf.int32))
        encoded, label, orientation = (tf.ensure_shape(x, [None]) for x in stored)
        return encoded, orientation, label, weight, index

    groups = dataset.batch(_READ_GROUP)
    return groups.map(read, num_parallel_calls=_READ_PARALLEL).unbatch()


def decode_records(
    dataset: tf.data.Dataset, manifest: Manifest, image_size: int
) -> tf.data.Dataset:
    """(encoded, orientation, *rest) to (image uint8 [S, S, 3], *rest)."""

    def decode(
        encoded: tf.Tensor, orientation: tf.Tensor, *rest: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        image = decode_image(encoded, orientation, manifest)
        return resize_image(image, image_size), *rest

    return dataset.map(decode, num_parallel_calls=usable_cores())


def input_options() -> tf.data.Options:
    """tf.data options of every recipe, in one place."""
    options = tf.data.Options()
    # Parallelism is written out in the recipe. TensorFlow 2.21's autotuner keeps a
    # thread that an iterator's destructor waits for: the end of a pass took up to 30 s,
    # in distributed datasets too, whose per-device part does not take these options.
    options.autotune.enabled = False
    # The order is the plan's, whatever thread ends first.
    options.deterministic = True
    # One process reads the plan: nothing is to be sharded behind its back.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return options


def decode_image(
    encoded: tf.Tensor, orientation: tf.Tensor, manifest: Manifest
) -> tf.Tensor:
    """Stored bytes to pixels: uint8 [H, W, 3], RGB.

    JPEG, PNG and one-frame GIF are told apart by content. `INTEGER_ACCURATE` is
    libjpeg's slow exact transform, pinned so that both formats and every version of the
    recipe give equal pixels.

    Args:
        encoded: string scalar, a file's bytes; raw pixels where the manifest says so.
        orientation: int32 scalar, EXIF 1..8; applied where the manifest says so.
        manifest: of the data directory.
    """
    if manifest.encoding == Encoding.RAW:
        side = manifest.image_size
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [side, side, 3])
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    if manifest.encoding == Encoding.SOURCE and manifest.exif == Exif.APPLY:
        image = turn_image(image, orientation)
    return image


def turn_image(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Applies an EXIF orientation: uint8 [H, W, 3], sides may swap (TIFF 6.0, 274)."""

    def transpose(x: tf.Tensor) -> tf.Tensor:
        return tf.transpose(x, [1, 0, 2])

    def mirror(x: tf.Tensor) -> tf.Tensor:
        return tf.reverse(x, [1])

    def flip(x: tf.Tensor) -> tf.Tensor:
        return tf.reverse(x, [0])

    turns = [
        lambda: image,  # 0 is no orientation: some cameras write it
        lambda: image,
        lambda: mirror(image),
        lambda: flip(mirror(image)),
        lambda: flip(image),
        lambda: transpose(image),
        lambda: mirror(transpose(image)),
        lambda: flip(mirror(transpose(image))),
        lambda: flip(transpose(image)),
    ]
    return tf.switch_case(tf.cast(orientation, tf.int32), turns, lambda: image)


def resize_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Bilinear to uint8 [S, S, 3], without antialiasing, as Keras' own loader does."""
    if image.shape[:2] == (image_size, image_size):
        return image
    resized = tf.image.resize(image, [image_size, image_size], method="bilinear")
    return tf.ensure_shape(
        tf.cast(tf.round(resized), tf.uint8), [image_size, image_size, 3]
    )
