"""What is in a data directory: figures, the picture, near duplicates, their text."""

import io
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.images import exif_bytes, image_bytes, make_folder, make_image
from tlperf import cli
from tlperf.core.choices import Encoding, Exif
from tlperf.core.errors import ExitCode, SettingsError
from tlperf.core.settings import DataConfig
from tlperf.dataset.examples import StoredExample
from tlperf.dataset.inspect import decode_small, inspect_dataset
from tlperf.dataset.near_duplicates import (
    HashedImage,
    load_hasher,
    report_near_duplicates,
    search_pairs,
)
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.sheet import Picture, Sheet, SheetRow, plan_bins, write_sheet
from tlperf.dataset.thumbnails import decode_example
from tlperf.reporting.terminal import render_inspect


def store(root, data_dir, **values):
    write_dataset(DataConfig(source=str(root), workers=1, **values), data_dir)
    return data_dir


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    root = make_folder(folder / "pets", {"cats": 20, "dogs": 10})
    return store(root, folder / "data")


def test_inspect_measures_and_draws(pets, tmp_path):
    png = tmp_path / "sheet.png"
    report = inspect_dataset(pets, png=png)
    assert report["splits"]["train"] == {"cats": 12, "dogs": 6}
    assert report["images"] == 30
    heights = report["sizes"]["train"]["height"]
    assert 20 <= heights["min"] <= heights["median"] <= heights["max"] <= 32
    assert (report["png_rows_left_out"], report["png_classes_left_out"]) == (0, 0)
    assert png.read_bytes()[:4] == b"\x89PNG"


def test_keys_of_the_result(pets):
    report = inspect_dataset(pets)
    assert list(report) == [
        *("name", "format", "encoding", "image_size", "exif", "classes", "splits"),
        *("images", "bytes", "shards", "quarantined", "duplicates", "ignored"),
        *("reasons", "flags", "digest", "sizes"),
    ]
    assert set(report["sizes"]["test"]) == {"height", "width", "payload_bytes"}


# The picture.


def draw(tmp_path, *, classes, sizes, shown=3, rows_left_out=0):
    """Size in pixels of the picture of made-up figures."""
    counts = {name: index % 7 for index, name in enumerate(classes)}
    picture = Picture.of(make_image(1))
    sheet = Sheet(
        title="pets",
        classes=classes,
        splits={"train": counts, "validation": counts, "test": counts},
        sizes={name: np.array(values) for name, values in sizes.items()},
        rows=[SheetRow("train", classes[0], shown, [picture] * shown)],
        rows_left_out=rows_left_out,
    )
    write_sheet(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        image.load()
        return image.size


VARIED = {"width": [20, 500], "height": [30, 40], "payload_bytes": [9, 4000]}
EQUAL = {"width": [150] * 2, "height": [99] * 2, "payload_bytes": [5000] * 2}
SKEWED = {name: [10] * 99 + [9000] for name in VARIED}


@pytest.mark.parametrize("sizes", [VARIED, EQUAL, SKEWED])
def test_every_kind_of_sizes_is_drawn(tmp_path, sizes):
    assert draw(tmp_path, classes=("cats", "dogs"), sizes=sizes)[0] == 1320


def test_names_are_data_to_the_picture(tmp_path):
    # A formula that does not parse, a script without glyphs, a terminal's escape.
    draw(tmp_path, classes=("a $\\frac{", "猫", "\x1b[2J" * 30), sizes=VARIED)


def test_rows_may_be_empty(tmp_path):
    draw(tmp_path, classes=("cats", "dogs"), sizes=VARIED, shown=0)


def test_the_picture_grows_with_classes_only_to_its_cap(tmp_path):
    def height(count):
        names = [f"breed {number}" for number in range(count)]
        return draw(tmp_path, classes=names, sizes=VARIED, rows_left_out=9)[1]

    assert height(5) < height(30) == height(31) == height(200)


def test_what_the_picture_leaves_out_is_counted(tmp_path):
    root = make_folder(tmp_path / "many", {f"class {i:02d}": 3 for i in range(32)})
    report = inspect_dataset(store(root, tmp_path / "data"), png=tmp_path / "s.png")
    assert report["png_classes_left_out"] == 2
    assert report["png_rows_left_out"] == 3 * 32 - 30
    text = render_inspect(report)
    assert text.endswith("s.png (2 classes without bars, 66 rows of images not shown)")


def test_a_shown_image_is_small_and_tells_its_size():
    picture = Picture.of(make_image(1, width=900, height=300))
    assert (picture.width, picture.height) == (900, 300)
    assert picture.image.size == (320, 107)


@given(st.lists(st.integers(1, 100_000), min_size=1))
def test_bins_hold_every_value(values):
    bins = plan_bins(np.array(values))
    assert 1 <= len(bins.edges) - 1 <= 40
    assert (np.diff(bins.edges) > 0).all()
    assert np.histogram(values, bins.edges)[0].sum() == len(values)


# Near duplicates.


@given(st.data(), st.integers(0, 64))
def test_the_search_finds_what_a_double_loop_finds(data, distance):
    # Few set bits: hashes that are near each other, and equal ones.
    sparse = st.sets(st.integers(0, 63), max_size=4).map(
        lambda places: sum(1 << place for place in places)
    )
    hashes = data.draw(st.lists(sparse | st.integers(0, 2**64 - 1), max_size=30))
    block = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    rows: list[int] = []
    found = search_pairs(
        np.array(hashes, dtype=np.uint64),
        distance=distance,
        advance=rows.append,
        block=block,
    )
    triples = [
        triple
        for part in found
        for triple in zip(*(values.tolist() for values in part), strict=True)
    ]
    expected = [
        (first, second, (hashes[first] ^ hashes[second]).bit_count())
        for first, second in itertools.combinations(range(len(hashes)), 2)
        if (hashes[first] ^ hashes[second]).bit_count() <= distance
    ]
    assert sorted(triples) == expected
    assert sum(rows) == len(hashes)


def test_pairs_are_counted_across_splits_and_classes():
    images = [
        HashedImage("c", "train", "cats", 0b000),
        HashedImage("a", "train", "cats", 0b001),
        HashedImage("d", "test", "cats", 0b111),
        HashedImage("b", "test", "dogs", 0b001),
        HashedImage("e", "test", "dogs", 2**64 - 1),
    ]
    report = report_near_duplicates(images, distance=2)
    examples = report.pop("examples")
    assert report == {
        "distance": 2,
        "pairs": 5,
        "images": 4,
        "across_splits": 3,
        "across_classes": 3,
    }
    assert [(row["a"], row["b"], row["bits"]) for row in examples] == [
        *[("a", "b", 0), ("a", "c", 1), ("b", "c", 1), ("a", "d", 2), ("b", "d", 2)]
    ]
    assert examples[1] == {
        **{"a": "a", "b": "c", "bits": 1},
        **{"split_a": "train", "split_b": "train"},
        **{"class_a": "cats", "class_b": "cats"},
    }


@pytest.mark.parametrize(("count", "pairs"), [(0, 0), (1, 0), (2, 1), (30, 435)])
def test_only_the_nearest_pairs_are_shown(count, pairs):
    images = [HashedImage(f"{i:03d}", "train", "cats", 5) for i in range(count)]
    report = report_near_duplicates(images, distance=0)
    assert (report["pairs"], report["images"]) == (pairs, count if pairs else 0)
    shown = [(row["a"], row["b"]) for row in report["examples"]]
    first = itertools.combinations([image.id for image in images], 2)
    assert shown == list(first)[:20]


def reencode(seed, scale, quality):
    """A copy of `make_image(seed)`, 480 x 360, as people make them."""
    size = (round(480 * scale), round(360 * scale))
    image = make_image(seed, width=480, height=360).resize(size)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """40 distinct images in two classes, and a copy of one in each class."""
    root = tmp_path_factory.mktemp("copied") / "pets"
    for class_name, seeds in (("cats", range(20)), ("dogs", range(20, 40))):
        (root / class_name).mkdir(parents=True)
        for seed in seeds:
            file = root / class_name / f"{seed:02d}.jpg"
            file.write_bytes(image_bytes(seed, size=(480, 360)))
    (root / "cats" / "small.jpg").write_bytes(reencode(3, 0.3, 80))
    (root / "dogs" / "coarse.jpg").write_bytes(reencode(5, 1, 40))
    return root


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"encoding": Encoding.JPEG, "image_size": 150},
        {"encoding": Encoding.RAW, "image_size": 64},
    ],
)
def test_copies_are_found_and_distinct_images_are_not(copied, tmp_path, layout):
    data_dir = store(copied, tmp_path / "data", **layout)
    found = inspect_dataset(data_dir, near_duplicates=6)["near_duplicates"]
    pairs = [(row["a"], row["b"]) for row in found["examples"]]
    assert sorted(pairs) == [
        ("cats/03.jpg", "cats/small.jpg"),
        ("cats/05.jpg", "dogs/coarse.jpg"),
    ]
    assert (found["pairs"], found["images"], found["across_classes"]) == (2, 4, 1)
    apart = [row["split_a"] != row["split_b"] for row in found["examples"]]
    assert found["across_splits"] == sum(apart)


@pytest.mark.parametrize(("exif", "pairs"), [(Exif.APPLY, 1), (Exif.IGNORE, 0)])
def test_images_are_compared_as_the_dataset_shows_them(tmp_path, exif, pairs):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    upright = make_image(50, width=200, height=150)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    upright.save(root / "cats" / "upright.jpg", quality=95)
    lying.save(root / "cats" / "lying.jpg", quality=95, exif=exif_bytes(6))
    data_dir = store(root, tmp_path / "data", exif=exif)
    found = inspect_dataset(data_dir, near_duplicates=4)["near_duplicates"]
    assert found["pairs"] == pairs


@pytest.mark.parametrize("distance", [-1, 65])
def test_a_distance_out_of_range_is_refused(pets, distance):
    with pytest.raises(SettingsError) as caught:
        inspect_dataset(pets, near_duplicates=distance)
    assert caught.value.text() == (
        f"bad_setting: near_duplicates is {distance}; "
        "give 0 to 64 differing bits; 6 finds copies of other sizes"
    )


def test_without_the_library_one_line_says_what_to_install(pets):
    code = (
        "import sys\n"
        "sys.modules['imagehash'] = None\n"  # as if it were not installed
        "from tlperf.cli import main\n"
        f"data = '--data_dir={pets}'\n"
        "assert main(['inspect', data]) == 0\n"
        "sys.exit(main(['inspect', data, '--near_duplicates=6']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == ExitCode.UNAVAILABLE
    assert ended.stderr.startswith(
        "tlperf inspect: E69 missing_library: near duplicates need the library "
        "imagehash ("
    )
    assert ended.stderr.endswith("; pip install 'tlperf[dedup]'\n")
    assert ended.stderr.count("\n") == 1


# Decoding for a hash.


def example_of(encoded, *, height=24, width=32):
    return StoredExample(encoded, 0, "a", 1, height, width, "")


@pytest.mark.parametrize(
    ("encoded", "shape"),
    [
        (image_bytes(1, size=(1024, 512)), (128, 256)),
        (image_bytes(1, size=(90, 600)), (600, 90)),  # no fraction keeps 128
        (image_bytes(1, mode="CMYK", size=(1024, 512)), (128, 256)),
        (image_bytes(1, "PNG", size=(300, 200)), (200, 300, 3)),
        (image_bytes(1, "GIF", size=(300, 200)), (200, 300, 3)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_its_hash_needs(encoded, shape):
    pixels = decode_small(example_of(encoded), encoding="source")
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)


def test_raw_pixels_are_hashed_as_they_are():
    pixels = np.asarray(make_image(1))
    example = example_of(pixels.tobytes())
    for decode in (decode_small, decode_example):
        np.testing.assert_array_equal(decode(example, encoding="raw"), pixels)


def test_the_small_decode_moves_a_hash_by_few_bits():
    hasher = load_hasher(distance=0)
    for seed in range(20):
        example = example_of(image_bytes(seed, size=(500, 375)))
        small, whole = (
            hasher(Image.fromarray(decode(example, encoding="source")))
            for decode in (decode_small, decode_example)
        )
        assert 0 < whole < 2**64
        # Photos: 4 at most. These are so smooth that more lies close to the median.
        assert (small ^ whole).bit_count() <= 6


# The text.

TEXT = """\
pets: 12 images of 2 classes, 1.5 KiB in 3 shards
stored as hdf5, encoding jpeg at 150 x 150 pixels, EXIF apply

class    train  validation  test  total
cats        10           0     0     10
d\\x1bgs      1           0     1      2
total       11           0     1     12

min / median / max  width (pixels)   height (pixels)  payload
train               20 / 25.5 / 500  1 / 2 / 3        10 B / 1.0 KiB / 2.0 KiB
validation          n/a / n/a / n/a  n/a / n/a / n/a  n/a / n/a / n/a

quarantined: 1
duplicates: 2
ignored: 3
reasons: empty 2
flags: decoder_warning 4
digest: abc"""

NEAR = """\


near duplicates (at most 6 of 64 bits differ): 3 pairs of 4 images, 1 across splits, \
2 across classes
bits  image   split  class  image  split  class
2     c/1\\nx  train  cats   d/2    test   dogs
(2 more pairs)"""


def test_the_result_as_text():
    def sizes(*values):
        return dict(zip(("min", "median", "max"), values, strict=True))

    nothing = sizes(None, None, None)
    result = {
        **{"name": "pets", "format": "hdf5", "encoding": "jpeg", "image_size": 150},
        **{"exif": "apply", "classes": ["cats", "d\x1bgs"], "images": 12},
        "splits": {
            "train": {"cats": 10, "d\x1bgs": 1},
            "validation": {"cats": 0, "d\x1bgs": 0},
            "test": {"cats": 0, "d\x1bgs": 1},
        },
        **{"bytes": 1536, "shards": 3, "quarantined": 1, "duplicates": 2},
        **{"ignored": 3, "reasons": {"empty": 2}, "flags": {"decoder_warning": 4}},
        "digest": "abc",
        "sizes": {
            "train": {
                "width": sizes(20, 25.5, 500),
                "height": sizes(1, 2, 3),
                "payload_bytes": sizes(10, 1024.0, 2048),
            },
            "validation": dict.fromkeys(["width", "height", "payload_bytes"], nothing),
        },
    }
    assert render_inspect(result) == TEXT
    pair = {
        **{"a": "c/1\nx", "b": "d/2", "split_a": "train", "split_b": "test"},
        **{"class_a": "cats", "class_b": "dogs", "bits": 2},
    }
    counts = {"distance": 6, "pairs": 3, "images": 4}
    across = {"across_splits": 1, "across_classes": 2}
    near = {**counts, **across, "examples": [pair]}
    assert render_inspect({**result, "near_duplicates": near}) == TEXT + NEAR


def test_many_classes_keep_their_total_in_sight(pets):
    names = [f"class {number}" for number in range(41)]
    counts = dict.fromkeys(names, 2)
    result = {
        **inspect_dataset(pets),
        "classes": names,
        "splits": dict.fromkeys(["train", "validation", "test"], counts),
    }
    lines = render_inspect(result).splitlines()
    place = lines.index("(1 more: --json shows all classes)")
    assert lines[place - 1].split() == ["class", "39", "2", "2", "2", "6"]
    assert lines[place + 1].split() == ["total", "82", "82", "82", "246"]


def test_the_command_prints_tables_or_json(copied, tmp_path, capsys):
    data = f"--data_dir={store(copied, tmp_path / 'data')}"
    assert cli.main(["inspect", data, "--near_duplicates=6"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pets: 42 images of 2 classes, ")
    assert "near duplicates (at most 6 of 64 bits differ): 2 pairs of 4 images" in out
    assert cli.main(["inspect", data, "--near_duplicates=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["near_duplicates"]["distance"] == 0
    assert cli.main(["inspect", data, "--near_duplicates=65"]) == ExitCode.USAGE
