"""The words of a verdict and the rules that give them.

    judge_fact(16, 16, why="another depth")                    # "equal"
    judge_score(study, ((192, 8), (8, 192)), row, column)      # Judgement(...)

- `equal`: the measured value is the published one, as it stands: nothing is rounded.
- `better`, `worse`: a score of other test images that differs by more than chance does:
  Newcombe's 95 % interval of the difference of both leaves 0 out. It is made of the
  interval of the study's score and of the measured one (`tlperf.core.differences`,
  `tlperf.reporting.scores`).
- `within noise`: a score whose interval of the difference holds 0.
- `not comparable: WHY`: a setting or count that is another one, of which neither is
  better; a time under another protocol; a score of other classes.
- `not measured`.

Of comparisons at 95 % one in twenty is `better` or `worse` by chance alone. Tables 1-11
hold no loss, so there is no rule for one; from a mean loss and counts none could be
made, since they do not tell how the losses of single images spread.
"""

import dataclasses
from collections.abc import Sequence

from tlperf.core.differences import Estimate, difference_interval
from tlperf.reference.paper import Value
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.scores import CLASS_PREFIX, Confusion, estimate_score

EQUAL = "equal"
BETTER = "better"
WORSE = "worse"
WITHIN_NOISE = "within noise"
NOT_COMPARABLE = "not comparable"
# In the order in which they are counted for a reader.
VERDICTS = (EQUAL, WITHIN_NOISE, BETTER, WORSE, NOT_COMPARABLE, NOT_MEASURED)

TEST_OF_SCORES = "Newcombe's 95 % interval of the difference of two independent scores"

Edges = tuple[float, float]


def not_comparable(why: str) -> str:
    """The verdict with its reason."""
    return f"{NOT_COMPARABLE}: {why}"


def verdict_word(verdict: str) -> str:
    """The verdict without its reason."""
    return verdict.partition(":")[0]


def judge_edges(edges: Edges, *, more_is_better: bool = True) -> str:
    """`better`, `worse` or `within noise`, of the interval of a difference."""
    low, high = edges if more_is_better else (-edges[1], -edges[0])
    return BETTER if low > 0 else WORSE if high < 0 else WITHIN_NOISE


def judge_fact(published: Value, measured: Value, *, why: str) -> str:
    """A setting or a count: the same value or another."""
    return EQUAL if measured == published else not_comparable(why)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A score's verdict and what it rests on.

    Attributes:
        verdict: in words.
        measured_interval: of the measured score, or None.
        difference_interval: of measured - published, or None.
        test: which was applied, or None.
        note: what else a reader has to know, or "".
    """

    verdict: str
    measured_interval: Edges | None = None
    difference_interval: Edges | None = None
    test: str | None = None
    note: str = ""


def hull(edges: Sequence[Edges]) -> Edges | None:
    """From the lowest edge to the highest; None of none."""
    if not edges:
        return None
    return min(low for low, _ in edges), max(high for _, high in edges)


def study_interval(study: Sequence[Confusion], row: str, column: str) -> Edges | None:
    """The interval of a published score over all counts that it can be printed from."""
    found = [estimate_score(confusion, row, column) for confusion in study]
    return hull([estimate.edges for estimate in found if estimate is not None])


def judge_score(
    study: Sequence[Confusion], confusion: Confusion, row: str, column: str
) -> Judgement:
    """A measured score against the published one, of images of their own.

    Args:
        study: every confusion matrix that prints as the study's figures do.
        confusion: the measured one.
        row, column: of the figure.
    """
    measured = estimate_score(confusion, row, column)
    if measured is None:
        why = _zero_of_zero(row, column, "measured")
        return Judgement(not_comparable(why))
    published = [estimate_score(one, row, column) for one in study]
    known = [one for one in published if one is not None]
    if not known or len(known) < len(published):
        why = _zero_of_zero(row, column, "published")
        return Judgement(not_comparable(why), measured.edges)
    return _judge_estimates(known, measured)


def _zero_of_zero(row: str, column: str, whose: str) -> str:
    which = row if row.startswith(CLASS_PREFIX) else "one class"
    lacks = {
        "precision": "was predicted for no image",
        "recall": "has no image",
        "F1": "has no image and was predicted for none",
    }
    return f"the {whose} {column} rests on 0 of 0: {which} {lacks[column]}"


def _judge_estimates(published: Sequence[Estimate], measured: Estimate) -> Judgement:
    edges = [difference_interval(one, measured) for one in published]
    words = {judge_edges(one) for one in edges}
    note = ""
    if len(words) > 1:
        note = f"the printed figures fit {len(edges)} counts, which do not all differ"
    verdict = words.pop() if len(words) == 1 else WITHIN_NOISE
    return Judgement(verdict, measured.edges, hull(edges), TEST_OF_SCORES, note)
