"""What `tools.gpu_matrix` measured, as Markdown.

text = render_matrix(head, rows)      # of gpu_matrix.json
"""

from collections.abc import Sequence
from typing import Any

from tlperf.core.units import format_bytes, format_number, format_secs, ratio
from tlperf.reporting.document import NOT_MEASURED, Document, Paragraph, Section, Table
from tlperf.reporting.render import render_markdown
from tools.gpu_cells import INPUTS, Cell


def _find_rate(row: dict[str, Any] | None) -> float | None:
    return row["result"]["images_per_sec"] if row and row["exit_code"] == 0 else None


def _format_outcome(row: dict[str, Any]) -> str:
    code = row["exit_code"]
    return "done" if code == 0 else f"exit {code}: {row['reason']}"


def format_result(row: dict[str, Any]) -> str:
    """What came of a cell, for a line."""
    rate = _find_rate(row)
    if rate is None:
        return _format_outcome(row)
    return f"{format_number(rate, 1)} images/s"


_COLUMNS = (
    *("backbone", "precision", "XLA", "devices", "strategy", "images/s", "step"),
    *("input wait", "first step", "frozen images/s", "device memory", "host memory"),
    "outcome",
)


def _cells_row(row: dict[str, Any]) -> tuple[str, ...]:
    cell, result = Cell(**row["cell"]), row.get("result")
    head = (cell.backbone, cell.precision, cell.xla, str(cell.devices), cell.strategy)
    if result is None:
        return (*head, *(NOT_MEASURED,) * 7, _format_outcome(row))
    features, peaks = result["features"], result["device_peak_memory_bytes"]
    return (
        *head,
        format_number(result["images_per_sec"], 1),
        format_secs(1 / result["steps_per_sec"]),
        f"{100 * result['input_wait_fraction']:.1f} %",
        format_secs(result["epochs"][0]["first_step_secs"]),
        format_number(ratio(features["computed_images"], features["secs"]), 1),
        format_bytes(max(peaks) if peaks else None),
        format_bytes(result["process_peak_memory_bytes"]),
        _format_outcome(row),
    )


def _scaling_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Without XLA; each rate beside that of one device without MirroredStrategy."""
    rates = {Cell(**row["cell"]): _find_rate(row) for row in rows}
    off = [cell for cell in rates if cell.xla == "off"]
    places = sorted({(cell.devices, cell.strategy != "one") for cell in off})
    shown = []
    for backbone, inputs, precision in dict.fromkeys(
        (cell.backbone, cell.inputs, cell.precision) for cell in off
    ):
        at = {
            (cell.devices, cell.strategy != "one"): rates[cell]
            for cell in off
            if (cell.backbone, cell.inputs, cell.precision)
            == (backbone, inputs, precision)
        }
        texts = []
        for devices, is_mirrored in places:
            rate = at.get((devices, is_mirrored))
            share = ratio(rate, devices * (at.get((1, False)) or 0))
            text = f"{format_number(rate, 1)} ({format_number(share, 2)})"
            texts.append(NOT_MEASURED if rate is None else text)
        shown.append((backbone, precision, *texts))
    return Table(
        "Scaling, images/s without XLA",
        (
            *("backbone", "precision"),
            *(f"{n} {'mirrored' if mirrored else 'alone'}" for n, mirrored in places),
        ),
        tuple(shown),
        notes=(
            "In brackets: the share of as many times one device alone. The batch of "
            "each device stays the same. Several replicas cannot have XLA.",
        ),
    )


def _facts_table(head: dict[str, Any]) -> Table:
    machine, found = head["machine"], head["devices"]
    gpus = [
        f"{gpu.get('device_name', 'GPU')}, compute capability "
        f"{'.'.join(map(str, gpu.get('compute_capability', ['n/a'])))}"
        for gpu in found["gpus"]
    ]
    values = {
        **{f"GPU {number}": text for number, text in enumerate(gpus)},
        **{name: found[name] for name in sorted(found) if name != "gpus"},
        **{name: machine[name] for name in ("cpu", "cores", "platform", "python")},
        "memory": format_bytes(machine["memory_bytes"]),
        **machine["versions"],
        **{f"--{name}": value for name, value in head["settings"].items()},
    }
    rows = tuple((name, str(value)) for name, value in values.items())
    return Table("Machine, versions and settings", ("what", "value"), rows)


def render_matrix(head: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown of a matrix.

    Args:
        head: settings, machine and devices.
        rows: of the cells.
    """
    is_cpu = head["settings"]["devices"] == "cpu"
    banner = "Logical CPU devices: nothing here is a figure of a GPU." if is_cpu else ""
    sections = []
    for inputs in INPUTS:
        found = [row for row in rows if row["cell"]["inputs"] == inputs]
        if found:
            table = Table(
                "Each cell is a training in a process of its own",
                _COLUMNS,
                tuple(map(_cells_row, found)),
                notes=(
                    "Rates leave out the first step of each epoch. The first step of "
                    "the training traces and compiles. Device memory is the "
                    "allocator's peak on the fullest device.",
                ),
            )
            sections.append(
                Section(f"Training on {inputs}", (table, _scaling_table(found)))
            )
    text = "Made by tools/gpu_matrix.py; gpu_matrix.json has the raw values."
    about = Section("Where", (Paragraph(text), _facts_table(head)))
    return render_markdown(Document("GPU matrix", banner, (*sections, about)))
