"""The ledger: every published figure with what was measured beside it.

    ledger = build_ledger(collect_rows(read_results(workdir)))
    ledger[0].verdict  # "not measured", "equal", "within noise", ...

A verdict compares values as they are (`tlperf.reporting.verdicts` has the rules). A
measured value that would only look equal after rounding is not `equal`, and a note says
that the difference is within the printed precision.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from tlperf.reference.paper import FIGURES, Figure, Value
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.readings import Reading, read_confusion, read_figure
from tlperf.reporting.rows import BackboneRows, RunRows, finite
from tlperf.reporting.scores import Confusion, estimate_score, score_value
from tlperf.reporting.study_counts import is_score, study_confusions
from tlperf.reporting.study_errors import known_error
from tlperf.reporting.verdicts import (
    EQUAL,
    VERDICTS,
    Edges,
    Judgement,
    judge_fact,
    judge_score,
    not_comparable,
    study_interval,
    verdict_word,
)

# Last printed digit, and in words; Table 11 prints float32 values in full.
_ROUNDED_FACTS = {"parameters": (1e5, "0.1 M"), "size MB": (1.0, "1 MB")}
_SCORE_UNIT = {"Table 11": 6e-8}
_REPORT_UNIT = 0.01
# A score is a quotient of counts: what a double may be off.
_ROUNDING = 1e-9
_WITHIN_PRINTED = "the difference is within the printed precision"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published figure and its verdict.

    Attributes:
        figure: as published.
        measured: same quantity of this run, or None.
        difference: measured - published where both are numbers that may be set against
            each other, or None.
        verdict: one of `tlperf.reporting.verdicts.VERDICTS`; `not comparable` says why.
        published_interval: 95 %, of a score of the study's 800 test images, or None.
        measured_interval: 95 %, of a measured score; of a time the range of its
            processes' means; or None.
        difference_interval: 95 %, of measured - published scores, or None.
        test: what the verdict on a score rests on, or None.
        note: what a reader has to know beside the verdict, or "".
    """

    figure: Figure
    measured: Value | None
    difference: float | None
    verdict: str
    published_interval: Edges | None = None
    measured_interval: Edges | None = None
    difference_interval: Edges | None = None
    test: str | None = None
    note: str = ""

    @property
    def word(self) -> str:
        """The verdict without its reason."""
        return verdict_word(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """The object of `paper.json`."""

        def pair(edges: Edges | None) -> list[float] | None:
            return None if edges is None else list(edges)

        return {
            "table": self.figure.table,
            "backbone": self.figure.backbone,
            "row": self.figure.row,
            "column": self.figure.column,
            "published": self.figure.value,
            "published_interval": pair(self.published_interval),
            "measured": self.measured,
            "measured_interval": pair(self.measured_interval),
            "difference": self.difference,
            "difference_interval": pair(self.difference_interval),
            "verdict": self.verdict,
            "test": self.test,
            "note": self.note,
        }


def build_ledger(run: RunRows) -> tuple[Entry, ...]:
    """Every figure of the study, in the order of its tables."""
    results = {rows.name: rows for rows in run.backbones}
    return tuple(_entry(figure, results[figure.backbone]) for figure in FIGURES)


def count_verdicts(ledger: Sequence[Entry]) -> dict[str, int]:
    """How many figures have each verdict; every word is there."""
    counts = collections.Counter(entry.word for entry in ledger)
    return {word: counts[word] for word in VERDICTS}


def _entry(figure: Figure, results: BackboneRows) -> Entry:
    study, of_study = _study_of(figure)
    error = known_error(figure)
    reading = read_figure(results, figure)
    if reading.value is None:
        return Entry(
            figure, None, None, NOT_MEASURED, published_interval=of_study, note=error
        )
    found = _judge(figure, reading, results, study)
    difference = None
    measured, published = finite(reading.value), finite(figure.value)
    if measured is not None and published is not None and not reading.obstacle:
        difference = measured - published
    return Entry(
        figure,
        reading.value,
        difference,
        found.verdict,
        published_interval=of_study,
        measured_interval=reading.edges or found.measured_interval,
        difference_interval=found.difference_interval,
        test=found.test,
        note="; ".join(
            note
            for note in (
                *(error, reading.note, found.note),
                _rounding(figure, difference, study),
            )
            if note
        ),
    )


def _study_of(figure: Figure) -> tuple[Sequence[Confusion], Edges | None]:
    """The study's counts behind a score, and its interval."""
    if not is_score(figure):
        return (), None
    study = study_confusions(figure.backbone)
    return study, study_interval(study, figure.row, figure.column)


def _judge(
    figure: Figure,
    reading: Reading,
    results: BackboneRows,
    study: Sequence[Confusion],
) -> Judgement:
    assert reading.value is not None
    if not is_score(figure):
        if reading.obstacle:
            return Judgement(not_comparable(reading.obstacle))
        other = _rounded_reason(figure, reading.value) or reading.other
        return Judgement(judge_fact(figure.value, reading.value, why=other))
    confusion = read_confusion(results.evaluate)
    if confusion is None:
        why = reading.obstacle or "no confusion matrix, so no interval"
        return Judgement(not_comparable(why))
    counted = score_value(confusion, figure.row, figure.column)
    if abs(counted - float(reading.value)) > _ROUNDING:
        why = f"the confusion matrix gives {counted:.4f} for it"
        return Judgement(not_comparable(reading.obstacle or why))
    if reading.obstacle:
        own = estimate_score(confusion, figure.row, figure.column)
        verdict = not_comparable(reading.obstacle)
        return Judgement(verdict, None if own is None else own.edges)
    found = judge_score(study, confusion, figure.row, figure.column)
    if reading.value == figure.value:
        return dataclasses.replace(found, verdict=EQUAL, test=None)
    return found


def _rounded_reason(figure: Figure, measured: Value) -> str:
    """Why a count that rounds to the printed one still is no equal one, or ""."""
    unit, words = _ROUNDED_FACTS.get(figure.column, (0.0, ""))
    value, printed = finite(measured), finite(figure.value)
    if value is None or printed is None or abs(value - printed) > unit / 2:
        return ""
    return f"printed to {words}, which the measured value rounds to"


def _rounding(
    figure: Figure, difference: float | None, study: Sequence[Confusion]
) -> str:
    """Says where the printed digits alone can be behind a difference, or behind none.

    Args:
        study: the counts behind a score; none of other figures.
    """
    if difference is None:
        return ""
    if difference == 0:
        return _printed_of(figure, study)
    unit = _ROUNDED_FACTS.get(figure.column, (0.0, ""))[0]
    if is_score(figure):
        unit = _SCORE_UNIT.get(figure.table, _REPORT_UNIT)
    return _WITHIN_PRINTED if abs(difference) <= unit / 2 else ""


def _printed_of(figure: Figure, study: Sequence[Confusion]) -> str:
    """What a printed score is rounded from, where it is."""
    values = sorted(score_value(one, figure.row, figure.column) for one in study)
    if not values or any(abs(v - float(figure.value)) <= _ROUNDING for v in values):
        return ""
    told = dict.fromkeys(f"{value:.4f}" for value in (values[0], values[-1]))
    return f"the study prints it rounded: its counts give {' to '.join(told)}"
