"""A comparison as a document, for the same renderers as the report.

document = build_comparison_document(compare_workdirs(["w1", "w2"]))
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from tlperf.core.units import (
    NOT_AVAILABLE,
    format_number,
    format_secs,
)
from tlperf.reference.backbones import BACKBONES, KERAS_BACKBONES
from tlperf.reporting.banner import SMOKE_BANNER
from tlperf.reporting.comparison_accuracy import TEST
from tlperf.reporting.document import (
    NOT_MEASURED,
    Block,
    Document,
    Paragraph,
    Section,
    Table,
)
from tlperf.reporting.study_tables import format_edges
from tlperf.reporting.verdicts import VERDICTS, verdict_word

TITLE = "Workdirs compared"
_TITLES = {spec.name: spec.title for spec in (*KERAS_BACKBONES, *BACKBONES)}

Values = Mapping[str, Any]


def build_comparison_document(result: Values) -> Document:
    """The whole page of a comparison's JSON."""
    smoke = any(workdir["smoke"] for workdir in result["workdirs"])
    return Document(
        title=TITLE,
        banner=SMOKE_BANNER if smoke else "",
        sections=(
            Section("What is compared", (_workdir_table(result), *_summary(result))),
            Section(
                "Accuracy",
                _blocks(accuracy_table(result), "No evaluation was measured.")
                + _accuracy_text(),
            ),
            Section(
                "Time of a step",
                _blocks(latency_table(result), "No step was timed.") + _latency_text(),
            ),
            Section(
                "Training time",
                _blocks(training_table(result), "No training was measured."),
            ),
            Section(
                "What was set or found otherwise",
                _blocks(settings_table(result), "Nothing: all settings are equal."),
            ),
        ),
    )


def _blocks(table: Table, otherwise: str) -> tuple[Block, ...]:
    return (table,) if table.rows else (Paragraph(otherwise),)


def _workdir_table(result: Values) -> Table:
    rows = [
        (
            workdir["label"],
            workdir["path"],
            ", ".join(map(title_of, workdir["backbones"])) or "none",
        )
        for workdir in result["workdirs"]
    ]
    return Table("Workdirs", ("label", "workdir", "measured backbones"), tuple(rows))


def title_of(backbone: str) -> str:
    """A backbone's name as people write it."""
    return _TITLES.get(backbone, backbone)


def _summary(result: Values) -> tuple[Paragraph, ...]:
    first = result["workdirs"][0]["label"]
    return (
        Paragraph(
            f"Each workdir stands beside {first}: a difference is its figure minus "
            f"that of {first}, a ratio its time by that of {first}, and a verdict is "
            "on it."
        ),
        Paragraph(f"Accuracies: {count_verdicts(result['accuracies'])}."),
        Paragraph(f"Times of a step: {count_verdicts(result['latencies'])}."),
    )


def count_verdicts(rows: Sequence[Values]) -> str:
    """How many rows have which verdict, in words."""
    counts = collections.Counter(verdict_word(row["verdict"]) for row in rows)
    known = [f"{word} {counts[word]}" for word in VERDICTS if counts[word]]
    return ", ".join(known) or NOT_MEASURED


def accuracy_table(result: Values) -> Table:
    """A row a backbone and pair."""
    columns = (
        *("backbone", "pair", "test images", "accuracy", "95 %"),
        *("beside it, accuracy", "beside it, 95 %", "difference"),
        "95 % of the difference",
        *("right in the first alone", "right in the second alone"),
        *("p", "verdict", "note"),
    )
    rows = [
        (
            title_of(row["backbone"]),
            _pair(row),
            _text(row["images"]),
            format_number(row["first_accuracy"], 4),
            format_edges(row["first_interval"]),
            format_number(row["second_accuracy"], 4),
            format_edges(row["second_interval"]),
            _signed(row["difference"]),
            format_edges(row["difference_interval"], sign=True),
            _text(row["only_first_right"]),
            _text(row["only_second_right"]),
            format_p(row["p"]),
            row["verdict"],
            row["note"],
        )
        for row in result["accuracies"]
    ]
    return Table("Accuracy on the same test images", columns, tuple(rows))


def _pair(row: Values) -> str:
    return f"{row['first']}, {row['second']}"


def _text(value: Any) -> str:
    return NOT_AVAILABLE if value is None else str(value)


def _signed(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:+.4f}"


def format_p(p: float | None) -> str:
    """A probability; what is nearly none is not printed as none."""
    if p is None:
        return NOT_AVAILABLE
    return f"{p:.4f}" if p >= 1e-4 else f"{p:.1e}"


def _accuracy_text() -> tuple[Paragraph, ...]:
    return (
        Paragraph(
            f"Test: {TEST}; p above 0.05 is within noise. The interval of the "
            "difference is Clopper and Pearson's of the same images, which leaves 0 "
            "out where p is at most 0.05. It is of how the images split that one "
            "network alone gets right, so where all of these are one network's it ends "
            "at the difference itself. Of several backbones one in twenty is better "
            "or worse by chance alone."
        ),
        Paragraph(
            "The test is of these two trained networks: another training run of the "
            "same settings moves an accuracy too, and no test of one run sees that."
        ),
    )


def latency_table(result: Values) -> Table:
    """A row a step and pair."""
    columns = (
        *("backbone", "pair", "model", "protocol", "runtime", "batch", "image size"),
        *("precision", "p50, ms", "beside it, p50, ms", "device", "beside it, device"),
        *("ratio", "its interval", "confidence", "verdict", "note"),
    )
    rows = [
        (
            title_of(row["backbone"]),
            _pair(row),
            *(_text(row[key]) for key in ("model", "protocol", "runtime")),
            *(_text(row[key]) for key in ("batch_size", "image_size", "precision")),
            format_number(row["first_p50_ms"], 2),
            format_number(row["second_p50_ms"], 2),
            _text(row["first_device"]),
            _text(row["second_device"]),
            format_number(row["ratio"], 3),
            *format_ratio_interval(row["ratio_interval"]),
            row["verdict"],
            row["note"],
        )
        for row in result["latencies"]
    ]
    return Table("Time of the same step", columns, tuple(rows))


def format_ratio_interval(interval: Values | None) -> tuple[str, str]:
    """Edges and confidence of a ratio's interval."""
    if interval is None:
        return NOT_AVAILABLE, NOT_AVAILABLE
    edges = f"{interval['low']:.3f} to {interval['high']:.3f}"
    return edges, f"{interval['confidence']:.1%}"


def _latency_text() -> tuple[Paragraph, ...]:
    return (
        Paragraph(
            "The ratio is the median of all ratios of a process's median in the second "
            "by one in the first, its interval that of Mann and Whitney's exact test. "
            "Steps are the same where model, protocol, runtime, batch, image size and "
            "precision are; both measurements have to be valid."
        ),
        Paragraph(
            "The workdirs were not timed in turn: what changed on a machine between "
            "them is in a ratio too."
        ),
    )


def training_table(result: Values) -> Table:
    """A row a backbone, four columns a workdir."""
    labels = [workdir["label"] for workdir in result["workdirs"]]
    columns = ["backbone"]
    for label in labels:
        columns += [f"{label}, time", f"{label}, epochs", f"{label}, images/s"]
        columns += [f"{label}, device"]
    columns += [f"time of {label} by {labels[0]}" for label in labels[1:]]
    rows = [_training_row(row, labels) for row in result["trainings"]]
    notes = (
        "Of all epochs, validation included. One training each gives no interval, so "
        "there is no verdict.",
    )
    return Table("Training time", tuple(columns), tuple(rows), notes)


def _training_row(row: Values, labels: Sequence[str]) -> tuple[str, ...]:
    cells = [title_of(row["backbone"])]
    for label in labels:
        is_known = row["epochs"][label] is not None
        cells += [
            format_secs(row["secs"][label]) if is_known else NOT_MEASURED,
            str(row["epochs"][label]) if is_known else NOT_MEASURED,
            format_number(row["images_per_sec"][label], 1),
            _text(row["device"][label]),
        ]
    return (
        *cells,
        *(format_number(row["ratio"][label], 3) for label in labels[1:]),
    )


def settings_table(result: Values) -> Table:
    """What differs, a column a workdir."""
    labels = [workdir["label"] for workdir in result["workdirs"]]
    rows = [
        (row["what"], *(row[label] for label in labels)) for row in result["settings"]
    ]
    return Table("Differences", ("what", *labels), tuple(rows))
