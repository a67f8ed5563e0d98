"""The ledger: every published figure with what was measured beside it.

    ledger = build_ledger(collect_rows(read_results(workdir)))
    ledger[0].verdict  # "not measured", "equal", "differs", "not comparable: why"

A verdict compares values as they are. A measured value that would only look equal after
rounding differs, and a note says that the difference is within the printed precision.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reference.backbones import BACKBONES
from tlperf.reference.paper import FIGURES, Figure, Value
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.rows import BackboneRows, Row, RunRows, child, finite

STUDY_TEST_IMAGES = 800
# The study's class 0 and class 1, by the words people call such folders.
_STUDY_CLASSES = (
    frozenset({"cat", "cats", "gato", "gatos"}),
    frozenset({"dog", "dogs", "perro", "perros"}),
)
# The trainer has this one loss and this one metric, so rows do not repeat them.
_LOSS, _METRIC = "cross-entropy", "accuracy"
_FIRST_ACTIVE = {spec.name: spec.first_active for spec in BACKBONES}

# Last printed digit by table or column; Table 11 prints float32 values in full.
_PRINTED_UNIT = {"parameters": 1e5, "size MB": 1.0, "Table 11": 6e-8}
_REPORT_UNIT = 0.01


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published figure and its verdict.

    Attributes:
        figure: as published.
        measured: same quantity of this run, or None.
        difference: measured - published where both are comparable numbers, or None.
        verdict: `not measured`, `equal`, `differs`, `not comparable: WHY`.
        note: what a reader has to know beside the verdict, or "".
    """

    figure: Figure
    measured: Value | None
    difference: float | None
    verdict: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The object of `paper.json`."""
        return {
            "table": self.figure.table,
            "backbone": self.figure.backbone,
            "row": self.figure.row,
            "column": self.figure.column,
            "published": self.figure.value,
            "measured": self.measured,
            "difference": self.difference,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A measured value, its stage, and why it cannot be compared ("" where it can)."""

    value: Value | None
    stage: str
    obstacle: str = ""
    note: str = ""


_SIZE_KEYS = {"size MB": "size_mib", "parameters": "params", "depth": "depth"}


def _table_1_run(results: BackboneRows) -> Row:
    """The run that stands beside Table 1: the ImageNet model, in Keras' predict."""
    return results.find_latency("keras_predict") or results.find_latency(None)


def _read_table_1(results: BackboneRows, figure: Figure) -> _Reading:
    run = _table_1_run(results)
    if figure.column in _SIZE_KEYS:
        note = "measured in MiB" if figure.column == "size MB" else ""
        return _Reading(
            finite(run.get(_SIZE_KEYS[figure.column])), "latency", note=note
        )
    where = (
        f"{run.get('protocol')} on {run.get('device')}, batch {run.get('batch_size')}"
    )
    return _Reading(
        finite(run.get("mean_ms")),
        "latency",
        obstacle=f"published on another device, protocol unstated; here {where}",
        note="" if run.get("valid", True) else "the measurement is marked invalid",
    )


def layer_ranges(train: Row) -> tuple[str | None, str | None]:
    """Frozen and active layers as Table 2 writes them; None where unknown."""
    frozen, active = (
        finite(train.get("frozen_layers")),
        finite(train.get("active_layers")),
    )
    if frozen is None or active is None:
        return None, None
    last = frozen + active - 1
    return (
        f"0:{frozen - 1}" if frozen else "none",
        f"{frozen}:{last}" if active else "none",
    )


def _read_table_2(results: BackboneRows, figure: Figure) -> _Reading:
    frozen, active = layer_ranges(results.train)
    first = _FIRST_ACTIVE.get(figure.backbone)
    same = first is not None and results.train.get("first_active") == first
    return _Reading(
        frozen if figure.column == "frozen layers" else active,
        "train",
        note=f"the boundary of Table 2: first active layer {first}" if same else "",
    )


def _read_table_3(results: BackboneRows, figure: Figure) -> _Reading:
    del figure  # the table has one column
    return _Reading(", ".join(results.train.get("head") or ()) or None, "train")


def _read_table_4(results: BackboneRows, figure: Figure) -> _Reading:
    train = results.train
    optimizer = child(train, "optimizer")
    values: dict[str, Value | None] = {
        "learning rate": finite(optimizer.get("learning_rate")),
        "optimiser": str(optimizer.get("name") or "").capitalize() or None,
        "loss": _LOSS if train else None,
        "metric": _METRIC if train else None,
        "batch size": finite(train.get("batch_size")),
        "epochs": len(results.epochs) or None,
    }
    return _Reading(values[figure.column], "train")


def data_obstacle(evaluate: Row) -> str:
    """Why a score cannot stand against the study's, or "" where it can."""
    classes = tuple(evaluate.get("classes") or ())
    if len(classes) != len(_STUDY_CLASSES):
        return f"{len(classes)} classes, the study has 2"
    if any(
        name.strip().lower() not in words
        for name, words in zip(classes, _STUDY_CLASSES, strict=True)
    ):
        return "other classes than the study's cats and dogs"
    return ""


def _data_note(evaluate: Row) -> str:
    images = finite(evaluate.get("images"))
    return (
        ""
        if images is None
        else f"{images} test images, not the study's {STUDY_TEST_IMAGES}"
    )


_REPORT_KEYS = {
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "support": "support",
}
_AVERAGES = {"macro average": "macro avg", "weighted average": "weighted avg"}


def report_value(evaluate: Row, row: str, column: str) -> float | int | None:
    """A value of the classification report under the study's row and column names."""
    if row == "accuracy":
        # Not from the report: a class may itself be called "accuracy".
        key = "accuracy" if column == "accuracy" else "images"
        return finite(evaluate.get(key))
    report, classes = child(evaluate, "report"), evaluate.get("classes") or ()
    name = _AVERAGES.get(row)
    if name is None:
        index = int(row.removeprefix("class "))
        if index >= len(classes):
            return None
        name = classes[index]
    return finite(child(report, name).get(_REPORT_KEYS[column]))


def _read_report(results: BackboneRows, figure: Figure) -> _Reading:
    return _Reading(
        report_value(results.evaluate, figure.row, figure.column),
        "evaluate",
        obstacle=data_obstacle(results.evaluate),
        note=_data_note(results.evaluate),
    )


def _read_table_11(results: BackboneRows, figure: Figure) -> _Reading:
    return _Reading(
        finite(results.evaluate.get(figure.column)),
        "evaluate",
        obstacle=data_obstacle(results.evaluate),
        note=_data_note(results.evaluate),
    )


_READERS: dict[str, Callable[[BackboneRows, Figure], _Reading]] = {
    "Table 1": _read_table_1,
    "Table 2": _read_table_2,
    "Table 3": _read_table_3,
    "Table 4": _read_table_4,
    **{f"Table {number}": _read_report for number in range(5, 11)},
    "Table 11": _read_table_11,
}


def read_unpublished(results: BackboneRows, table: str, column: str) -> Value | None:
    """What was measured for a column of Tables 1-4 and 11, of a backbone that the study
    did not have; None where it was not."""
    figure = Figure(table, results.name, results.title, column, NOT_AVAILABLE)
    return _READERS[table](results, figure).value


def _verdict(figure: Figure, reading: _Reading, *, smoke: bool) -> str:
    if reading.value is None:
        return NOT_MEASURED
    if smoke:
        return "not comparable: smoke run"
    if reading.obstacle:
        return f"not comparable: {reading.obstacle}"
    return "equal" if reading.value == figure.value else "differs"


def _printed_unit(figure: Figure) -> float | None:
    if 5 <= int(figure.table.split()[1]) <= 10:
        return None if figure.column == "support" else _REPORT_UNIT
    return _PRINTED_UNIT.get(figure.table) or _PRINTED_UNIT.get(figure.column)


def _entry(figure: Figure, results: BackboneRows) -> Entry:
    reading = _READERS[figure.table](results, figure)
    if reading.value is None:
        return Entry(figure, None, None, NOT_MEASURED, "")
    verdict = _verdict(figure, reading, smoke=results.is_smoke(reading.stage))
    measured, published = finite(reading.value), finite(figure.value)
    difference = None
    if verdict in ("equal", "differs") and None not in (measured, published):
        difference = measured - published  # type: ignore[operator]
    notes = [reading.note] if reading.note else []
    unit = _printed_unit(figure)
    if difference and unit and abs(difference) <= unit / 2:
        notes.append("the difference is within the printed precision")
    return Entry(figure, reading.value, difference, verdict, "; ".join(notes))


def build_ledger(run: RunRows) -> tuple[Entry, ...]:
    """Every figure of the study, in the order of its tables."""
    results = {rows.name: rows for rows in run.backbones}
    return tuple(_entry(figure, results[figure.backbone]) for figure in FIGURES)
