"""Exports of the one-block backbone, for the tests of `export` and `predict`.

rows = export_tiny(workdir, folder, formats=TF_FORMATS)
for kind in EVERY_FORMAT: skip_unless_installed(kind)
"""

import csv
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.tiny import TINY
from tlperf.core import files
from tlperf.core.choices import ExportFormat
from tlperf.core.settings import RunConfig
from tlperf.dataset.store import open_dataset
from tlperf.job.deploy import EXPORT_DEVICE, export_backbone

# What needs no extra.
TF_FORMATS = (ExportFormat.KERAS, ExportFormat.SAVED_MODEL)
EVERY_FORMAT = tuple(ExportFormat)
_PACKAGES = {
    ExportFormat.ONNX: ("tf2onnx", "onnxruntime"),
    ExportFormat.OPENVINO: ("openvino",),
}


def skip_unless_installed(kind: ExportFormat) -> None:
    """Skips a test of a format whose packages, of the extra `runtimes`, are missing."""
    for name in _PACKAGES.get(kind, ()):
        # Not imported: `tlperf.latency.sessions` sees to what that does.
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra runtimes)")


def installed_formats() -> tuple[ExportFormat, ...]:
    """Those that can be written and opened here."""
    found = importlib.util.find_spec
    return tuple(
        kind for kind in ExportFormat if all(map(found, _PACKAGES.get(kind, ())))
    )


def export_tiny(
    workdir: tuple[RunConfig, dict[str, Any]],
    folder: pathlib.Path,
    *,
    formats: tuple[ExportFormat, ...] = TF_FORMATS,
    spec: Any = TINY,
) -> list[dict[str, Any]]:
    """The rows of an export of what `tests.tiny.train_and_evaluate` made."""
    from tlperf.device.setup import setup_compute

    config, trained = workdir
    folder.mkdir(parents=True, exist_ok=True)
    return export_backbone(
        spec,
        config,
        trained=trained,
        formats=formats,
        folder=folder,
        compute=setup_compute(EXPORT_DEVICE),
    )


def write_test_images(data_dir: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """The stored files of the test split, under their ids."""
    with open_dataset(data_dir) as dataset:
        split = dataset.split("test")
        examples = split.read(range(split.count))
    for example in examples:
        path = folder / example.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(example.encoded)
    return [example.filename for example in examples]


def random_images(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """uint8 [N, S, S, 3]."""
    shape = (count, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def read_evaluation(folder):
    """Probabilities by id, and the class names, of predictions.csv."""
    with open(folder / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [name for name in rows[0] if name.startswith("probability ")]
    classes = [name.removeprefix("probability ") for name in names]
    return {row["id"]: [float(row[name]) for name in names] for row in rows}, classes


def by_id(result, folder):
    """Probabilities by path relative to the folder."""
    return {
        os.path.relpath(row["path"], folder): list(row["probabilities"].values())
        for row in result["predictions"]
    }


def compare(found, expected, *, atol):
    assert found.keys() == expected.keys()
    for name, probabilities in expected.items():
        np.testing.assert_allclose(found[name], probabilities, atol=atol, rtol=0)


def check_against_evaluation(workdir, backbone, words, folder):
    """Runs `tlperf predict` on the test images; its probabilities are those of
    predictions.csv: within 1e-6 from the workdir, else 1e-4."""
    images = folder / "images"
    write_test_images(workdir / "data", images)
    command = [sys.executable, "-m", "tlperf", "predict", f"--images={images}"]
    done = subprocess.run(
        [*command, "--json", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    is_workdir = words[0].startswith("--workdir")
    expected, _ = read_evaluation(workdir / backbone)
    found = by_id(json.loads(done.stdout), images)
    compare(found, expected, atol=1e-6 if is_workdir else 1e-4)


def write_train_rows(workdir, *names):
    """Rows of trainings whose weights are not there."""
    for name in names:
        row = {"stage": "train", "backbone": name, "result": {"backbone": name}}
        files.append_json_line(workdir / "results.jsonl", row)
