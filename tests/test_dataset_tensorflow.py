"""The stored files as TensorFlow and tfds read them. Slow to import, so all in here."""

import os

import numpy as np
import pytest

from tests.images import image_bytes, make_folder, read_all
from tlperf.core.choices import Encoding
from tlperf.core.settings import DataConfig
from tlperf.dataset import examples, framing
from tlperf.dataset.guard import Limits, RefusedError, check_image, decode_rgb
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset


@pytest.fixture(scope="module")
def tf(two_cpus):
    """TensorFlow, with the devices that the other tests expect."""
    import tensorflow

    return tensorflow


def test_messages_and_records_are_tensorflows(tf, tmp_path):
    made = examples.StoredExample(
        os.urandom(5000), 1, "dogs/é.jpg", 6, 20, 2**33, "ab" * 32
    )
    payload = examples.serialize_example(made, class_name="dogs")
    parsed = tf.train.Example.FromString(payload)
    assert parsed.SerializeToString(deterministic=True) == payload
    feature = parsed.features.feature
    assert sorted(feature) == [
        "image/class/label",
        "image/class/text",
        "image/encoded",
        "image/filename",
        "image/height",
        "image/key/sha256",
        "image/orientation",
        "image/width",
    ]
    assert feature["image/width"].int64_list.value == [2**33]
    assert feature["image/class/text"].bytes_list.value == [b"dogs"]
    with tf.io.TFRecordWriter(str(tmp_path / "tf")) as writer:
        writer.write(payload)
    assert (tmp_path / "tf").read_bytes() == framing.frame(payload)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A dataset, its training shard and what tlperf itself reads from it."""
    root = make_folder(tmp_path_factory.mktemp("s") / "pets", {"cats": 9, "dogs": 12})
    data_dir = tmp_path_factory.mktemp("shared")
    write_dataset(DataConfig(source=str(root), workers=1), data_dir)
    (path,) = data_dir.glob("pets-train.tfrecord-?????-of-00001")
    pairs = [(one.encoded, one.label) for one in read_all(data_dir)["train"]]
    assert len(pairs) == 12
    return data_dir, path, pairs


def test_tfds_reads_what_we_read(tf, shared):
    import tensorflow_datasets as tfds

    data_dir, _, pairs = shared
    dataset = tfds.builder_from_directory(str(data_dir)).as_dataset(
        split="train",
        decoders={"image/encoded": tfds.decode.SkipDecoding()},
        shuffle_files=False,
    )
    read = [
        (one["image/encoded"], one["image/class/label"])
        for one in tfds.as_numpy(dataset)
    ]
    assert read == pairs


def test_model_gardens_parser_reads_what_we_read(tf, shared):
    """The feature spec of its image classification decoder, for one label an image
    (official/vision/dataloaders/classification_input.py, tensorflow/models)."""
    _, path, pairs = shared
    spec = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/class/label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
    }
    read = []
    for record in tf.data.TFRecordDataset(str(path)):
        parsed = tf.io.parse_single_example(record, spec)
        values = parsed["image/encoded"], parsed["image/class/label"]
        read.append(tuple(value.numpy() for value in values))
    assert read == pairs


def test_dalis_reader_reads_what_we_read(shared):
    """Through our index file, on the CPU; DALI comes with the extra `peers`."""
    pytest.importorskip("nvidia.dali", reason="the extra peers is not installed")
    from nvidia.dali import fn, pipeline_def, tfrecord

    _, path, pairs = shared

    @pipeline_def(batch_size=len(pairs), num_threads=1, device_id=None)
    def read_shard():
        features = {
            "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        read = fn.readers.tfrecord(
            path=str(path), index_path=f"{path}.idx", features=features
        )
        return read["image/encoded"], read["image/class/label"]

    pipeline = read_shard()
    pipeline.build()
    encoded, labels = pipeline.run()
    read = [(bytes(encoded.at(i)), int(labels.at(i)[0])) for i in range(len(pairs))]
    assert read == pairs


@pytest.mark.parametrize("encoding", list(Encoding))
def test_tfds_reads_every_split(encoding, tf, tmp_path):
    import tensorflow_datasets as tfds

    root = make_folder(tmp_path / "my pets", {"cats": 5, "dogs": 5})
    (root / "cats" / "as_png.jpg").write_bytes(image_bytes(88, "PNG", mode="L"))
    data_dir = tmp_path / "data"
    values = DataConfig(source=str(root), encoding=encoding, image_size=16, workers=1)
    write_dataset(values, data_dir)
    builder = tfds.builder_from_directory(str(data_dir))
    assert builder.info.name == "my_pets"
    assert builder.info.features["image/class/label"].names == ["cats", "dogs"]
    with open_dataset(data_dir) as stored:
        for name in ("train", "validation", "test"):
            split = stored.split(name)
            assert builder.info.splits[name].num_examples == split.count
            ours = split.read(range(split.count))
            theirs = list(builder.as_dataset(split=name).as_numpy_iterator())
            assert len(theirs) == split.count
            for mine, row in zip(ours, theirs, strict=True):
                assert row["image/class/label"] == mine.label
                assert row["image/filename"].decode() == mine.filename
                assert row["image/key/sha256"].decode() == mine.sha256
                assert row["image/height"] == mine.height
                pixels = row["image/encoded"]
                if encoding is Encoding.RAW:
                    assert pixels.shape == (16, 16, 3)
                    assert pixels.tobytes() == mine.encoded
                else:
                    assert pixels.shape == (mine.height, mine.width, 3)


KINDS = {
    "jpeg": image_bytes(1),
    "progressive": image_bytes(2, progressive=True),
    "gray": image_bytes(3, mode="L"),
    "png": image_bytes(5, "PNG"),
    "alpha": image_bytes(6, "PNG", mode="RGBA"),
    "palette": image_bytes(7, "PNG", mode="P"),
    "gif": image_bytes(8, "GIF", mode="P"),
    "cmyk": image_bytes(4, mode="CMYK"),
}


def tensorflow_pixels(tf, data):
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return image.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_decodes_as_tensorflow_does(kind, tf):
    data = KINDS[kind]
    ours = decode_rgb(data, check_image(data, limits=Limits()).format)
    difference = np.abs(ours.astype(int) - tensorflow_pixels(tf, data))
    # CMYK is rounded differently in its conversion; the rest is bit-equal.
    assert difference.max() <= (1 if kind == "cmyk" else 0)


def test_what_is_accepted_tensorflow_decodes(tf):
    """300 damaged files: nothing that passes the guard fails later."""
    generator = np.random.default_rng(0)
    kinds = list(KINDS.values())
    accepted = 0
    for round_number in range(300):
        data = bytearray(kinds[round_number % len(kinds)])
        for _ in range(1 + round_number % 3):
            data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        if round_number % 5 == 0:
            del data[generator.integers(len(data)) :]
        try:
            facts = check_image(bytes(data), limits=Limits())
        except RefusedError:
            continue
        accepted += 1
        pixels = tensorflow_pixels(tf, bytes(data))
        assert pixels.shape == (facts.height, facts.width, 3)
    assert 60 < accepted < 260
