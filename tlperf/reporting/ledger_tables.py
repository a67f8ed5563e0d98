"""The ledger as a part of the page: a table of figures for each of Tables 1-11.

ledger_section(run, ledger)
verdict_sentence(ledger)   # "Verdicts on the study's 192 figures: equal 30, ..."
"""

import itertools
from collections.abc import Sequence

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reference.backbones import BACKBONES
from tlperf.reporting.document import NOT_MEASURED, Bullets, Paragraph, Section, Table
from tlperf.reporting.ledger import Entry, count_verdicts
from tlperf.reporting.readings import TABLE_STAGES
from tlperf.reporting.rows import RunRows, cite
from tlperf.reporting.sources import study_source
from tlperf.reporting.study_counts import study_confusions
from tlperf.reporting.study_errors import TEXT_SLIPS
from tlperf.reporting.study_tables import (
    format_edges,
    format_measured,
    format_published,
)
from tlperf.reporting.verdicts import NOT_COMPARABLE

TITLE = "Ledger: every published figure"
_COLUMNS = (
    "figure",
    "published",
    "its 95 % interval",
    "measured",
    "its interval",
    "measured - published",
    "95 % of the difference",
    "verdict",
    "note",
)
_RULES = (
    "equal: the measured value is the published one as it stands; nothing is rounded.",
    "within noise, better, worse: scores of test images of their own. Each score has "
    "the interval of its own counts: Wilson's of an accuracy, precision or recall; of "
    "F1 that of the share of right answers among the images that are in the class or "
    "were called it, which F1 grows with. Newcombe's 95 % interval of the difference "
    "is made of both; where it holds 0 the verdict is within noise.",
    "The study's intervals are of its counts, which its rounded scores and its exact "
    "accuracies leave: where several would print alike, a verdict holds for all.",
    "not comparable: a setting or a count that is another one, of which neither is "
    "better; a time of another device or protocol; scores of other classes, of a "
    "random start, of images trained on.",
    "Intervals of scores are of the test images alone: another training run moves a "
    "score too. The interval of a time is the range of its processes' means. The "
    "study's tables hold no loss.",
)


def verdict_sentence(ledger: Sequence[Entry]) -> str:
    """How many figures have which verdict."""
    counts = count_verdicts(ledger).items()
    verdicts = ", ".join(f"{word} {count}" for word, count in counts)
    return f"Verdicts on the study's {len(ledger)} figures: {verdicts}."


def chance_sentence(ledger: Sequence[Entry]) -> str:
    """What to expect of so many comparisons."""
    tested = sum(entry.test is not None for entry in ledger)
    if not tested:
        return "No score was compared."
    return (
        f"{tested} scores were compared at 95 %: of so many about {tested / 20:.0f} "
        "would be better or worse by chance alone, and scores of one table move "
        "together."
    )


def ledger_section(run: RunRows, ledger: Sequence[Entry]) -> Section:
    """All of `paper.json`, readable."""
    tables = itertools.groupby(ledger, key=lambda entry: entry.figure.table)
    return Section(
        TITLE,
        (
            Paragraph(verdict_sentence(ledger)),
            Paragraph(chance_sentence(ledger)),
            Bullets(_RULES),
            _count_table(),
            *(_ledger_table(run, title, tuple(entries)) for title, entries in tables),
            Paragraph("What the study's text has wrong, beside its figures:"),
            Bullets(TEXT_SLIPS),
        ),
    )


def _count_table() -> Table:
    """The confusion matrices that print as the study's figures do."""
    rows = []
    for spec in BACKBONES:
        for (right, wrong), (other_wrong, other_right) in study_confusions(spec.name):
            inside = (right + wrong, other_wrong + other_right)
            rows.append(
                (
                    spec.title,
                    f"{right} of {inside[0]}",
                    f"{other_right} of {inside[1]}",
                    f"{right + other_right} of {sum(inside)}",
                )
            )
    return Table(
        "The counts behind the study's scores",
        ("backbone", "right of class 0", "right of class 1", "right of all"),
        tuple(rows),
        ("A backbone with several rows: each prints as Tables 5-11 do.",),
        (study_source("Tables 5-11"),),
    )


def _ledger_table(run: RunRows, title: str, entries: Sequence[Entry]) -> Table:
    names = {entry.figure.backbone for entry in entries}
    measured = [results for results in run.backbones if results.name in names]
    shared = _shared_notes(entries)
    return Table(
        f"Ledger, {title}",
        _COLUMNS,
        tuple(_ledger_row(entry, shared) for entry in entries),
        notes=(f"Note of each measured figure: {'; '.join(shared)}.",)
        if shared
        else (),
        sources=(study_source(title), *cite(measured, *TABLE_STAGES[title])),
        folded=_fold(title, entries),
    )


def _fold(title: str, entries: Sequence[Entry]) -> str:
    """The one thing that all rows of a table say, where it is no comparison."""
    verdicts = {entry.verdict for entry in entries}
    if len(verdicts) > 1 or entries[0].word not in (NOT_COMPARABLE, NOT_MEASURED):
        return ""
    return f"Ledger, {title}: {len(entries)} figures, each {entries[0].verdict}"


def _shared_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """What the notes of all measured figures say, where there are several: once under
    the table it is read, in each row it hides the rest."""
    known = [entry.note.split("; ") for entry in entries if entry.measured is not None]
    if len(known) < 2:
        return ()
    first, *others = known
    return tuple(one for one in first if one and all(one in note for note in others))


def _ledger_row(entry: Entry, shared: Sequence[str]) -> tuple[str, ...]:
    """A figure without what is said under the table."""
    figure = entry.figure
    notes = [one for one in entry.note.split("; ") if one not in shared]
    difference = entry.difference
    return (
        f"{figure.row}, {figure.column}",
        format_published(figure),
        format_edges(entry.published_interval),
        format_measured(figure.column, entry.measured),
        format_edges(entry.measured_interval),
        # Significant digits, not decimals: a small difference must not print as none.
        NOT_AVAILABLE if difference is None else f"{difference:+.3g}",
        format_edges(entry.difference_interval, sign=True),
        entry.verdict,
        "; ".join(notes),
    )
