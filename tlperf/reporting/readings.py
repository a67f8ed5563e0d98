"""What was measured of each published figure, and why it may not stand beside it.

reading = read_figure(results, figure)
reading.value, reading.obstacle, reading.note
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tlperf.core.choices import ClassWeights, Protocol, Runtime
from tlperf.core.statistics import Interval, range_interval
from tlperf.core.units import NOT_AVAILABLE
from tlperf.reference.backbones import BACKBONES
from tlperf.reference.paper import (
    TABLE_4_COLUMNS,
    Figure,
    Value,
    published,
)
from tlperf.reporting.normalisation import (
    STUDY_NORMALISATION,
    name_preprocessing,
    used_normalisation,
)
from tlperf.reporting.rows import (
    BackboneRows,
    Row,
    child,
    finite,
    invalid_text,
    is_valid,
)

STUDY_TEST_IMAGES = 800
# The study's class 0 and class 1, by the words people call such folders.
_STUDY_CLASSES = (
    frozenset({"cat", "cats", "gato", "gatos"}),
    frozenset({"dog", "dogs", "perro", "perros"}),
)
# The trainer has this one loss and this one metric, so rows do not repeat them.
_LOSS, _METRIC = "cross-entropy", "accuracy"
_FIRST_ACTIVE = {spec.name: spec.first_active for spec in BACKBONES}
_NATIVE_SIZES = {spec.name: spec.native_size for spec in BACKBONES}
SMOKE = "smoke run"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was measured of a figure.

    Attributes:
        value: None where it was not.
        obstacle: why it cannot be compared, or "" where it can.
        other: what it is where it is not the published value: `another depth`.
        note: what a reader has to know beside it, or "".
        edges: of its interval where its own samples give one, or None.
    """

    value: Value | None
    obstacle: str = ""
    other: str = ""
    note: str = ""
    edges: tuple[float, float] | None = None


def listed(row: Row, key: str) -> list[Any]:
    """The items of a list; none where it is no list."""
    found = row.get(key)
    return list(found) if isinstance(found, list | tuple) else []


def texts(row: Row, key: str) -> list[str]:
    """The items of a list as texts."""
    return list(map(str, listed(row, key)))


def class_names(evaluate: Row) -> list[str]:
    """Names of the classes in label order; none where they are not known."""
    return texts(evaluate, "classes")


_OTHER = {
    "size MB": "another size",
    "parameters": "another number of parameters",
    "epochs": "another number of epochs",
}


def _other(figure: Figure) -> str:
    return _OTHER.get(figure.column, f"another {figure.column}")


_SIZE_KEYS = {"size MB": "size_mib", "parameters": "params", "depth": "depth"}


def find_table_1_run(results: BackboneRows) -> Row:
    """The timed run that stands beside Table 1: the ImageNet model, as near as there is
    to Keras' predict in float32 on batches of 32; empty where there is none."""
    run = results.find_latency(Protocol.KERAS_PREDICT)
    return run or results.find_latency(None)


def _read_table_1(results: BackboneRows, figure: Figure) -> Reading:
    run = find_table_1_run(results)
    smoke = SMOKE if results.is_smoke("latency") else ""
    if figure.column in _SIZE_KEYS:
        value = finite(run.get(_SIZE_KEYS[figure.column]))
        note = "measured in MiB" if figure.column == "size MB" else ""
        return Reading(value, smoke, _other(figure), note)
    interval = _mean_interval(run)
    return Reading(
        finite(run.get("mean_ms")),
        smoke or _time_obstacle(run),
        note=_invalid_note(run),
        edges=None if interval is None else (interval.low, interval.high),
    )


def _invalid_note(run: Row) -> str:
    """What its time lacks; "" of a valid run, and where there is none."""
    if not run or is_valid(run):
        return ""
    return f"the measurement is {invalid_text(run)}"


def _mean_interval(run: Row) -> Interval | None:
    """The range of the processes' means, as `tlperf.core.trials` has it of medians."""
    means = []
    for trial in listed(run, "trials"):
        samples = listed(trial, "samples_secs") if isinstance(trial, Mapping) else []
        found = list(map(finite, samples))
        known = [secs for secs in found if secs is not None]
        if known:
            means.append(1e3 * sum(known) / len(known))
    return range_interval(means)


def _time_obstacle(run: Row) -> str:
    """Another device, and a protocol that the study does not state: both are named."""
    device = str(run.get("device"))
    where = "" if "a100" in device.lower() else "on another device (Tesla A100), "
    return f"published {where}protocol unstated; here {describe_time(run)}"


def describe_time(run: Row) -> str:
    """Protocol, device and interval of a timed run's mean."""
    facts = [
        f"{run.get('protocol')} ({run.get('runtime', Runtime.TF)}) on "
        f"{run.get('device')}",
        f"batch {run.get('batch_size')}",
        f"{run.get('image_size')} px",
        f"{run.get('precision')}",
        *(["XLA"] if run.get("xla") else []),
        *(["TF32"] if run.get("tf32") else []),
        f"mean of {run.get('samples')} samples",
    ]
    interval = _mean_interval(run)
    facts.append(
        "no interval of several processes"
        if interval is None
        else f"means of {run.get('processes')} processes {interval.low:.1f} to "
        f"{interval.high:.1f} ms ({interval.confidence:.1%})"
    )
    return ", ".join(facts)


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


def _read_table_2(results: BackboneRows, figure: Figure) -> Reading:
    frozen, active = layer_ranges(results.train)
    first = _FIRST_ACTIVE.get(figure.backbone)
    same = first is not None and results.train.get("first_active") == first
    return Reading(
        frozen if figure.column == "frozen layers" else active,
        SMOKE if results.is_smoke("train") else "",
        "another numbering of the same boundary" if same else "another boundary",
        f"the boundary of Table 2: first active layer {first}" if same else "",
    )


def _read_table_3(results: BackboneRows, figure: Figure) -> Reading:
    head = ", ".join(texts(results.train, "head")) or None
    classes, other = texts(results.train, "classes"), "other layers"
    # Of other classes the last layer is as wide as they are many.
    bodies = {str(one).rpartition("Dense(")[0] for one in (head, figure.value)}
    if len(bodies) == 1 and classes and len(classes) != len(_STUDY_CLASSES):
        other = f"{len(classes)} classes, the study has 2"
    return Reading(head, SMOKE if results.is_smoke("train") else "", other)


def _read_table_4(results: BackboneRows, figure: Figure) -> Reading:
    train = results.train
    optimizer = child(train, "optimizer")
    values: dict[str, Value | None] = {
        "learning rate": finite(optimizer.get("learning_rate")),
        "optimiser": str(optimizer.get("name") or "").capitalize() or None,
        "loss": _loss(results) if train else None,
        "metric": _METRIC if train else None,
        "batch size": finite(train.get("batch_size")),
        "epochs": len(results.epochs) or None,
    }
    smoke = SMOKE if results.is_smoke("train") else ""
    return Reading(values[figure.column], smoke, _other(figure))


def _loss(results: BackboneRows) -> str:
    settings = child(results.rows.get("train", {}), "settings")
    weights = child(settings, "training").get("class_weights", ClassWeights.NONE)
    return _LOSS if weights == ClassWeights.NONE else f"{_LOSS}, classes {weights}"


def data_obstacle(evaluate: Row) -> str:
    """Why a score cannot stand against the study's, or "" where it can."""
    classes = class_names(evaluate)
    if len(classes) != len(_STUDY_CLASSES):
        return f"{len(classes)} classes, the study has 2"
    if any(
        name.strip().lower() not in words
        for name, words in zip(classes, _STUDY_CLASSES, strict=True)
    ):
        return "other classes than the study's cats and dogs"
    return ""


def _score_obstacle(results: BackboneRows) -> str:
    train, evaluate = results.train, results.evaluate
    if results.is_smoke("evaluate") or results.is_smoke("train"):
        return SMOKE
    if found := data_obstacle(evaluate):
        return found
    if child(train, "weights").get("kind") == "none":
        return "trained from a random start, the study from ImageNet weights"
    digests = [row.get("data_digest") for row in (train, evaluate)]
    if None not in digests and digests[0] != digests[1]:
        return "test images may have been trained on: the data are not the training's"
    return ""


def _score_note(results: BackboneRows) -> str:
    """What else than chance may be behind a difference."""
    parts = []
    images = finite(results.evaluate.get("images"))
    if images is not None and images != STUDY_TEST_IMAGES:
        parts.append(f"{images} test images, not the study's {STUDY_TEST_IMAGES}")
    if not results.train:
        return "; ".join([*parts, "how it was trained is not known"])
    for column in TABLE_4_COLUMNS:
        figure = published(results.name, "Table 4", column)
        value = None if figure is None else _read_table_4(results, figure).value
        if figure is not None and value not in (None, figure.value):
            parts.append(f"{column} {value}, not {figure.value}")
    used = used_normalisation(results)
    if used not in (None, STUDY_NORMALISATION):
        parts.append(
            f"normalisation {name_preprocessing(used)}, the study's is most plausibly "
            f"{STUDY_NORMALISATION}"
        )
    size = finite(results.train.get("image_size"))
    own = _NATIVE_SIZES.get(results.name)
    if None not in (size, own) and size != own:
        parts.append(
            f"images of {size} pixels, not the backbone's own {own} (the study states "
            "none)"
        )
    freeze = results.train.get("freeze")
    if freeze not in (None, "paper"):
        parts.append(f"freeze {freeze}, not Table 2's")
    return "; ".join(parts)


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
    report, classes = child(evaluate, "report"), class_names(evaluate)
    name = _AVERAGES.get(row)
    if name is None:
        index = int(row.removeprefix("class "))
        if index >= len(classes):
            return None
        name = classes[index]
    return finite(child(report, name).get(_REPORT_KEYS[column]))


def _read_report(results: BackboneRows, figure: Figure) -> Reading:
    return Reading(
        report_value(results.evaluate, figure.row, figure.column),
        _score_obstacle(results),
        "another test set",
        _score_note(results),
    )


def _read_table_11(results: BackboneRows, figure: Figure) -> Reading:
    return Reading(
        finite(results.evaluate.get(figure.column)),
        _score_obstacle(results),
        note=_score_note(results),
    )


_READERS: dict[str, Callable[[BackboneRows, Figure], Reading]] = {
    "Table 1": _read_table_1,
    "Table 2": _read_table_2,
    "Table 3": _read_table_3,
    "Table 4": _read_table_4,
    **{f"Table {number}": _read_report for number in range(5, 11)},
    "Table 11": _read_table_11,
}


# Of a table: the stages whose rows decide what stands beside a figure, and its verdict.
TABLE_STAGES = {
    "Table 1": ("latency",),
    **dict.fromkeys(("Table 2", "Table 3", "Table 4"), ("train",)),
    **{f"Table {number}": ("train", "evaluate") for number in range(5, 12)},
}


def read_figure(results: BackboneRows, figure: Figure) -> Reading:
    """What was measured of a figure of any table."""
    return _READERS[figure.table](results, figure)


def read_confusion(evaluate: Row) -> tuple[tuple[int, ...], ...] | None:
    """The confusion matrix, or None where it is missing or none: counts from 0, at
    least one, as many rows as columns as classes."""
    rows: Any = evaluate.get("confusion")
    classes = class_names(evaluate)
    if not isinstance(rows, list | tuple) or len(rows) != len(classes):
        return None
    for counts in rows:
        if not isinstance(counts, list | tuple) or len(counts) != len(rows):
            return None
        if not all(type(count) is int and count >= 0 for count in counts):
            return None
    return tuple(map(tuple, rows)) if any(map(any, rows)) else None


def read_unpublished(results: BackboneRows, table: str, column: str) -> Value | None:
    """What was measured for a column of Tables 1-4 and 11, of a backbone that the study
    did not have; None where it was not."""
    figure = Figure(table, results.name, results.title, column, NOT_AVAILABLE)
    return read_figure(results, figure).value
