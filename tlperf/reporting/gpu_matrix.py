"""What `tools/gpu_matrix.py` measured, as sections of a report.

    matrix = read_matrix(workdir)              # None where there is none
    sections = matrix_sections(matrix)
    text = render_matrix(matrix)               # Markdown of its own

Input rates, latencies and trainings on one and on all GPUs of a machine, in each
precision, with and without XLA. Each cell was a command in a process of its own.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.units import NOT_AVAILABLE, format_bytes
from tlperf.reporting.document import (
    NOT_MEASURED,
    Document,
    Paragraph,
    Section,
    Table,
)
from tlperf.reporting.gpu_tables import (
    input_tables,
    latency_tables,
    training_tables,
)
from tlperf.reporting.render import render_markdown
from tlperf.reporting.rows import Row, child, finite, objects
from tlperf.reporting.sources import Source

MATRIX_NAME = "gpu_matrix.json"
_NO_GPU = "Logical CPU devices: nothing here is a figure of a GPU."


def read_matrix(folder: str | pathlib.Path) -> dict[str, Any] | None:
    """What FOLDER/gpu_matrix.json holds; None where it is not there.

    Raises:
        TlperfError: 76 where it is not JSON, or has no cells.
    """
    path = pathlib.Path(folder) / MATRIX_NAME
    if not path.exists():
        return None
    matrix = files.read_json(path)
    cells = matrix.get("cells") if isinstance(matrix, dict) else None
    if not isinstance(cells, list) or len(objects(cells)) < len(cells):
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_file",
            path=path,
            found="expected an object with a list of cells",
            remedy="delete it and run tools.gpu_matrix again",
        )
    return matrix


def matrix_sections(matrix: Row, *, is_cited: bool = False) -> tuple[Section, ...]:
    """The sections of a report, the first one of level 2.

    Args:
        matrix: settings, code, machine, devices and cells.
        is_cited: whether each table names the file that it was made of, as one in a
            report's folder does.
    """
    sources = (Source(MATRIX_NAME),) if is_cited else ()

    def cited(table: Table) -> Table:
        return dataclasses.replace(table, sources=sources)

    cells = objects(matrix.get("cells"))
    texts = [_NO_GPU] if child(matrix, "settings").get("devices") == "cpu" else []
    devices = [child(row, "device").get("text") for row in cells]
    known = dict.fromkeys(text for text in devices if isinstance(text, str))
    texts.append(f"Measured on: {'; '.join(known) or NOT_MEASURED}.")
    texts.append(
        f"Made by tools/gpu_matrix.py; {MATRIX_NAME} has the raw values. Each cell is "
        "a command in a process of its own."
    )
    weights = str(child(matrix, "settings").get("weights", NOT_AVAILABLE))
    parts = {
        "Input": input_tables(_pick(cells, part="input")),
        "Latency": latency_tables(_pick(cells, part="latency")),
        "Training on features": training_tables(
            _pick(cells, part="training", inputs="features"), weights
        ),
        "Training on images": training_tables(
            _pick(cells, part="training", inputs="images"), weights
        ),
    }
    return (
        Section("GPU matrix", tuple(map(Paragraph, texts))),
        *(
            Section(title, tuple(map(cited, tables)), level=3)
            for title, tables in parts.items()
            if tables[0].rows
        ),
        Section("Machine of the GPU matrix", (cited(_facts_table(matrix)),), level=3),
    )


def matrix_document(matrix: Row, *, is_cited: bool = False) -> Document:
    """A matrix alone."""
    sections = matrix_sections(matrix, is_cited=is_cited)
    return Document("Measured on one machine", "", sections)


def render_matrix(matrix: Row) -> str:
    """The Markdown of a matrix alone."""
    return render_markdown(matrix_document(matrix))


def _pick(cells: Sequence[Row], **wanted: str) -> list[Row]:
    """The cells that are of these words."""
    return [row for row in cells if wanted.items() <= child(row, "cell").items()]


def _facts_table(matrix: Row) -> Table:
    machine, found = child(matrix, "machine"), child(matrix, "devices")
    values = {
        **{
            f"GPU {number}": _format_gpu(gpu)
            for number, gpu in enumerate(objects(found.get("gpus")))
        },
        **{name: found[name] for name in sorted(found) if name != "gpus"},
        **{key: machine.get(key) for key in ("cpu", "cores", "platform", "python")},
        "memory": format_bytes(finite(machine.get("memory_bytes"))),
        **child(machine, "versions"),
        **{f"code {key}": value for key, value in child(matrix, "code").items()},
        **{f"--{key}": value for key, value in child(matrix, "settings").items()},
    }
    rows = tuple((name, _format_fact(value)) for name, value in values.items())
    return Table("Versions and settings", ("what", "value"), rows)


def _format_fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return NOT_AVAILABLE if value is None else str(value)


def _format_gpu(gpu: Row) -> str:
    """Name and compute capability, as TensorFlow's `get_device_details` has them."""
    capability = gpu.get("compute_capability")
    known = capability if isinstance(capability, list) else [NOT_AVAILABLE]
    number = ".".join(map(str, known))
    return f"{gpu.get('device_name', 'GPU')}, compute capability {number}"
