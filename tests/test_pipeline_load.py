"""Loading batches: pixels as TensorFlow's, for any threads, caches and bad records."""

import io
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.images import exif_bytes, image_bytes, make_folder, make_image
from tlperf.core.choices import Cache, Decode, Encoding, Exif, Format, OnBadRecord
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.examples import (
    RecordError,
    RecordView,
    StoredExample,
    layout_of,
    parse_example,
    serialize_example,
)
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.load import Loader, PixelCache
from tlperf.pipeline.memory import ByteBudget, Recycler, Scratch, Workbench
from tlperf.pipeline.order import DRAWS, plan_evaluation, random_draws

MIB, GIB = 1 << 20, 1 << 30


@given(
    encoded=st.binary(max_size=300),
    label=st.integers(0, 2**63 - 1),
    filename=st.text(st.characters(exclude_categories=["Cs"])),
    width=st.integers(0, 2**40),
)
def test_a_layout_is_what_protobuf_reads(encoded, label, filename, width):
    made = StoredExample(encoded, label, filename, 3, 4, width, "ab")
    payload = serialize_example(made, class_name="c" * (width % 200))
    start, stop, *numbers = layout_of(payload)
    assert payload[start:stop] == encoded
    assert numbers == [label, 3, 4, width]


@given(st.binary(max_size=80), st.data())
def test_a_damaged_message_is_refused_or_read_as_protobuf_reads_it(tail, data):
    """What protobuf does not read may still have a layout, where the damage is outside
    of what input needs: a record's checksum is what tells."""
    made = StoredExample(b"abc", 1, "x", 1, 2, 3, "ab")
    payload = bytearray(serialize_example(made, class_name="c"))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    damaged = bytes(payload) + data.draw(st.sampled_from([b"", tail]))
    try:
        start, stop, *numbers = layout_of(damaged)
        one = parse_example(damaged)
    except RecordError:
        return
    assert damaged[start:stop] == one.encoded
    assert numbers == [one.label, one.orientation, one.height, one.width]


def view_of(data, *, orientation=1, size=(32, 24)):
    encoded = np.frombuffer(data, np.uint8)
    return RecordView(encoded, 0, orientation, size[1], size[0])


def decode(data, mode, side, *, orientation=1, turns=False):
    out = np.empty((side, side, 3), np.uint8)
    decoder = Decoder(image_size=side, decode=mode, raw_size=None, turns=turns)
    decoder.decode_into(view_of(data, orientation=orientation), out, Scratch(MIB))
    return out


def by_tensorflow(data, side):
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    resized = tf.image.resize(image, [side, side])
    return tf.cast(tf.round(resized), tf.uint8).numpy()


FILES = {
    "jpeg": image_bytes(1, size=(90, 61)),
    "jpeg 4:2:0": image_bytes(2, size=(91, 60), subsampling=2, quality=70),
    "progressive": image_bytes(3, size=(64, 64), progressive=True),
    "gray": image_bytes(4, mode="L"),
    "cmyk": image_bytes(5, mode="CMYK", size=(50, 40)),
    "tall": image_bytes(10, size=(30, 200)),
    "wide and progressive": image_bytes(12, size=(301, 150), progressive=True),
    "png": image_bytes(6, "PNG"),
    "png rgba": image_bytes(7, "PNG", mode="RGBA"),
    "png palette": image_bytes(8, "PNG", mode="P"),
    "gif": image_bytes(9, "GIF", mode="P"),
}


@pytest.mark.parametrize("side", [16, 48, 64])
@pytest.mark.parametrize("name", FILES)
def test_exact_pixels_are_tensorflows(two_cpus, name, side):
    ours, theirs = decode(FILES[name], Decode.EXACT, side), None
    theirs = by_tensorflow(FILES[name], side)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


@pytest.mark.parametrize("name", FILES)
def test_fast_pixels_are_close(name):
    for side in (16, 48):
        exact = decode(FILES[name], Decode.EXACT, side).astype(int)
        fast = decode(FILES[name], Decode.FAST, side)
        assert np.abs(exact - fast).mean() < 12


def test_fast_decodes_large_images_at_a_part_of_their_size():
    """At 1/4 here: each of its pixels is a mean, so thin lines turn to gray."""
    lines = np.zeros((256, 256, 3), np.uint8)
    lines[:, ::2] = 255
    stream = io.BytesIO()
    Image.fromarray(lines).save(stream, "JPEG", quality=95)
    fast = decode(stream.getvalue(), Decode.FAST, 64)
    exact = decode(stream.getvalue(), Decode.EXACT, 64)
    assert np.abs(fast.astype(int) - 128).max() < 16
    assert exact.std() < 40  # bilinear takes two neighbours: gray too, but not by size
    decoder = Decoder(image_size=200, decode=Decode.FAST, raw_size=None, turns=False)
    out = np.empty((200, 200, 3), np.uint8)
    decoder.decode_into(view_of(stream.getvalue(), size=(256, 256)), out, Scratch(MIB))
    assert out.std() > 25  # 256 pixels are less than twice 200


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", list(Decode))
def test_orientation_is_applied_before_the_resize(orientation, mode):
    data = image_bytes(11, size=(40, 24), exif=exif_bytes(orientation))
    turned = decode(data, mode, 24, orientation=orientation, turns=True)
    ignored = decode(data, mode, 24, orientation=orientation)
    assert np.array_equal(turned, ignored) == (orientation == 1)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"BM1234", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("mode", list(Decode))
def test_what_is_no_image_is_told(data, mode):
    with pytest.raises(RecordError, match="cannot be decoded"):
        decode(data, mode, 16)


def test_raw_pixels_of_another_size_are_told():
    decoder = Decoder(image_size=8, decode=Decode.EXACT, raw_size=8, turns=False)
    with pytest.raises(RecordError, match="191 bytes are no image"):
        decoder.decode_into(
            view_of(bytes(191)), np.empty((8, 8, 3), np.uint8), Scratch(MIB)
        )


# From here on, with a data directory.


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    root = make_folder(folder / "pets", {"cats": 30, "dogs": 30})
    for seed, name in enumerate(("a.png", "b.png")):
        make_image(500 + seed).save(root / "cats" / name)
    write_dataset(DataConfig(source=str(root), workers=1), folder / "data")
    with open_dataset(folder / "data") as dataset:
        yield dataset


def make_loader(dataset, *, split="train", **values):
    settings = {
        "cache": Cache.NONE,
        "on_bad_record": OnBadRecord.FAIL,
        **values,
    }
    mode = settings.pop("decode", Decode.EXACT)
    memory_bytes = settings.pop("memory_bytes", GIB)
    bench = Workbench(threads=settings.pop("threads", 2), memory_bytes=memory_bytes)
    decoder = Decoder.of(dataset.manifest, mode, image_size=20)
    return Loader(dataset.split(split), decoder, bench, **settings)


def load_all(loader, count, batch_size=8):
    plan = plan_evaluation(count=count, batch_size=batch_size)
    batches = zip(
        plan.index.reshape(-1, batch_size),
        plan.weight.reshape(-1, batch_size),
        strict=True,
    )
    return [loader(index, weight) for index, weight in batches]


@pytest.mark.parametrize("cache", [Cache.ENCODED, Cache.DECODED])
def test_a_cache_gives_the_same_and_reads_once(stored, cache, monkeypatch):
    split = stored.split("train")
    plain = load_all(make_loader(stored), split.count)
    loader = make_loader(stored, cache=cache)
    first = load_all(loader, split.count)
    monkeypatch.setattr(split._reader, "view", None)  # from here on, nothing is read
    second = load_all(loader, split.count)
    for one, two, three in zip(plain, first, second, strict=True):
        for a, b, c in zip(one, two, three, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_a_pixel_cache_survives_threads_that_race():
    def load(number, out):
        out[...] = number
        return number

    cache = PixelCache(load, (50, 4, 4, 3))
    wrong = []

    def use():
        out = np.empty((4, 4, 3), np.uint8)
        for number in [*range(50)] * 20:
            if cache(number, out) != number or (out != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tensorflow_takes_batches_as_they_are_and_gives_them_back(two_cpus):
    recycler = Recycler((4, 5, 6, 3))
    places: list[int] = []

    def make():
        array = recycler.take()
        array[...] = len(places) % 256
        places.append(array.ctypes.data)
        return array

    dataset = tf.data.Dataset.range(300).map(
        lambda _: tf.numpy_function(make, [], tf.uint8)
    )
    for number, tensor in enumerate(dataset):
        array = np.asarray(memoryview(tensor))  # numpy() would copy
        assert array.ctypes.data == places[number]
        assert (array == number % 256).all()
    assert all(place % 64 == 0 for place in places)
    # On a busy machine TensorFlow gives some back late.
    assert len(set(places)) < 150


def test_memory_is_not_used_again_while_a_view_of_it_is_held():
    recycler = Recycler((4, 5, 6, 3))
    first = recycler.take()
    first[...] = 1
    part = first[2].reshape(-1)[::2]
    del first
    recycler.take()[...] = 2
    assert (part == 1).all()
    place = part.__array_interface__["data"][0]
    del part
    taken = [recycler.take(), recycler.take()]
    inside = [one.ctypes.data <= place < one.ctypes.data + one.nbytes for one in taken]
    assert sum(inside) == 1


def test_scratch_is_used_again_unless_it_is_large():
    scratch = Scratch(1000)
    small = [scratch.record(size).ctypes.data for size in (100, 120, 10)]
    assert len(set(small)) == 1
    assert scratch.record(100).shape == (100,)
    other = scratch.array("wide", (2, 3, 3), np.float32)
    assert (other.shape, other.dtype) == ((2, 3, 3), np.float32)
    assert other.ctypes.data not in small
    seen: list[int] = []
    thread = threading.Thread(
        target=lambda: seen.append(scratch.record(100).ctypes.data)
    )
    thread.start()
    thread.join()
    assert seen[0] not in small
    scratch.record(900)  # with the other one it would be more than is to be kept
    assert sum(kept.nbytes for kept in scratch._kept.values()) <= 1000


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("memory_bytes", [10_000_000, GIB])
def test_what_threads_keep_is_part_of_the_memory(threads, memory_bytes):
    bench = Workbench(threads=threads, memory_bytes=memory_bytes)
    kept = bench.scratch._kept_bytes
    assert kept * (threads + 2) + bench.budget._total == memory_bytes
    assert bench.budget._total >= 0.6 * memory_bytes
    bench.close()


def test_a_byte_budget_holds():
    budget, held, most = ByteBudget(100), 0, 0
    lock = threading.Lock()

    def use():
        nonlocal held, most
        for _ in range(20):
            with budget.held(40):
                with lock:
                    held += 40
                    most = max(most, held)
                time.sleep(0.0005)
                with lock:
                    held -= 40

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 80
    with pytest.raises(TlperfError, match="an image takes 101 bytes") as caught:
        budget.held(101).__enter__()
    assert caught.value.code == ExitCode.MEMORY


def test_draws_are_uniform_and_a_formula_of_seed_epoch_and_index():
    draws = random_draws(np.arange(20_000), seed=1, epoch=2)
    assert draws.shape == (20_000, DRAWS)
    assert draws.dtype == np.float32
    assert 0 <= draws.min() < 0.001
    assert 0.999 < draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(DRAWS), atol=0.03)
    some = random_draws(np.array([7, 3]), seed=1, epoch=2)
    np.testing.assert_array_equal(some, draws[[7, 3]])
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert (random_draws(np.arange(9), **other) != draws[:9]).all()


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("file_format", list(Format))
def test_fast_and_exact_differ_in_image_files_alone(encoding, file_format, tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 6, "dogs": 6})
    values = DataConfig(
        source=str(root),
        workers=1,
        encoding=encoding,
        format=file_format,
        exif=Exif.APPLY,
        image_size=None if encoding is Encoding.SOURCE else 20,
    )
    write_dataset(values, tmp_path / "data")
    with open_dataset(tmp_path / "data") as dataset:
        count = dataset.split("train").count
        images = [
            load_all(make_loader(dataset, decode=mode), count)[0][0] for mode in Decode
        ]
    difference = np.abs(images[0].astype(int) - images[1]).max()
    assert (difference == 0) == (encoding is Encoding.RAW)
