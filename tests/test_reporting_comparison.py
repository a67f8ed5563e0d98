"""Workdirs compared: paired accuracies, ratios of times, and what is refused."""

import pathlib
from typing import Any

import pytest

from tests.compared import Compared, write_predictions, write_workdir
from tests.ledger_rows import latency_run
from tlperf.core.choices import Preset
from tlperf.core.files import append_json_line
from tlperf.reporting.comparison import (
    compare_workdirs,
)

Wrong = frozenset[int]


def compared(tmp_path: pathlib.Path, *cases: Compared) -> dict[str, Any]:
    paths = [
        str(write_workdir(tmp_path / f"w{number}", case))
        for number, case in enumerate(cases)
    ]
    return compare_workdirs(paths)


def accuracy(tmp_path: pathlib.Path, *cases: Compared) -> dict[str, Any]:
    (row,) = compared(tmp_path, *cases)["accuracies"]
    return row


@pytest.mark.parametrize(
    ("first", "second", "alone", "p", "verdict"),
    [
        # The same 10 wrong, or none.
        (range(10), range(10), (0, 0), 1.0, "equal"),
        ((), (), (0, 0), 1.0, "equal"),
        # As many wrong, but others: equal accuracies are no equal answers.
        (range(5), range(5, 10), (5, 5), 1.0, "within noise"),
        (range(5), (), (0, 5), 0.0625, "within noise"),
        (range(6), (), (0, 6), 0.03125, "better"),
        ((), range(6), (6, 0), 0.03125, "worse"),
        (range(20), (20, 21), (2, 20), 2 * (1 + 22 + 231) / 2**22, "better"),
    ],
)
def test_paired_accuracies(tmp_path, first, second, alone, p, verdict):
    row = accuracy(
        tmp_path, Compared(wrong=Wrong(first)), Compared(wrong=Wrong(second))
    )
    assert row["verdict"] == verdict
    assert (row["only_first_right"], row["only_second_right"]) == alone
    assert row["p"] == p
    assert row["images"] == 100
    assert row["difference"] == pytest.approx((len(first) - len(second)) / 100)
    assert row["first_accuracy"] == pytest.approx(1 - len(first) / 100)
    if sum(alone):
        low, high = row["difference_interval"]
        assert (low > 0 or high < 0) == (verdict in ("better", "worse"))
        assert low <= row["difference"] <= high


@pytest.mark.parametrize("quick", [(True, True), (True, False), (False, True)])
def test_smoke_runs_are_not_compared(tmp_path, quick):
    """As in the ledger; what was measured stands there all the same."""
    first, second = (Preset.QUICK if one else Preset.PAPER for one in quick)
    result = compared(
        tmp_path,
        Compared(preset=first),
        Compared(preset=second, wrong=Wrong(range(9)), scale=2.0),
    )
    (row,), (timed,) = result["accuracies"], result["latencies"]
    assert row["verdict"] == timed["verdict"] == "not comparable: smoke run"
    assert (row["p"], row["difference"], timed["ratio"]) == (None, None, None)
    assert (row["first_accuracy"], row["second_accuracy"]) == (1.0, 0.91)
    assert timed["second_p50_ms"] == 2 * timed["first_p50_ms"]


def test_order_of_predictions_is_no_matter(tmp_path):
    case = Compared(wrong=Wrong((1, 70)))
    paths = [write_workdir(tmp_path / name, case) for name in ("w1", "w2")]
    table = paths[1] / "vgg16" / "predictions.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(lines)]) + "\n")
    (row,) = compare_workdirs(list(map(str, paths)))["accuracies"]
    assert row["verdict"] == "equal"


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (
            Compared(images=80),
            "other test images: 70 are shared, 30 are in the first alone, 10 in the "
            "second",
        ),
        (
            Compared(names={3: "cats/other.jpg"}),
            "other test images: 99 are shared, 1 are in the first alone, 1 in the "
            "second",
        ),
        (
            Compared(
                relabelled=Wrong((3, 60)), names={3: "cats/3.jpg", 60: "dogs/60.jpg"}
            ),
            "2 test images have another label",
        ),
        (Compared(names={3: "cats/4.jpg"}), "predictions.csv of B names images twice"),
        (
            Compared(classes=("cats", "wolves")),
            "other test images: 50 are shared, 50 are in the first alone, 50 in the "
            "second",
        ),
    ],
)
def test_other_images_or_labels_are_refused(tmp_path, second, why):
    row = accuracy(tmp_path, Compared(), second)
    assert row["verdict"] == f"not comparable: {why}"
    assert row["p"] is row["difference"] is row["difference_interval"] is None
    assert row["first_accuracy"] == row["second_accuracy"] == 1.0


def _remove(table: pathlib.Path) -> None:
    table.unlink()


def _cut(table: pathlib.Path) -> None:
    table.write_text("\n".join(table.read_text().splitlines()[:50]) + "\n")


def _tear(table: pathlib.Path) -> None:
    table.write_text(table.read_text()[:-8])


def _rename_column(table: pathlib.Path) -> None:
    table.write_text(table.read_text().replace("correct", "hit", 1))


def _doubt(table: pathlib.Path) -> None:
    table.write_text(table.read_text().replace(",1,0.1", ",yes,0.1", 1))


def _binary(table: pathlib.Path) -> None:
    table.write_bytes(b"\xff\xfe\x00index")


def _empty(table: pathlib.Path) -> None:
    table.write_text("")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_remove, "cannot be read: No such file or directory"),
        (_cut, "gives 49 of 49, the evaluation's row another count"),
        (_tear, "does not have id, label, predicted, correct of each image"),
        (_rename_column, "does not have id, label, predicted, correct of each image"),
        (_doubt, "does not say which answers are right"),
        (_binary, "cannot be read: it is no table"),
        (_empty, "does not have id, label, predicted, correct of each image"),
    ],
)
def test_damaged_predictions_are_refused(tmp_path, damage, why):
    paths = [str(write_workdir(tmp_path / name, Compared())) for name in ("w1", "w2")]
    damage(tmp_path / "w2" / "vgg16" / "predictions.csv")
    (row,) = compare_workdirs(paths)["accuracies"]
    assert row["verdict"] == f"not comparable: predictions.csv of B {why}"


def test_predictions_of_another_evaluation_are_refused(tmp_path):
    """A later evaluation was killed before its row."""
    paths = [str(write_workdir(tmp_path / name, Compared())) for name in ("w1", "w2")]
    write_predictions(tmp_path / "w1", Compared(wrong=Wrong((1,))))
    (row,) = compare_workdirs(paths)["accuracies"]
    assert row["verdict"] == (
        "not comparable: predictions.csv of A gives 99 of 100, the evaluation's row "
        "another count"
    )


def test_a_backbone_of_one_workdir_alone_is_not_measured(tmp_path):
    result = compared(tmp_path, Compared(), Compared(backbone="xception"))
    assert [row["verdict"] for row in result["accuracies"]] == ["not measured"] * 2
    assert [row["verdict"] for row in result["latencies"]] == ["not measured"] * 2
    notes = {row["backbone"]: row["note"] for row in result["latencies"]}
    assert notes == {"vgg16": "not in B", "xception": "not in A"}
    secs = {row["backbone"]: row["secs"] for row in result["trainings"]}
    assert secs == {
        "vgg16": {"A": 800.0, "B": None},
        "xception": {"A": None, "B": 800.0},
    }


def test_each_workdir_stands_beside_the_first(tmp_path):
    cases = [Compared(wrong=Wrong(range(count))) for count in (10, 0, 10)]
    result = compared(tmp_path, *cases)
    found = [
        (row["first"], row["second"], row["verdict"]) for row in result["accuracies"]
    ]
    assert found == [("A", "B", "better"), ("A", "C", "equal")]
    assert [row["label"] for row in result["workdirs"]] == ["A", "B", "C"]


# Times.


def latency(tmp_path: pathlib.Path, *cases: Compared) -> dict[str, Any]:
    (row,) = compared(tmp_path, *cases)["latencies"]
    return row


@pytest.mark.parametrize(
    ("scale", "verdict"),
    [(1.0, "equal"), (1.0001, "within noise"), (0.8, "better"), (1.25, "worse")],
)
def test_ratio_of_times(tmp_path, scale, verdict):
    row = latency(tmp_path, Compared(), Compared(scale=scale))
    assert row["verdict"] == verdict
    assert row["ratio"] == pytest.approx(scale, rel=1e-3)
    interval = row["ratio_interval"]
    # Medians of 404, 406, ..., 412 ms each: the third ratio from either end of 25.
    medians = [404.0, 406.0, 408.0, 410.0, 412.0]
    ratios = sorted(scale * two / one for one in medians for two in medians)
    assert interval["low"] == pytest.approx(ratios[2])
    assert interval["high"] == pytest.approx(ratios[-3])
    assert interval["confidence"] == pytest.approx(1 - 8 / 252)
    assert row["first_device"] == "Example CPU, 2 cores"
    assert row["second_p50_ms"] == pytest.approx(scale * 408.0)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"valid": False, "invalid": ["x", "y"]}, "not comparable: B is INVALID: x; y"),
        ({"valid": None}, "not comparable: B is INVALID: no reason given"),
        ({"trials": []}, "not comparable: B has no samples of processes"),
        (
            {"trials": latency_run("vgg16")["trials"][:2]},
            "not comparable: 5 and 2 processes give no interval",
        ),
    ],
)
def test_times_without_what_they_need_are_refused(tmp_path, changed, verdict):
    row = latency(tmp_path, Compared(), Compared(run=changed))
    assert row["verdict"] == verdict
    assert row["ratio"] is row["ratio_interval"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 1},
        {"protocol": "compiled"},
        {"runtime": "openvino"},
        {"precision": "mixed_float16"},
        {"image_size": 75},
        {"model": "finetuned"},
    ],
)
def test_other_steps_are_not_compared(tmp_path, changed):
    rows = compared(tmp_path, Compared(), Compared(run=changed))["latencies"]
    assert [row["verdict"] for row in rows] == ["not measured", "not measured"]
    assert [row["note"] for row in rows] == ["not in B", "not in A"]


def test_devices_and_xla_are_named_where_they_differ(tmp_path):
    other = Compared(run={"xla": True, "device": "Other GPU"}, scale=0.5)
    row = latency(tmp_path, Compared(), other)
    assert row["verdict"] == "better"
    assert row["note"] == "XLA off, then on; on Example CPU, 2 cores, then on Other GPU"


def test_of_several_steps_those_computed_alike_are_compared(tmp_path):
    """--sweep=xla in both workdirs."""
    paths = []
    for name in ("w1", "w2"):
        path = write_workdir(tmp_path / name, Compared(stages=("train",)))
        runs = [latency_run("vgg16", xla=xla) for xla in (False, True)]
        result = {"runs": runs if name == "w1" else runs[::-1]}
        append_json_line(
            path / "results.jsonl",
            {
                "schema_version": 1,
                "stage": "latency",
                "backbone": "vgg16",
                "result": result,
                "settings": {},
            },
        )
        paths.append(str(path))
    rows = compare_workdirs(paths)["latencies"]
    assert [(row["first_xla"], row["second_xla"]) for row in rows] == [
        (False, False),
        (True, True),
    ]
    assert {row["note"] for row in rows} == {""}


def test_training_times_have_a_ratio_and_no_verdict(tmp_path):
    (row,) = compared(tmp_path, Compared(), Compared(scale=0.5))["trainings"]
    assert row["secs"] == {"A": 800.0, "B": 400.0}
    assert row["ratio"] == {"B": 0.5}
    assert row["device"] == dict.fromkeys("AB", "Example CPU, 2 cores")
    assert "verdict" not in row


def test_settings_that_differ_are_listed_and_places_are_not(tmp_path):
    assert compared(tmp_path, Compared(), Compared())["settings"] == []
    rows = compared(tmp_path / "x", Compared(), Compared(epochs=3))["settings"]
    assert rows == [{"what": "setting: training epochs", "A": "10", "B": "3"}]
