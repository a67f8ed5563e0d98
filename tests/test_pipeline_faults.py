"""Input when things go wrong: left open, closed in use, out of files, told nonsense."""

import os
import resource
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.images import image_bytes
from tests.passes import SIDE, arrays, load, make_source, open_loader, store
from tests.promises import ROOT, environment
from tlperf.core.choices import Augment, Encoding, ImageCheck, OnBadRecord
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import open_dataset
from tlperf.model.preprocess import build_device_half
from tlperf.pipeline.ceilings import Target, _on_threads, measure_ceilings
from tlperf.pipeline.endpoint import find_unreachable
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.measure import measure_input
from tlperf.pipeline.order import plan_training
from tlperf.pipeline.rates import rate_of
from tlperf.reference.backbones import PAPER_MODE

BATCH = 4
# Its first argument is a data directory, its second how far it goes.
LEFT_OPEN = """
import pathlib, sys, time
from tlperf.core.settings import DeviceConfig, InputConfig
from tlperf.dataset.store import open_dataset
from tlperf.device.setup import setup_compute
from tlperf.pipeline.input import InputPipeline
compute = setup_compute(DeviceConfig(devices="cpu"))
dataset = open_dataset(pathlib.Path(sys.argv[1]))
pipeline = InputPipeline(dataset, InputConfig(batch_size=4), image_size=16)
batches = pipeline.training(0)
batches = batches.distribute(compute) if sys.argv[2] == "placed" else iter(batches)
next(batches)
print("ends")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("faults") / "source", 64)


@pytest.fixture(scope="module")
def stored(source, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("stored") / "data"
    store(source, data_dir, shard_bytes=4000)
    return data_dir


@pytest.fixture(scope="module")
def half_bad(tmp_path_factory):
    return store_bad(tmp_path_factory.mktemp("half"), good=32, bad=32)


def store_bad(folder, *, good, bad):
    """A data directory of so many training images, the bad ones such that only a
    decoder finds it, stored unchecked."""
    data = image_bytes(1)
    at = data.index(b"\xff\xdb")  # a quantisation table becomes a comment
    data = data[:at] + b"\xff\xfe" + data[at + 2 :]
    root = make_source(folder / "source", 0)
    for number in range(good + bad):
        image = image_bytes(number) if number < good else data + b"%d" % number
        label = ("cats", "dogs")[number % 2]
        (root / "train" / label / f"{number:05d}.jpg").write_bytes(image)
    store(root, folder / "data", image_check=ImageCheck.HEADER)
    return folder / "data"


def target(compute):
    half = build_device_half(
        compute, normalisation=PAPER_MODE, augmentation=Augment.NONE
    )
    return Target(SIDE, compute, half)


def test_a_process_that_leaves_its_pipeline_open_ends(stored):
    """TensorFlow's destructor waited for ever for a load, at one exit of seven."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LEFT_OPEN, str(stored), way],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in ("placed", "plain") * 2
    ]
    try:
        for process in running:
            text, _ = process.communicate(timeout=60)
            assert (process.returncode, text) == (0, "ends\n")
    finally:
        for process in running:
            process.kill()


def test_a_closed_pipeline_ends_its_passes(two_cpus, stored):
    with open_dataset(stored) as dataset:
        pipeline = InputPipeline(dataset, InputConfig(batch_size=BATCH), image_size=16)
        begun = iter(pipeline.training(0))
        next(begun)
        pipeline.close()
        with pytest.raises(StopIteration):
            next(begun)
        with pytest.raises(tf.errors.OpError, match="pipeline is closed"):
            next(iter(pipeline.training(1)))


def test_a_pass_keeps_its_pipeline_open(two_cpus, stored):
    with open_dataset(stored) as dataset:
        config = InputConfig(batch_size=BATCH)
        batches = InputPipeline(dataset, config, image_size=16).training(0)
        assert len(arrays(batches)) == 16


def test_nothing_that_was_measured_goes_on(two_cpus):
    done = []

    def work(number, scratch):
        time.sleep(0.001)
        done.append(number)

    rate_of(_on_threads(work, range(100_000)), secs=0.05)
    count = len(done)
    time.sleep(0.1)
    assert len(done) == count
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_measuring_leaves_no_device_scope(two_cpus, stored):
    with open_dataset(stored) as dataset:
        measure_ceilings(
            dataset, InputConfig(batch_size=BATCH), target(two_cpus), secs=0.02
        )
    assert tf.constant(0).device.endswith("CPU:0")
    with tf.device("CPU:1"):
        assert tf.constant(0).device.endswith("CPU:1")


def test_bad_records_are_measured_as_they_are_trained_on(two_cpus, half_bad):
    config = InputConfig(batch_size=BATCH)
    with open_dataset(half_bad) as dataset:
        with pytest.raises(TlperfError) as caught:
            measure_input(dataset, config, target(two_cpus), secs=0.1)
        assert (caught.value.code, caught.value.reason) == (65, "bad_record")
        skipping = InputConfig(batch_size=BATCH, on_bad_record=OnBadRecord.SKIP)
        result = measure_input(dataset, skipping, target(two_cpus), secs=0.1)
    assert result["stages"]["decode"] > 0


def test_a_pass_of_which_all_is_skipped_is_bad_data(two_cpus, tmp_path):
    from tlperf.model.steps import StepSums
    from tlperf.training.passes import run_pass

    data_dir = store_bad(tmp_path, good=0, bad=8)
    config = InputConfig(batch_size=BATCH, on_bad_record=OnBadRecord.SKIP)

    def step(batch, wish=None):
        return StepSums(0.0, 0.0, float(batch.weight.numpy().sum()), 0.0)

    with (
        open_dataset(data_dir) as dataset,
        InputPipeline(dataset, config, image_size=SIDE) as pipeline,
        pytest.raises(TlperfError, match="none of 8 images could be used") as caught,
    ):
        run_pass(step, pipeline.training(0), compute=two_cpus, title="epoch 1")
    assert caught.value.code == ExitCode.DATA


def test_an_io_error_is_no_damage_and_is_never_skipped(stored):
    plan = plan_training(count=64, batch_size=BATCH, seed=0, epoch=0)
    with (
        open_dataset(stored) as dataset,
        open_loader(dataset, on_bad_record=OnBadRecord.SKIP) as loader,
    ):
        passes = load(loader, plan)
        next(passes)
        reader: Any = dataset.split("train")._reader
        unreadable = os.open(os.devnull, os.O_WRONLY)
        for descriptor in reader._descriptors.values():
            os.dup2(unreadable, descriptor)
        os.close(unreadable)
        with pytest.raises(TlperfError) as caught:
            list(passes)
    error = caught.value
    assert (error.code, error.reason) == (ExitCode.IO, "io_error")
    assert error.record is None
    assert "pets-train.tfrecord-" in str(error.path)
    assert loader.skipped == {}


def test_more_shards_than_files_may_be_open(stored):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with open_dataset(stored) as dataset:
            shards = len(dataset.manifest.shards_of("train"))
            assert len(dataset.split("train").read(range(64))) == 64
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert shards > 8
        assert raised >= 256 + shards
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_more_files_is_no_damage(stored):
    """Where even the hard limit is too low: nobody is told to delete a sound shard."""
    code = (
        "import pathlib, resource, sys;"
        "from tlperf.dataset.store import open_dataset;"
        "dataset = open_dataset(pathlib.Path(sys.argv[1]));"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8));"
        "dataset.split('train').read(range(64))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(stored)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = [one for one in done.stderr.splitlines() if "TlperfError" in one]
    assert "io_error" in line
    assert "raise ulimit -n" in line
    assert "delete" not in line


@pytest.mark.parametrize(
    ("config", "secs", "demand"),
    [
        ({}, float("nan"), None),
        ({}, 0.0, None),
        ({}, -1.0, None),
        ({}, float("inf"), None),
        ({}, 1.0, float("nan")),
        ({}, 1.0, float("inf")),
        ({}, 1.0, -5.0),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    two_cpus, stored, config, secs, demand
):
    with open_dataset(stored) as dataset, pytest.raises(SettingsError) as caught:
        measure_input(
            dataset, InputConfig(), target(two_cpus), secs=secs, demand=demand
        )
    assert "give a positive number" in str(caught.value)


def test_a_batch_that_replicas_cannot_share_is_not_measured(mirrored, stored):
    with open_dataset(stored) as dataset, pytest.raises(TlperfError) as caught:
        measure_input(dataset, InputConfig(batch_size=5), target(mirrored), secs=1.0)
    assert caught.value.code == ExitCode.CONFIG


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_numpy_cannot_take_is_refused(seed):
    with pytest.raises(SettingsError, match="give 0 to 4294967295"):
        InputConfig(seed=seed)


def test_a_host_name_that_is_none_is_not_reached():
    assert "no dispatcher answers" in str(find_unreachable("grpc://a..b:5000"))


def test_no_pass_begins_inside_of_an_epoch_without_order(two_cpus, stored):
    config = InputConfig(batch_size=BATCH, deterministic=False)
    with (
        open_dataset(stored) as dataset,
        InputPipeline(dataset, config, image_size=SIDE) as pipeline,
        pytest.raises(TlperfError, match="begin with an epoch") as caught,
    ):
        pipeline.training(0, step=3)
    assert (caught.value.code, caught.value.reason) == (ExitCode.CONFIG, "no_order")


@pytest.mark.parametrize("step", [-1, 17])
def test_a_step_that_the_plan_does_not_have_is_refused(step):
    plan = plan_training(count=64, batch_size=BATCH, seed=0, epoch=0)
    assert plan.from_step(16).steps == 0
    with pytest.raises(ValueError, match="expected 0 to 16, got"):
        plan.from_step(step)


def test_a_failure_is_told_of_its_own_pass_alone(two_cpus, half_bad):
    with (
        open_dataset(half_bad) as dataset,
        InputPipeline(dataset, InputConfig(batch_size=4), image_size=16) as pipeline,
    ):
        begun = pipeline.training(0)
        with pytest.raises(TlperfError, match="32 of 64 images cannot be used"):
            arrays(begun)
        again = pipeline.training(1)
        pipeline.close()
        with pytest.raises(tf.errors.OpError, match="pipeline is closed"):
            arrays(again)


def test_raw_pixels_of_the_wanted_size_are_measured_by_their_copies(
    two_cpus, source, tmp_path
):
    store(source, tmp_path / "raw", encoding=Encoding.RAW, image_size=SIDE)
    with open_dataset(tmp_path / "raw") as dataset:
        stages = measure_ceilings(
            dataset, InputConfig(batch_size=BATCH), target(two_cpus), secs=0.02
        )
        pixels = dataset.split("train").read([0])[0].encoded
    assert np.frombuffer(pixels, np.uint8).size == 3 * SIDE**2
    assert stages["decode"] is None
    assert stages["read"] is not None
