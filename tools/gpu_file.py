"""The files of `tools.gpu_matrix`, and the cells that are in them.

matrix = Matrix(out, settings, found)
if matrix.find(cell) is None: matrix.add(row)
"""

import dataclasses
import json
import pathlib
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import code_facts, machine_facts
from tlperf.reporting.gpu_matrix import MATRIX_NAME, read_matrix, render_matrix
from tlperf.reporting.rows import child
from tools.gpu_cells import Cell, Settings


class Matrix:
    """OUT/gpu_matrix.json and OUT/gpu_matrix.md, and the cells that are in them.

    Args:
        out: folder, made where it is not there.
        settings: of all cells.
        found: what the devices are.

    Raises:
        TlperfError: 73 where OUT holds cells of other settings, code or devices, 76
            where it is damaged.
    """

    def __init__(self, out: pathlib.Path, settings: Settings, found: dict[str, Any]):
        self._json, self._text = out / MATRIX_NAME, out / "gpu_matrix.md"
        head = {
            "settings": dataclasses.asdict(settings),
            "code": code_facts(),
            "machine": machine_facts(),
            "devices": found,
        }
        self._head: dict[str, Any] = json.loads(files.to_json(head))
        stored = read_matrix(out)
        self.rows: list[dict[str, Any]] = stored["cells"] if stored else []
        if stored and (unlike := find_unlike(stored, self._head)):
            raise TlperfError(
                ExitCode.EXISTS,
                "other_settings",
                path=self._json,
                found=f"made with another {', '.join(unlike)}",
                remedy="give another --out",
            )

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """The row of a cell; None where it was not run."""
        wanted = dataclasses.asdict(cell)
        return next((row for row in self.rows if row.get("cell") == wanted), None)

    def add(self, row: dict[str, Any]) -> None:
        """Writes both files with one cell more; its former row goes."""
        self.rows = [other for other in self.rows if other.get("cell") != row["cell"]]
        self.rows.append(row)
        self.write()

    def write(self) -> pathlib.Path:
        """Writes both files; the readable one's path."""
        matrix = {**self._head, "cells": self.rows}
        files.write_json(self._json, matrix)
        files.write_text(self._text, render_matrix(matrix))
        return self._text


def find_unlike(stored: dict[str, Any], head: dict[str, Any]) -> list[str]:
    """Names of what differs, such as `batch_size` of the settings."""
    return [
        f"{part} {name}"
        for part, values in head.items()
        for name in sorted({*values, *child(stored, part)})
        if child(stored, part).get(name) != values.get(name)
    ]
