"""The counts behind the study's rounded scores.

    study_confusions("inceptionv3")   # (((358, 37), (55, 350)),)

Table 11 prints accuracies in full: each is a count of the 800 test images. With it and
the supports, the scores of Tables 5-10, of two decimals each, leave one confusion
matrix or a few: those that print as the table does. What is said of the study's figures
is said of all of them.
"""

import functools

from tlperf.reference.paper import FIGURES, REPORT_TABLES, Figure, published
from tlperf.reporting.scores import SCORES, Confusion, score_value

# Half of the last printed digit, and what a double may be off.
_HALF_DIGIT = 0.005 + 1e-9


def is_score(figure: Figure) -> bool:
    """Whether a figure is a score of the 800 test images."""
    is_result = figure.table in {"Table 11", *REPORT_TABLES.values()}
    return is_result and figure.column in SCORES


@functools.cache
def study_confusions(backbone: str) -> tuple[Confusion, ...]:
    """Every confusion matrix that gives all that the study prints of a backbone; none
    where it prints nothing of it.

    Args:
        backbone: name of a row of `BACKBONES`.
    """
    table = REPORT_TABLES.get(backbone)
    accuracy = published(backbone, "Table 11", "accuracy")
    if table is None or accuracy is None:
        return ()
    printed = [
        figure
        for figure in FIGURES
        if (figure.table, figure.backbone) == (table, backbone)
    ]
    inside = [
        int(figure.value)
        for figure in printed
        if figure.column == "support" and figure.row.startswith("class ")
    ]
    hits = round(float(accuracy.value) * sum(inside))
    scores = [figure for figure in printed if is_score(figure)]
    found = []
    for right in range(max(0, hits - inside[1]), min(inside[0], hits) + 1):
        other = hits - right
        confusion = ((right, inside[0] - right), (inside[1] - other, other))
        if all(_is_printed_so(confusion, figure) for figure in scores):
            found.append(confusion)
    return tuple(found)


def _is_printed_so(confusion: Confusion, figure: Figure) -> bool:
    value = score_value(confusion, figure.row, figure.column)
    return abs(value - float(figure.value)) <= _HALF_DIGIT
