"""Record framing, messages and the readers, on shards of a few records."""

import os
import pickle
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_file
from tlperf.dataset import framing, hdf5, tfrecord
from tlperf.dataset.examples import (
    RecordError,
    StoredExample,
    parse_example,
    serialize_example,
)
from tlperf.dataset.manifest import ShardEntry, Written

CLASSES = ("cats", "dogs")


def example(index, *, payload=None):
    return StoredExample(
        encoded=bytes([index % 256]) * (index * 37 % 500)
        if payload is None
        else payload,
        label=index % 2,
        filename=f"{CLASSES[index % 2]}/{index}é.jpg",
        orientation=1 + index % 8,
        height=20 + index,
        width=2**33 + index,
        sha256=f"{index:064x}",
    )


EXAMPLES = [example(index) for index in range(50)]


def entry(file, written, count):
    return ShardEntry(
        file=file,
        split="train",
        count=count,
        bytes=written.bytes,
        sha256=written.sha256,
        labels={},
        sidecars=written.sidecars,
        plan="",
    )


@pytest.fixture
def tfrecords(tmp_path):
    """A reader over three shards of 20, 20 and 10 records."""
    shards = []
    for number, start in enumerate((0, 20, 40)):
        part = EXAMPLES[start : start + 20]
        path = tmp_path / f"s{number}"
        written = tfrecord.write_shard(path, part, classes=CLASSES)
        shards.append(entry(path.name, written, len(part)))
    reader = tfrecord.TfrecordReader(tmp_path, shards)
    yield reader
    reader.close()


@pytest.fixture
def hdf5_split(tmp_path):
    written = hdf5.write_split(
        tmp_path / "s.h5", EXAMPLES, classes=CLASSES, count=50, image_size=None
    )
    reader = hdf5.Hdf5Reader(tmp_path, [entry("s.h5", written, 50)])
    yield reader
    reader.close()


@given(
    encoded=st.binary(max_size=300),
    label=st.integers(0, 2**31),
    filename=st.text(st.characters(exclude_categories=["Cs"])),
    orientation=st.integers(1, 8),
)
def test_messages_give_the_example_back(encoded, label, filename, orientation):
    made = StoredExample(encoded, label, filename, orientation, 3, 4, "ab")
    assert parse_example(serialize_example(made, class_name="c")) == made


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"\xff\xff", "not an Example"),
        (b"", "Example without image/encoded, image/class/label"),
    ],
)
def test_refuses_other_messages(payload, text):
    with pytest.raises(RecordError, match=text):
        parse_example(payload)


def test_a_frame_has_known_bytes():
    # From TensorFlow's own writer: tf.io.TFRecordWriter(p).write(b"abc").
    assert framing.frame(b"abc").hex() == "0300000000000000b099490e6162636e57f121"


@given(payload=st.binary(max_size=64), position=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_passes(payload, position, bit):
    record = bytearray(framing.frame(payload))
    assert framing.unframe(bytes(record)) == payload
    record[position % len(record)] ^= 1 << bit
    with pytest.raises(RecordError):
        framing.unframe(bytes(record))


def test_a_hostile_length_is_refused_before_reading(tmp_path):
    length = (2**40).to_bytes(8, "little")
    crc = framing.masked_crc(length).to_bytes(4, "little")
    path = tmp_path / "bad"
    path.write_bytes(length + crc + bytes(20))
    with open(path, "rb") as stream, pytest.raises(RecordError, match="36 are left"):
        list(framing.iterate_records(stream, file_bytes=36))


def test_index_text():
    text = framing.format_index([20, 30, 16])
    assert text == "0 20\n20 30\n50 16\n"
    assert framing.parse_index(text.encode()).tolist() == [[0, 20], [20, 30], [50, 16]]


@pytest.mark.parametrize("text", [b"0", b"a b", b"0 20\n21 5\n", b"0 0\n", b"0 -4\n"])
def test_refuses_a_wrong_index(text):
    with pytest.raises(RecordError, match="index"):
        framing.parse_index(text)


@pytest.mark.parametrize("store", ["tfrecords", "hdf5_split"])
def test_reads_by_index_in_any_order(store, request):
    reader = request.getfixturevalue(store)
    for index in (0, 49, 20, 19, 39, 40, 7):
        assert reader.read(index) == EXAMPLES[index]
    reader.close()
    assert reader.read(3) == EXAMPLES[3]  # opens again


@pytest.mark.parametrize("store", ["tfrecords", "hdf5_split"])
def test_threads_read_the_same(store, request):
    reader = request.getfixturevalue(store)
    wrong = []

    def read_all(seed):
        for index in np.random.default_rng(seed).permutation(50):
            if reader.read(int(index)) != EXAMPLES[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_hdf5_layout_and_repeatability(tmp_path):
    import h5py

    written: list[Written] = []
    for name in ("a.h5", "b.h5"):
        time.sleep(1.1 * len(written))  # HDF5 would store times in whole seconds
        path = tmp_path / name
        written.append(
            hdf5.write_split(path, EXAMPLES, classes=CLASSES, count=50, image_size=None)
        )
        assert written[-1].sha256 == sha256_file(path)
        assert written[-1].bytes == os.path.getsize(path)
    assert written[0] == written[1]
    with h5py.File(tmp_path / "a.h5") as file:
        payload = b"".join(one.encoded for one in EXAMPLES)
        assert file["encoded"][()].tobytes() == payload
        assert file["encoded"].fletcher32
        assert file["offset"].dtype == np.uint64
        assert file["offset"][-1] == len(payload)
        assert file["label"].dtype == np.int64
        assert file["id"].asstr()[3] == EXAMPLES[3].filename
        assert file["class"].asstr()[3] == "dogs"


def test_hdf5_payloads_across_chunks(tmp_path):
    size = hdf5.CHUNK_BYTES
    # One below, exactly, one above a chunk; several chunks; nothing.
    sizes = [size - 1, 1, size, size + 1, 0, 3 * size + 5, 7]
    made = [
        example(index, payload=os.urandom(count)) for index, count in enumerate(sizes)
    ]
    written = hdf5.write_split(
        tmp_path / "s.h5", made, classes=CLASSES, count=len(made), image_size=None
    )
    reader = hdf5.Hdf5Reader(tmp_path, [entry("s.h5", written, len(made))])
    assert [reader.read(index) for index in range(len(made))] == made
    reader.close()


def test_hdf5_raw_layout(tmp_path):
    import h5py

    made = [example(index, payload=os.urandom(4 * 4 * 3)) for index in range(5)]
    written = hdf5.write_split(
        tmp_path / "s.h5", made, classes=CLASSES, count=5, image_size=4
    )
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["image"].shape == (5, 4, 4, 3)
        assert file["image"].chunks == (1, 4, 4, 3)
        assert file["image"].fletcher32
    reader = hdf5.Hdf5Reader(tmp_path, [entry("s.h5", written, 5)])
    assert [reader.read(index) for index in range(5)] == made
    reader.close()


@pytest.mark.parametrize("store", ["tfrecords", "hdf5_split"])
def test_a_damaged_record_is_named_and_the_others_are_read(store, request, tmp_path):
    reader = request.getfixturevalue(store)
    file, record = ("s1", 7) if store == "tfrecords" else ("s.h5", None)
    path = tmp_path / file
    data = bytearray(path.read_bytes())
    at = data.index(EXAMPLES[27].encoded)
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(TlperfError) as caught:
        reader.read(27)
    assert caught.value.code == ExitCode.INTEGRITY
    assert caught.value.record == record
    assert str(path) in caught.value.text()
    if store == "tfrecords":
        assert f"(source file {EXAMPLES[27].filename})" in caught.value.text()
        assert reader.read(26) == EXAMPLES[26]
        assert reader.read(28) == EXAMPLES[28]


def test_an_altered_index_is_refused(tfrecords, tmp_path):
    path = tmp_path / "s1.idx"
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(TlperfError, match=r"its \.idx differs from the manifest"):
        tfrecords.read(20)
    assert tfrecords.read(0) == EXAMPLES[0]


def test_errors_travel_between_processes():
    error = TlperfError(
        ExitCode.IO, "disk_full", path="a", found="b", remedy="c", shard=3, record=4
    )
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is TlperfError
    assert (back.text(), back.code, back.record) == (error.text(), error.code, 4)
