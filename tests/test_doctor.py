"""The doctor: green on a good machine, and each planted fault is found."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from tlperf.core.settings import DeviceConfig, ModelConfig, RunConfig
from tlperf.doctor.checks import run_checks

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture
def config(photos_dir, tmp_path):
    return RunConfig(
        workdir=str(tmp_path / "w"),
        data_dir=str(photos_dir),
        model=ModelConfig(weights="none"),
        device=DeviceConfig(devices="cpu"),
    )


def by_name(config):
    return {check["name"]: check for check in run_checks(config)}


def test_every_check_says_what_it_found(config):
    checks = by_name(config)
    assert list(checks) == [
        *("python", "packages", "memory", "disk", "devices", "tensorflow"),
        *("jpeg", "data", "weights"),
    ]
    for check in checks.values():
        assert check["found"]
        assert bool(check["advice"]) == (not check["ok"])
    for name in ("python", "tensorflow", "devices", "jpeg", "data", "weights"):
        assert checks[name]["ok"], checks[name]


def test_a_cut_shard_is_found(config, photos_dir, tmp_path):
    import shutil

    copy = shutil.copytree(photos_dir, tmp_path / "copy")
    (shard,) = copy.glob("*-test.tfrecord-*-of-00001")
    os.truncate(shard, shard.stat().st_size - 1)
    check = by_name(dataclasses.replace(config, data_dir=str(copy)))["data"]
    assert not check["ok"]
    assert shard.name in check["found"]
    assert "shard" in check["advice"]


def test_weights_that_are_not_there_are_found_and_not_downloaded(
    config, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    wanted = dataclasses.replace(config, model=ModelConfig(weights="imagenet"))
    check = by_name(wanted)["weights"]
    assert not check["ok"]
    assert "not downloaded yet" in check["found"]
    assert not (tmp_path / "models").exists()


def test_a_gpu_asked_for_and_not_there_is_found(config):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    wanted = dataclasses.replace(config, device=DeviceConfig(devices="gpu"))
    check = by_name(wanted)["devices"]
    assert not check["ok"]
    assert "no GPU" in check["found"]


def test_a_workdir_that_cannot_be_written_is_found(config):
    check = by_name(dataclasses.replace(config, workdir="/proc/tlperf"))["disk"]
    assert not check["ok"]


def test_devices_are_set_up_before_tensorflow_touches_one(tmp_path):
    """In a fresh process: splitting a CPU that is in use already would fail."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tlperf", "doctor", "--logical_devices=2"),
            *("--devices=cpu", "--weights=none", f"--workdir={tmp_path}", "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    checks = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    assert checks["devices"]["ok"], checks["devices"]
    assert "2 x logical device" in checks["devices"]["found"]
    assert checks["tensorflow"]["ok"]
