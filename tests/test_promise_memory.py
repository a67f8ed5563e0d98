"""L6, L7: no cache is used for what it was not made from, input keeps to its memory.

Processes of their own are measured and killed (`tests/input_child.py`).
`--figures=full` does what the promises state: every setting, 20 kills, 20,000 images,
512 images of 40 megapixels in 2 GiB.
"""

import dataclasses
import io
import json
import random
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.images import exif_bytes, image_bytes, make_folder, make_image
from tests.passes import SIDE, arrays, digest_of, make_source, shards_of, store
from tests.promises import ROOT, environment, tree
from tlperf.core.choices import (
    Augment,
    Cache,
    Decode,
    Encoding,
    Exif,
    Format,
    ImageCheck,
    OnBadRecord,
    Preprocess,
)
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.input import InputPipeline

MIB = 1 << 20
# Large blocks are the kernel's again as soon as they are free, so that each measurement
# begins anew (mallopt(3)).
TRIMMED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def child(mode, **values):
    """The command that `tests.input_child` is run by."""
    return [sys.executable, "-m", "tests.input_child", mode, json.dumps(values)]


def run_child(mode, *, most_secs=120, **values):
    """The rows that it prints."""
    done = subprocess.run(
        child(mode, **values),
        cwd=ROOT,
        env=environment(**TRIMMED),
        stdout=subprocess.PIPE,
        timeout=most_secs,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


# L6: each other value of a setting.
CHANGED: dict[str, Any] = {
    "image_size": 24,
    "batch_size": 4,
    "preprocess": Preprocess.PAPER,
    "augment": Augment.FLIP,
    "seed": 2,
    "decode": Decode.FAST,
    "cache": Cache.NONE,
    "ram_budget": 1 << 28,
    "on_bad_record": OnBadRecord.SKIP,
    "deterministic": False,
}


def damage_every_record(data_dir):
    """From here on, who reads a training record finds it damaged."""
    for shard in shards_of(data_dir):
        data = bytearray(shard.read_bytes())
        lines = shard.with_name(f"{shard.name}.idx").read_text().splitlines()
        for offset, size in (map(int, line.split()) for line in lines):
            data[offset + size // 2] ^= 1
        with open(shard, "r+b") as stream:  # the file that readers have open
            stream.write(data)


def open_pipeline(dataset, config):
    return InputPipeline(dataset, config, image_size=config.image_size or SIDE)


@pytest.mark.L6
@pytest.mark.parametrize("cache", [Cache.ENCODED, Cache.DECODED])
def test_no_other_settings_use_a_cache(two_cpus, cache, tmp_path, record_property):
    """A cache in use, whose records are gone since: who must read them misses it."""
    fields = {field.name for field in dataclasses.fields(InputConfig)}
    assert set(CHANGED) == fields - {"data_service"}  # which is refused beside a cache
    store(make_source(tmp_path / "source", 24), tmp_path / "data")
    base = InputConfig(batch_size=8, seed=1, cache=cache)
    missed = 0
    with open_dataset(tmp_path / "data") as dataset:
        warm = open_pipeline(dataset, base)
        first = digest_of(arrays(warm.training(0)))
        damage_every_record(tmp_path / "data")
        assert digest_of(arrays(warm.training(0))) == first  # it is used at all
        for name, value in CHANGED.items():
            config = dataclasses.replace(base, **{name: value})
            with open_pipeline(dataset, config) as other:
                if config.on_bad_record is OnBadRecord.SKIP:
                    weights = [batch[2].sum() for batch in arrays(other.training(0))]
                    assert sum(weights) == 0
                else:
                    with pytest.raises(TlperfError) as caught:
                        arrays(other.training(0))
                    assert caught.value.reason == "damaged_record"
            missed += 1
        assert digest_of(arrays(warm.training(0))) == first
        warm.close()
        with pytest.raises(TlperfError, match="damaged_record"):
            arrays(open_pipeline(dataset, base).training(0))
    record_property("figures", f"{cache}: {missed} of {len(CHANGED)} settings miss it")


# Changes of a data directory, and whether the training pixels of epoch 0 change.
MANIFESTS: dict[str, tuple[dict[str, Any], bool]] = {
    "one image": ({}, True),
    "seed": ({"seed": 1}, True),
    "split": ({"split": (50, 20, 30)}, True),
    "limit": ({"limit": 30}, True),
    "encoding": ({"encoding": Encoding.JPEG, "image_size": 18}, True),
    "exif": ({"exif": Exif.APPLY}, True),
    "format": ({"format": Format.HDF5}, False),
    "shard_bytes": ({"shard_bytes": 4000}, False),
}


@pytest.mark.L6
@pytest.mark.parametrize("cache", [Cache.ENCODED, Cache.DECODED])
def test_no_other_manifest_uses_a_cache(
    two_cpus, cache, tmp_path, figures, record_property
):
    """A data directory that is made anew under its old name, beside a cache in use."""
    config = InputConfig(batch_size=8, cache=cache)
    uncached = dataclasses.replace(config, cache=Cache.NONE)
    changes = {**MANIFESTS} if figures.full else {"one image": ({}, True)}

    def passes(config, data_dir, *, epochs):
        with open_dataset(data_dir) as dataset:
            pipeline = open_pipeline(dataset, config)
            return [digest_of(arrays(pipeline.training(0))) for _ in range(epochs)]

    for number, (name, (values, changes_pixels)) in enumerate(changes.items()):
        root = make_folder(tmp_path / f"source{number}", {"cats": 20, "dogs": 20})
        for seed, path in enumerate(sorted(root.glob("*/00*.jpg"))):
            path.write_bytes(image_bytes(900 + seed, exif=exif_bytes(3)))
        data_dir = tmp_path / f"data{number}"
        store(root, data_dir)
        with open_dataset(data_dir) as dataset:
            warm = open_pipeline(dataset, config)
            before = [digest_of(arrays(warm.training(0))) for _ in range(2)]
            (example,) = dataset.split("train").read([0])
            shutil.rmtree(data_dir)
            if name == "one image":
                (root / example.filename).write_bytes(image_bytes(990))
            store(root, data_dir, **values)
            after = passes(config, data_dir, epochs=2)
        (expected,) = passes(uncached, data_dir, epochs=1)
        assert after == [expected] * 2, name
        assert (expected not in before) == changes_pixels, name
        assert len({*before}) == 1
    record_property("figures", f"{cache}: {len(changes)} changed manifests miss it")


@pytest.mark.L6
def test_a_killed_cache_leaves_nothing(two_cpus, tmp_path, figures, record_property):
    data_dir, folder = tmp_path / "data", tmp_path / "scratch"
    store(make_source(tmp_path / "source", 400), data_dir)
    folder.mkdir()
    before = tree(data_dir)
    generator = random.Random(3)
    kills = figures.pick(2, 20)
    for number in range(kills):
        command = child(
            "cache", data_dir=str(data_dir), cache=("encoded", "decoded")[number % 2]
        )
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment(TMPDIR=str(folder), HOME=str(folder)),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"images": 400}
            time.sleep(generator.uniform(0, 0.1))
            process.kill()
        assert process.returncode == -9
        assert tree(data_dir) == before
        assert [*folder.iterdir()] == []
    for cache in (Cache.ENCODED, Cache.DECODED):
        config = InputConfig(batch_size=8, cache=cache)
        with open_dataset(data_dir) as dataset, open_pipeline(dataset, config) as one:
            assert sum(1 for epoch in (0, 1) for _ in one.training(epoch)) == 100
    record_property("figures", f"{kills} kills while caching: no file left, runs go on")


@pytest.mark.L6
@pytest.mark.L7
def test_memory_is_planned_before_anything_is_read(two_cpus, tmp_path):
    store(make_source(tmp_path / "source", 24), tmp_path / "data")
    with open_dataset(tmp_path / "data") as dataset:
        needed = (6 * 4 + 24 + 4) * 3 * 30 * 30
        config = InputConfig(batch_size=4, cache=Cache.DECODED, ram_budget=needed)
        with pytest.raises(TlperfError, match=f"may have {needed};") as caught:
            InputPipeline(dataset, config, image_size=30)
        assert (caught.value.code, caught.value.reason) == (
            ExitCode.MEMORY,
            "ram_budget",
        )
        config = dataclasses.replace(config, ram_budget=needed + MIB)
        with InputPipeline(dataset, config, image_size=30) as pipeline:
            assert sum(1 for _ in pipeline.training(0)) == 6
        # Where nothing is said: a quarter of what this process may use.
        share = memory_limit_bytes() // 4
        config = InputConfig(batch_size=share // (6 * 3 * 30 * 30) + 1)
        with pytest.raises(TlperfError, match=f"may have {share};"):
            InputPipeline(dataset, config, image_size=30)


def photo(megapixels, kind="JPEG", *, mode="RGB", noise=False, **options):
    """A large image file, 3:2."""
    height = int((megapixels * 1e6 / 1.5) ** 0.5)
    width = int(megapixels * 1e6 / height)
    image = make_image(int(megapixels), width=width, height=height)
    if noise:
        generator = np.random.default_rng(0)
        image = Image.fromarray(
            generator.integers(0, 256, (height, width, 3), np.uint8)
        )
    stream = io.BytesIO()
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


PHOTOS: dict[str, dict[str, Any]] = {
    "jpeg": {"subsampling": 0},
    "jpeg 4:2:0": {"subsampling": 2},
    "noise": {"subsampling": 0, "noise": True},
    "progressive": {"subsampling": 0, "progressive": True},
    "gray": {"mode": "L", "progressive": True},
    "cmyk": {"mode": "CMYK"},
    "cmyk progressive": {"mode": "CMYK", "progressive": True},
    "png": {"kind": "PNG", "compress_level": 1},
    "png noise": {"kind": "PNG", "compress_level": 1, "noise": True},
    "png rgba": {"kind": "PNG", "mode": "RGBA", "compress_level": 1},
    "png palette": {"kind": "PNG", "mode": "P", "compress_level": 1},
    "png gray with alpha": {"kind": "PNG", "mode": "LA", "compress_level": 1},
    "png 16 bits": {"kind": "PNG", "mode": "I;16", "compress_level": 1},
    "gif": {"kind": "GIF", "mode": "P"},
}


@pytest.mark.L7
def test_no_image_takes_more_to_decode_than_is_planned(
    tmp_path, figures, record_property, monkeypatch
):
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 27)  # Pillow writes scans at once
    megapixels = figures.pick(1, 40)
    for name, options in PHOTOS.items():
        (tmp_path / name).write_bytes(photo(megapixels, **options))
    rows = run_child("decode", folder=str(tmp_path), most_secs=600)
    assert len(rows) == len(PHOTOS) * 6
    # A page here and there beside the images.
    over = [row for row in rows if row["grown_bytes"] > row["planned_bytes"] + MIB]
    assert over == []
    most = max(row["grown_bytes"] / row["planned_bytes"] for row in rows)
    record_property(
        "figures",
        f"{len(rows)} decodes of {megapixels} megapixels: at most {most:.0%} of the "
        "memory planned",
    )


def store_photos(folder, *, count, megapixels, progressive_in=2):
    """A data directory of `count` training images, one in so many progressive, which
    takes most memory and time; all differ in a comment only."""
    quick = photo(megapixels, subsampling=2)
    costly = photo(megapixels, subsampling=0, progressive=True)
    for split, images in (("train", count), ("validation", 2), ("test", 2)):
        for number in range(images):
            data = quick if number % progressive_in else costly
            comment = f"\xff\xfe\0\x0e{split[:4]}{number:08d}".encode("latin-1")
            path = folder / "source" / split / str(number % 2) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[:2] + comment + data[2:])
    # Not decoded twice: it is input that is measured.
    store(folder / "source", folder / "data", image_check=ImageCheck.HEADER)
    return folder / "data"


@pytest.mark.L7
@pytest.mark.parametrize("size", ["small", "large"])
def test_threads_decode_no_more_than_the_budget_at_once(
    size, tmp_path, figures, record_property
):
    """16 threads with work for all of them, memory for two; small images are those
    whose memory threads would keep."""
    megapixels = 2 if size == "small" else figures.pick(6, 40)
    count = figures.pick(20, 48)
    data_dir = store_photos(tmp_path, count=count, megapixels=megapixels)
    budget = int(2.2 * 12 * megapixels * 1e6)
    (row,) = run_child("load", data_dir=str(data_dir), threads=16, memory_bytes=budget)
    assert row["images"] == count
    assert row["grown_bytes"] <= budget
    record_property(
        "figures",
        f"{count} images of {megapixels} megapixels on 16 threads: "
        f"{row['grown_bytes'] // MIB} of {budget // MIB} MiB",
    )


@pytest.mark.L7
def test_memory_does_not_grow_with_the_images(tmp_path, figures, record_property):
    """Ten times as many images, of all of which a pass keeps nothing but the plan."""
    few, many = figures.pick((100, 1000), (2000, 20_000))
    epochs = figures.pick(4, 2)
    for count in (few, many):
        store(make_source(tmp_path / f"source{count}", count), tmp_path / f"{count}")
    passes = [
        {
            "data_dir": str(tmp_path / str(count)),
            "image_size": 64,
            "epochs": epochs,
            "input": {"batch_size": 20, "ram_budget": 64 * MIB},
        }
        for count in (few, few, many)
    ]
    _, *rows = run_child("pass", passes=passes)  # the first one warms TensorFlow up
    assert [row["images"] for row in rows] == [epochs * few, epochs * many]
    grown = [row["grown_bytes"] for row in rows]
    assert max(grown) <= 64 * MIB
    # Index, weight, draws and place of an image, and a copy of some: 200 bytes.
    assert grown[1] - grown[0] <= 200 * many + 2 * MIB
    told = " and ".join(f"{size / MIB:.1f} MiB" for size in grown)
    record_property("figures", f"{few} and {many} images: {told} over an idle process")


LIMIT = 2048 * MIB


@pytest.mark.L7
@pytest.mark.slow
def test_large_images_in_2_gib(tmp_path, figures, record_property):
    """A process that may have 2 GiB of private memory; TensorFlow's libraries alone map
    as much, so RLIMIT_AS would not let it begin. A quarter of it is for input."""
    count, runs = figures.pick((16, 1), (512, 10))
    data_dir = store_photos(tmp_path, count=count, megapixels=40, progressive_in=8)
    grown, peaks = [], []
    for run in range(runs):
        decode = ("exact", "fast")[run % 2]
        one = {
            "data_dir": str(data_dir),
            "image_size": 224,
            "input": {"batch_size": 16, "decode": decode},
        }
        (row,) = run_child("pass", passes=[one], data_bytes=LIMIT, most_secs=3600)
        assert row["images"] == count
        grown.append(row["grown_bytes"])
        peaks.append(row["peak_bytes"])
    assert max(grown) <= LIMIT // 4
    assert max(peaks) <= LIMIT
    record_property(
        "figures",
        f"{runs} runs of {count} images of 40 megapixels: input at most "
        f"{max(grown) // MIB} of 512 MiB, the process {max(peaks) // MIB} of 2048",
    )


@pytest.mark.L7
def test_an_image_too_large_for_the_budget_ends_with_71(two_cpus, tmp_path):
    data_dir = store_photos(tmp_path, count=4, megapixels=3)
    config = InputConfig(batch_size=4, ram_budget=30 * MIB)
    with (
        open_dataset(data_dir) as dataset,
        open_pipeline(dataset, config) as pipeline,
        pytest.raises(TlperfError, match=r"an image takes \d+ bytes") as caught,
    ):
        arrays(pipeline.training(0))
    assert (caught.value.code, caught.value.reason) == (ExitCode.MEMORY, "ram_budget")
