"""Tables of the cells of a `gpu_matrix.json`.

    input_tables(cells), latency_tables(cells), training_tables(cells, weights)

A cell is an object of `cell` (part, backbone, devices, strategy; precision, xla, tf32,
inputs where it has them), `exit_code`, `reason` and `result`; any may be missing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tlperf.core.units import (
    NOT_AVAILABLE,
    format_bytes,
    format_number,
    format_secs,
    ratio,
)
from tlperf.reporting.document import NOT_MEASURED, Table
from tlperf.reporting.rows import (
    Row,
    child,
    finite,
    invalid_text,
    is_valid,
    objects,
)


def _runs(row: Row) -> list[Row]:
    """Of a cell of latency, what was timed."""
    return objects(child(row, "result").get("runs"))


def format_result(row: Row) -> str:
    """What came of a cell, for a line."""
    result = child(row, "result")
    told = [f"{run.get('protocol')} {_format_ms(run, 'p50_ms')}" for run in _runs(row)]
    if result and not told:
        told = [f"{_format_rate(result)} images/s"]
    if row.get("exit_code") or not told:
        told.append(_format_outcome(row))
    return ", ".join(told)


def _words(row: Row, *keys: str) -> tuple[str, ...]:
    """Of a cell; "" is what it does not have."""
    cell = child(row, "cell")
    return tuple(str(cell.get(key) or NOT_AVAILABLE) for key in keys)


def _format_outcome(row: Row) -> str:
    code = row.get("exit_code")
    if code is None:
        return NOT_AVAILABLE
    return "done" if code == 0 else f"exit {code}: {row.get('reason')}"


def _format_rate(result: Row) -> str:
    return format_number(finite(result.get("images_per_sec")), 1)


def _format_ms(run: Row, key: str) -> str:
    milliseconds = finite(run.get(key))
    return format_secs(None if milliseconds is None else milliseconds / 1e3)


def _format_share(value: Any) -> str:
    share = finite(value)
    return NOT_AVAILABLE if share is None else f"{100 * share:.1f} %"


def _format_peak(result: Row) -> str:
    peaks = result.get("device_peak_memory_bytes")
    known = map(finite, peaks if isinstance(peaks, list) else ())
    return format_bytes(max((one for one in known if one is not None), default=None))


def _build_table(
    title: str,
    columns: tuple[str, ...],
    lines: Sequence[tuple[tuple[str, ...], str]],
    notes: tuple[str, ...],
) -> Table:
    """A table of cells.

    Args:
        title: caption.
        columns: all but the outcome.
        lines: each the first words of a row, and its outcome; what it does not have of
            `columns` was not measured.
        notes: under it.
    """
    rows = [
        (*words, *(NOT_MEASURED,) * (len(columns) - len(words)), outcome)
        for words, outcome in lines
    ]
    return Table(title, (*columns, "outcome"), tuple(rows), notes)


_INPUT_COLUMNS = (
    *("backbone", "devices", "strategy", "pixels", "images/s", "state", "bounded by"),
    *("its images/s alone", "cores"),
)


def input_tables(cells: Sequence[Row]) -> tuple[Table, ...]:
    """Rates, and the stage that bounds each."""
    lines = [(_input_words(row), _format_outcome(row)) for row in cells]
    note = "The whole input pipeline without a training, batches on their devices."
    return (_build_table("Input rates", _INPUT_COLUMNS, lines, (note,)),)


def _input_words(row: Row) -> tuple[str, ...]:
    head, result = _words(row, "backbone", "devices", "strategy"), child(row, "result")
    if not result:
        return head
    bound = str(result.get("bottleneck", NOT_AVAILABLE))
    return (
        *head,
        format_number(finite(result.get("image_size")), 0),
        _format_rate(result),
        str(result.get("state", NOT_AVAILABLE)),
        bound,
        format_number(finite(child(result, "stages").get(bound)), 1),
        format_number(finite(result.get("cores")), 0),
    )


_LATENCY_COLUMNS = (
    *("backbone", "precision", "XLA", "TF32", "devices", "protocol", "batch"),
    *("median", "interval, ms", "p99", "images/s", "of matmul", "first call"),
    "device memory",
)


def latency_tables(cells: Sequence[Row]) -> tuple[Table, ...]:
    """All that was timed, and where any of it is valid, the fastest ways."""
    lines = [line for row in cells for line in _latency_lines(row)]
    notes = (
        "Networks have random weights that tell images apart, so that the outputs of "
        "timed steps can be checked; no time depends on them. Inference is the "
        "1000-class network's at its own size, on one device; train_step is a step of "
        "the fine-tuning, its batch shared by all devices. The interval is the range "
        "of the processes' medians. An INVALID row is no result, whatever its numbers. "
        "Device memory is the allocator's peak on the fullest device.",
    )
    table = _build_table("Timed steps", _LATENCY_COLUMNS, lines, notes)
    fastest = _fastest_table(cells)
    return (table, fastest) if fastest.rows else (table,)


def _latency_lines(row: Row) -> Iterator[tuple[tuple[str, ...], str]]:
    """A line a protocol; one for those that failed."""
    head = _words(row, "backbone", "precision", "xla", "tf32", "devices")
    runs = _runs(row)
    for run in runs:
        yield (*head, *_run_words(run)), _format_validity(run)
    if row.get("exit_code") or not runs:
        yield (*head, "the others" if runs else "all"), _format_outcome(row)


def _run_words(run: Row) -> tuple[str, ...]:
    interval = child(run, "interval_ms")
    edges = [format_number(finite(interval.get(key)), 2) for key in ("low", "high")]
    return (
        str(run.get("protocol", NOT_AVAILABLE)),
        format_number(finite(run.get("batch_size")), 0),
        _format_ms(run, "p50_ms"),
        " to ".join(edges) if interval else NOT_AVAILABLE,
        _format_ms(run, "p99_ms"),
        _format_rate(run),
        _format_share(run.get("share_of_matmul")),
        format_secs(finite(run.get("first_call_secs"))),
        _format_peak(run),
    )


def _format_validity(run: Row) -> str:
    return "done" if is_valid(run) else invalid_text(run)


def _fastest_table(cells: Sequence[Row]) -> Table:
    """Of valid rows on one device, the fastest of each backbone, protocol and batch.

    A batch that did not fit was halved: its steps are shorter, and no match.
    """
    groups: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
    for row in cells:
        for run in _runs(row):
            step_ms = finite(run.get("p50_ms"))
            is_one = child(row, "cell").get("devices") == 1
            if step_ms is not None and is_valid(run) and is_one:
                batch_size = format_number(finite(run.get("batch_size")), 0)
                key = *_words(row, "backbone"), str(run.get("protocol")), batch_size
                groups.setdefault(key, []).append((step_ms, row))
    rows = []
    for key, group in groups.items():
        best_ms, row = min(group, key=lambda one: one[0])
        slowest_ms = max(step_ms for step_ms, _ in group)
        words = *key, *_words(row, "precision", "xla", "tf32")
        slowest = format_number(ratio(slowest_ms, best_ms), 2)
        rows.append((*words, format_secs(best_ms / 1e3), slowest, str(len(group))))
    columns = (
        *("backbone", "protocol", "batch", "precision", "XLA", "TF32", "median"),
        *("slowest takes times as long", "valid rows"),
    )
    return Table("The fastest way on one device", columns, tuple(rows))


_TRAINING_COLUMNS = (
    *("backbone", "precision", "XLA", "devices", "strategy", "images/s", "step"),
    *("input wait", "first step", "frozen images/s", "device memory", "host memory"),
)


def training_tables(cells: Sequence[Row], weights: str) -> tuple[Table, ...]:
    """All cells, and where some have several devices, how rates grow with them.

    Args:
        cells: of one kind of inputs.
        weights: value of --weights.
    """
    words = f"Weights: {weights}."
    if weights == "none":
        words = "Weights are random (--weights=none); no rate depends on them."
    notes = (
        f"{words} Rates leave out the first step of each epoch. The first step of the "
        "training traces and compiles. Device memory is the allocator's peak on the "
        "fullest device.",
    )
    lines = [(_training_words(row), _format_outcome(row)) for row in cells]
    table = _build_table("Each cell is a training", _TRAINING_COLUMNS, lines, notes)
    scaling = _scaling_table(cells)
    return (table, scaling) if len(scaling.columns) > 3 else (table,)


def _training_words(row: Row) -> tuple[str, ...]:
    head = _words(row, "backbone", "precision", "xla", "devices", "strategy")
    result = child(row, "result")
    if not result:
        return head
    features = child(result, "features")
    first_epoch = (objects(result.get("epochs")) or [{}])[0]
    computed, secs = (finite(features.get(key)) for key in ("computed_images", "secs"))
    return (
        *head,
        _format_rate(result),
        format_secs(ratio(1, finite(result.get("steps_per_sec")))),
        _format_share(result.get("input_wait_fraction")),
        format_secs(finite(first_epoch.get("first_step_secs"))),
        format_number(ratio(computed, secs), 1),
        _format_peak(result),
        format_bytes(finite(result.get("process_peak_memory_bytes"))),
    )


def _scaling_table(cells: Sequence[Row]) -> Table:
    """Without XLA; each rate beside that of one device without MirroredStrategy."""
    rates: dict[tuple[str, ...], dict[tuple[float, bool], float | None]] = {}
    for row in cells:
        cell = child(row, "cell")
        devices = finite(cell.get("devices"))
        if cell.get("xla") == "off" and devices is not None:
            rate = finite(child(row, "result").get("images_per_sec"))
            place = devices, cell.get("strategy") != "one"
            rates.setdefault(_words(row, "backbone", "precision"), {})[place] = rate
    places = sorted({place for at in rates.values() for place in at})
    rows = []
    for key, at in rates.items():
        texts = []
        for devices, is_mirrored in places:
            rate = at.get((devices, is_mirrored))
            share = ratio(rate, devices * (at.get((1, False)) or 0))
            text = f"{format_number(rate, 1)} ({format_number(share, 2)})"
            texts.append(NOT_MEASURED if rate is None else text)
        rows.append((*key, *texts))
    return Table(
        "Scaling, images/s without XLA",
        (
            *("backbone", "precision"),
            *(f"{n} {'mirrored' if mirrored else 'alone'}" for n, mirrored in places),
        ),
        tuple(rows),
        notes=(
            "In brackets: the share of as many times one device alone. The batch of "
            "each device stays the same. Several replicas cannot have XLA.",
        ),
    )
