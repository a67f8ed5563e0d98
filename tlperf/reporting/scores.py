"""Scores of a confusion matrix, each with the interval of its own counts.

    confusion = ((358, 37), (55, 350))       # rows are true classes, columns predicted
    score_value(confusion, "class 0", "precision")      # 0.8668...
    estimate_score(confusion, "class 0", "precision")   # ... 0.8307 to 0.8961

Rows and columns bear the study's names. An accuracy, precision or recall is a
proportion, of all images, of those called a class, of those in it: its interval is
Wilson's. F1 is 2J / (1 + J) of the proportion J of a class's right answers among the
images that are in it or called it, and grows with it: its interval is J's, carried
over. An average of precisions or recalls is of independent parts, once the images that
are called a class, or in it, are taken as given. F1 of two classes share their errors,
so their average is taken to be as uncertain as if they moved together.
"""

from collections.abc import Callable, Sequence

from tlperf.core.differences import Estimate, average, estimate_proportion

Confusion = Sequence[Sequence[int]]
CLASS_PREFIX = "class "
SCORES = ("precision", "recall", "F1", "accuracy")


def _count_all(confusion: Confusion) -> tuple[int, int]:
    right = sum(row[index] for index, row in enumerate(confusion))
    return right, sum(map(sum, confusion))


def _count_class(confusion: Confusion, index: int, column: str) -> tuple[int, int]:
    """Hits and trials of the proportion behind a class's score."""
    right, inside = confusion[index][index], sum(confusion[index])
    called = sum(row[index] for row in confusion)
    trials = {
        "precision": called,
        "recall": inside,
        "F1": inside + called - right,
    }
    return right, trials[column]


def count_score(confusion: Confusion, row: str, column: str) -> tuple[int, int] | None:
    """Hits and trials of a score that is one proportion; None of F1 and averages."""
    if "accuracy" in (row, column) or (row, column) == ("weighted average", "recall"):
        return _count_all(confusion)
    if not row.startswith(CLASS_PREFIX) or column == "F1":
        return None
    return _count_class(confusion, int(row.removeprefix(CLASS_PREFIX)), column)


def _f1(share: float) -> float:
    return 2 * share / (1 + share)


_SCALES: dict[str, Callable[[float], float]] = {"F1": _f1}


def _estimate_class(confusion: Confusion, index: int, column: str) -> Estimate | None:
    found = estimate_proportion(*_count_class(confusion, index, column))
    scale = _SCALES.get(column)
    if found is None or scale is None:
        return found
    return Estimate(scale(found.value), scale(found.low), scale(found.high))


def _weights(confusion: Confusion, row: str) -> list[float]:
    """The share of each class in an average."""
    if row == "macro average":
        return [1 / len(confusion)] * len(confusion)
    images = _count_all(confusion)[1]
    return [sum(counts) / images for counts in confusion]


def estimate_score(confusion: Confusion, row: str, column: str) -> Estimate | None:
    """A score and its 95 % interval; None where it rests on 0 of 0.

    Args:
        confusion: at least one image; rows are true classes, columns predicted ones.
        row: `class N`, `accuracy`, `macro average` or `weighted average`.
        column: one of `SCORES`.
    """
    counts = count_score(confusion, row, column)
    if counts is not None:
        return estimate_proportion(*counts)
    if row.startswith(CLASS_PREFIX):
        index = int(row.removeprefix(CLASS_PREFIX))
        return _estimate_class(confusion, index, column)
    parts = []
    for index, weight in enumerate(_weights(confusion, row)):
        part = _estimate_class(confusion, index, column)
        if part is None:
            return None
        parts.append((weight, part))
    return average(parts, independent=column != "F1")


def score_value(confusion: Confusion, row: str, column: str) -> float:
    """A score as scikit-learn and the study print it: 0 of 0 is 0."""
    found = estimate_score(confusion, row, column)
    if found is not None:
        return found.value
    if row.startswith(CLASS_PREFIX):
        return 0.0
    return sum(
        weight * score_value(confusion, f"{CLASS_PREFIX}{index}", column)
        for index, weight in enumerate(_weights(confusion, row))
    )
