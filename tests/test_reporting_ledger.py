"""The ledger: every figure there, every verdict as its rule says, reckoned again here.

Nothing of what decides a verdict is called to check it: the study's counts are found by
scikit-learn and by printing, intervals by their own equations.
"""

import collections
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger_rows import (
    CONFUSIONS,
    evaluate_result,
    trained,
    write_ledger_rows,
)
from tlperf.core.files import to_json
from tlperf.core.results import read_results
from tlperf.reference.paper import FIGURES, REPORT_ROWS, REPORT_TABLES
from tlperf.reporting.ledger import build_ledger
from tlperf.reporting.rows import collect_rows
from tlperf.reporting.study_counts import study_confusions
from tlperf.reporting.verdicts import VERDICTS

GOLDEN = pathlib.Path(__file__).parent / "golden" / "ledger"
Z = 1.959963984540054
Figures = dict[tuple[str, str, str, str], dict[str, Any]]


def row(stage: str, backbone: str, result: dict[str, Any], **more: Any) -> Any:
    return {
        "stage": stage,
        "backbone": backbone,
        "result": result,
        "settings": {},
        **more,
    }


def figures(rows: list[Any]) -> Figures:
    """The ledger's objects by table, backbone, row and column."""
    ledger = build_ledger(collect_rows(rows))
    return {
        (one["table"], one["backbone"], one["row"], one["column"]): one
        for one in (entry.to_dict() for entry in ledger)
    }


def golden_rows() -> list[Any]:
    return read_results(GOLDEN)


# What is published, and how much of it.


@pytest.mark.parametrize(
    ("tables", "count"),
    [
        (("Table 1",), 24),
        (("Table 2",), 12),
        (("Table 3",), 6),
        (("Table 4",), 36),
        (tuple(f"Table {number}" for number in range(5, 11)), 108),
        (("Table 11",), 6),
    ],
)
@pytest.mark.parametrize("measured", [False, True])
def test_every_figure_is_there_once(tables, count, measured):
    found = figures(golden_rows() if measured else [])
    assert len([key for key in found if key[0] in tables]) == count
    assert len(found) == len(FIGURES) == 192
    assert {one["verdict"].partition(":")[0] for one in found.values()} <= set(VERDICTS)


# Printed digits leave these counts: right of class 0 (of 395) and of class 1 (of 405).
STUDY_COUNTS = {
    "inceptionv3": [(358, 350)],
    "vgg16": [(378, 369), (379, 368)],
    "xception": [(378, 389), (379, 388)],
    "inceptionresnetv2": [(381, 390)],
    "resnet50": [(116, 383)],
    "efficientnetb0": [(395, 0)],
}


def printed_counts(backbone: str) -> list[list[list[int]]]:
    """Confusion matrices of which scikit-learn prints what the study prints."""
    table = REPORT_TABLES[backbone]
    printed = {
        (figure.row, figure.column): figure.value
        for figure in FIGURES
        if (figure.table, figure.backbone) == (table, backbone)
    }
    (accuracy,) = (
        float(figure.value)
        for figure in FIGURES
        if (figure.table, figure.backbone) == ("Table 11", backbone)
    )
    keys = ("0", "1", "accuracy", "macro avg", "weighted avg")
    names = dict(zip(keys, REPORT_ROWS, strict=True))
    found = []
    for right in range(396):
        other = round(accuracy * 800) - right
        # A cheap look first: the printed recall of class 0.
        if (
            not 0 <= other <= 405
            or abs(right / 395 - float(printed["class 0", "recall"])) > 0.006
        ):
            continue
        confusion = [[right, 395 - right], [405 - other, other]]
        report = sklearn.metrics.classification_report(
            *labels_of(confusion), output_dict=True, zero_division=0
        )
        texts = {
            (names[name], {"f1-score": "F1"}.get(key, key)): f"{value:.2f}"
            for name, values in report.items()
            for key, value in (
                values.items() if isinstance(values, dict) else [("accuracy", values)]
            )
            if key != "support"
        }
        if all(text == f"{float(printed[key]):.2f}" for key, text in texts.items()):
            found.append(confusion)
    return found


def labels_of(confusion: Any) -> tuple[Any, Any]:
    """True and predicted labels that a confusion matrix counts."""
    cells = [
        (true, called, count)
        for true, counts in enumerate(confusion)
        for called, count in enumerate(counts)
    ]
    true, called, counts = (np.array(column) for column in zip(*cells, strict=True))
    return np.repeat(true, counts), np.repeat(called, counts)


@pytest.mark.parametrize("backbone", list(REPORT_TABLES))
def test_the_counts_behind_the_study(backbone):
    """Those that we take are those that scikit-learn prints so, and there are some."""
    found = [[list(counts) for counts in one] for one in study_confusions(backbone)]
    expected = printed_counts(backbone)
    assert expected
    # A value on the edge of two printed ones may be taken and print otherwise.
    assert [one for one in found if one in expected] == expected
    assert [(one[0][0], one[1][1]) for one in found] == STUDY_COUNTS[backbone]


def test_a_backbone_of_no_study_has_no_counts():
    assert study_confusions("keras-mobilenetv2") == ()


# The rules once more.


def wilson(hits: float, trials: float) -> tuple[float, float, float] | None:
    """The roots of (p - hits/trials)^2 = z^2 p (1 - p) / trials, and the share."""
    if not trials:
        return None
    share = hits / trials
    a, b, c = 1 + Z**2 / trials, -(2 * share + Z**2 / trials), share**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return share, (-b - root) / (2 * a), (-b + root) / (2 * a)


def reckon(confusion: Any, row: str, column: str) -> Any:
    """A score with its interval, as the ledger's page says it."""
    (a, b), (c, d) = confusion
    images = a + b + c + d
    if column == "accuracy" or (row, column) == ("weighted average", "recall"):
        return wilson(a + d, images)
    shares: Any = {
        "precision": (wilson(a, a + c), wilson(d, b + d)),
        "recall": (wilson(a, a + b), wilson(d, c + d)),
        "F1": (wilson(a, a + b + c), wilson(d, b + c + d)),
    }[column]
    if column == "F1":
        shares = tuple(
            None if one is None else tuple(2 * x / (1 + x) for x in one)
            for one in shares
        )
    if row in ("class 0", "class 1"):
        return shares[int(row[-1])]
    if None in shares:
        return None
    weights = [0.5, 0.5]
    if row == "weighted average":
        weights = [(a + b) / images, (c + d) / images]
    value, low, high = (
        math.fsum(w * one[place] for w, one in zip(weights, shares, strict=True))
        for place in range(3)
    )
    if column != "F1":
        low, high = (
            value
            + sign
            * math.sqrt(
                math.fsum(
                    (w * (one[place] - one[0])) ** 2
                    for w, one in zip(weights, shares, strict=True)
                )
            )
            for sign, place in ((-1, 1), (1, 2))
        )
    return value, low, high


def newcombe(first: Any, second: Any) -> tuple[float, float]:
    (p1, l1, u1), (p2, l2, u2) = first, second
    return (
        p2 - p1 - math.sqrt((p2 - l2) ** 2 + (u1 - p1) ** 2),
        p2 - p1 + math.sqrt((u2 - p2) ** 2 + (p1 - l1) ** 2),
    )


SCORE_COLUMNS = ("precision", "recall", "F1", "accuracy")


def check_score(one: dict[str, Any], confusion: Any) -> None:
    """A score's verdict and intervals, from its counts alone."""
    study = [
        reckon(counts, one["row"], one["column"])
        for counts in printed_study(one["backbone"])
    ]
    measured = reckon(confusion, one["row"], one["column"])
    word = one["verdict"].partition(":")[0]
    if measured is not None:
        assert one["measured"] == pytest.approx(measured[0], abs=1e-9)
        assert one["measured_interval"] == pytest.approx(measured[1:], abs=1e-9)
    if one["measured"] == one["published"]:
        assert word == "equal"
    elif measured is None or None in study:
        assert word == "not comparable"
        assert "0 of 0" in one["verdict"]
        assert one["difference_interval"] is None
    else:
        edges = [newcombe(counts, measured) for counts in study]
        low, high = min(e[0] for e in edges), max(e[1] for e in edges)
        assert one["difference_interval"] == pytest.approx((low, high), abs=1e-9)
        expected = "better" if low > 0 else "worse" if high < 0 else "within noise"
        assert word == expected
    if None not in study:
        low, high = min(s[1] for s in study), max(s[2] for s in study)
        assert one["published_interval"] == pytest.approx((low, high), abs=1e-9)
    if word in ("better", "worse", "within noise"):
        assert "Newcombe" in one["test"]
        assert one["difference"] == one["measured"] - one["published"]
        assert one["measured"] != one["published"]


_COUNTS: dict[str, Any] = {}


def printed_study(backbone: str) -> Any:
    if backbone not in _COUNTS:
        _COUNTS[backbone] = printed_counts(backbone)
    return _COUNTS[backbone]


def results_of(rows: list[Any], backbone: str, stage: str) -> dict[str, Any]:
    found = [
        one["result"]
        for one in rows
        if (one["backbone"], one["stage"]) == (backbone, stage)
    ]
    return found[-1] if found else {}


def expected_fact(one: dict[str, Any], rows: list[Any]) -> Any:
    """What a row says of a figure that is no score; None where it says nothing."""
    trained = results_of(rows, one["backbone"], "train")
    timed = [
        run
        for run in results_of(rows, one["backbone"], "latency").get("runs", ())
        if (run["protocol"], run["batch_size"]) == ("keras_predict", 32)
    ]
    if one["table"] == "Table 1":
        key = {
            "size MB": "size_mib",
            "parameters": "params",
            "depth": "depth",
            "ms per inference step (GPU)": "mean_ms",
        }[one["column"]]
        return timed[0][key] if timed else None
    if one["column"] == "support":
        evaluated = results_of(rows, one["backbone"], "evaluate")
        supports = [sum(counts) for counts in evaluated["confusion"]]
        of_class = {"class 0": supports[0], "class 1": supports[1]}
        return of_class.get(one["row"], sum(supports))
    frozen, active = trained["frozen_layers"], trained["active_layers"]
    return {
        "frozen layers": f"0:{frozen - 1}",
        "active layers": f"{frozen}:{frozen + active - 1}",
        "appended layers": ", ".join(trained["head"]),
        "learning rate": trained["optimizer"]["learning_rate"],
        "optimiser": trained["optimizer"]["name"].capitalize(),
        "loss": "cross-entropy",
        "metric": "accuracy",
        "batch size": trained["batch_size"],
        "epochs": len(trained["epochs"]),
    }[one["column"]]


def test_every_verdict_of_the_golden_workdir_once_more():
    """From paper.json and the rows; `not comparable` of a score where it starts from
    random weights."""
    rows = golden_rows()
    seen: collections.Counter[str] = collections.Counter()
    for one in json.loads((GOLDEN / "paper.json").read_text())["figures"]:
        seen[one["verdict"].partition(":")[0]] += 1
        is_score = one["column"] in SCORE_COLUMNS and one["table"] != "Table 4"
        if not is_score:
            fact = expected_fact(one, rows)
            assert one["measured"] == fact
            if fact is None:
                assert one["verdict"] == "not measured"
            elif one["column"].startswith("ms ") or (
                one["backbone"] == "inceptionresnetv2" and one["column"] == "support"
            ):
                assert one["verdict"].startswith("not comparable: ")
                assert one["difference"] is None
            elif fact == one["published"]:
                assert one["verdict"] == "equal"
            else:
                assert one["verdict"].startswith("not comparable: ")
                assert len(one["verdict"]) > len("not comparable: ")
            assert one["test"] is one["published_interval"] is None
            continue
        confusion = results_of(rows, one["backbone"], "evaluate")["confusion"]
        if one["backbone"] == "inceptionresnetv2":
            assert one["verdict"] == (
                "not comparable: trained from a random start, the study from ImageNet "
                "weights"
            )
            assert one["difference"] is one["difference_interval"] is None
            continue
        check_score(one, confusion)
    assert set(seen) == set(VERDICTS)
    assert sum(seen.values()) == 192


def test_the_golden_ledger_is_what_is_built_now():
    ledger = build_ledger(collect_rows(golden_rows()))
    text = to_json({"figures": [entry.to_dict() for entry in ledger]}, indent=1) + "\n"
    assert text == (GOLDEN / "paper.json").read_text()


def test_the_golden_rows_are_those_of_the_tests(tmp_path):
    """A setting added later must not change them: results alone are compared."""
    write_ledger_rows(tmp_path)
    now = [one["result"] for one in read_results(tmp_path)]
    assert now == [one["result"] for one in golden_rows()]


counts = st.integers(0, 420)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(CONFUSIONS)),
    st.tuples(st.tuples(counts, counts), st.tuples(counts, counts)),
)
def test_any_confusion_matrix_is_judged_by_the_rule(backbone, confusion):
    if not any(map(any, confusion)):
        return
    rows = [
        row("train", backbone, trained(backbone)),
        row("evaluate", backbone, evaluate_result(backbone, confusion)),
    ]
    for (table, name, _, column), one in figures(rows).items():
        if name == backbone and column in SCORE_COLUMNS and table != "Table 4":
            check_score(one, confusion)
