"""Accuracies of two workdirs on the same test images: McNemar's exact test.

    compare_accuracy(first, second, "xception")["verdict"]   # "within noise"

Both networks answered the same images, so what tells them apart are the images that
only one of them got right. The verdict is on the second, beside the first:

- `equal`: the same images are right;
- `within noise`: the exact two-sided p is above 0.05;
- `better`, `worse`: it is not;
- `not comparable: WHY`: a run was a smoke run, test images or labels are others, or an
  evaluation left no predictions;
- `not measured`: an evaluation is missing.
"""

from collections.abc import Mapping
from typing import Any

from tlperf.core.differences import SIGNIFICANCE, mcnemar_p, paired_interval
from tlperf.core.statistics import binomial_interval
from tlperf.reporting.comparison_inputs import (
    Answers,
    UnfitAnswersError,
    Workdir,
    read_answers,
)
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.readings import SMOKE
from tlperf.reporting.rows import finite
from tlperf.reporting.verdicts import (
    BETTER,
    EQUAL,
    WITHIN_NOISE,
    WORSE,
    not_comparable,
)

TEST = "McNemar's exact two-sided test of the images that one network alone gets right"
_COUNTED = (
    *("images", "only_first_right", "only_second_right"),
    *("difference", "difference_interval", "p"),
)


def compare_accuracy(first: Workdir, second: Workdir, backbone: str) -> dict[str, Any]:
    """The row of a backbone in two workdirs.

    Returns:
        backbone, first and second (labels), their accuracies and 95 % intervals,
        images, only_first_right, only_second_right, difference (second - first) and
        its 95 % interval, p, verdict and note; what is not known is None.
    """
    row = {
        "backbone": backbone,
        "first": first.label,
        "second": second.label,
        **_accuracy("first", first, backbone),
        **_accuracy("second", second, backbone),
        **dict.fromkeys(_COUNTED),
        "note": _note(first, second, backbone),
    }
    for workdir in (first, second):
        if not workdir.results(backbone).evaluate:
            return {**row, "verdict": NOT_MEASURED}
    if any(
        workdir.results(backbone).is_smoke(stage)
        for workdir in (first, second)
        for stage in ("train", "evaluate")
    ):
        return {**row, "verdict": not_comparable(SMOKE)}
    try:
        answers = [read_answers(workdir, backbone) for workdir in (first, second)]
    except UnfitAnswersError as error:
        return {**row, "verdict": not_comparable(str(error))}
    obstacle = find_obstacle(*answers)
    if obstacle:
        return {**row, "verdict": not_comparable(obstacle)}
    return {**row, **pair_answers(*answers)}


def _accuracy(name: str, workdir: Workdir, backbone: str) -> dict[str, Any]:
    evaluate = workdir.results(backbone).evaluate
    accuracy, images = finite(evaluate.get("accuracy")), evaluate.get("images")
    edges = None
    if accuracy is not None and 0 <= accuracy <= 1 and type(images) is int:
        edges = binomial_interval(round(accuracy * images), images)
    return {
        f"{name}_accuracy": accuracy,
        f"{name}_interval": None if edges is None else list(edges),
    }


def _note(first: Workdir, second: Workdir, backbone: str) -> str:
    digests = {
        workdir.results(backbone).evaluate.get("data_digest")
        for workdir in (first, second)
    } - {None}
    if len(digests) < 2:
        return ""
    return "the sources' digests differ: ids and labels are equal, pixels may not be"


def find_obstacle(first: Answers, second: Answers) -> str:
    """Why two sets of answers are no pairs, or ""."""
    ids = [set(answers.labels) for answers in (first, second)]
    if ids[0] != ids[1]:
        shared, of_first, of_second = map(
            len, (ids[0] & ids[1], ids[0] - ids[1], ids[1] - ids[0])
        )
        return (
            f"other test images: {shared} are shared, {of_first} are in the first "
            f"alone, {of_second} in the second"
        )
    others = sum(label != second.labels[name] for name, label in first.labels.items())
    return f"{others} test images have another label" if others else ""


def pair_answers(first: Answers, second: Answers) -> Mapping[str, Any]:
    """The paired test of answers to the same images."""
    images = len(first.labels)
    only_first = len(first.right - second.right)
    only_second = len(second.right - first.right)
    p = mcnemar_p(only_first, only_second)
    edges = paired_interval(only_first, only_second, images=images)
    if only_first == only_second == 0:
        verdict = EQUAL
    elif p > SIGNIFICANCE:
        verdict = WITHIN_NOISE
    else:
        verdict = BETTER if only_second > only_first else WORSE
    return {
        "images": images,
        "only_first_right": only_first,
        "only_second_right": only_second,
        "difference": (only_second - only_first) / images,
        "difference_interval": None if edges is None else list(edges),
        "p": p,
        "verdict": verdict,
    }
