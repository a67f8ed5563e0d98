"""Predictions as CSV that no spreadsheet runs and no terminal obeys.

write_table(path, ["path", "class"], [[inert_cell("=a.jpg"), "cats"]])
"""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import escape_text


def write_table(
    path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV file atomically; names of files and classes go through `inert_cell`
    first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns that hold each class' probability."""
    return [f"probability {inert_cell(name)}" for name in classes]


def format_probabilities(probability: Iterable[float]) -> list[str]:
    """The cells of those columns."""
    return [f"{value:.6g}" for value in probability]


def inert_cell(text: str) -> str:
    """Text as a CSV cell that no spreadsheet runs and no terminal obeys.

    >>> inert_cell("=cmd()"), inert_cell("cats/1.jpg")
    ("'=cmd()", 'cats/1.jpg')
    """
    escaped = escape_text(text)
    return f"'{escaped}" if escaped[:1] in tuple("=+-@") else escaped
