"""From a source to a sealed data directory, and back through the store."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.images import exif_bytes, image_bytes, make_folder, read_all
from tlperf.core import files
from tlperf.core.choices import Encoding, Exif, Format, OnBad, SplitMode
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes
from tlperf.core.locks import directory_lock
from tlperf.core.settings import DataConfig, RunConfig
from tlperf.dataset.shard import plan_dataset, write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.dataset.thumbnails import decode_example
from tlperf.dataset.verify import verify_dataset
from tlperf.dataset.workers import Workers


def config(root, **values):
    return DataConfig(source=str(root), workers=1, **values)


def tree(data_dir):
    """{name: bytes} of a data directory without its lock, which names its owner."""
    return {
        path.name: path.read_bytes()
        for path in data_dir.iterdir()
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return make_folder(
        tmp_path_factory.mktemp("source") / "pets", {"cats": 20, "dogs": 10}
    )


@pytest.fixture(scope="module")
def stored(pets, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return data_dir, write_dataset(config(pets), data_dir)


def test_summary_and_files(stored):
    data_dir, summary = stored
    assert summary["splits"] == {
        "train": {"cats": 12, "dogs": 6},
        "validation": {"cats": 4, "dogs": 2},
        "test": {"cats": 4, "dogs": 2},
    }
    assert summary["classes"] == ["cats", "dogs"]
    assert (summary["name"], summary["shards"], summary["reused"]) == ("pets", 3, False)
    assert summary["images_per_sec"] == pytest.approx(30 / summary["seconds"])
    counts = ("seen", "accepted", "quarantined", "ignored", "duplicates")
    assert [summary[name] for name in counts] == [30, 30, 0, 0, 0]
    assert sorted(tree(data_dir)) == [
        ".tlperf-data",
        "COMPLETE",
        "dataset_info.json",
        "features.json",
        "image.class.label.labels.txt",
        "manifest.json",
        "pets-test.tfrecord-00000-of-00001",
        "pets-test.tfrecord-00000-of-00001.idx",
        "pets-test.tfrecord-00000-of-00001.seals",
        "pets-train.tfrecord-00000-of-00001",
        "pets-train.tfrecord-00000-of-00001.idx",
        "pets-train.tfrecord-00000-of-00001.seals",
        "pets-validation.tfrecord-00000-of-00001",
        "pets-validation.tfrecord-00000-of-00001.idx",
        "pets-validation.tfrecord-00000-of-00001.seals",
        "quarantine.jsonl",
    ]
    shards = [path for path in data_dir.iterdir() if ".tfrecord-" in path.name]
    sizes = [
        path.stat().st_size for path in shards if path.suffix not in (".idx", ".seals")
    ]
    assert summary["bytes"] == sum(sizes)
    assert sha256_bytes((data_dir / "manifest.json").read_bytes()) == (
        (data_dir / "COMPLETE").read_text().strip()
    )


def test_every_image_is_stored_once_untouched_and_mixed(stored, pets):
    examples = [one for split in read_all(stored[0]).values() for one in split]
    assert len({one.filename for one in examples}) == 30
    for one in examples:
        data = (pets / one.filename).read_bytes()
        assert one.encoded == data
        assert one.sha256 == sha256_bytes(data)
        assert one.label == ["cats", "dogs"].index(one.filename.split("/")[0])
        assert decode_example(one, encoding="source").shape == (
            one.height,
            one.width,
            3,
        )
    labels = [one.label for one in read_all(stored[0])["train"]]
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_a_second_run_reuses_and_another_setting_is_refused(stored, pets):
    data_dir, summary = stored
    before = tree(data_dir)
    again = write_dataset(config(pets), data_dir)
    assert again["reused"] is True
    assert again["images_per_sec"] is None
    for name in ("splits", "digest", "bytes", "seen", "shards"):
        assert again[name] == summary[name]
    for change, text in (
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"format": Format.HDF5}, "format is 'tfrecord' there, 'hdf5' here"),
        ({"limit": 12}, "limit is 0 there, 12 here"),
    ):
        with pytest.raises(TlperfError) as caught:
            write_dataset(config(pets, **change), data_dir)
        assert caught.value.code == ExitCode.EXISTS
        assert caught.value.reason == "other_dataset"
        assert f"another dataset is there: {text}" in caught.value.text()
    assert tree(data_dir) == before


def test_a_changed_source_is_refused(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    data_dir = tmp_path / "data"
    write_dataset(config(root, format=Format.HDF5), data_dir)
    (root / "cats" / "000.jpg").write_bytes(image_bytes(999))
    with pytest.raises(TlperfError, match="the source's files: digest") as caught:
        write_dataset(config(root, format=Format.HDF5), data_dir)
    assert caught.value.code == ExitCode.EXISTS


def test_image_size_does_not_matter_where_bytes_are_stored(stored, pets):
    assert write_dataset(config(pets, image_size=99), stored[0])["reused"]


@pytest.mark.parametrize("encoding", [Encoding.SOURCE, Encoding.RAW])
@pytest.mark.parametrize("file_format", list(Format))
def test_any_number_of_workers_gives_equal_trees(file_format, encoding, tmp_path):
    trees = []
    for workers in (1, 2):
        values = DataConfig(
            source="photos",
            limit=70,  # several tasks for each step
            format=file_format,
            encoding=encoding,
            image_size=16,
            workers=workers,
        )
        write_dataset(values, tmp_path / f"w{workers}")
        trees.append(tree(tmp_path / f"w{workers}"))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_both_formats_hold_equal_examples_in_equal_order(encoding, pets, tmp_path):
    found = []
    for file_format in Format:
        data_dir = tmp_path / file_format
        values = config(pets, format=file_format, encoding=encoding, image_size=16)
        write_dataset(values, data_dir)
        assert verify_dataset(data_dir)["ok"]
        found.append(read_all(data_dir))
    assert found[0] == found[1]
    if encoding is Encoding.RAW:
        assert {len(one.encoded) for one in found[0]["train"]} == {16 * 16 * 3}


def test_jpeg_and_raw_are_the_same_pixels_up_to_the_codec(pets, tmp_path):
    pixels = {}
    for encoding in (Encoding.JPEG, Encoding.RAW):
        values = config(pets, format=Format.HDF5, encoding=encoding, image_size=32)
        write_dataset(values, tmp_path / encoding)
        first = read_all(tmp_path / encoding)["test"][0]
        pixels[encoding] = decode_example(first, encoding=encoding).astype(int)
    difference = np.abs(pixels[Encoding.JPEG] - pixels[Encoding.RAW])
    assert 0 < difference.mean() < 6
    manifest = json.loads((tmp_path / Encoding.JPEG / "manifest.json").read_text())
    assert manifest["layout"]["jpeg_quality"] == 90
    assert manifest["layout"]["jpeg_subsampling"] == "4:2:0"


def test_exif_is_stored_with_the_bytes_or_applied_to_pixels(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    turned = root / "cats" / "turned.jpg"
    turned.write_bytes(image_bytes(77, exif=exif_bytes(6)))
    found = {}
    for encoding in (Encoding.SOURCE, Encoding.RAW):
        for exif in Exif:
            data_dir = tmp_path / f"{encoding}-{exif}"
            values = config(
                root, format=Format.HDF5, encoding=encoding, exif=exif, image_size=16
            )
            summary = write_dataset(values, data_dir)
            assert summary["flags"] == {"oriented": 1}
            assert open_dataset(data_dir).manifest.exif == exif
            found[encoding, exif] = next(
                one
                for split in read_all(data_dir).values()
                for one in split
                if one.filename == "cats/turned.jpg"
            )
    source = found[Encoding.SOURCE, Exif.APPLY]
    assert (source.encoded, source.orientation) == (turned.read_bytes(), 6)
    assert found[Encoding.RAW, Exif.APPLY].orientation == 1
    assert found[Encoding.RAW, Exif.IGNORE].orientation == 6
    sides = [found[Encoding.RAW, exif].encoded for exif in Exif]
    assert sides[0] != sides[1]


def test_random_mode_deals_over_all_at_once(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 30, "dogs": 30})
    values = config(root, split_mode=SplitMode.RANDOM)
    plan = plan_dataset(values, tmp_path / "none")
    sums = {name: sum(classes.values()) for name, classes in plan["splits"].items()}
    assert sums == {"train": 36, "validation": 12, "test": 12}
    assert plan["splits"]["train"] != {"cats": 18, "dogs": 18}


def test_photos_keep_their_own_splits_and_limit(tmp_path):
    values = DataConfig(source="photos", limit=40, workers=1, format=Format.HDF5)
    summary = write_dataset(values, tmp_path / "data")
    assert summary["splits"] == {
        "train": {"china": 12, "flower": 12},
        "validation": {"china": 4, "flower": 4},
        "test": {"china": 4, "flower": 4},
    }
    examples = read_all(tmp_path / "data")
    for split, members in examples.items():
        assert {one.filename.split("/")[1].split("-")[0] for one in members} == {split}
    assert len({(one.width, one.height) for one in examples["train"]}) > 10


def test_a_copy_that_is_left_out_still_ties_its_group(tmp_path):
    """With seed 7 the two groups, dealt apart, would go to two splits."""
    root = make_folder(tmp_path / "pets", {"cats": 12, "dogs": 12})
    (root / "cats" / "z.jpg").write_bytes((root / "cats" / "000.jpg").read_bytes())
    rows = ["path,label,group", "cats/z.jpg,cats,b", "cats/001.jpg,cats,b"]
    rows += ["cats/000.jpg,cats,a", "cats/002.jpg,cats,a"]
    rows += [f"cats/{i:03}.jpg,cats," for i in range(3, 12)]
    rows += [f"dogs/{i:03}.jpg,dogs," for i in range(12)]
    (root / "pets.csv").write_text("\n".join(rows) + "\n")
    for seed in range(8):
        data_dir = tmp_path / f"data{seed}"
        write_dataset(config(root / "pets.csv", seed=seed), data_dir)
        split_of = {
            one.filename: split
            for split, members in read_all(data_dir).items()
            for one in members
        }
        tied = {split_of[f"cats/00{i}.jpg"] for i in range(3)}
        assert len(tied) == 1, seed
        assert "cats/z.jpg" not in split_of


def test_dry_run_writes_nothing_and_tells_the_same(pets, stored, tmp_path):
    data_dir, summary = stored
    plan = plan_dataset(config(pets), tmp_path / "none" / "data")
    assert not (tmp_path / "none").exists()
    for name in ("seen", "accepted", "splits", "shards", "digest", "name", "classes"):
        assert plan[name] == summary[name]
    shards = [path for path in data_dir.iterdir() if ".tfrecord-" in path.name]
    written = sum(path.stat().st_size for path in shards)
    assert plan["forecast_bytes"] == pytest.approx(written, rel=0.05)
    assert plan["free_bytes"] > 0


def test_the_same_files_under_another_name_are_the_same_dataset(pets, tmp_path):
    """A folder, a copy of it and an archive of it, unless --name gives a name."""
    data_dir = tmp_path / "data"
    first = write_dataset(config(pets), data_dir)
    copy = shutil.copytree(pets, tmp_path / "copied")
    archive = shutil.make_archive(str(tmp_path / "archived"), "zip", pets)
    for source in (copy, archive):
        again = write_dataset(config(source), data_dir)
        assert (again["reused"], again["name"]) == (True, first["name"])
    with pytest.raises(TlperfError, match="name is 'pets' there, 'copied' here"):
        write_dataset(config(copy, name="copied"), data_dir)
    (copy / "cats" / "one_more.jpg").write_bytes(image_bytes(99))
    with pytest.raises(TlperfError, match="the source's files: digest"):
        write_dataset(config(copy), data_dir)


def test_what_is_left_out_is_told_in_a_line(pets, tmp_path, capsys):
    """Written, and found there again; not where all is used."""
    source = shutil.copytree(pets, tmp_path / "pets")
    data_dir = tmp_path / "data"
    write_dataset(config(source), tmp_path / "whole")
    assert "left out" not in capsys.readouterr().err
    (source / "cats" / "empty.jpg").write_bytes(b"")
    (source / "dogs" / "text.jpg").write_bytes(b"no image")
    for _ in range(2):
        reasons = write_dataset(config(source), data_dir)["reasons"]
        (line,) = capsys.readouterr().err.splitlines()
        told = ", ".join(f"1 {reason}" for reason in reasons)
        assert line == (
            f"tlperf shard: 2 files left out ({told}): {data_dir}/quarantine.jsonl"
        )
    next(data_dir.glob("*train*")).write_bytes(b"")  # and once where it is mended
    write_dataset(config(source), data_dir)
    assert capsys.readouterr().err.count("left out") == 1


def test_a_folder_of_somebody_else_is_left_alone(pets, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(TlperfError) as caught:
        write_dataset(config(pets), tmp_path)
    assert caught.value.code == ExitCode.EXISTS
    assert "files that are not tlperf's, e.g. 'thesis.tex'" in caught.value.text()
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("name", [".lock", ".partial-thesis.txt", "COMPLETE"])
def test_a_single_file_of_somebody_else_is_left_alone(name, pets, tmp_path):
    (tmp_path / name).write_text("precious")
    if name == ".lock":  # serves as a lock, whatever it holds
        assert write_dataset(config(pets), tmp_path)["accepted"] == 30
    else:
        with pytest.raises(TlperfError, match="files that are not tlperf's") as caught:
            write_dataset(config(pets), tmp_path)
        assert caught.value.code == ExitCode.EXISTS
    assert (tmp_path / name).read_text() == "precious"


def test_files_named_almost_as_shards_are_left_alone(pets, tmp_path):
    write_dataset(config(pets), tmp_path)
    kept = ["pets-best.h5", "pets-train.tfrecord-mine", ".partial-thesis.txt"]
    for name in kept:
        (tmp_path / name).write_text("precious")
    (tmp_path / "pets-test.tfrecord-00000-of-00001").unlink()
    assert write_dataset(config(pets), tmp_path)["reused"] is False
    assert {(tmp_path / name).read_text() for name in kept} == {"precious"}


def test_a_folder_with_a_seal_alone_is_not_said_to_be_ours(tmp_path):
    (tmp_path / "COMPLETE").write_text("x")
    with pytest.raises(TlperfError, match="missing_manifest") as caught:
        open_dataset(tmp_path)
    assert "delete" not in caught.value.remedy


def test_unfinished_work_is_cleared_and_done_anew(pets, tmp_path):
    write_dataset(config(pets), tmp_path)
    whole = tree(tmp_path)
    (tmp_path / "COMPLETE").unlink()
    (tmp_path / "pets-train.tfrecord-00001-of-00002").write_bytes(b"stale")
    (tmp_path / ".partial-1-pets-test.h5").write_bytes(b"stale")
    with pytest.raises(TlperfError, match=r"unfinished_data: .*run tlperf shard again"):
        open_dataset(tmp_path)
    assert write_dataset(config(pets), tmp_path)["reused"] is False
    assert tree(tmp_path) == whole


def cut(path):
    os.truncate(path, 100)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, delete])
@pytest.mark.parametrize(
    "name",
    [
        "pets-train.tfrecord-00000-of-00001",
        "pets-test.tfrecord-00000-of-00001.seals",
        "dataset_info.json",
        "quarantine.jsonl",
    ],
)
def test_what_is_damaged_is_written_again_by_the_same_command(
    name, damage, pets, tmp_path
):
    write_dataset(config(pets), tmp_path)
    whole = tree(tmp_path)
    if name == "quarantine.jsonl" and damage is not delete:
        (tmp_path / name).write_text("x")  # it is empty where all is well
    else:
        damage(tmp_path / name)
    assert not verify_dataset(tmp_path)["ok"]
    again = write_dataset(config(pets), tmp_path)
    assert again["reused"] is False
    assert again["shards_kept"] == 3 - ("tfrecord" in name)
    assert tree(tmp_path) == whole


def test_a_stored_dataset_answers_to_the_policy_of_this_run(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    (root / "cats" / "bad.jpg").write_bytes(b"")
    data_dir = tmp_path / "data"
    write_dataset(config(root), data_dir)
    (data_dir / "pets-test.tfrecord-00000-of-00001").unlink()
    before = tree(data_dir)
    for values in ({"max_bad": 0}, {"on_bad": OnBad.FAIL}):
        with pytest.raises(TlperfError, match="1 of 9 files are unusable") as caught:
            write_dataset(config(root, **values), data_dir)
        assert caught.value.code == ExitCode.DATA
        assert tree(data_dir) == before


def test_a_reused_dataset_counts_what_is_ignored_now(tmp_path):
    root = make_folder(tmp_path / "pets", {"cats": 4, "dogs": 4})
    write_dataset(config(root), tmp_path / "data")
    (root / "README.md").write_text("x")
    again = write_dataset(config(root), tmp_path / "data")
    assert again["reused"] is True
    assert (again["seen"], again["ignored"]) == (9, 1)


def test_a_source_whose_name_is_not_unicode_is_stored(tmp_path):
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    make_folder(pathlib.Path(root), {"cats": 4, "dogs": 4})
    shown = RunConfig(data=config(root), workdir=str(tmp_path / "w"))
    files.write_json(tmp_path / "config.json", shown.to_dict())
    assert RunConfig.from_dict(files.read_json(tmp_path / "config.json")) == shown
    assert write_dataset(config(root), tmp_path / "data")["accepted"] == 8


def test_a_second_writer_is_refused(pets, tmp_path):
    with directory_lock(tmp_path), pytest.raises(TlperfError) as caught:
        write_dataset(config(pets), tmp_path)
    assert caught.value.code == ExitCode.RETRY


def test_a_split_travels_to_another_process(stored):
    with open_dataset(stored[0]) as opened:
        split = opened.split("test")
        first = split.read([0])
        copy = pickle.loads(pickle.dumps(split))
    assert copy.read(np.array([0])) == first
    copy.close()
    with pytest.raises(ValueError, match="expected train, validation, test, got 'dev'"):
        opened.split("dev")
    with pytest.raises(IndexError, match="expected 0 to 5, got -1 to 2"):
        split.read([2, -1])


def test_sharding_never_imports_tensorflow(pets, tmp_path):
    code = (
        "import pathlib, sys\n"
        "from tlperf.core.settings import DataConfig\n"
        "from tlperf.dataset import inspect, shard, store, verify\n"
        f"data = pathlib.Path({str(tmp_path)!r})\n"
        f"shard.write_dataset(DataConfig(source={str(pets)!r}, workers=1), data)\n"
        "assert verify.verify_dataset(data)['ok']\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def end_abruptly(task):
    os._exit(task)


def test_a_worker_that_dies_is_told():
    with Workers(2) as workers, pytest.raises(TlperfError) as caught:
        list(workers.map(end_abruptly, [1, 2]))
    assert caught.value.code == ExitCode.RETRY
    assert caught.value.text().startswith("worker_died: a worker process ended")


def test_missing_photographs_are_named():
    code = (
        "import sys; sys.modules['sklearn'] = None;"
        "from tlperf.dataset.sources.photos import PhotosSource;"
        "PhotosSource().read_listing().items[0].origin.read(max_bytes=10**6)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "missing_photos: china.jpg: scikit-learn's sample photographs" in done.stderr
    assert "install scikit-learn, or give --source a folder" in done.stderr
