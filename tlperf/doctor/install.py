"""Python, packages, and combinations of them that are known not to work.

check_packages(patient); check_combinations(patient)
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Iterator

from tlperf.core.machine import package_versions
from tlperf.doctor.findings import Check, Patient

# As pyproject.toml has it.
_LEAST_PYTHON = (3, 11)
# Each brings a package `tensorflow` of its own, over the files of the other.
_OTHER_TENSORFLOWS = (
    *("tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "tf-nightly-cpu"),
    *("intel-tensorflow", "tensorflow-rocm"),
)


def check_python(patient: Patient) -> Check:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _LEAST_PYTHON:
        return Check.bad(version, "use Python 3.11 or newer")
    return Check.ok(version)


def check_packages(patient: Patient) -> Check:
    """Every package that tlperf needs, at a version it was made for."""
    from packaging.requirements import Requirement

    versions = package_versions()
    if versions["tlperf"] is None:
        return Check.bad("tlperf is not installed, only found", "run pip install .")
    wrong = []
    for text in importlib.metadata.requires("tlperf") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(
            {"extra": ""}
        ):
            continue
        found = _version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needs {requirement.specifier}")
    if wrong:
        advice = "install tlperf again in a new virtual environment"
        return Check.bad("; ".join(wrong), advice)
    present = [f"{name} {version}" for name, version in versions.items() if version]
    return Check.ok(", ".join(present))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    from packaging.version import Version

    return Version(version).release[:2]


def check_combinations(patient: Patient) -> Check:
    """Packages and settings that are fine alone and known to clash."""
    found = [*_clashing_packages(), *_profiler(), *_keras_settings()]
    if found:
        return Check.joined(found)
    names = {"tensorboard": "TensorBoard", "xprof": "XProf"}
    told = [f"{title} {v}" for name, title in names.items() if (v := _version(name))]
    return Check.ok(", ".join(["nothing known to clash", *told]))


def _clashing_packages() -> Iterator[Check]:
    others = [name for name in _OTHER_TENSORFLOWS if _version(name)]
    if others and _version("tensorflow"):
        yield Check.bad(
            f"tensorflow and {' and '.join(others)} overwrite each other's files",
            "pip uninstall all of them, then install tlperf again",
        )
    if _version("opencv-python") and _version("opencv-python-headless"):
        yield Check.warn(
            "opencv-python and opencv-python-headless overwrite each other's files",
            "pip uninstall opencv-python, then install opencv-python-headless again",
        )


def _profiler() -> Iterator[Check]:
    """What shows traces of --profile_steps; its tab stays empty where versions differ
    (tensorflow issues 62373 and 61212, tensorboard issues 6338 and 6957)."""
    tensorflow = _version("tensorflow")
    if tensorflow is None:
        return
    tensorboard, xprof = _version("tensorboard"), _version("xprof")
    minor = ".".join(map(str, _minor(tensorflow)))
    if tensorboard and _minor(tensorboard) != _minor(tensorflow):
        yield Check.warn(
            f"TensorBoard {tensorboard} beside TensorFlow {tensorflow}: the profile "
            "tab may be empty",
            f"pip install 'tensorboard=={minor}.*' xprof",
        )
    # XProf counts on from TensorFlow's minors, and reads older traces.
    if xprof and _minor(xprof) < _minor(tensorflow):
        yield Check.warn(
            f"XProf {xprof} is older than TensorFlow {tensorflow}: it may not read its "
            "traces",
            "pip install --upgrade xprof",
        )
    if _version("tensorboard-plugin-profile"):
        yield Check.warn(
            "tensorboard-plugin-profile, which XProf has replaced, takes its tab",
            "pip uninstall tensorboard-plugin-profile, then pip install xprof",
        )


def _keras_settings() -> Iterator[Check]:
    """Keras takes them from its file, then from the environment."""
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    path = pathlib.Path(home) / "keras.json"
    stored: object = {}
    with contextlib.suppress(OSError, ValueError):
        stored = json.loads(path.read_text("utf-8"))
    settings = stored if isinstance(stored, dict) else {}
    backend = os.environ.get("KERAS_BACKEND") or settings.get("backend", "tensorflow")
    if backend != "tensorflow":
        where = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else str(path)
        yield Check.bad(
            f"Keras computes with {backend} ({where})",
            f"set it to tensorflow in {where}",
        )
    for name, wanted in (("image_data_format", "channels_last"), ("floatx", "float32")):
        value = settings.get(name, wanted)
        if value != wanted:
            yield Check.bad(f"{name} is {value} ({path})", f"set it to {wanted} there")
