"""The feature cache: kept rows, what is damaged, what an entry depends on, room."""

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import make_folder
from tests.tiny import RANDOM, TINY, run_config, train_tiny
from tlperf.core.choices import (
    Augment,
    Decode,
    Encoding,
    Exif,
    FeatureCache,
    FeatureDtype,
    OnBadRecord,
    Preprocess,
)
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.settings import DataConfig
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.load import Loader
from tlperf.training.feature_cache import find_room, make_room, plan_features
from tlperf.training.features import FeatureSplit, Layout
from tlperf.training.loop import train_backbone
from tlperf.training.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("two_cpus")
LAYOUT = Layout(rows=10, shapes=(((2, 3), "float32"), ((), "bfloat16")))


def rows_of(rows, seed=0):
    """Features, labels and weights of these rows."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(10, 2, 3)).astype(np.float32)
    scalars = tf.cast(generator.normal(size=10), tf.bfloat16).numpy()
    weight = np.ones(10, np.float32)
    weight[3] = 0
    label = np.arange(10, dtype=np.int32) % 3
    return [values[rows], scalars[rows]], label[rows], weight[rows]


def write(split, rows):
    features, label, weight = rows_of(rows)
    split.write(rows, features, label=label, weight=weight)


@given(parts=st.lists(st.lists(st.integers(0, 9), unique=True), max_size=4))
@settings(max_examples=30)
def test_what_was_written_is_read_and_the_rest_is_missing(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    written: set[int] = set()
    for part in parts:
        split = FeatureSplit(folder, "train", LAYOUT)  # opened anew each time
        write(split, np.array(part, np.int64))
        split.flush()
        written |= {*part}
    split = FeatureSplit(folder, "train", LAYOUT)
    assert split.missing().tolist() == sorted({*range(10)} - written)
    rows = np.array(sorted(written)[::-1], np.int64)
    expected, label, weight = rows_of(rows)
    features, found_label, found_weight = split.read(rows)
    for found, wanted in zip(features, expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found_label, label)
    np.testing.assert_array_equal(found_weight, weight)


def test_each_altered_byte_costs_its_row_alone(tmp_path):
    everything = np.arange(10)
    write(FeatureSplit(tmp_path, "train", LAYOUT), everything)
    sizes = {"train.0": 24, "train.1": 2, "train.rows": 16}
    whole = {name: (tmp_path / name).read_bytes() for name in sizes}
    for name, of_row in sizes.items():
        sound = whole[name]
        assert len(sound) == 10 * of_row
        for at in range(len(sound)):
            altered = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
            for file, data in {**whole, name: altered}.items():
                (tmp_path / file).write_bytes(data)
            split = FeatureSplit(tmp_path, "train", LAYOUT)
            missing = split.missing().tolist()
            in_row = at % of_row
            # is_done is a flag: 0 makes the row anew, any other says what 1 says.
            is_flag = name == "train.rows" and in_row >= 12
            assert missing == ([] if is_flag and in_row > 12 else [at // of_row])


def test_files_of_another_size_are_made_anew(tmp_path):
    write(FeatureSplit(tmp_path, "train", LAYOUT), np.arange(10))
    os.truncate(tmp_path / "train.0", 100)
    split = FeatureSplit(tmp_path, "train", LAYOUT)
    # A row of zeros is not what the checksum says.
    assert split.missing().tolist() == list(range(10))
    assert LAYOUT.nbytes == sum(p.stat().st_size for p in tmp_path.iterdir())


# mode, what else, is it on, why
DECISIONS = [
    ("off", {}, False, "--feature_cache=off"),
    ("auto", {}, True, "is made"),
    ("on", {}, True, "is made"),
    ("auto", {"epochs": 1}, False, "no epoch would use it again"),
    ("auto", {"epochs": 1, "is_there": True}, True, "is there"),
    ("on", {"epochs": 1}, True, "is made"),
    ("auto", {"has_frozen": False}, False, "nothing is frozen"),
    ("on", {"has_frozen": False}, SettingsError, "nothing is frozen"),
    ("auto", {"augment": Augment.FLIP}, False, "every epoch augments anew"),
    ("on", {"augment": Augment.FLIP}, SettingsError, "every epoch augments anew"),
    ("auto", {"augment": Augment.FLIP, "views": 2}, True, "is made"),
    ("auto", {"augment": Augment.FLIP, "views": 3}, False, "no epoch would"),
    ("auto", {"room": 99}, False, "there is room for 99"),
    ("on", {"room": 99}, TlperfError, "there is room for 99"),
    ("auto", {"service": "grpc://a:5"}, False, "a data service"),
    ("on", {"service": "grpc://a:5"}, SettingsError, "a data service"),
]


@pytest.mark.parametrize(("mode", "case", "is_on", "why"), DECISIONS)
def test_the_cache_is_used_where_it_pays(mode, case, is_on, why):
    config = run_config(
        "w",
        features={
            "feature_cache": FeatureCache(mode),
            "feature_views": case.get("views", 0),
        },
        inputs={
            "augment": case.get("augment", Augment.NONE),
            "data_service": case.get("service", ""),
        },
        epochs=case.get("epochs", 3),
    )

    def decide():
        return plan_features(
            config,
            has_frozen=case.get("has_frozen", True),
            nbytes=100,
            room=lambda: case.get("room", 100),
            is_there=lambda: case.get("is_there", False),
            workers=case.get("workers", 1),
        )

    if isinstance(is_on, bool):
        plan = decide()
        assert plan.is_on is is_on
        assert why in plan.why
    else:
        with pytest.raises(is_on, match=why) as caught:
            decide()
        if is_on is TlperfError:
            assert caught.value.reason == "no_room_for_features"
            assert caught.value.code == ExitCode.IO


def entry(folder, name, size, age):
    (folder / name).mkdir(parents=True)
    (folder / name / "train.0").write_bytes(bytes(size))
    facts = folder / name / "facts.json"
    facts.write_text("")
    os.utime(facts, (age, age))


def test_the_least_recently_used_make_room(tmp_path):
    for name, age in (("old", 1), ("new", 3), ("middle", 2)):
        entry(tmp_path, name, 100, age)
    assert make_room(tmp_path, 50, room=350, keep="x") == []
    assert make_room(tmp_path, 150, room=350, keep="old") == []
    assert make_room(tmp_path, 150, room=350, keep="x") == ["old"]
    with directory_lock(tmp_path / "middle"):  # another process fills it
        assert make_room(tmp_path, 350, room=350, keep="x") == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["middle"]
    assert find_room(tmp_path, 70) == 70
    assert find_room(tmp_path, 0) > 100


def build(photos, compute, workdir, **values):
    trainer = build_trainer(
        TINY,
        run_config(workdir, **values),
        dataset=photos,
        compute=compute,
        weights=RANDOM,
    )
    try:
        trainer.frozen_part.open()
    except TlperfError:
        trainer.close()
        raise
    return trainer


def test_features_are_what_the_frozen_part_makes(two_cpus, photos, tmp_path):
    cached = build(photos, two_cpus, tmp_path)
    frozen = cached.classifier.frozen
    plain = cached.pipeline.training(1)
    for ours, batch in zip(cached.batches(1), plain, strict=True):
        np.testing.assert_array_equal(ours.index, batch.index)
        np.testing.assert_array_equal(ours.label, batch.label)
        np.testing.assert_array_equal(ours.weight, batch.weight)
        image = (tf.cast(batch.image, tf.float32) - 127.5) / 127.5
        for found, wanted in zip(
            ours.features,
            keras.tree.flatten(frozen(image, training=False)),
            strict=True,
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert cached.frozen_part.features.computed == 32
    cached.close()


def losses(training):
    return [row["loss"] for row in training.result["epochs"]]


def test_cached_or_not_it_learns_the_same(two_cpus, photos, tmp_path):
    kept = {"feature_dir": str(tmp_path / "features")}
    runs = {
        mode: train_tiny(
            photos,
            two_cpus,
            tmp_path / mode,
            features={**kept, "feature_cache": FeatureCache(mode)},
        )
        for mode in ("off", "on", "auto")
    }
    np.testing.assert_allclose(losses(runs["on"]), losses(runs["off"]), rtol=1e-4)
    assert losses(runs["auto"]) == losses(runs["on"])
    told = {mode: run.result["features"] for mode, run in runs.items()}
    assert [told[mode]["computed_images"] for mode in told] == [0, 32, 0]
    assert [run.result["feature_cache"] for run in runs.values()] == ["off", "on", "on"]
    assert told["auto"]["entry"] == told["on"]["entry"]


def test_replicas_take_their_parts_of_features(two_cpus, mirrored, photos, tmp_path):
    """Dropout draws apart on each replica, so the network has none here."""
    spec = dataclasses.replace(TINY, head=TINY.head[:1], first_active="add")
    found = []
    for compute in (two_cpus, mirrored):
        config = run_config(tmp_path / str(compute.replicas))
        training = train_backbone(
            spec, config, dataset=photos, compute=compute, weights=RANDOM
        )
        assert training.result["feature_cache"] == "on"
        found.append(losses(training))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


# What changes the features, and what does not.
CHANGES = [
    ({"inputs": {"image_size": 24}}, True),
    ({"inputs": {"preprocess": Preprocess.PAPER}}, True),
    ({"inputs": {"decode": Decode.FAST}}, True),
    ({"model": {"freeze": "conv2"}}, True),
    ({"features": {"feature_dtype": FeatureDtype.FLOAT16}}, True),
    ({"seed": 1}, True),  # with random weights it draws the frozen ones too
    ({"inputs": {"augment": Augment.FLIP}, "features": {"feature_views": 2}}, True),
    ({"inputs": {"batch_size": 4}}, False),
    ({"inputs": {"seed": 3}}, False),  # of the order
    ({"learning_rate": 0.1}, False),
    ({"epochs": 7}, False),
]


@pytest.mark.parametrize(
    ("stored", "is_other"),
    [
        ({}, False),
        ({"seed": 5}, True),  # the same files, dealt otherwise
        ({"split": (50, 30, 20)}, True),
        ({"exif": Exif.APPLY}, True),
        ({"encoding": Encoding.JPEG, "image_size": 32}, True),
    ],
)
def test_an_entry_is_of_the_records_in_their_order(tmp_path, stored, is_other):
    source, digests = make_folder(tmp_path / "pets", {"cats": 20, "dogs": 20}), []
    unchanged: dict[str, Any] = {}
    for number, values in enumerate((unchanged, stored)):
        config = DataConfig(source=str(source), workers=1, **values)
        write_dataset(config, tmp_path / str(number))
        with open_dataset(tmp_path / str(number)) as dataset:
            digests.append(dataset.manifest.records_digest())
    assert (digests[0] != digests[1]) == is_other


@pytest.mark.parametrize(("change", "is_other"), CHANGES)
def test_an_entry_is_of_all_that_its_numbers_depend_on(
    two_cpus, photos, tmp_path, change, is_other
):
    names = []
    unchanged: dict[str, Any] = {}
    for values in (unchanged, change):
        trainer = build(photos, two_cpus, tmp_path, **values)
        names.append(trainer.frozen_part.features.store.folder.name)
        trainer.close()
    assert (names[0] != names[1]) == is_other
    assert trainer.frozen_part.features.computed == ((32 if is_other else 0) if not
        change.get("features", {}).get("feature_views") else 2 * 24 + 8)  # fmt: skip


def test_a_damaged_row_is_computed_anew(two_cpus, photos, tmp_path):
    first = build(photos, two_cpus, tmp_path)
    path = first.frozen_part.features.store.folder / "train.0"
    first.close()
    sound = path.read_bytes()
    with open(path, "r+b") as stream:
        stream.seek(len(sound) // 2)
        stream.write(b"\xff\x00\xff\x00")
    again = build(photos, two_cpus, tmp_path)
    assert again.frozen_part.features.computed in (1, 2)
    np.testing.assert_allclose(
        np.frombuffer(path.read_bytes(), np.float32),
        np.frombuffer(sound, np.float32),
        rtol=1e-5,
        atol=1e-6,
    )
    again.close()


def test_views_take_turns(two_cpus, photos, tmp_path):
    trainer = build(
        photos,
        two_cpus,
        tmp_path,
        inputs={"augment": Augment.FLIP},
        features={"feature_views": 2},
    )
    store = trainer.frozen_part.features.store
    seen = []
    for epoch in range(3):
        rows = np.zeros((24, 15, 15, 8), np.float32)
        for batch in trainer.batches(epoch):
            rows[batch.index.numpy()] = batch.features[0].numpy()
        seen.append(rows)
    np.testing.assert_array_equal(seen[0], seen[2])
    differing = (seen[0] != seen[1]).any(axis=(1, 2, 3))
    assert 4 < differing.sum() < 20  # one of two views is mirrored for about half
    assert store.views == 2
    trainer.close()


def test_half_of_the_room_and_little_lost(two_cpus, photos, tmp_path):
    exact, half = (
        build(photos, two_cpus, tmp_path, features={"feature_dtype": dtype})
        for dtype in (FeatureDtype.COMPUTED, FeatureDtype.FLOAT16)
    )
    assert (
        half.frozen_part.features.plan.nbytes
        < 0.52 * exact.frozen_part.features.plan.nbytes
    )
    for ours, theirs in zip(half.batches(0), exact.batches(0), strict=True):
        for found, wanted in zip(ours.features, theirs.features, strict=True):
            assert found.dtype == tf.float16
            np.testing.assert_allclose(
                found.numpy().astype(np.float32), wanted, rtol=6e-4, atol=1e-6
            )
    exact.close()
    half.close()


def test_batches_that_come_in_any_order_keep_their_rows(
    two_cpus, photos, tmp_path, monkeypatch
):
    """The last batch is padded, and a slow one comes after it."""
    plain = build(photos, two_cpus, tmp_path / "a", inputs={"batch_size": 10})
    load = Loader.__call__

    def slow(loader, index, weight):
        time.sleep(0.3 * (10 in index))
        return load(loader, index, weight)

    monkeypatch.setattr(Loader, "__call__", slow)
    inputs = {"batch_size": 10, "deterministic": False}
    free = build(photos, two_cpus, tmp_path / "b", inputs=inputs)
    for name, split in free.frozen_part.features.store.splits.items():
        assert split.missing().size == 0
        rows = np.arange(24 if name == "train" else 8)
        wanted = plain.frozen_part.features.store.splits[name].read(rows)
        for found, expected in zip(
            keras.tree.flatten(split.read(rows)),
            keras.tree.flatten(wanted),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    free.close()
    plain.close()


def test_a_skipped_record_is_told_by_each_run_or_ends_it(two_cpus, tmp_path):
    """It is in no feature: kept, it would be left out whatever --on_bad_record says."""
    root = make_folder(tmp_path / "pets", {"cats": 20, "dogs": 20})
    write_dataset(DataConfig(source=str(root), workers=1), tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("*-train.tfrecord-00000-of-00001")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with open_dataset(tmp_path / "data") as dataset:
        for _ in range(2):
            skipping = {"on_bad_record": OnBadRecord.SKIP}
            result = train_tiny(dataset, two_cpus, tmp_path, inputs=skipping).result
            assert [row["skipped"] for row in result["epochs"]] == [1, 1, 1]
            assert len(result["skipped"]) == 1
            told = "; ".join(result["warnings"])
            assert "1 records were skipped" in told
        with pytest.raises(TlperfError) as caught:
            train_tiny(dataset, two_cpus, tmp_path)
    assert caught.value.reason == "damaged_record"


def test_an_entry_in_use_is_shared_and_stays(two_cpus, photos, tmp_path):
    first = build(photos, two_cpus, tmp_path)
    entry = first.frozen_part.features.store.folder
    second = build(photos, two_cpus, tmp_path)  # nothing is missing: both read it
    assert second.frozen_part.features.computed == 0
    assert make_room(entry.parent, 1 << 40, room=0, keep="x") == []
    # A row that is damaged now is for whoever has the entry alone to make.
    with open(entry / "train.0", "r+b") as stream:
        stream.write(b"\xff" * 64)
    with pytest.raises(TlperfError, match="another process fills") as caught:
        build(photos, two_cpus, tmp_path)
    assert (caught.value.code, caught.value.reason) == (75, "features_locked")
    first.close()
    second.close()
    third = build(photos, two_cpus, tmp_path)
    assert third.frozen_part.features.computed == 1
    third.close()
    assert make_room(entry.parent, 1 << 40, room=0, keep="x") == [entry.name]
    assert not entry.exists()


def test_without_a_cache_its_folder_is_not_touched(two_cpus, photos, tmp_path):
    off = {"feature_cache": FeatureCache.OFF, "feature_dir": "/proc/none"}
    trainer = build(photos, two_cpus, tmp_path, features=off)
    assert trainer.frozen_part.features.store is None
    trainer.close()
