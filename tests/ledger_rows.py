"""Rows of a workdir in which every verdict occurs; the ledger's tests are fed them.

    write_ledger_rows(workdir)
    python -m tests.ledger_rows tests/golden/ledger     # writes the golden files anew

The golden files are read by a person when they change: the rows and paper.json.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from tests.test_reporting_rows import train_result, write_fixed_rows
from tlperf.core.settings import RunConfig
from tlperf.reference.backbones import find_backbone

CLASSES = ("cats", "dogs")
Confusion = Sequence[Sequence[int]]

# Rows are true classes, columns predicted ones.
CONFUSIONS: dict[str, Confusion] = {
    # Better than the study's 708 of 800.
    "inceptionv3": ((380, 15), (20, 385)),
    # Its 747 of 800 to the image.
    "vgg16": ((378, 17), (36, 369)),
    # 400 other images.
    "xception": ((191, 9), (8, 192)),
    # From a random start.
    "inceptionresnetv2": ((120, 80), (70, 130)),
    # Far better, and worse at the class that the study called nearly everything.
    "resnet50": ((330, 65), (75, 330)),
    # The study's one class the other way round.
    "efficientnetb0": ((0, 395), (0, 405)),
}


def evaluate_result(
    backbone: str, confusion: Confusion, classes: Sequence[str] = CLASSES
) -> dict[str, Any]:
    """What `tlperf evaluate` counts of a confusion matrix, written out by hand."""

    def share(hits: float, trials: float) -> float:
        return hits / trials if trials else 0.0

    images = sum(map(sum, confusion))
    right = sum(row[index] for index, row in enumerate(confusion))
    rows = []
    for index, counts in enumerate(confusion):
        hits, support = counts[index], sum(counts)
        called = sum(row[index] for row in confusion)
        rows.append(
            {
                "precision": share(hits, called),
                "recall": share(hits, support),
                "f1": share(2 * hits, support + called),
                "support": support,
            }
        )
    keys = ("precision", "recall", "f1")
    macro = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
    weighted = {
        key: sum(row[key] * row["support"] for row in rows) / images for key in keys
    }
    return {
        "backbone": backbone,
        "accuracy": right / images,
        "images": images,
        "classes": list(classes),
        "confusion": [list(row) for row in confusion],
        "report": {
            **dict(zip(classes, rows, strict=True)),
            "macro avg": {**macro, "support": images},
            "weighted avg": {**weighted, "support": images},
        },
        "loss": 0.2,
        "data_digest": "d" * 64,
        "warnings": [],
    }


# Those of Keras Applications: parameters, depth, MiB.
_SIZES = {
    "vgg16": (138_357_544, 16, 138_357_544 * 4 / 2**20),
    "xception": (22_910_480, 81, 22_910_480 * 4 / 2**20),
    "efficientnetb0": (5_330_571, 132, 5_330_571 * 4 / 2**20),
}


def latency_run(backbone: str, *, batch_size: int = 32, **changed: Any) -> Any:
    """A valid row of five processes, its mean that of its samples."""
    params, depth, size_mib = _SIZES[backbone]
    trials = [
        {"samples_secs": [0.4 + 0.002 * process + 0.001 * step for step in range(9)]}
        for process in range(5)
    ]
    samples = [secs for trial in trials for secs in trial["samples_secs"]]
    return {
        "backbone": backbone,
        "model": "imagenet",
        "protocol": "keras_predict",
        "protocol_text": "a batch inside model.predict",
        "runtime": "tf",
        "batch_size": batch_size,
        "image_size": find_backbone(backbone).native_size,
        "precision": "float32",
        "xla": False,
        "tf32": False,
        "device": "Example CPU, 2 cores",
        "mean_ms": 1e3 * sum(samples) / len(samples),
        "p50_ms": 408.0,
        "samples": len(samples),
        "processes": len(trials),
        "params": params,
        "depth": depth,
        "size_mib": size_mib,
        "trials": trials,
        "valid": True,
        "invalid": [],
        "warnings": [],
        **changed,
    }


def trained(backbone: str, **changed: Any) -> dict[str, Any]:
    """A training under Table 4, cut where Table 2 says."""
    spec = find_backbone(backbone)
    frozen, active = {
        "efficientnetb0": (161, 77),  # with its ImageNet file: one layer more
        "inceptionv3": (248, 63),
        "inceptionresnetv2": (630, 150),
        "resnet50": (143, 32),
        "vgg16": (15, 4),
        "xception": (126, 6),
    }[backbone]
    return {
        **train_result(spec, classes=2, epochs=10),
        "classes": list(CLASSES),
        "frozen_layers": frozen,
        "active_layers": active,
        "weights": {"kind": "imagenet"},
        "data_digest": "d" * 64,
        **changed,
    }


def ledger_results() -> list[tuple[str, str, dict[str, Any]]]:
    """Stage, backbone and result of each row."""
    changed: dict[str, dict[str, Any]] = {
        "xception": {
            "epochs": trained("xception")["epochs"][:3],
            "batch_size": 16,
            "head": ["Flatten", "Dense(2, softmax)"],
        },
        "inceptionresnetv2": {"weights": {"kind": "none"}},
        "resnet50": {"optimizer": {"name": "adagrad", "learning_rate": 1e-3}},
    }
    rows = []
    for backbone, confusion in CONFUSIONS.items():
        result = trained(backbone, **changed.get(backbone, {}))
        rows.append(("train", backbone, result))
        rows.append(("evaluate", backbone, evaluate_result(backbone, confusion)))
    small = latency_run("vgg16", batch_size=1, mean_ms=20.0)
    compiled = latency_run("vgg16", protocol="compiled", mean_ms=390.0)
    invalid = latency_run("xception", valid=False, invalid=["9 samples"])
    rows += [
        ("latency", "vgg16", {"runs": [small, compiled, latency_run("vgg16")]}),
        ("latency", "xception", {"runs": [invalid]}),
        ("latency", "efficientnetb0", {"runs": [latency_run("efficientnetb0")]}),
    ]
    return rows


def write_ledger_rows(workdir: pathlib.Path) -> None:
    """WORKDIR/results.jsonl, on the machine that does not exist."""
    write_fixed_rows(workdir, ledger_results(), RunConfig(workdir="w").to_dict())


if __name__ == "__main__":
    from tlperf.reporting.report import write_report

    golden = pathlib.Path(sys.argv[1])
    (golden / "results.jsonl").unlink(missing_ok=True)
    write_ledger_rows(golden)
    write_report(golden)
    (golden / "report" / "paper.json").rename(golden / "paper.json")
    for path in (golden / "report").iterdir():
        path.unlink()
    (golden / "report").rmdir()
