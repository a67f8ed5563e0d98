"""tfds: a small dataset that tfds itself prepares, read without TensorFlow."""

import errno
import io
import os
import pathlib
import subprocess
import sys
import zlib

import pytest

from tests.images import image_bytes
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.settings import DataConfig
from tlperf.dataset.findings import Refusal, read_item
from tlperf.dataset.sources import open_source
from tlperf.dataset.workers import Workers

SPLITS = {"train": 24, "validation": 8, "test": 8}
MOST = 1 << 20


class Builders:
    """Prepares small datasets of tfds in one folder."""

    def __init__(self, folder):
        import tensorflow_datasets as tfds

        self.folder = folder
        self.tfds = tfds

    def prepare(self, name, *, features=None, splits=None, example=None, **options):
        """A prepared dataset: `example(split, index)` gives each example."""
        tfds = self.tfds
        keys = options.pop("supervised_keys", None)
        is_broken = "generators" in options
        features = features or {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["dog", "cat"]),
        }

        def info(builder):
            made = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(
                builder=builder, features=made, supervised_keys=keys
            )

        def generate(builder, split, count):
            for index in range(count):
                yield index, (example or pet)(split, index)

        def generators(builder, _):
            sizes = SPLITS if splits is None else splits
            return {s: generate(builder, s, count) for s, count in sizes.items()}

        members = {
            "VERSION": tfds.core.Version("1.2.3"),
            "_info": info,
            "_split_generators": options.pop("generators", generators),
            "_generate_examples": generate,
            "__module__": __name__,
        }
        kind = type(name, (tfds.core.GeneratorBasedBuilder,), members)
        builder = kind(data_dir=self.folder, **options)
        if not is_broken:
            shards = tfds.download.DownloadConfig(num_shards=2)
            builder.download_and_prepare(download_config=shards)
        return builder


def pet(split, index):
    """One example; PNG and JPEG in turn."""
    data = image_bytes(zlib.crc32(split.encode()) + index, ("JPEG", "PNG")[index % 2])
    return {
        "image": io.BytesIO(data),
        "image/filename": f"{split}-{index}.img",
        "label": index % 3 % 2,
    }


@pytest.fixture(scope="module")
def builders(two_cpus, tmp_path_factory):
    """A folder of datasets, which sources find by the variable that tfds documents.
    Writing them starts TensorFlow, hence `two_cpus`."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield Builders(folder)


@pytest.fixture(scope="module")
def pets(builders):
    """Forty images in three splits of two files each, with file names."""
    return builders.prepare("TlperfPets", supervised_keys=("image", "label"))


def read_listing(name, **settings):
    return open_source(DataConfig(source=f"tfds:{name}", **settings)).read_listing()


def through_tfds(builders, builder):
    """What tfds itself reads: by id, the stored bytes and the name of the class."""
    tfds = builders.tfds
    found = {}
    for split in builder.info.splits:
        examples = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(add_tfds_id=True),
        )
        for example in tfds.as_numpy(examples):
            number = example["tfds_id"].decode()
            name = example.get("image/filename", b"").decode()
            label = builder.info.features["label"].int2str(example["label"])
            found[f"{split}/{name}" if name else number] = example["image"], label
    return found


def test_equals_what_tfds_reads(builders, pets):
    listing = read_listing("tlperf_pets:1.2.3")
    assert listing.classes == ("cat", "dog")  # of tfds' own dog, cat
    assert listing.ignored == 0
    got = {
        item.id: (item.origin.read(max_bytes=MOST), item.class_name)
        for item in listing.items
    }
    assert got == through_tfds(builders, pets)
    assert len(got) == 40
    assert {item.id: item.split for item in listing.items} == {
        f"{split}/{split}-{index}.img": split
        for split, count in SPLITS.items()
        for index in range(count)
    }
    assert {data[:3] for data, _ in got.values()} == {b"\xff\xd8\xff", b"\x89PN"}
    assert got["test/test-3.img"][0] == pet("test", 3)["image"].getvalue()


def test_ids_of_tfds_where_no_file_name_is_stored(builders):
    features = builders.tfds.features
    builder = builders.prepare(
        "TlperfNameless",
        features={
            "image": features.Image(),
            "label": features.ClassLabel(names=["dog", "cat"]),
            "text": features.Text(),
        },
        splits={"train": 12},
        example=lambda split, index: {
            "image": pet(split, index)["image"],
            "label": index % 2,
            "text": "x",
        },
    )
    listing = read_listing("tlperf_nameless")
    assert listing.items[0].id == "tlperf_nameless-train.tfrecord-00000-of-00002__0"
    got = {
        item.id: (item.origin.read(max_bytes=MOST), item.class_name)
        for item in listing.items
    }
    assert len(got) == 12
    assert sorted(got.values()) == sorted(through_tfds(builders, builder).values())
    assert {item.split for item in listing.items} == {None}  # one split is none


def test_workers_read_equal_bytes(pets):
    listing = read_listing("tlperf_pets")
    with Workers(2) as workers:
        got = dict(workers.map(_read, listing.items[::-1]))
    assert got == dict(map(_read, listing.items))


def _read(item):
    return item.id, item.origin.read(max_bytes=MOST)


CHILD = """
import sys
from tlperf.core.settings import DataConfig
from tlperf.dataset.sources import open_source
listing = open_source(DataConfig(source="tfds:tlperf_pets")).read_listing()
print(len(listing.items), len(listing.items[0].origin.read(max_bytes=99999)) > 99)
print("tensorflow" in sys.modules)
"""


def test_a_prepared_dataset_needs_neither_its_builder_nor_tensorflow(pets):
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["40", "True", "False"]


def test_splits_that_are_not_all_three(builders):
    builders.prepare("TlperfTwo", splits={"train": 4, "test": 4})
    with pytest.raises(TlperfError) as caught:
        read_listing("tlperf_two")
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text() == (
        "missing_split: tfds:tlperf_two: the source gives train, test, but no "
        "validation; add it, or give --nokeep_splits to deal all images by --split"
    )
    items = read_listing("tlperf_two", keep_splits=False).items
    assert len(items) == 8
    assert {item.split for item in items} == {None}


def test_a_split_of_another_name(builders):
    builders.prepare("TlperfExtra", splits={"train": 4, "unsupervised": 4})
    with pytest.raises(TlperfError) as caught:
        read_listing("tlperf_extra")
    assert caught.value.text() == (
        "unknown_split: tfds:tlperf_extra: the source gives a split 'unsupervised'; "
        "use train, validation, test, or give --nokeep_splits"
    )


def pictures(builders, *, images, labels):
    """Options of a dataset with so many features of each kind."""
    features = builders.tfds.features
    kinds = {f"image{i}": features.Image() for i in range(images)}
    kinds |= {f"label{i}": features.ClassLabel(num_classes=2) for i in range(labels)}
    kinds["other"] = features.Text()

    def example(split, index):
        values = {f"image{i}": pet(split, index)["image"] for i in range(images)}
        return values | {f"label{i}": index % 2 for i in range(labels)} | {"other": ""}

    return {"features": kinds, "example": example, "splits": {"train": 4}}


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (
            2,
            1,
            "no_image_feature: {}: 2 features of type Image: image0, image1; ",
        ),
        (1, 2, "no_label_feature: {}: 2 features of type ClassLabel: label0, label1;"),
        (0, 1, "no_image_feature: {}: 0 features of type Image; choose a dataset with"),
        (1, 0, "no_label_feature: {}: 0 features of type ClassLabel; choose a dataset"),
    ],
)
def test_features_that_are_not_clear(builders, images, labels, text):
    options = pictures(builders, images=images, labels=labels)
    builder = builders.prepare(f"TlperfPictures{images}{labels}", **options)
    with pytest.raises(TlperfError) as caught:
        read_listing(builder.name)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text().startswith(text.format(builder.data_path))


def test_supervised_keys_choose(builders):
    options = pictures(builders, images=2, labels=2)
    keys = ("image1", "label0")
    builders.prepare("TlperfChosen", supervised_keys=keys, **options)
    item = read_listing("tlperf_chosen").items[0]
    assert item.origin.key == "image1"


def unlabelled(split, index):
    return pet(split, index) | {"label": -1 if index == 2 else 0}


def test_examples_without_a_label(builders):
    builders.prepare("TlperfUnlabelled", splits={"train": 4}, example=unlabelled)
    with pytest.raises(TlperfError) as caught:
        read_listing("tlperf_unlabelled")
    assert caught.value.code == ExitCode.DATA
    assert "label -1, of no class; choose a dataset that has" in caught.value.text()
    assert "(record " in caught.value.text()


def test_two_classes_of_one_printable_name(builders):
    tfds = builders.tfds
    features = {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["a\x1b", "a\\x1b"]),
    }
    builders.prepare("TlperfTwins", splits={"train": 4}, features=features)
    with pytest.raises(TlperfError, match=r"same_name: .* two classes are shown as"):
        read_listing("tlperf_twins")


def test_another_file_format(builders):
    builders.prepare("TlperfArrays", splits={"train": 4}, file_format="array_record")
    with pytest.raises(TlperfError) as caught:
        read_listing("tlperf_arrays")
    assert caught.value.code == ExitCode.CONFIG
    assert caught.value.reason == "unsupported_format"
    assert "stored as array_record; prepare it as TFRecord, tfds" in caught.value.text()


def unprepared(builders):
    """Errors that a builder's own code raises, and what becomes of them."""
    import requests
    from tensorflow_datasets.core.download import download_manager

    fails = "not_prepared: tfds:{}: tfds could not prepare it: "
    build = "; run `tfds build {}` where there is a network, and set TFDS_DATA_DIR to"
    return [
        (requests.ConnectionError("no route\nmore"), 69, f"{fails}no route{build}"),
        (AssertionError("put it there yourself"), 69, f"{fails}put it there yourself;"),
        (ImportError("no module"), 69, f"{fails}no module;"),
        (ValueError(), 69, f"{fails}ValueError;"),
        (OSError(errno.ENOSPC, "no space"), 74, "disk_full: {folder}: no space; free"),
        (
            download_manager.NonMatchingChecksumError("other bytes"),
            76,
            "wrong_sha256: tfds:{}: other bytes; run again; where it stays, the data",
        ),
    ]


def test_what_cannot_be_prepared(builders, capsys):
    for index, (error, code, text) in enumerate(unprepared(builders)):

        def generators(builder, _, error=error):
            raise error

        builder = builders.prepare(f"TlperfBroken{index}", generators=generators)
        with pytest.raises(TlperfError) as caught:
            read_listing(builder.name)
        assert caught.value.code == code
        expected = text.format(builder.name, builder.name, folder=builder.data_path)
        assert caught.value.text().startswith(expected)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tlperf_nothing", "Dataset tlperf_nothing not found."),
        ("tlperf_pets:9.9.9", "cannot be loaded at version 9.9.9"),
    ],
)
def test_unknown_names_and_versions(pets, name, found):
    with pytest.raises(TlperfError) as caught:
        read_listing(name)
    assert caught.value.code == ExitCode.NO_INPUT
    assert caught.value.text().startswith(f"missing_source: tfds:{name}: ")
    assert found in caught.value.text()
    assert caught.value.text().endswith(
        "; give a name that tfds lists, with a version that it has"
    )


@pytest.mark.parametrize("text", ["", "Pets", "../pets", "pets/../x/y", "hub:pets:1"])
def test_names_that_are_none(text):
    with pytest.raises(SettingsError, match="give tfds:NAME"):
        open_source(DataConfig(source=f"tfds:{text}"))


DAMAGES = [
    (lambda data: data[:-9], "record cut at byte"),
    (lambda data: data[: len(data) // 2], "record cut at byte"),
    (lambda data: b"", "0 records, the dataset's description says 6"),
    (lambda data: data[:40] + b"\0" + data[41:], "checksum of the payload does"),
    (None, "No such file or directory"),
]


@pytest.fixture(scope="module")
def damaged(builders):
    """A dataset of two files; the first, and its bytes."""
    builder = builders.prepare("TlperfDamaged", splits={"train": 12})
    path = pathlib.Path(os.fspath(builder.info.splits["train"].filepaths[0]))
    return path, path.read_bytes()


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_damaged_files_are_refused(damaged, damage, text):
    path, whole = damaged
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(whole))
    with pytest.raises(TlperfError) as caught:
        read_listing("tlperf_damaged")
    assert caught.value.code == ExitCode.INTEGRITY
    assert caught.value.text().startswith(f"damaged_shard: {path}")
    assert text in caught.value.text()
    assert "; remove the dataset's folder and run again" in caught.value.text()


def test_large_and_changed_records_are_refused(builders):
    builder = builders.prepare("TlperfChanged", splits={"train": 12})
    item = read_listing("tlperf_changed").items[0]
    assert item.origin.stamp()
    data = item.origin.read(max_bytes=MOST)
    large = read_item(item, max_bytes=len(data) - 1)
    assert isinstance(large, Refusal)
    assert large.reason == "bomb:bytes"
    for path in builder.info.splits["train"].filepaths:
        os.utime(path, ns=(0, 0))
    changed = read_item(item, max_bytes=MOST)
    assert isinstance(changed, Refusal)
    assert changed.reason == "changed"
