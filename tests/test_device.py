"""Device choice, precision and XLA: what is asked for happens, or is refused."""

import pathlib
import sys
import time

import pytest

from tests.promises import run
from tlperf.core.choices import Precision, Strategy, Xla
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DeviceConfig
from tlperf.device.setup import resolve_xla, setup_compute


@pytest.mark.parametrize(
    ("xla", "kind", "replicas", "expected"),
    [
        (Xla.AUTO, "CPU", 1, False),  # depthwise models slow down 6-10x
        (Xla.AUTO, "CPU", 2, False),
        (Xla.AUTO, "GPU", 1, True),
        (Xla.AUTO, "GPU", 2, False),
        (Xla.ON, "CPU", 1, True),
        (Xla.OFF, "GPU", 1, False),
    ],
)
def test_xla_policy(xla, kind, replicas, expected):
    assert resolve_xla(xla, kind=kind, replicas=replicas) is expected


def test_mirrored_xla_is_refused_of_one_device_too(two_cpus):
    assert resolve_xla(Xla.AUTO, kind="GPU", replicas=1, is_mirrored=True) is False
    asked = DeviceConfig(devices="cpu", strategy=Strategy.MIRRORED, xla=Xla.ON)
    with pytest.raises(TlperfError, match="--xla=on with --strategy=mirrored"):
        setup_compute(asked)


def test_xla_under_replicas_is_refused():
    with pytest.raises(TlperfError, match="--xla=on with 2 replicas") as caught:
        resolve_xla(Xla.ON, kind="GPU", replicas=2)
    assert caught.value.code is ExitCode.CONFIG


@pytest.mark.T9
def test_a_gpu_that_is_not_there_is_refused_not_replaced(two_cpus):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(TlperfError, match="sees no GPU") as caught:
        setup_compute(DeviceConfig(devices="gpu"))
    assert caught.value.code is ExitCode.UNAVAILABLE


@pytest.mark.T9
@pytest.mark.parametrize("visible", [None, ""])
def test_a_training_on_a_gpu_that_is_not_there_ends_at_once(
    visible, photos_dir, tmp_path
):
    """Hidden by CUDA_VISIBLE_DEVICES, or none, or without its libraries."""
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    if visible is None and pathlib.Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine may have a GPU")
    command = [
        *(sys.executable, "-m", "tlperf", "train", "--devices=gpu"),
        *("--backbones=vgg16", "--weights=none", "--image_size=32", "--epochs=1"),
        *(f"--data_dir={photos_dir}", f"--workdir={tmp_path}"),
    ]
    start = time.monotonic()
    done = run(command, **variables)
    assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
    assert "no_gpu: --devices=gpu, but TensorFlow sees no GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 60  # a loaded machine's start included
    assert not (tmp_path / "results.jsonl").exists()


def test_deterministic_operations_are_without_xla():
    assert resolve_xla(Xla.AUTO, kind="GPU", replicas=1, op_determinism=True) is False
    with pytest.raises(TlperfError, match="--xla=on with --op_determinism"):
        resolve_xla(Xla.ON, kind="GPU", replicas=1, op_determinism=True)


def test_precision_is_float32_on_a_cpu_and_as_asked_otherwise(two_cpus):
    assert setup_compute(DeviceConfig(devices="cpu")).precision == "float32"
    asked = DeviceConfig(devices="cpu", precision=Precision.MIXED_BFLOAT16)
    assert setup_compute(asked).precision == "mixed_bfloat16"


def test_facts_name_the_device_the_precision_and_the_replicas(mirrored):
    facts = mirrored.facts()
    assert facts["devices"] == ["CPU:0", "CPU:1"]
    assert (facts["replicas"], facts["strategy"]) == (2, "MirroredStrategy")
    assert (facts["precision"], facts["xla"]) == ("float32", False)
    assert facts["text"].startswith("2 x logical device on CPU")


def test_the_memory_of_a_cpu_is_not_counted(two_cpus):
    assert two_cpus.peak_memory_bytes() is None
