"""The doctor: green on a good machine, and each planted fault is found."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.promises import environment
from tests.trunks import learn_statistics
from tlperf.core import files
from tlperf.core.choices import Preprocess
from tlperf.core.errors import ExitCode
from tlperf.core.locks import LOCK, directory_lock
from tlperf.core.results import RESULTS_NAME
from tlperf.core.settings import DeviceConfig, InputConfig, ModelConfig, RunConfig
from tlperf.doctor import data as data_checks
from tlperf.doctor.checks import run_checks
from tlperf.model.build import build_backbone
from tlperf.model.weights import save_keras_weights
from tlperf.reference.backbones import EFFICIENTNETB0, find_backbone

pytestmark = pytest.mark.usefixtures("two_cpus")

NAMES = [
    *("python", "packages", "combinations", "memory", "disk", "workdir"),
    *("tensorflow", "devices", "gpu", "jpeg", "page_cache", "data"),
    *("weights", "preprocessing"),
]


@pytest.fixture
def config(photos_dir, tmp_path):
    return RunConfig(
        workdir=str(tmp_path / "w"),
        data_dir=str(photos_dir),
        model=ModelConfig(weights="none"),
        device=DeviceConfig(devices="cpu"),
    )


@pytest.fixture
def copied(config, photos_dir, tmp_path):
    """The settings with data that may be damaged, and the folder."""
    folder = shutil.copytree(photos_dir, tmp_path / "copy")
    return dataclasses.replace(config, data_dir=str(folder)), folder


def found(config, *names, **limits):
    """The last of some checks."""
    return run_checks(config, names=names, **limits)[-1]


def doctor(config, *flags, **variables):
    """The command in a process of its own: exit code, JSON."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tlperf", "doctor", f"--workdir={config.workdir}"),
            *(f"--data_dir={config.data_dir}", "--devices=cpu", "--weights=none"),
            *("--json", *flags),
        ],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    return done.returncode, {row["name"]: row for row in result["checks"]}


def assert_bad(check, *words):
    assert (check["ok"], check["level"]) == (False, "bad"), check
    assert check["advice"]
    for word in words:
        assert word in f"{check['found']}; {check['advice']}"


def assert_warns(check, *words):
    assert (check["ok"], check["level"]) == (True, "warn"), check
    assert check["advice"]
    for word in words:
        assert word in f"{check['found']}; {check['advice']}"


def test_a_good_machine_is_green(config):
    """In a fresh process, split into two devices: a CPU in use could not be."""
    code, checks = doctor(config, "--logical_devices=2")
    assert list(checks) == NAMES
    assert code == ExitCode.OK
    for check in checks.values():
        assert check["found"]
        assert check["ok"], check
        assert bool(check["advice"]) == (check["level"] != "ok")
    assert "2 x logical device" in checks["devices"]["found"]
    assert "40 images" in checks["data"]["found"]
    for name in ("python", "packages", "tensorflow", "devices", "jpeg", "data"):
        assert checks[name]["level"] == "ok", checks[name]


# 1: weights that are not those they pass for.
def test_a_weights_file_that_is_not_keras_own_is_found(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / "efficientnetb0_notop.h5"
    path.parent.mkdir()
    path.write_bytes(b"half of a download")
    wanted = dataclasses.replace(
        config, backbones="efficientnetb0", model=ModelConfig(weights="imagenet")
    )
    check = found(wanted, "weights")
    assert_bad(check, str(path), "md5", "50bc09e76180e00e4465e1a485ddc09d", "delete")


def test_a_hash_that_keras_does_not_state_is_not_claimed(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    spec = find_backbone("keras:MobileNet")
    assert spec.imagenet is not None
    path = tmp_path / "models" / spec.imagenet.name
    backbone = build_backbone(spec, image_size=32)
    path.parent.mkdir()
    save_keras_weights(backbone, path)
    wanted = dataclasses.replace(
        config,
        backbones="keras:MobileNet",
        input=InputConfig(image_size=32),
        model=ModelConfig(weights="imagenet"),
    )
    check = found(wanted, "weights")
    assert check["level"] == "ok", check
    assert "Keras states no hash" in check["found"]


def test_weights_of_another_network_are_found(config, tmp_path):
    import keras

    path = tmp_path / "other.weights.h5"
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs)).save_weights(path)
    wanted = dataclasses.replace(
        config,
        backbones="efficientnetb0",
        input=InputConfig(image_size=32),
        model=ModelConfig(weights=f"efficientnetb0:{path}"),
    )
    assert_bad(found(wanted, "weights"), str(path), "does not fit efficientnetb0")


def test_weights_that_are_not_there_yet_are_told_and_not_downloaded(
    config, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    wanted = dataclasses.replace(config, model=ModelConfig(weights="imagenet"))
    assert_warns(found(wanted, "weights"), "not downloaded yet", "--weights=none")
    assert not (tmp_path / "models").exists()


# 2 to 4: data.
def test_a_cut_shard_is_found(copied):
    config, folder = copied
    (shard,) = folder.glob("*-test.tfrecord-*-of-00001")
    os.truncate(shard, shard.stat().st_size - 1)
    assert_bad(found(config, "data"), shard.name, "cut", "shard again")


@pytest.mark.parametrize(("most_bytes", "sample"), [(2**20, 1), (0, 64)])
def test_a_changed_byte_of_a_record_is_found(copied, monkeypatch, most_bytes, sample):
    """Of small data wherever it is; of larger ones where it is in the sample."""
    monkeypatch.setattr(data_checks, "_MOST_BYTES", most_bytes)
    monkeypatch.setattr(data_checks, "_SAMPLE", sample)
    config, folder = copied
    assert "; 40 records read and sound" in found(config, "data")["found"]
    (shard,) = folder.glob("*-test.tfrecord-*-of-00001")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert_bad(found(config, "data"), shard.name, "record")


def test_a_changed_manifest_is_found(copied):
    config, folder = copied
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"train"', '"trail"', 1))
    assert_bad(found(config, "data"), "manifest.json", "COMPLETE")


def test_photos_of_damaged_data_are_not_looked_at(copied):
    config, folder = copied
    (folder / "manifest.json").write_text("{}")
    wanted = with_efficientnet(config, folder.parent)
    checks = run_checks(wanted, names=("data", "weights", "preprocessing"))
    assert_warns(checks[-1], "damaged")


# 5: no space.
def test_a_full_disk_is_found(config):
    assert found(config, "disk")["level"] == "ok"
    check = found(config, "disk", min_free_bytes=1 << 60)
    assert_bad(check, "free", "--workdir")


def run_in_namespace(script):
    """The JSON of a script that mounts for itself alone, where this process may."""
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["-r"])]
    done = subprocess.run(
        [*namespace, "sh", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and done.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_small_disk_is_found(config, tmp_path):
    """A real one, of 1 MiB, where this process may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} -c "
        '"import json, sys; from tlperf.core.settings import RunConfig; '
        "from tlperf.doctor.checks import run_checks; print(json.dumps("
        "run_checks(RunConfig(workdir=sys.argv[1]), names=['disk'])))\" "
        f"{disk}/w"
    )
    (check,) = run_in_namespace(script)
    assert_bad(check, "1.0 MiB free", "2.0 GiB")


def test_whole_data_may_be_where_nobody_writes(config, photos_dir, tmp_path):
    """A real disk that is only read, its folder once locked by who sharded."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copytree(photos_dir, folder, dirs_exist_ok=True)
    (folder / LOCK).touch()
    script = (
        f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && "
        f"! touch {folder}/x 2>/dev/null && exec {sys.executable} -c "
        '"import json, sys; from tlperf.core.settings import RunConfig; '
        "from tlperf.doctor.checks import run_checks; print(json.dumps("
        "run_checks(RunConfig(workdir=sys.argv[1], data_dir=sys.argv[2]), "
        f"names=['disk', 'workdir', 'data'])))\" {tmp_path}/w {folder}"
    )
    (tmp_path / "w").mkdir()
    checks = run_in_namespace(script)
    assert [check["level"] for check in checks] == ["ok"] * 3, checks


# 6 and 7: packages.
def plant(folder, name, version):
    """An installed package, as far as its metadata say."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("tensorboard", "2.18.0", ["TensorBoard 2.18.0", "tensorboard==2.21.*"]),
        ("xprof", "2.20.1", ["XProf 2.20.1", "--upgrade xprof"]),
        ("tensorboard-plugin-profile", "2.19.0", ["XProf has replaced"]),
    ],
)
def test_a_profiler_of_another_tensorflow_is_found(
    config, tmp_path, monkeypatch, name, version, words
):
    plant(tmp_path / "site", name, version)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert_warns(found(config, "combinations"), *words)


def test_two_tensorflows_are_found(config, tmp_path, monkeypatch):
    plant(tmp_path / "site", "tf-nightly", "2.22.0.dev1")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert_bad(found(config, "combinations"), "tf-nightly", "overwrite")


@pytest.mark.parametrize("version", ["3.12.0", "3.16.0"])
def test_a_keras_out_of_range_is_found(config, tmp_path, monkeypatch, version):
    plant(tmp_path / "site", "keras", version)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert_bad(found(config, "packages"), f"keras {version}, needs", "3.15.1")


def test_keras_on_another_backend_is_found(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    settings = {"backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    check = found(config, "combinations")
    assert_bad(check, "Keras computes with jax", "keras.json", "channels_first")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert_bad(found(config, "combinations"), "torch (KERAS_BACKEND)")


# 8: devices.
def test_a_gpu_asked_for_without_its_libraries_is_found(config):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    wanted = dataclasses.replace(config, device=DeviceConfig(devices="gpu"))
    assert_bad(found(wanted, "devices"), "no GPU", "--devices=cpu")
    assert_bad(found(wanted, "gpu"), "libcudnn.so.9", "tlperf[gpu]")
    assert found(config, "gpu")["level"] == "ok"


# 9: a TensorFlow that does not work.
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libz.so: cannot open')", ["libz.so: cannot open"]),
        ("import os; os.abort()", ["SIGABRT"]),  # as without AVX, or a wrong libc
        ("__version__ = '0'", ["No module named 'tensorflow.python'"]),
    ],
)
def test_a_broken_tensorflow_is_told_and_the_rest_goes_on(
    config, tmp_path, code, words
):
    broken = tmp_path / "site" / "tensorflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"{code}\n")
    root = str(pathlib.Path(__file__).parents[1])
    exit_code, checks = doctor(config, PYTHONPATH=f"{broken.parent}:{root}")
    assert exit_code == ExitCode.CONFIG
    assert list(checks) == NAMES
    assert_bad(checks["tensorflow"], *words, "install")
    for name in ("devices", "jpeg"):
        assert_warns(checks[name], "not looked at", "TensorFlow")
    for name in ("packages", "disk", "data", "page_cache", "weights"):
        assert checks[name]["ok"], checks[name]


def test_onednn_that_is_turned_off_is_found(config, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    check = found(config, "tensorflow")
    assert_warns(check, "oneDNN off", "unset TF_ENABLE_ONEDNN_OPTS")


# 10 and 11: the workdir.
@pytest.mark.parametrize("place", ["/proc/tlperf", "{tmp}/file", "{tmp}/file/w"])
def test_a_workdir_that_cannot_be_written_is_found(config, tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    workdir = place.format(tmp=tmp_path)
    check = found(dataclasses.replace(config, workdir=workdir), "disk")
    assert_bad(check, workdir.removesuffix("/w").removesuffix("/tlperf"), "--workdir")


def test_a_workdir_that_is_a_file_is_found(config, tmp_path):
    (tmp_path / "w").write_text("no folder")
    assert_bad(found(config, "workdir"), str(tmp_path / "w"), "--workdir")


def test_another_process_at_work_is_found(config, tmp_path):
    folder = tmp_path / "w" / "xception"
    with directory_lock(folder):
        assert_warns(found(config, "workdir"), str(folder), "wait")
    assert found(config, "workdir")["level"] == "ok"


def test_results_of_another_tensorflow_are_found(config, tmp_path):
    path = tmp_path / "w" / RESULTS_NAME
    row = {"stage": "train", "machine": {"versions": {"tensorflow": "2.15.0"}}}
    files.append_json_line(path, row)
    assert_warns(found(config, "workdir"), "TensorFlow 2.15.0", "again")
    path.write_text("torn\n" + path.read_text())
    assert_bad(found(config, "workdir"), str(path), "not JSON")


# 12: memory.
def test_too_little_memory_is_found(config):
    """A real limit, as a batch system or a container sets one."""
    code = (
        "import json, sys; from tlperf.core.settings import RunConfig;"
        "from tlperf.doctor.checks import run_checks;"
        "print(json.dumps(run_checks(RunConfig(workdir='w'), names=['memory'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 30,) * 2),
    )
    (check,) = json.loads(done.stdout)
    assert_bad(check, "1.0 GiB", "raise the limit")


# 13: preprocessing.
def with_efficientnet(config, folder, *, preprocess=Preprocess.BACKBONE):
    """Settings with random weights that know the statistics of photos."""
    path = folder / "efficientnetb0_notop.weights.h5"
    if not path.exists():
        backbone = build_backbone(EFFICIENTNETB0, image_size=32)
        rows = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3), np.uint8)
        image = rows.repeat(8, axis=1).repeat(8, axis=2)
        learn_statistics(backbone, image, EFFICIENTNETB0.normalisation)
        save_keras_weights(backbone, path)
    return dataclasses.replace(
        config,
        backbones="efficientnetb0",
        input=InputConfig(image_size=32, batch_size=8, preprocess=preprocess),
        model=ModelConfig(weights=str(folder)),
    )


def test_a_severe_misfit_of_preprocessing_is_found(config, tmp_path):
    names = ("data", "weights", "preprocessing")
    wanted = with_efficientnet(config, tmp_path, preprocess=Preprocess.PAPER)
    checks = run_checks(wanted, names=names)
    assert_bad(checks[-1], "x/255", "EfficientNetB0", "stem_bn", "raw fits best")
    assert_bad(checks[-1], "--preprocess=backbone")
    right = run_checks(with_efficientnet(config, tmp_path), names=names)
    assert right[-1]["ok"], right[-1]
    assert "raw" in right[-1]["found"]


def test_no_data_and_no_workdir_are_no_fault(config, tmp_path):
    wanted = dataclasses.replace(config, data_dir=str(tmp_path / "none"))
    checks = run_checks(wanted, names=("workdir", "page_cache", "data"))
    assert [check["level"] for check in checks] == ["ok"] * 3
