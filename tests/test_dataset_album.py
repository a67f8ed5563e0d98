"""Small pictures and facts of a dataset, as a report shows them."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.images import exif_bytes, image_bytes, make_folder
from tlperf.core import files
from tlperf.core.choices import Encoding, Exif, Format
from tlperf.core.settings import DataConfig, RunConfig
from tlperf.dataset.album import write_album
from tlperf.dataset.examples import RecordError, StoredExample
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.dataset.thumbnails import SIDE, make_thumbnail
from tlperf.job.run import shard_job


def make_album(root, folder, **values):
    data_dir = folder / "data"
    write_dataset(DataConfig(source=str(root), workers=1, **values), data_dir)
    with open_dataset(data_dir) as dataset:
        return write_album(dataset, folder / "examples")


def picture(path):
    with Image.open(path) as image:
        image.load()
        return image


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Two classes, and a file that is none."""
    root = tmp_path_factory.mktemp("album") / "pets"
    make_folder(root, {"cats": 12, "dogs": 10})
    (root / "dogs" / "=cmd()\n.jpg").write_bytes(b"\xff\xd8 no image")
    return root


@pytest.mark.parametrize("file_format", list(Format))
@pytest.mark.parametrize("encoding", list(Encoding))
def test_an_album_holds_what_a_report_shows(pets, tmp_path, file_format, encoding):
    values = {} if encoding is Encoding.SOURCE else {"image_size": 20}
    album = make_album(pets, tmp_path, format=file_format, encoding=encoding, **values)
    folder = tmp_path / "examples"
    assert json.loads((folder / "examples.json").read_text()) == album
    assert album["counts"]["seen"] == 23
    assert album["counts"]["quarantined"] == 1
    (refused,) = album["quarantine"]
    assert refused["path"] == r"dogs/=cmd()\n.jpg"
    assert refused["reason"] in album["reasons"]
    shown = album["pictures"]
    assert [one["class"] for one in shown] == ["cats"] * 4 + ["dogs"] * 4
    assert sorted(path.name for path in folder.glob("*.jpg")) == [
        one["file"] for one in shown
    ]
    for one in shown:
        data = (folder / one["file"]).read_bytes()
        assert files.sha256_bytes(data) == one["sha256"]
        assert one["id"].startswith(one["class"])
        image = picture(folder / one["file"])
        assert image.format == "JPEG"
        assert image.size == (one["width"], one["height"])  # these are small as it is
    assert album["unreadable"] == []


def test_an_album_is_made_anew(pets, tmp_path):
    first = make_album(pets, tmp_path)
    stale = tmp_path / "examples" / "99.jpg"
    stale.write_bytes(b"old")
    before = {p.name: p.read_bytes() for p in (tmp_path / "examples").iterdir()}
    assert make_album(pets, tmp_path) == first
    after = {p.name: p.read_bytes() for p in (tmp_path / "examples").iterdir()}
    del before["99.jpg"]
    assert after == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_record_is_told_and_does_not_end_it(pets, tmp_path):
    """Which stage it ends is for the stage that needs the record."""
    make_album(pets, tmp_path)
    shard, *_ = sorted((tmp_path / "data").glob("*-train.tfrecord-*"))
    data = bytearray(shard.read_bytes())
    data[200] ^= 0xFF
    shard.write_bytes(data)
    with open_dataset(tmp_path / "data") as dataset:
        album = write_album(dataset, tmp_path / "examples")
    (line,) = album["unreadable"]
    assert "record 0" in line
    assert len(album["pictures"]) == 8


def test_many_classes_are_cut(tmp_path):
    root = make_folder(tmp_path / "many", {f"c{n:02d}": 5 for n in range(11)})
    album = make_album(root, tmp_path)
    assert {one["class"] for one in album["pictures"]} == {
        f"c{n:02d}" for n in range(8)
    }
    assert len(album["classes"]) == 11


def test_sharding_leaves_an_album_in_the_workdir(pets, tmp_path):
    config = RunConfig(
        workdir=str(tmp_path), data=DataConfig(source=str(pets), workers=1)
    )
    result = shard_job(config)
    album = files.read_json(tmp_path / "examples" / "examples.json")
    assert album["digest"] == result["digest"]


def example(data, **values):
    facts = {
        "encoded": data,
        "label": 0,
        "filename": "a.jpg",
        "orientation": 1,
        "height": 24,
        "width": 32,
        "sha256": "",
    }
    return StoredExample(**{**facts, **values})


@pytest.fixture
def manifest(pets, tmp_path):
    write_dataset(DataConfig(source=str(pets), workers=1), tmp_path / "data")
    with open_dataset(tmp_path / "data") as dataset:
        return dataset.manifest


def test_a_small_picture_keeps_its_sides_and_nothing_else(manifest):
    data = image_bytes(3, size=(900, 300), exif=exif_bytes(6), comment=b"secret")
    lying = make_thumbnail(example(data, orientation=6), manifest)
    assert (lying.width, lying.height) == (900, 300)  # as it was stored to be shown
    manifest = dataclasses.replace(manifest, exif=Exif.APPLY)
    made = make_thumbnail(example(data, orientation=6), manifest)
    assert (made.width, made.height) == (300, 900)
    with Image.open(io.BytesIO(made.jpeg)) as image:
        assert max(image.size) == SIDE
        assert abs(image.width - SIDE / 3) <= 1
        assert not image.getexif()
        assert "comment" not in image.info
    assert made.jpeg == make_thumbnail(example(data, orientation=6), manifest).jpeg


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_a_small_picture_shows_the_image(manifest, kind):
    image = Image.new("RGB", (400, 400), (200, 30, 60))
    stream = io.BytesIO()
    image.save(stream, kind)
    made = make_thumbnail(example(stream.getvalue()), manifest)
    with Image.open(io.BytesIO(made.jpeg)) as small:
        pixels = np.asarray(small.convert("RGB")).astype(int)
    assert np.abs(pixels - (200, 30, 60)).max() <= 6


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n"])
def test_what_is_no_image_is_named(manifest, data):
    with pytest.raises(RecordError, match="cannot be decoded"):
        make_thumbnail(example(data), manifest)
