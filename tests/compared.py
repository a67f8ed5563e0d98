"""Workdirs to compare: rows, and the predictions that an evaluation leaves.

write_workdir(tmp_path / "w1", Compared(wrong={3, 5}))
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from tests.ledger_rows import evaluate_result, latency_run, trained
from tests.test_reporting_rows import DEVICE, MACHINE
from tlperf.core import files
from tlperf.core.choices import Preset
from tlperf.core.settings import RunConfig, TrainConfig
from tlperf.evaluation.table import inert_cell, write_table

IMAGES = 100


@dataclasses.dataclass(frozen=True)
class Compared:
    """A workdir of one backbone.

    Attributes:
        wrong: numbers of the test images with a wrong answer.
        images: how many there are; the first half are cats.
        names: file name by number where it is another than `cats/N.jpg`, `dogs/N.jpg`.
        relabelled: numbers of images with the other label.
        classes: names of both.
        run: what is changed in the timed row; None for none.
        scale: of each time.
        stages: which have rows.
        epochs: that were asked for.
        preset: with it the figures are smoke figures or not.
        backbone: the one of its rows.
    """

    wrong: frozenset[int] = frozenset()
    images: int = IMAGES
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    relabelled: frozenset[int] = frozenset()
    classes: tuple[str, str] = ("cats", "dogs")
    run: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    scale: float = 1.0
    stages: tuple[str, ...] = ("train", "evaluate", "latency")
    epochs: int = 10
    preset: Preset = Preset.PAPER
    backbone: str = "vgg16"

    def true_label(self, number: int) -> int:
        return int(number >= self.images // 2) ^ (number in self.relabelled)

    def answer(self, number: int) -> int:
        return self.true_label(number) ^ (number in self.wrong)

    def results(self) -> list[tuple[str, dict[str, Any]]]:
        confusion = [[0, 0], [0, 0]]
        for number in range(self.images):
            confusion[self.true_label(number)][self.answer(number)] += 1
        timed = latency_run(self.backbone, **(self.run or {}))
        trials = [
            {"samples_secs": [self.scale * secs for secs in trial["samples_secs"]]}
            for trial in timed["trials"]
        ]
        timed = {**timed, "trials": trials, "p50_ms": self.scale * timed["p50_ms"]}
        found = [
            ("train", trained(self.backbone, train_secs=800.0 * self.scale)),
            ("evaluate", evaluate_result(self.backbone, confusion, self.classes)),
            ("latency", {"runs": [] if self.run is None else [timed]}),
        ]
        return [(stage, result) for stage, result in found if stage in self.stages]


def write_workdir(workdir: pathlib.Path, case: Compared) -> pathlib.Path:
    """Writes results.jsonl and predictions.csv; returns the workdir."""
    config = RunConfig(
        workdir=str(workdir),
        training=TrainConfig(epochs=case.epochs),
        preset=case.preset,
    )
    for stage, result in case.results():
        row = {
            "schema_version": 1,
            "stage": stage,
            "backbone": case.backbone,
            "result": result,
            "settings": config.to_dict(),
            "settings_digest": "d1e2f3a4b5c6",
            "machine": MACHINE,
            "device": {**DEVICE, "text": "Example CPU, 2 cores"},
            "warnings": [],
        }
        files.append_json_line(workdir / "results.jsonl", row)
    if "evaluate" in case.stages:
        write_predictions(workdir, case)
    return workdir


def write_predictions(workdir: pathlib.Path, case: Compared) -> None:
    """As `tlperf evaluate` does, of two classes."""
    rows = []
    for number in range(case.images):
        label, answer = case.true_label(number), case.answer(number)
        name = case.names.get(number, f"{case.classes[label]}/{number}.jpg")
        rows.append(
            [
                number,
                inert_cell(name),
                inert_cell(case.classes[label]),
                inert_cell(case.classes[answer]),
                int(label == answer),
                0.1,
            ]
        )
    columns = ["index", "id", "label", "predicted", "correct", "loss"]
    write_table(workdir / case.backbone / "predictions.csv", columns, rows)
