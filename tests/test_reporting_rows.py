"""Result rows as the report reads them, and the rows that its other tests are fed.

write_rows(workdir, Case(backbones=("vgg16",), epochs=2))
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tests.images import image_bytes
from tlperf.core import files
from tlperf.core.choices import Preset
from tlperf.core.results import append_result, read_results
from tlperf.core.settings import RunConfig
from tlperf.core.statistics import binomial_interval
from tlperf.reference.backbones import BACKBONES, BackboneSpec, find_backbone
from tlperf.reporting.rows import collect_rows, finite

PICTURES = tuple(image_bytes(number) for number in range(2))
# Of a network of two blocks and a head, the second cut in two.
ARCHITECTURE = {
    "input": [150, 150, 3],
    "blocks": [
        {
            "name": name,
            "shape": shape,
            "layers": layers,
            "frozen_layers": frozen,
            "params": params,
            "parts": parts,
            "is_head": is_head,
        }
        for name, shape, layers, frozen, params, parts, is_head in (
            ("block1 to block12", [10, 10, 728], 120, 120, 16_000_000, 12, False),
            ("block13", [5, 5, 1024], 12, 6, 4_865_578, 1, False),
            ("Dense(2, softmax)", [2], 1, 0, 2050, 1, True),
        )
    ],
    "cut": [{"layer": "block13_add", "shape": [5, 5, 728]}],
}
HOSTILE = ("<script>alert(1)</script>", "a|b\nc `$x$` \x1b[2J")
EPOCHS = 3

# Facts of a machine that does not exist, so that a golden text can hold them.
MACHINE = {
    "platform": "Linux-6.1-x86_64",
    "python": "3.11.9",
    "cpu": "Example CPU",
    "cores": 2,
    "memory_bytes": 8 * 1024**3,
    "versions": {"tlperf": "0.1.0", "tensorflow": "2.21.0", "simplejpeg": None},
}
DEVICE = {"kind": "cpu", "names": ["CPU:0"], "precision": "float32"}


def shard_result(classes: tuple[str, ...]) -> dict[str, Any]:
    splits = {"train": 600, "validation": 200, "test": 200}
    return {
        "seen": 2004,
        "accepted": 2000,
        "quarantined": 3,
        "ignored": 0,
        "duplicates": 1,
        "splits": {name: dict.fromkeys(classes, n) for name, n in splits.items()},
        "shards": 8,
        "bytes": 50_000_000,
        "seconds": 2.5,
        "images_per_sec": 800.0,
        "digest": "0123456789ab",
        "name": "pets",
        "format": "tfrecord",
        "encoding": "source",
        "classes": list(classes),
    }


def train_result(spec: BackboneSpec, *, classes: int, epochs: int) -> dict[str, Any]:
    head = [*map(str, spec.head), f"Dense({classes}, softmax)"]
    return {
        "backbone": spec.name,
        "epochs": [
            {
                "epoch": number,
                "loss": 0.9 / number,
                "accuracy": 1 - 0.4 / (number + len(spec.name) / 8),
                "val_loss": 1.1 / number,
                "val_accuracy": 1 - 0.5 / (number + len(spec.name) / 8),
                "secs": 80.0,
            }
            for number in range(1, epochs + 1)
        ],
        "train_secs": 80.0 * epochs,
        "steps_per_sec": 0.47,
        "images_per_sec": 15.0,
        "input_wait_fraction": 0.012,
        "feature_cache": "off",
        "precision": "float32",
        "xla": False,
        "strategy": "one",
        "replicas": 1,
        "image_size": 150,
        "batch_size": 32,
        "preprocess": "backbone",
        "decode": "exact",
        "augment": "none",
        "weights": {"kind": "file", "file": f"{spec.name}.h5", "sha256": "ab" * 32},
        "weights_sha256": "cd" * 32,
        "freeze": "paper",
        "optimizer": {"name": spec.optimizer.value, "learning_rate": 5e-5},
        "best_epoch": epochs,
        "layers": 132,
        "frozen_layers": 126,
        "active_layers": 6,
        "first_active": spec.first_active,
        "head": head,
        "architecture": ARCHITECTURE,
        "params": 20_865_578,
        "trainable_params": 4_753_634,
        "warnings": [],
    }


def evaluate_result(spec: BackboneSpec, classes: tuple[str, ...]) -> dict[str, Any]:
    """4 of 100 images of each class are taken for the next class."""
    support, hits = 200, 192
    confusion = [[0] * len(classes) for _ in classes]
    for index in range(len(classes)):
        confusion[index][index] = hits
        confusion[index][(index + 1) % len(classes)] += support - hits
    images = support * len(classes)
    row = {"precision": 0.96, "recall": 0.96, "f1": 0.96, "support": support}
    averages = dict.fromkeys(("macro avg", "weighted avg"), row | {"support": images})
    return {
        "backbone": spec.name,
        "accuracy": 0.96,
        "weights_sha256": "cd" * 32,
        "loss": 0.11,
        "confusion": confusion,
        "report": dict.fromkeys(classes, row) | averages,
        "classes": list(classes),
        "images": images,
        "interval": binomial_interval(hits * len(classes), images),
        "data_digest": "0123456789ab",
        "mistakes": {
            "count": (support - hits) * len(classes),
            "worst": [_mistake(number, classes) for number in range(len(PICTURES))],
        },
        "warnings": [],
    }


def _mistake(number: int, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "index": number,
        "label": classes[0],
        "predicted": classes[-1],
        "label_probability": 0.01 * (number + 1),
        "predicted_probability": 0.99 - 0.01 * number,
        "id": f"{classes[0]}/{number:03d}.jpg",
        **picture_facts(number),
    }


def picture_facts(number: int) -> dict[str, Any]:
    return {
        "file": f"{number + 1:02d}.jpg",
        "sha256": files.sha256_bytes(PICTURES[number]),
        "width": 32,
        "height": 24,
    }


def preprocess_result(spec: BackboneSpec) -> dict[str, Any]:
    verdicts = [("tf", "fits", 0.1), ("x/255", "mild", 0.9), ("raw", "severe", 120.5)]
    return {
        "backbone": spec.name,
        "weights": {"kind": "file", "file": f"{spec.name}.h5", "sha256": "ab" * 32},
        "images": 64,
        "rule": "batch_norm",
        "unit": "standard deviations",
        "limits": {"mild": 0.6, "severe": 2.5},
        "verdicts": [
            {
                "preprocess": word,
                "finding": finding,
                "layer": "block1_conv1_bn",
                "shift": shift,
                "text": f"{word} {finding}",
            }
            for word, finding, shift in verdicts
        ],
        "best": "tf",
        "used": "tf",
        "text": "What is used fits.",
    }


def latency_run(spec: BackboneSpec, protocol: str, model: str) -> dict[str, Any]:
    samples = [0.4 + 0.001 * number for number in range(60)]
    processes = [samples[place::5] for place in range(5)]
    return {
        "backbone": spec.name,
        "model": model,
        "weights_sha256": None if model == "imagenet" else "cd" * 32,
        "protocol": protocol,
        "protocol_text": "one step, until its result is on the host",
        "warmup_steps": 3,
        "runtime": "tf",
        "batch_size": 32,
        "image_size": spec.native_size,
        "precision": "float32",
        "xla": False,
        "tf32": False,
        "device": "Example CPU, 2 cores",
        "mean_ms": 429.5,
        "p50_ms": 429.0,
        "p90_ms": 453.0,
        "p95_ms": 456.0,
        "p99_ms": None,
        "min_ms": 400.0,
        "samples": len(samples),
        "requested_samples": 300,
        "processes": len(processes),
        "interval_ms": {"low": 427.5, "high": 431.5, "confidence": 0.9375},
        "half_width": 2.0 / 429.5,
        "jitter_ms": 22.239,
        "trials": [{"samples_secs": own} for own in processes],
        "first_call_secs": 3.2,
        "images_per_sec": 74.5,
        "gflop_per_step": 990.1,
        "gbytes_per_step": 12.0,
        "tflops_per_sec": 2.3,
        "matmul_tflops_per_sec": 3.1,
        "copy_gbytes_per_sec": 20.0,
        "params": 22_910_480,
        "depth": 81,
        "size_mib": 87.397,
        "published": {
            "ms": 4.16,
            "device": "Tesla A100 GPU",
            "implied_tflops_per_sec": 238.0,
        }
        if model == "imagenet"
        else None,
        "valid": True,
        "invalid": [],
        "warnings": ["60 of 300 samples"],
    }


def latency_result(spec: BackboneSpec) -> dict[str, Any]:
    kinds = (
        ("keras_predict", "imagenet"),
        ("compiled", "imagenet"),
        ("compiled", "finetuned"),
    )
    return {"runs": [latency_run(spec, *kind) for kind in kinds]}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a workdir of the tests holds."""

    backbones: tuple[str, ...] = tuple(spec.name for spec in BACKBONES)
    classes: tuple[str, ...] = ("cats", "dogs")
    preset: Preset = Preset.PAPER
    epochs: int = EPOCHS
    stages: tuple[str, ...] = ("shard", "train", "evaluate", "latency")

    def results(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        found: list[tuple[str, str | None, dict[str, Any]]] = [
            ("shard", None, shard_result(self.classes))
        ]
        for spec in map(find_backbone, self.backbones):
            trained = train_result(spec, classes=len(self.classes), epochs=self.epochs)
            found += [
                ("preprocess", spec.name, preprocess_result(spec)),
                ("train", spec.name, trained),
                ("evaluate", spec.name, evaluate_result(spec, self.classes)),
                ("latency", spec.name, latency_result(spec)),
            ]
        return [item for item in found if item[0] in self.stages]

    def settings(self) -> dict[str, Any]:
        return RunConfig(workdir="w", preset=self.preset).to_dict()


def write_rows(workdir: pathlib.Path, case: Case) -> None:
    for stage, backbone, result in case.results():
        append_result(
            workdir,
            stage=stage,
            backbone=backbone,
            result=result,
            settings=case.settings(),
            device=None if stage == "shard" else DEVICE,
        )


def write_fixed_rows(
    workdir: pathlib.Path,
    results: Iterable[tuple[str, str | None, dict[str, Any]]],
    settings: dict[str, Any],
) -> None:
    """Rows of a stage, a backbone and a result, on the machine that does not exist."""
    for stage, backbone, result in results:
        row = {
            "schema_version": 1,
            "stage": stage,
            "backbone": backbone,
            "result": result,
            "settings": settings,
            # Fixed too: a setting added later must not change the golden text.
            "settings_digest": "d1e2f3a4b5c6",
            "machine": MACHINE,
            "device": None if stage == "shard" else DEVICE,
            "warnings": result.get("warnings", []),
        }
        files.append_json_line(workdir / "results.jsonl", row)


def write_pictures(workdir: pathlib.Path, case: Case) -> None:
    """What evaluation and sharding leave beside the rows."""
    for folder in (*case.backbones, "."):
        kind = "examples" if folder == "." else "mistakes"
        for number, picture in enumerate(PICTURES):
            files.write_bytes(workdir / folder / kind / f"{number:02d}.jpg", picture)
    shard = shard_result(case.classes)
    counts = ("seen", "accepted", "quarantined", "ignored", "duplicates")
    album = {
        **{key: value for key, value in shard.items() if key not in counts},
        "counts": {key: shard[key] for key in counts},
        "reasons": {"truncated": 3},
        "flags": {},
        "quarantine": [
            {"path": path, "reason": "truncated", "detail": "Premature end"}
            for path in ("cats/=cmd().jpg", "dogs/<script>.jpg")
        ],
        "split": "train",
        "pictures": [
            {"class": name, "id": f"{name}/{number:03d}.jpg", **picture_facts(number)}
            for number, name in enumerate(case.classes[: len(PICTURES)])
        ],
        "unreadable": [],
    }
    files.write_json(workdir / "examples" / "examples.json", album)


def test_rows_are_sorted_out(tmp_path: pathlib.Path):
    write_rows(tmp_path, Case(backbones=("vgg16",), epochs=2))
    write_rows(tmp_path, Case(backbones=("vgg16",), epochs=7, stages=("train",)))
    run = collect_rows(read_results(tmp_path))
    assert [results.name for results in run.backbones] == [s.name for s in BACKBONES]
    (vgg16,) = run.measured
    assert len(vgg16.epochs) == 7  # the newest row counts
    assert vgg16.find_latency("compiled", model="finetuned")["published"] is None
    assert vgg16.find_latency("stream") == {}
    assert len(vgg16.warnings) == 3
    assert run.shard["accepted"] == 2000
    assert len(run.rows) == 4
    assert not run.is_smoke


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (1.5, 1.5), (True, None), ("1", None), (None, None), (np.inf, None)],
)
def test_finite(value: Any, expected: float | None):
    assert finite(value) == expected


@pytest.mark.parametrize(
    ("trained", "evaluated", "kept"),
    [("a", "a", True), ("b", "a", False), (None, "a", True), ("a", None, True)],
)
def test_an_evaluation_of_replaced_weights_is_left_out(
    tmp_path, trained, evaluated, kept
):
    for stage, digest in (("evaluate", evaluated), ("train", trained)):
        append_result(
            tmp_path,
            stage=stage,
            backbone="vgg16",
            result={"weights_sha256": digest},
            settings={},
        )
    (found,) = collect_rows(read_results(tmp_path)).measured
    assert ("evaluate" in found.rows) == kept
