"""Tables 1-11 of the study, each measured value beside the published one.

table_1(run, ledger), report_table(results, ledger), table_11(run, ledger)
"""

from collections.abc import Callable, Sequence

from tlperf.core.units import NOT_AVAILABLE, format_number, ratio
from tlperf.reference.paper import (
    A100_TF32_PEAK_TFLOPS,
    PUBLISHED_DEVICE,
    REPORT_COLUMNS,
    REPORT_ROWS,
    REPORT_TABLES,
    Figure,
    Value,
)
from tlperf.reporting.document import NOT_MEASURED, Table
from tlperf.reporting.ledger import Entry
from tlperf.reporting.readings import (
    TABLE_STAGES,
    class_names,
    read_unpublished,
    report_value,
)
from tlperf.reporting.rows import BackboneRows, Row, RunRows, finite
from tlperf.reporting.sources import study_source
from tlperf.reporting.study_errors import implied_tflops
from tlperf.reporting.timed_cells import format_ms, measured_protocols, timed_on

Ledger = Sequence[Entry]
Extra = tuple[str, Callable[[BackboneRows], str]]

_KINDS = ("published", "measured")
_MS_COLUMN = "ms per inference step (GPU)"
# Classes beyond the study's two that a report table still prints.
_MOST_EXTRA_CLASSES = 20

_PRINTED: dict[str, Callable[[Value], str]] = {
    "parameters": lambda value: f"{float(value) / 1e6:.1f} M",
    "learning rate": lambda value: f"{value:g}",
    **dict.fromkeys(("precision", "recall", "F1"), lambda value: f"{value:.2f}"),
}
_MEASURED: dict[str, Callable[[Value], str]] = {
    "parameters": lambda value: f"{value:,}",
    "size MB": lambda value: f"{value:.2f}",
    "learning rate": lambda value: f"{value:g}",
    **dict.fromkeys(
        ("precision", "recall", "F1", "accuracy"), lambda value: f"{value:.4f}"
    ),
}


def format_published(figure: Figure) -> str:
    """The figure as the study prints it."""
    if figure.column == "accuracy" and figure.table != "Table 11":
        return f"{figure.value:.2f}"
    return _PRINTED.get(figure.column, str)(figure.value)


def format_published_score(entry: Entry | None) -> str:
    """A published score in a summary: 4 decimals, as what is measured has."""
    value = finite(entry.figure.value) if entry else None
    return format_number(value, 4)


def format_measured(column: str, value: Value | None) -> str:
    """The measured value with one or two digits more than the study prints."""
    if value is None:
        return NOT_MEASURED
    return _MEASURED.get(column, str)(value)


def format_difference(entry: Entry | None) -> str:
    """The difference with its sign, or why there is none."""
    if entry is None:
        return NOT_AVAILABLE
    if entry.difference is None:
        return entry.verdict
    # Significant digits, not decimals: a small difference must not print as none.
    return f"{entry.difference:+.3g}"


def format_edges(edges: tuple[float, float] | None, *, sign: bool = False) -> str:
    """An interval, its edges with their signs where it is one of differences."""
    if edges is None:
        return NOT_AVAILABLE
    return " to ".join(f"{edge:{'+' if sign else ''}.4f}" for edge in edges)


def find_entry(
    ledger: Ledger, table: str, backbone: str, column: str, row: str | None = None
) -> Entry | None:
    """The entry of a figure, or None where the study has no such figure."""
    for entry in ledger:
        figure = entry.figure
        key = (figure.table, figure.backbone, figure.column)
        if key == (table, backbone, column) and row in (None, figure.row):
            return entry
    return None


def _pair(
    ledger: Ledger, table: str, results: BackboneRows, column: str
) -> tuple[str, str]:
    """A cell for what is published and one for what was measured."""
    entry = find_entry(ledger, table, results.name, column)
    if entry is None:
        measured = read_unpublished(results, table, column)
        return NOT_AVAILABLE, format_measured(column, measured)
    return (
        format_published(entry.figure),
        format_measured(entry.figure.column, entry.measured),
    )


def _paired_table(
    title: str,
    run: RunRows,
    ledger: Ledger,
    columns: Sequence[str],
    *,
    extra: Sequence[Extra] = (),
    notes: Sequence[str] = (),
) -> Table:
    """A row a backbone, two columns a published one, then columns of our own."""
    table = title.partition(".")[0]
    rows = [
        (
            results.title,
            *(
                text
                for column in columns
                for text in _pair(ledger, table, results, column)
            ),
            *(cell(results) for _, cell in extra),
        )
        for results in run.backbones
    ]
    headings = [f"{name}, {kind}" for name in columns for kind in _KINDS]
    titles = ("backbone", *headings, *(heading for heading, _ in extra))
    sources = (study_source(table), *run.sources(*TABLE_STAGES[table]))
    return Table(title, titles, tuple(rows), tuple(notes), sources)


def _format_implied(results: BackboneRows) -> str:
    return format_number(implied_tflops(results.name), 1)


def _format_peak_share(results: BackboneRows) -> str:
    share = ratio(implied_tflops(results.name), A100_TF32_PEAK_TFLOPS)
    if share is None:
        return NOT_AVAILABLE
    return f"{share:.0%}" + (": above the peak" if share > 1 else "")


def table_1(run: RunRows, ledger: Ledger) -> Table:
    """Characteristics, and the published step time judged by what it implies."""

    def published_ms(results: BackboneRows) -> str:
        return _pair(ledger, "Table 1", results, _MS_COLUMN)[0]

    def measured_ms(protocol: str) -> Extra:
        heading = f"mean ms a step, {protocol}"
        return heading, lambda results: format_ms(results, protocol, "mean_ms")

    return _paired_table(
        "Table 1. Characteristics of the ImageNet models",
        run,
        ledger,
        ("size MB", "parameters", "depth"),
        extra=(
            ("ms a step, published", published_ms),
            ("implied by it, TFLOP/s", _format_implied),
            ("of the A100's TF32 peak", _format_peak_share),
            *map(measured_ms, measured_protocols(run)),
            ("measured on", timed_on),
        ),
        notes=(
            f"Published times: {PUBLISHED_DEVICE}; precision, XLA, copies, warm-up and "
            "synchronisation are not stated. They are no target of the measured times.",
            f"Plausibility: a step that implies more than {A100_TF32_PEAK_TFLOPS:.0f} "
            "TFLOP/s cannot be a batch of 32 in float32 or TF32 on that device.",
            "Measured sizes are MiB (parameters x 4 bytes). The printed ones are at "
            "most 2 above that, but for EfficientNetB0: its parameters make 20.3, not "
            "29.",
            *_distinct_notes(ledger, "Table 1", ("parameters", "depth")),
        ),
    )


def _distinct_notes(ledger: Ledger, table: str, columns: Sequence[str]) -> list[str]:
    """`Title, column: note` for every entry of a table with something to say."""
    return [
        f"{entry.figure.row}, {entry.figure.column}: {entry.note}."
        for entry in ledger
        if entry.figure.table == table and entry.figure.column in columns and entry.note
    ]


def table_2(run: RunRows, ledger: Ledger) -> Table:
    """Which layers are frozen and which are trained."""
    headings = {
        "frozen_layers": "number frozen",
        "active_layers": "number active",
        "first_active": "first active layer",
        "trainable_params": "trainable parameters",
    }

    def counted(key: str) -> Extra:
        return headings[key], lambda results: format_fact(results.train, key)

    return _paired_table(
        "Table 2. Frozen and active layers",
        run,
        ledger,
        ("frozen layers", "active layers"),
        extra=tuple(map(counted, headings)),
        notes=(
            "Ranges are inclusive. InceptionV3's last layer is 310, not 311 as "
            "printed. With Keras' own ImageNet file EfficientNetB0 has one Rescaling "
            "layer more than the study counts, which moves its ranges by one.",
            *_default_notes(run),
        ),
    )


def _default_notes(run: RunRows) -> list[str]:
    """Where the defaults of trained backbones come from that are not the study's."""
    return [
        f"{results.title}: defaults {results.train['defaults']}."
        for results in run.backbones
        if results.name not in REPORT_TABLES and results.train.get("defaults")
    ]


def format_fact(result: Row, key: str) -> str:
    """A value of a stage's result; tells a missing stage from a missing value."""
    if not result:
        return NOT_MEASURED
    value = result.get(key)
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table_3(run: RunRows, ledger: Ledger) -> Table:
    """Appended layers."""
    return _paired_table(
        "Table 3. Appended layers",
        run,
        ledger,
        ("appended layers",),
        notes=_default_notes(run),
    )


def table_4(run: RunRows, ledger: Ledger) -> Table:
    """Hyperparameters."""
    columns = ("learning rate", "optimiser", "loss", "metric", "batch size", "epochs")
    return _paired_table(
        "Table 4. Hyperparameters",
        run,
        ledger,
        columns,
        notes=_default_notes(run),
    )


def table_11(run: RunRows, ledger: Ledger) -> Table:
    """Test accuracies with their intervals."""

    def found(results: BackboneRows) -> Entry | None:
        return find_entry(ledger, "Table 11", results.name, "accuracy")

    def difference(results: BackboneRows) -> str:
        return format_difference(found(results))

    def edges(results: BackboneRows) -> str:
        entry = found(results)
        return format_edges(entry.difference_interval if entry else None, sign=True)

    def verdict(results: BackboneRows) -> str:
        entry = found(results)
        return entry.verdict if entry else NOT_AVAILABLE

    return _paired_table(
        "Table 11. Accuracy on the test images",
        run,
        ledger,
        ("accuracy",),
        extra=(
            ("95 % interval", format_interval),
            ("test images", lambda results: format_fact(results.evaluate, "images")),
            ("measured - published", difference),
            ("95 % of the difference", edges),
            ("verdict", verdict),
        ),
        notes=(
            "The study's accuracies are counts of 800 test images. The interval of the "
            "difference is Newcombe's, of both samples of images.",
        ),
    )


def format_interval(results: BackboneRows) -> str:
    """The binomial interval of the test accuracy."""
    if not results.evaluate:
        return NOT_MEASURED
    edges = [finite(edge) for edge in results.evaluate.get("interval") or ()]
    if len(edges) != 2 or None in edges:
        return NOT_AVAILABLE
    return " to ".join(format_number(edge, 4) for edge in edges)


def report_table(results: BackboneRows, ledger: Ledger) -> Table:
    """Classification report of one backbone: Tables 5-10."""
    table = REPORT_TABLES.get(results.name, "")
    classes = class_names(results.evaluate)
    rows = [
        (row, _class_name(classes, row), *_report_cells(results, ledger, table, row))
        for row in (*REPORT_ROWS[:2], *_extra_rows(classes), *REPORT_ROWS[2:])
    ]
    notes = _report_notes(results, ledger, len(classes))
    headings = (f"{c}, {k}" for c in REPORT_COLUMNS for k in _report_kinds(table))
    return Table(
        f"{table + '. ' if table else ''}Classification report of {results.title}",
        ("row", "measured class", *headings),
        tuple(rows),
        notes,
        (
            *((study_source(table),) if table else ()),
            *results.sources("train", "evaluate"),
        ),
    )


def _report_kinds(table: str) -> tuple[str, ...]:
    """Of a network that the study did not have nothing was published."""
    return _KINDS if table else _KINDS[1:]


def _extra_rows(classes: Sequence[str]) -> list[str]:
    return [f"class {index}" for index in range(2, len(classes))][:_MOST_EXTRA_CLASSES]


def _class_name(classes: Sequence[str], row: str) -> str:
    index = row.removeprefix("class ")
    if index == row or int(index) >= len(classes):
        return ""
    return classes[int(index)]


def _report_cells(
    results: BackboneRows, ledger: Ledger, table: str, row: str
) -> tuple[str, ...]:
    cells: list[str] = []
    for column in REPORT_COLUMNS:
        # The study prints accuracy in the F1 column, as scikit-learn does.
        key = "accuracy" if (row, column) == ("accuracy", "F1") else column
        if row == "accuracy" and column in ("precision", "recall"):
            cells += [""] * len(_report_kinds(table))
            continue
        if table:
            entry = find_entry(ledger, table, results.name, key, row)
            cells.append(format_published(entry.figure) if entry else NOT_AVAILABLE)
        value = report_value(results.evaluate, row, key)
        cells.append(format_measured(key, value))
    return tuple(cells)


def _report_notes(
    results: BackboneRows, ledger: Ledger, classes: int
) -> tuple[str, ...]:
    notes = []
    # Table 11 alone prints it unrounded.
    if entry := find_entry(ledger, "Table 11", results.name, "accuracy"):
        notes.append(f"Verdict on the accuracy, by Table 11: {entry.verdict}.")
        if entry.note:
            notes.append(f"Beside it: {entry.note}.")
    if classes - 2 > _MOST_EXTRA_CLASSES:
        notes.append(
            f"{classes - 2 - _MOST_EXTRA_CLASSES} more classes: results.jsonl."
        )
    return tuple(notes)
