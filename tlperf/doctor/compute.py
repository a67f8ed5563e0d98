"""TensorFlow, devices, NVIDIA's libraries, and decoding.

check_tensorflow(patient)     # in a process of its own: a broken one may end it
check_devices(patient)

Devices are set up before TensorFlow first touches one in this process.
"""

import ctypes
import importlib.util
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

from tlperf.core.quiet import quiet_stderr
from tlperf.doctor.findings import Check, Patient

# Imports as this process would, computes a product and tells of the build. The GPU is
# left alone: another process may need its memory.
_PROBE = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
import tensorflow as tf
import keras
from tensorflow.python.util import _pywrap_util_port
product = tf.linalg.matmul(tf.ones([2, 3]), tf.ones([3, 2]))
build = tf.sysconfig.get_build_info()
print(json.dumps({
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "backend": keras.backend.backend(),
    "is_right": bool(tf.reduce_all(product == 3.0)),
    "cuda": build.get("cuda_version") if build.get("is_cuda_build") else None,
    "onednn": bool(_pywrap_util_port.IsMklEnabled()),
}))
"""
_PROBE_SECS = 120

_NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia")
# What TensorFlow 2.21 loads of CUDA 12 and cuDNN 9, the driver's first.
_GPU_LIBRARIES = (
    *("libcuda.so.1", "libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"),
    *("libcufft.so.11", "libcusolver.so.11", "libcusparse.so.12", "libcudnn.so.9"),
)


def check_tensorflow(patient: Patient) -> Check:
    """Whether it can be imported and multiplies, and how it was built."""
    command = [sys.executable, "-c", _PROBE, json.dumps(sys.path)]
    # Hidden from this process alone.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    advice = "install tlperf again in a new virtual environment"
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check.bad(f"not imported within {_PROBE_SECS} s", advice)
    if done.returncode:
        return Check.bad(_last_words(done), advice)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return judge_tensorflow(facts)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Why the process ended."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"importing it ends Python with {name}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"cannot be imported ({lines[-1].strip()})"


def judge_tensorflow(facts: dict[str, Any]) -> Check:
    """What the probe tells of a TensorFlow that works."""
    cuda = f"CUDA {facts['cuda']} build" if facts["cuda"] else "CPU build"
    onednn = f"oneDNN {'on' if facts['onednn'] else 'off'}"
    found = f"{facts['tensorflow']}, Keras {facts['keras']}, {cuda}, {onednn}"
    if not facts["is_right"]:
        return Check.bad(f"{found}: a product came out wrong", "install it again")
    if not facts["onednn"]:
        # tensorflow/core/util/port.cc: x86 builds have it on, this variable wins.
        wish = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
        if wish is not None:
            told = f"{found} (TF_ENABLE_ONEDNN_OPTS={wish}): convolutions are slower"
            return Check.warn(told, "unset TF_ENABLE_ONEDNN_OPTS")
    return Check.ok(found)


def check_devices(patient: Patient) -> Check:
    """The devices that a command would take."""
    with quiet_stderr():
        from tlperf.device.setup import setup_compute

    compute = setup_compute(patient.config.device)
    xla = "on" if compute.jit_compile else "off"
    return Check.ok(f"{compute.text}; {compute.precision}, XLA {xla}")


def check_gpu(patient: Patient) -> Check:
    """Whether all is there that TensorFlow needs for a GPU, where one is asked for or
    the machine has NVIDIA's driver."""
    is_asked = patient.config.device.devices.startswith("gpu")
    has_driver = _NVIDIA_DRIVER.exists()
    if patient.config.device.devices == "cpu":
        return Check.ok("not asked for")
    if not (is_asked or has_driver):
        return Check.ok("none asked for, and no NVIDIA driver here")
    missing = [name for name in _GPU_LIBRARIES if not is_loadable(name)]
    if not missing:
        return Check.ok("NVIDIA's driver, CUDA and cuDNN are there")
    found = f"not found: {', '.join(missing)}"
    remedies = ["install NVIDIA's driver"] if _GPU_LIBRARIES[0] in missing else []
    if set(missing) - set(_GPU_LIBRARIES[:1]):
        remedies.append("run pip install 'tlperf[gpu]'")
    advice = " and ".join(remedies) + ", or give --devices=cpu"
    return Check.bad(found, advice) if is_asked else Check.warn(found, advice)


def is_loadable(name: str) -> bool:
    """Whether a shared library is among NVIDIA's packages, where TensorFlow looks
    first, or the system's."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        if any(pathlib.Path(folder).glob(f"*/lib/{name}")):
            return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def check_jpeg(patient: Patient) -> Check:
    """Whether what Pillow encodes is what TensorFlow decodes."""
    import tensorflow as tf
    from PIL import Image

    wanted, stream = (200, 30, 60), io.BytesIO()
    Image.new("RGB", (16, 16), wanted).save(stream, "JPEG", quality=95)
    pixel = tf.io.decode_jpeg(stream.getvalue(), channels=3)[8, 8].numpy()
    found = f"decodes to {pixel.tolist()}"
    if (abs(pixel.astype(int) - wanted) > 4).any():
        return Check.bad(found, "install TensorFlow and Pillow again")
    return Check.ok(found)
