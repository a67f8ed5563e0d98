"""The recipe: order, exactly-once, equal tensors for every format and thread count."""

import collections
import dataclasses
import io
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.images import make_folder
from tlperf.core.choices import Encoding, Exif, Format
from tlperf.core.errors import TlperfError
from tlperf.core.settings import DataConfig, DeviceConfig, InputConfig
from tlperf.pipeline.order import plan_evaluation, plan_training, training_order

counts = st.integers(1, 300)


@given(counts, st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(count, seed, epoch):
    order = training_order(count=count, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_the_order_is_a_formula_that_never_changes():
    """A golden row: a resumed run on another machine has to see the same."""
    found = training_order(count=12, seed=3, epoch=5).tolist()
    assert found == [11, 9, 1, 0, 10, 6, 5, 4, 8, 2, 3, 7]


def test_orders_differ_by_seed_and_epoch():
    orders = {
        tuple(training_order(count=50, seed=seed, epoch=epoch))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


def test_every_place_gets_every_index_about_equally_often():
    """Chi-square of 4,000 epochs of 8 images: 49 degrees of freedom, 99.99 % < 95."""
    table = np.zeros((8, 8))
    for epoch in range(4000):
        order = training_order(count=8, seed=0, epoch=epoch)
        table[np.arange(8), order] += 1
    assert ((table - 500) ** 2 / 500).sum() < 95


@given(counts, st.integers(1, 64))
def test_evaluation_counts_every_image_once(count, batch_size):
    plan = plan_evaluation(count=count, batch_size=batch_size)
    assert len(plan.index) == plan.steps * batch_size
    assert plan.index[plan.weight > 0].tolist() == list(range(count))
    assert plan.weight.sum() == count
    assert len(plan.index) - count < batch_size


@given(counts, st.integers(1, 64))
def test_training_takes_whole_batches_and_says_what_it_left_out(count, batch_size):
    batch_size = min(batch_size, count)
    plan = plan_training(count=count, batch_size=batch_size, seed=0, epoch=0)
    assert len(plan.index) == plan.steps * batch_size
    assert len(set(plan.index)) + plan.dropped == count
    assert plan.dropped < batch_size


# From here on, with TensorFlow and real files.


def open_photos(folder, **changes):
    from tlperf.dataset.shard import write_dataset
    from tlperf.dataset.store import open_dataset

    config = DataConfig(source="photos", limit=40, workers=1, **changes)
    write_dataset(config, folder)
    return open_dataset(folder)


def all_batches(batches):
    return [tuple(np.asarray(value) for value in batch) for batch in batches]


def test_batches_have_the_contracts_types_and_shapes(two_cpus, photos_dir):
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    config = InputConfig(batch_size=8)
    with open_dataset(photos_dir) as dataset:
        batch = next(iter(InputPipeline(dataset, config, image_size=48).training(0)))
    assert (batch.image.dtype, batch.image.shape) == ("uint8", (8, 48, 48, 3))
    assert (batch.label.dtype, batch.label.shape) == ("int32", (8,))
    assert (batch.weight.dtype, batch.weight.shape) == ("float32", (8,))
    assert (batch.index.dtype, batch.index.shape) == ("int64", (8,))


def test_a_pass_never_asks_for_the_end_of_its_dataset(two_cpus, photos_dir):
    """Which is an error inside TensorFlow, on a thread beside the step's."""
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    with open_dataset(photos_dir) as dataset:
        pipeline = InputPipeline(dataset, InputConfig(batch_size=8), image_size=32)
        batches = pipeline.training(0)

        class Source:
            def __iter__(self):
                yield from batches.source
                raise AssertionError("asked past the plan")

        asked = dataclasses.replace(batches, source=Source())
        assert len([*asked.distribute(two_cpus)]) == batches.plan.steps


def test_training_order_labels_and_ids_are_the_plans(two_cpus, photos_dir):
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    with open_dataset(photos_dir) as dataset:
        split = dataset.split("train")
        batches = InputPipeline(
            dataset, InputConfig(batch_size=7, seed=4), image_size=32
        ).training(2)
        rows = all_batches(batches)
        labels = [example.label for example in split.read(range(split.count))]
        count = split.count
    index = np.concatenate([row[3] for row in rows])
    expected = training_order(count=count, seed=4, epoch=2)[: len(index)]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(
        np.concatenate([row[1] for row in rows]), np.array(labels)[index]
    )


@pytest.mark.parametrize("encoding", list(Encoding))
def test_both_formats_give_equal_tensors_in_equal_order(two_cpus, tmp_path, encoding):
    from tlperf.pipeline.input import InputPipeline

    size = None if encoding is Encoding.SOURCE else 40
    rows = {}
    for kind in Format:
        dataset = open_photos(
            tmp_path / kind, format=kind, encoding=encoding, image_size=size
        )
        config = InputConfig(batch_size=8, seed=1)
        with dataset:
            rows[kind] = [
                *all_batches(InputPipeline(dataset, config, image_size=40).training(1)),
                *all_batches(
                    InputPipeline(dataset, config, image_size=40).evaluation("test")
                ),
            ]
    for one, two in zip(rows[Format.TFRECORD], rows[Format.HDF5], strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_raw_pixels_are_those_of_the_stored_jpeg_size(two_cpus, tmp_path):
    """With raw storage the recipe neither decodes nor resizes."""
    from tlperf.pipeline.input import InputPipeline

    dataset = open_photos(tmp_path, encoding=Encoding.RAW, image_size=40)
    with dataset:
        (example,) = dataset.split("test").read([0])
        batches = InputPipeline(
            dataset, InputConfig(batch_size=4), image_size=40
        ).evaluation("test")
        first = next(iter(batches)).image[0]
    stored = np.frombuffer(example.encoded, np.uint8).reshape(40, 40, 3)
    np.testing.assert_array_equal(first, stored)


def test_evaluation_delivers_every_image_once_to_two_replicas(mirrored, photos_dir):
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    with open_dataset(photos_dir) as dataset:
        count = dataset.split("train").count
        batches = InputPipeline(
            dataset, InputConfig(batch_size=10), image_size=32
        ).evaluation("train")
        seen: collections.Counter[int] = collections.Counter()
        for batch in batches.distribute(mirrored):
            local = mirrored.strategy.experimental_local_results
            parts = zip(local(batch.index), local(batch.weight), strict=True)
            for index, weight in parts:
                assert index.shape == (5,)
                seen.update(index.numpy()[weight.numpy() > 0].tolist())
    assert seen == {index: 1 for index in range(count)}


def test_batches_are_copied_ahead_in_order(two_cpus, photos_dir):
    """The path that GPUs take, to the second logical CPU."""
    from tlperf.dataset.store import open_dataset
    from tlperf.device.setup import setup_compute
    from tlperf.pipeline.input import InputPipeline

    compute = dataclasses.replace(setup_compute(DeviceConfig()), devices=("CPU:1",))
    config = InputConfig(batch_size=8)
    with (
        open_dataset(photos_dir) as dataset,
        InputPipeline(dataset, config, image_size=32) as pipeline,
    ):
        start = time.perf_counter()
        copied = list(pipeline.training(0).distribute(compute))
        secs = time.perf_counter() - start
    expected = training_order(count=24, seed=0, epoch=0)
    np.testing.assert_array_equal(np.concatenate([b.index for b in copied]), expected)
    assert "CPU:1" in copied[0].image.device
    assert secs < 5  # no waiting for an autotuner's thread


def test_the_next_item_is_made_while_one_is_used():
    from tlperf.device.deliver import one_ahead

    made = []

    def items():
        for number in range(3):
            made.append(number)
            yield number

    asked = one_ahead(items())
    assert next(asked) == 0
    deadline = time.monotonic() + 10
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]
    assert list(asked) == [1, 2]


def test_what_making_an_item_raises_is_raised_in_its_place():
    from tlperf.device.deliver import one_ahead

    asked = one_ahead(1 // number for number in (1, 0))
    assert next(asked) == 1
    with pytest.raises(ZeroDivisionError):
        next(asked)


def test_leaving_ends_the_thread():
    from tlperf.device.deliver import one_ahead

    asked = one_ahead(iter(range(9)))
    assert next(asked) == 0
    asked.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("tlperf-ahead")]


def test_a_batch_that_replicas_cannot_share_is_refused(mirrored, photos_dir):
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    with open_dataset(photos_dir) as dataset:
        batches = InputPipeline(
            dataset, InputConfig(batch_size=7), image_size=32
        ).training(0)
        with pytest.raises(TlperfError, match="give a multiple of 2") as caught:
            next(batches.distribute(mirrored))
    assert (caught.value.code, caught.value.reason) == (78, "indivisible_batch")


def test_a_split_smaller_than_a_batch_is_refused(two_cpus, photos_dir):
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    with open_dataset(photos_dir) as dataset:
        with pytest.raises(TlperfError, match="24 images, a batch needs 32") as caught:
            InputPipeline(dataset, InputConfig(), image_size=32).training(0)
    assert (caught.value.code, caught.value.reason) == (65, "too_few_images")
    assert "--batch_size=24" in str(caught.value)


def test_a_damaged_record_is_named_not_blurred(two_cpus, tmp_path):
    from tlperf.pipeline.input import InputPipeline

    dataset = open_photos(tmp_path)
    (shard,) = tmp_path.glob("*test.tfrecord-*-of-00001")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    batches = InputPipeline(
        dataset, InputConfig(batch_size=4), image_size=32
    ).evaluation("test")
    with dataset, pytest.raises(TlperfError) as caught:
        list(batches)
    assert caught.value.code == 76
    assert shard.name in str(caught.value)
    assert "record" in str(caught.value)


@pytest.mark.I4
def test_undecodable_images_are_all_named(two_cpus, tmp_path):
    """Sound records of images that only a decoder finds wrong: planted unchecked."""
    from tlperf.core.choices import ImageCheck
    from tlperf.dataset.shard import write_dataset
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    root = make_folder(tmp_path / "pets", {"cats": 60, "dogs": 40})
    for path in sorted(root.glob("cats/*"))[:20]:
        data = path.read_bytes()
        at = data.index(b"\xff\xdb")  # a quantisation table becomes a comment
        path.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
    source = DataConfig(source=str(root), workers=1, image_check=ImageCheck.HEADER)
    assert write_dataset(source, tmp_path / "unchecked")["accepted"] == 100
    with open_dataset(tmp_path / "unchecked") as dataset:
        stored = dataset.split("train")
        names = [example.filename for example in stored.read(range(stored.count))]
        planted = [n for n in names if n.startswith("cats/0") and n < "cats/020"]
        batches = InputPipeline(
            dataset, InputConfig(batch_size=4), image_size=32
        ).evaluation("train")
        with pytest.raises(TlperfError) as caught:
            list(batches)
    assert len(planted) > 5
    assert (caught.value.code, caught.value.reason) == (65, "bad_record")
    found = caught.value.found
    assert found.startswith(f"{len(planted)} of 60 images cannot be used: {planted[0]}")
    for name in planted:
        assert f"{name}: cannot be decoded (" in found
    assert found.count(" at pets-train.tfrecord-00000-of-00001[") == len(planted)
    # What ingest is for: checked, all twenty are refused, and training meets none.
    checked = DataConfig(source=str(root), workers=1, max_bad=20)
    assert write_dataset(checked, tmp_path / "checked")["quarantined"] == 20


def upright():
    """A picture whose four corners differ, as a PNG's pixels."""
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[0, 0], pixels[0, -1] = (250, 0, 0), (0, 250, 0)
    pixels[-1, 0], pixels[-1, -1] = (0, 0, 250), (250, 250, 0)
    return pixels


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientations_equal_pillows(orientation):
    from PIL import ImageOps

    from tlperf.pipeline.decode import turn

    image = Image.fromarray(upright())
    exif = image.getexif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)))
    np.testing.assert_array_equal(turn(upright(), orientation), expected)


@pytest.mark.parametrize("exif", list(Exif))
def test_orientation_is_applied_only_on_request(two_cpus, tmp_path, exif):
    from tlperf.dataset.shard import write_dataset
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline

    for label, shade in (("a", 40), ("b", 200)):
        folder = tmp_path / "source" / label
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = np.full((40, 40, 3), shade + number, np.uint8)
            pixels[:20] = 128  # the upper half is grey before turning
            image = Image.fromarray(pixels)
            tags = image.getexif()
            tags[0x0112] = 3  # turned by 180 degrees
            image.save(folder / f"{number}.jpg", quality=95, exif=tags)
    data_dir = tmp_path / "data"
    write_dataset(DataConfig(source=str(tmp_path / "source"), exif=exif), data_dir)
    with open_dataset(data_dir) as dataset:
        batches = InputPipeline(
            dataset, InputConfig(batch_size=2), image_size=40
        ).evaluation("test")
        delivered = np.asarray(next(iter(batches)).image[0])
    upper_is_grey = abs(int(delivered[5, 20, 0]) - 128) < 4
    assert upper_is_grey == (exif is Exif.IGNORE)
