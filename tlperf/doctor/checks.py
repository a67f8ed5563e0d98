"""Checks of install, devices, disk, data and weights; each says what to do.

checks = run_checks(config)   # [{"name", "ok", "found", "advice"}, ...]
"""

import importlib.metadata
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

from tlperf.core.errors import TlperfError
from tlperf.core.machine import memory_bytes, package_versions, usable_cores
from tlperf.core.quiet import quiet_stderr
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_bytes
from tlperf.reference.backbones import parse_backbones

# Sharding, six weights files and checkpoints of the study's size fit in this.
_MIN_FREE_BYTES = 2 << 30
# Peak of a training with InceptionResNetV2 at its native size, batch 32.
_MIN_MEMORY_BYTES = 4 << 30

Check = dict[str, Any]


def run_checks(config: RunConfig) -> list[Check]:
    """Every check, in the order a run would meet its subject."""
    makers: list[tuple[str, Callable[[RunConfig], tuple[bool, str, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("memory", _memory),
        ("disk", _disk),
        # Devices are set up before TensorFlow first touches one.
        ("devices", _devices),
        ("tensorflow", _tensorflow),
        ("jpeg", _jpeg),
        ("data", _data),
        ("weights", _weights),
    ]
    checks = []
    for name, make in makers:
        try:
            ok, found, advice = make(config)
        except TlperfError as error:
            ok, found, advice = False, error.found, error.remedy
        except Exception as error:  # whatever is broken here is the finding
            ok, found = False, f"{type(error).__name__}: {error}".splitlines()[0]
            advice = "run again with --verbose for all that TensorFlow says"
        checks.append(
            {"name": name, "ok": ok, "found": found, "advice": "" if ok else advice}
        )
    return checks


def _python(config: RunConfig) -> tuple[bool, str, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    return sys.version_info >= (3, 11), version, "use Python 3.11 or newer"


def _packages(config: RunConfig) -> tuple[bool, str, str]:
    from packaging.requirements import Requirement

    versions = package_versions()
    wrong = []
    if versions["tlperf"] is None:
        return False, "tlperf is not installed, only found", "run pip install ."
    for text in importlib.metadata.requires("tlperf") or []:
        requirement = Requirement(text)
        if requirement.marker is not None:
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needs {requirement.specifier}")
    text = "; ".join(wrong) or ", ".join(
        f"{name} {version}" for name, version in versions.items() if version
    )
    return not wrong, text, "install tlperf again in a new virtual environment"


def _memory(config: RunConfig) -> tuple[bool, str, str]:
    found = memory_bytes()
    return (
        found >= _MIN_MEMORY_BYTES,
        f"{format_bytes(found)}, {usable_cores()} cores",
        "give a smaller --batch_size and --image_size",
    )


def _disk(config: RunConfig) -> tuple[bool, str, str]:
    folder = pathlib.Path(config.workdir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    return (
        writable and free >= _MIN_FREE_BYTES,
        f"{format_bytes(free)} free, {'' if writable else 'not '}writable",
        f"give a --workdir with {format_bytes(_MIN_FREE_BYTES)} free",
    )


def _tensorflow(config: RunConfig) -> tuple[bool, str, str]:
    import tensorflow as tf

    product = tf.linalg.matmul(tf.ones([2, 3]), tf.ones([3, 2]))
    ok = bool(tf.reduce_all(product == 3.0))
    built = "CUDA" if tf.test.is_built_with_cuda() else "CPU only"
    return ok, f"{tf.__version__}, {built} build", "install TensorFlow again"


def _devices(config: RunConfig) -> tuple[bool, str, str]:
    with quiet_stderr():
        from tlperf.device.setup import setup_compute

    compute = setup_compute(config.device)
    return (
        True,
        f"{compute.text}; {compute.precision}, XLA "
        f"{'on' if compute.jit_compile else 'off'}",
        "",
    )


def _jpeg(config: RunConfig) -> tuple[bool, str, str]:
    import tensorflow as tf
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 60)).save(stream, "JPEG", quality=95)
    pixel = tf.io.decode_jpeg(stream.getvalue(), channels=3)[8, 8].numpy()
    near = bool((abs(pixel.astype(int) - (200, 30, 60)) <= 4).all())
    return near, f"decodes to {pixel.tolist()}", "install TensorFlow and Pillow again"


def _data(config: RunConfig) -> tuple[bool, str, str]:
    from tlperf.dataset.verify import verify_dataset

    if not config.data_path.exists():
        return True, "no data directory yet: run or shard will make it", ""
    result = verify_dataset(config.data_path, full=False)
    if result["ok"]:
        return True, f"{result['records']} records in {result['shards']} shards", ""
    first = result["problems"][0]
    return (
        False,
        f"{first['file']}: {first['what']}",
        "run tlperf verify for all problems, then tlperf shard again",
    )


def _weights(config: RunConfig) -> tuple[bool, str, str]:
    from tlperf.model.weights import find_weights

    found = [
        f"{spec.name}: {find_weights(spec, config.model.weights, download=False).kind}"
        for spec in parse_backbones(config.backbones)
    ]
    return True, ", ".join(found), ""
