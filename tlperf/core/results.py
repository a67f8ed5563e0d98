"""Result rows: one JSON line a finished stage, appended and durable.

    append_result(workdir, stage="train", backbone="xception", result={...},
                  settings=config, device=facts)
    latest(read_results(workdir), "train")["xception"]["result"]

A row says what was measured, where (machine, versions, device), how (settings) and
what came out. `report` reads these rows and the paper's tables, nothing else.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import machine_facts

SCHEMA_VERSION = 1
RESULTS_NAME = "results.jsonl"


def settings_digest(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that name a set of settings."""
    return files.sha256_bytes(files.to_json(settings).encode())[:12]


def append_result(
    workdir: str | pathlib.Path,
    *,
    stage: str,
    backbone: str | None,
    result: dict[str, Any],
    settings: dict[str, Any],
    device: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Appends and returns the row of a finished stage.

    Args:
        workdir: folder that holds results.jsonl.
        stage: `shard`, `preprocess`, `train`, `evaluate` or `latency`.
        backbone: row name of the backbone, or None for a stage without one.
        result: what the stage's --json prints, raw values included.
        settings: `RunConfig.to_dict()`.
        device: facts of the device that computed, or None.
    """
    row = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "backbone": backbone,
        "result": result,
        "settings": settings,
        "settings_digest": settings_digest(settings),
        "machine": machine_facts(),
        "device": device,
        "warnings": result.get("warnings", []),
    }
    files.append_json_line(pathlib.Path(workdir) / RESULTS_NAME, row)
    return row


def read_results(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """All rows of a workdir, oldest first; a workdir without results has none."""
    return files.read_json_lines(pathlib.Path(workdir) / RESULTS_NAME)


def read_own_results(
    workdir: str | pathlib.Path, *, remedy: str
) -> list[dict[str, Any]]:
    """As `read_results`, each line a row that this version can read.

    Raises:
        TlperfError: 65 where one is none, 76 where the file is damaged.
    """
    rows = read_results(workdir)
    for number, row in enumerate(rows):
        if problem := _find_problem(row):
            raise TlperfError(
                ExitCode.DATA,
                "foreign_results",
                path=pathlib.Path(workdir) / RESULTS_NAME,
                found=f"line {number + 1} is no result row of tlperf: {problem}",
                remedy=remedy,
            )
    return rows


def _find_problem(row: Any) -> str:
    """Why a line is no row of ours, or ""."""
    if not isinstance(row, Mapping):
        return "expected an object"
    if row.get("schema_version") != SCHEMA_VERSION:
        return f"schema_version {row.get('schema_version')}, expected {SCHEMA_VERSION}"
    if not isinstance(row.get("stage"), str):
        return "no stage"
    if not isinstance(row.get("backbone", 0), str | None):
        return "no backbone"
    for name in ("result", "settings"):
        if not isinstance(row.get(name), Mapping):
            return f"no {name}"
    return ""


def latest(rows: Sequence[dict[str, Any]], stage: str) -> dict[str, dict[str, Any]]:
    """The newest row of `stage` for each backbone (key "" for none)."""
    return {row["backbone"] or "": row for row in rows if row["stage"] == stage}
