"""Workdirs that are compared: their result rows, and the answers of each test image.

workdir = read_workdir("A", "w1")
workdir.run.backbones, read_answers(workdir, "xception")
"""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import RESULTS_NAME, read_own_results
from tlperf.reporting.rows import BackboneRows, RunRows, collect_rows, finite

PREDICTIONS_NAME = "predictions.csv"
_COLUMNS = ("id", "label", "predicted", "correct")
_REMEDY = "give --compare the workdirs of finished runs, e.g. --compare=w1,w2"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """One of those that are compared.

    Attributes:
        label: by which the comparison calls it: `A`, `B`, ...
        path: as it was given.
        run: its newest rows.
    """

    label: str
    path: str
    run: RunRows

    def results(self, backbone: str) -> BackboneRows:
        """What was measured of a backbone; without rows where nothing was."""
        for found in self.run.backbones:
            if found.name == backbone:
                return found
        return BackboneRows(backbone, backbone, {})


def read_workdir(label: str, path: str) -> Workdir:
    """The rows of a workdir.

    Raises:
        TlperfError: 65 where its rows are not tlperf's, 66 where there are none, 76
            where they are damaged.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        found = "is no folder" if folder.exists() else "no such folder"
        raise _refusal("missing_workdir", folder, found)
    source = folder / RESULTS_NAME
    rows = read_own_results(folder, remedy=_REMEDY)
    if not rows:
        found = "no result rows" if source.exists() else "no such file"
        raise _refusal("no_results", source, found)
    return Workdir(label, path, collect_rows(rows))


def _refusal(reason: str, path: pathlib.Path, found: str) -> TlperfError:
    return TlperfError(
        ExitCode.NO_INPUT, reason, path=path, found=found, remedy=_REMEDY
    )


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a network said of the test images.

    Attributes:
        labels: true class by id.
        right: ids of the images that it got right.
    """

    labels: Mapping[str, str]
    right: frozenset[str]


class UnfitAnswersError(ValueError):
    """Why the answers of a workdir cannot be compared."""


def read_answers(workdir: Workdir, backbone: str) -> Answers:
    """The predictions that an evaluation left, checked against its row.

    Raises:
        UnfitAnswersError: there are none, they are no table of ours, or they are those
            of another evaluation.
    """
    where = f"{PREDICTIONS_NAME} of {workdir.label}"
    if pathlib.PurePath(backbone).name != backbone:
        raise UnfitAnswersError(
            f"{where} has no folder: {backbone!r} is no name of one"
        )
    path = pathlib.Path(workdir.path) / backbone / PREDICTIONS_NAME
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is no table"
        raise UnfitAnswersError(f"{where} cannot be read: {why}") from error
    if not rows or any(row.get(name) is None for row in rows for name in _COLUMNS):
        wanted = ", ".join(_COLUMNS)
        raise UnfitAnswersError(f"{where} does not have {wanted} of each image")
    labels = {row["id"]: row["label"] for row in rows}
    if len(labels) < len(rows):
        raise UnfitAnswersError(f"{where} names images twice")
    if not {row["correct"] for row in rows} <= {"0", "1"}:
        raise UnfitAnswersError(f"{where} does not say which answers are right")
    _check_row(workdir.results(backbone), rows, where)
    right = frozenset(row["id"] for row in rows if row["correct"] == "1")
    return Answers(labels, right)


def _check_row(
    results: BackboneRows, rows: Sequence[Mapping[str, str]], where: str
) -> None:
    """A later evaluation that was killed leaves predictions without a row."""
    hits = sum(row["correct"] == "1" for row in rows)
    evaluate = results.evaluate
    told = finite(evaluate.get("accuracy"))
    is_same = told is not None and abs(told - hits / len(rows)) < 1e-9
    if evaluate.get("images") != len(rows) or not is_same:
        raise UnfitAnswersError(
            f"{where} gives {hits} of {len(rows)}, the evaluation's row another count"
        )
