"""D1-D3, D5, D10, D11: what is stored is read as it was written, or refused.

`--figures=full` does what the promises state: every byte, every cut, 5,000 images.
"""

import json
import random
import shutil
from typing import Any

import pytest

from tests.images import image_bytes, make_folder, read_all
from tlperf.core.choices import Encoding, Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.manifest import COMPLETE, MANIFEST
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.dataset.verify import verify_dataset

MASKS = (0x01, 0x80, 0xFF)


def store(root, data_dir, **values):
    return write_dataset(DataConfig(source=str(root), workers=1, **values), data_dir)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """105 images: 64 of them, three fifths, are the training split."""
    root = tmp_path_factory.mktemp("source") / "pets"
    make_folder(root, {"cats": 60, "dogs": 47})
    # Larger than the others, so that a shard of 64 is about 128 KiB.
    for index, path in enumerate(sorted(root.glob("*/*.jpg"))):
        path.write_bytes(image_bytes(index, size=(60, 50), quality=97))
    return root


def open_and_read(data_dir, split="train"):
    """All examples of a split, through the reader."""
    with open_dataset(data_dir) as stored:
        part = stored.split(split)
        return part.read(range(part.count))


def is_refused(data_dir, split="train"):
    """Whether the reader refuses a split, as an integrity failure and nothing else."""
    try:
        open_and_read(data_dir, split)
    except TlperfError as error:
        if error.code != ExitCode.INTEGRITY:
            raise
        return True
    return False


class TestOneShard:
    """One shard of 64 records, damaged in every way."""

    @pytest.fixture
    def stored(self, pets, tmp_path):
        summary = store(pets, tmp_path)
        assert sum(summary["splits"]["train"].values()) == 64
        return tmp_path

    @pytest.fixture
    def shard(self, stored):
        return stored / "pets-train.tfrecord-00000-of-00001"

    @pytest.mark.D1
    def test_every_byte_of_a_shard(self, stored, shard, figures, record_property):
        original = shard.read_bytes()
        lines = shard.with_name(f"{shard.name}.idx").read_text().splitlines()
        ends = [sum(map(int, line.split())) for line in lines]
        whole = open_and_read(stored)
        step, masks = figures.pick((331, MASKS[:1]), (1, MASKS))
        cases, record = 0, 0
        with open_dataset(stored) as data, open(shard, "r+b", buffering=0) as stream:
            train = data.split("train")
            for position in range(0, len(original), step):
                while position >= ends[record]:
                    record += 1
                for mask in masks:
                    cases += 1
                    stream.seek(position)
                    stream.write(bytes([original[position] ^ mask]))
                    with pytest.raises(TlperfError) as caught:
                        train.read([record])
                    assert caught.value.code == ExitCode.INTEGRITY
                    assert caught.value.record == record
                    assert f"(source file {whole[record].filename})" in str(
                        caught.value
                    )
                    # The damaged record alone is lost; all of the others now and then.
                    others = [record - 1, (record + 1) % 64]
                    if cases % 101 == 1:
                        others = [index for index in range(64) if index != record]
                    assert train.read([i % 64 for i in others]) == [
                        whole[index] for index in others
                    ]
                stream.seek(position)
                stream.write(original[position : position + 1])
        record_property("figures", f"{cases} flips: {cases} found, 0 silent")

    @pytest.mark.D1
    def test_every_byte_is_seen_by_verify(
        self, stored, shard, figures, record_property
    ):
        found = 0
        files = [
            shard,
            *(shard.with_name(shard.name + suffix) for suffix in (".idx", ".seals")),
            *(stored / name for name in (MANIFEST, COMPLETE)),
        ]
        for path in files:
            original = path.read_bytes()
            step, masks = figures.pick(
                (max(1, len(original) // 24), MASKS[:1]), (1, MASKS)
            )
            for position in range(0, len(original), step):
                for mask in masks:
                    damaged = bytearray(original)
                    damaged[position] ^= mask
                    path.write_bytes(damaged)
                    assert not verify_dataset(stored)["ok"], (path.name, position, mask)
                    # What the reader sees first; the shard's own bytes are above.
                    assert path == shard or is_refused(stored)
                    found += 1
            path.write_bytes(original)
        assert verify_dataset(stored)["ok"]
        names = "shard, index, seals, manifest, COMPLETE"
        record_property("figures", f"{found} flips in {names}: {found} found")

    @pytest.mark.D1
    def test_tensorflow_agrees(self, shard, figures, two_cpus, record_property):
        import tensorflow as tf

        original = shard.read_bytes()
        generator = random.Random(5)
        count = figures.pick(20, 3900)
        for _ in range(count):
            position = generator.randrange(len(original))
            damaged = bytearray(original)
            damaged[position] ^= generator.choice(MASKS)
            shard.write_bytes(damaged)
            with pytest.raises(tf.errors.DataLossError):
                for _ in tf.data.TFRecordDataset(str(shard)):
                    pass
        record_property("figures", f"{count} flips: TensorFlow finds {count} too")

    @pytest.mark.D2
    def test_every_cut_and_growth(self, stored, shard, two_cpus, record_property):
        import tensorflow as tf

        original = shard.read_bytes()
        index = shard.with_name(f"{shard.name}.idx").read_text().splitlines()
        boundaries = [int(line.split()[0]) for line in index]
        generator = random.Random(7)
        cuts = boundaries + [generator.randrange(len(original)) for _ in range(500)]
        variants = [original[:cut] for cut in cuts]
        variants += [original + bytes(count) for count in (1, 16, 4096)]
        silent = 0
        for number, data in enumerate(variants):
            shard.write_bytes(data)
            assert is_refused(stored)
            if number % 16 == 0:
                report = verify_dataset(stored, full=False)
                assert [row["file"] for row in report["problems"]] == [shard.name]
            if number < len(boundaries):
                silent += sum(1 for _ in tf.data.TFRecordDataset(str(shard))) < 64
        assert silent == 64  # TensorFlow alone takes each of them for a whole file
        record_property(
            "figures", f"{len(variants)} cuts and growths: all found (TF: 0 of 64)"
        )


def damage_missing(shards, index, foreign):
    shards[index].unlink()


def damage_doubled(shards, index, foreign):
    shutil.copy(shards[index - 1], shards[index])


def damage_renamed(shards, index, foreign):
    name = shards[index].name.replace("train", "tarin")
    shards[index].rename(shards[index].with_name(name))


def damage_swapped(shards, index, foreign):
    one, other = shards[index].read_bytes(), shards[index - 1].read_bytes()
    shards[index].write_bytes(other)
    shards[index - 1].write_bytes(one)


def damage_foreign(shards, index, foreign):
    """The shard of the same name of another dataset."""
    shutil.copy(foreign["foreign"] / shards[index].name, shards[index])


def damage_stale(shards, index, foreign):
    """The shard of the same name of the same images, dealt by another seed."""
    shutil.copy(foreign["stale"] / shards[index].name, shards[index])


DAMAGES = (
    *(damage_missing, damage_doubled, damage_renamed),
    *(damage_swapped, damage_foreign, damage_stale),
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A dataset, one of other images and one of another seed; sizes all alike."""
    values: dict[str, Any] = {"encoding": Encoding.RAW, "image_size": 8, "name": "pets"}
    made = {}
    for name, offset, seed in (
        ("whole", 0, 0),
        ("foreign", 1000, 0),
        ("stale", 0, 1),
    ):
        root = tmp_path_factory.mktemp("source")
        for number in range(54):
            folder = root / ("cats" if number % 2 else "dogs")
            folder.mkdir(exist_ok=True)
            data = image_bytes(number + offset)
            (folder / f"{number:03d}.jpg").write_bytes(data)
        made[name] = tmp_path_factory.mktemp(name)
        # 32 training records of about 540 bytes: two a shard.
        store(root, made[name], seed=seed, shard_bytes=1088, **values)
    return made


class TestManyShards:
    """16 shards of raw pixels: all records are of one size, the hardest case."""

    @pytest.mark.D3
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_whole_shards(self, damage, sets, tmp_path, record_property):
        data_dir = tmp_path / "data"
        pattern = "pets-train.tfrecord-?????-of-00016"
        cases = 0
        for index in range(16):
            shutil.copytree(sets["whole"], data_dir)
            shards = sorted(data_dir.glob(pattern))
            assert len(shards) == 16
            damage(shards, index, sets)
            assert is_refused(data_dir), index
            report = verify_dataset(data_dir)
            files = {row["file"] for row in report["problems"]}
            assert shards[index].name in files
            assert files <= {
                shards[index].name,
                shards[index - 1].name,
                shards[index].name.replace("train", "tarin"),
            }
            shutil.rmtree(data_dir)
            cases += 1
        record_property("figures", f"{damage.__name__[7:]}: {cases} of {cases} found")

    @pytest.mark.D5
    @pytest.mark.parametrize("action", ["delete", "alter", "empty"])
    @pytest.mark.parametrize("suffix", [COMPLETE, MANIFEST, ".idx", ".seals"])
    def test_marker_manifest_and_sidecars(self, suffix, action, sets, tmp_path):
        data_dir = tmp_path / "data"
        shutil.copytree(sets["whole"], data_dir)
        (path, *_) = sorted(data_dir.glob(f"*{suffix}"))
        if action == "delete":
            path.unlink()
        elif action == "empty":
            path.write_bytes(b"")
        else:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        split = "test" if suffix.startswith(".") else "train"  # the first by name
        assert is_refused(data_dir, split)
        assert not verify_dataset(data_dir)["ok"]


@pytest.mark.D10
def test_every_byte_of_an_hdf5_file(pets, tmp_path, figures, record_property):
    store(pets, tmp_path, format=Format.HDF5)
    path = tmp_path / "pets-train.h5"
    original = path.read_bytes()
    step = figures.pick(len(original) // 40, 1)
    cases = 0
    for position in range(0, len(original), step):
        with open(path, "r+b", buffering=0) as stream:
            stream.seek(position)
            stream.write(bytes([original[position] ^ MASKS[cases % 3]]))
        assert is_refused(tmp_path), position
        assert not verify_dataset(tmp_path)["ok"], position
        with open(path, "r+b", buffering=0) as stream:
            stream.seek(position)
            stream.write(original[position : position + 1])
        cases += 1
    assert not is_refused(tmp_path)
    size = f"{len(original)} bytes"
    record_property("figures", f"{size}: {cases} flips, 0 read as good data")


@pytest.mark.D11
def test_both_formats_hold_the_same(tmp_path, figures, record_property):
    root = tmp_path / "mixed"
    variants: list[dict[str, Any]] = [
        {"kind": "JPEG", "quality": 80},
        {"kind": "JPEG", "mode": "L"},
        {"kind": "JPEG", "mode": "CMYK"},
        {"kind": "PNG", "mode": "RGBA"},
        {"kind": "PNG", "mode": "P"},
        {"kind": "PNG", "mode": "LA"},
        {"kind": "GIF"},
        {"kind": "JPEG", "progressive": True},
    ]
    count = figures.pick(80, 5000)
    for number in range(count):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        size = (20 + number % 31, 20 + number % 17)
        data = image_bytes(number, size=size, **variants[number % len(variants)])
        (folder / f"{number}.img").write_bytes(data)
    for file_format in Format:
        store(root, tmp_path / file_format, format=file_format)
    one, other = (read_all(tmp_path / file_format) for file_format in Format)
    assert one == other
    stored = [example for split in one.values() for example in split]
    assert len({example.filename for example in stored}) == count
    assert all(
        example.encoded == (root / example.filename).read_bytes() for example in stored
    )
    record_property("figures", f"{count} images in 8 kinds: 0 differences")


@pytest.mark.D5
def test_the_manifest_seals_what_it_says(pets, tmp_path):
    store(pets, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["shards"][0]["count"] -= 1
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert is_refused(tmp_path)
