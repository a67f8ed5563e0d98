"""The ledger's rules: what is not compared and why, what is said beside a figure."""

from typing import Any

import pytest

from tests.ledger_rows import (
    CONFUSIONS,
    evaluate_result,
    latency_run,
    ledger_results,
    trained,
)
from tests.test_reporting_ledger import figures, golden_rows, row
from tlperf.reference.paper import FIGURES
from tlperf.reporting.document import Bullets
from tlperf.reporting.ledger import Entry, build_ledger, count_verdicts
from tlperf.reporting.ledger_tables import ledger_section
from tlperf.reporting.rows import collect_rows
from tlperf.reporting.study_errors import implied_tflops
from tlperf.reporting.verdicts import VERDICTS


def accuracy(rows: list[Any], backbone: str = "vgg16") -> dict[str, Any]:
    return next(
        one for key, one in figures(rows).items() if key[:2] == ("Table 11", backbone)
    )


def evaluated(**changed: Any) -> dict[str, Any]:
    return {**evaluate_result("vgg16", CONFUSIONS["vgg16"]), **changed}


@pytest.mark.parametrize(
    ("changed_train", "changed_evaluate", "why"),
    [
        ({"weights": {"kind": "none"}}, {}, "trained from a random start"),
        ({"data_digest": "e" * 64}, {}, "test images may have been trained on"),
        ({}, {"classes": ["a", "b"]}, "other classes than the study's cats and dogs"),
        ({}, {"classes": ["dogs", "cats"]}, "other classes"),
        ({}, {"classes": ["cats", "dogs", "owls"]}, "3 classes, the study has 2"),
        ({}, {"confusion": None}, "no confusion matrix, so no interval"),
        ({}, {"confusion": [[1, 2], [3]]}, "no confusion matrix"),
        ({}, {"confusion": [[0, 0], [0, 0]]}, "no confusion matrix"),
        ({}, {"confusion": [[1.5, 2], [3, 4]]}, "no confusion matrix"),
        ({}, {"confusion": [[-1, 2], [3, 4]]}, "no confusion matrix"),
        ({}, {"accuracy": 0.9}, "the confusion matrix gives 0.9337 for it"),
    ],
)
def test_scores_that_may_not_be_compared(changed_train, changed_evaluate, why):
    one = accuracy(
        [
            row("train", "vgg16", trained("vgg16", **changed_train)),
            row("evaluate", "vgg16", evaluated(**changed_evaluate)),
        ]
    )
    assert one["verdict"].startswith(f"not comparable: {why}")
    assert one["difference_interval"] is one["test"] is None


def test_smoke_rows_are_not_compared():
    quick = {"settings": {"preset": "quick"}}
    rows = [
        row("train", "vgg16", trained("vgg16"), **quick),
        row("evaluate", "vgg16", evaluated()),
    ]
    assert accuracy(rows)["verdict"] == "not comparable: smoke run"
    assert accuracy(rows)["measured_interval"] is not None


def test_what_else_than_chance_is_behind_a_difference():
    one = accuracy(golden_rows(), "xception")
    assert one["note"] == (
        "400 test images, not the study's 800; batch size 16, not 32; epochs 3, not "
        "10; normalisation tf (-1 to 1), the study's is most plausibly x/255; images "
        "of 150 pixels, not the backbone's own 299 (the study states none)"
    )
    one = accuracy(golden_rows(), "resnet50")
    assert "learning rate 0.001, not 5e-05; optimiser Adagrad, not Adam" in one["note"]
    assert "one normalisation for all six" in one["note"]
    alone = accuracy([row("evaluate", "vgg16", evaluated())])
    assert "how it was trained is not known" in alone["note"]
    same = trained("vgg16", preprocess="paper")
    rows = [row("train", "vgg16", same), row("evaluate", "vgg16", evaluated())]
    assert "normalisation" not in accuracy(rows)["note"]
    small = trained("vgg16", image_size=75)
    rows = [row("train", "vgg16", small), row("evaluate", "vgg16", evaluated())]
    note = accuracy(rows)["note"]
    assert "images of 75 pixels, not the backbone's own 224" in note
    frozen = trained("vgg16", freeze="all")
    rows = [row("train", "vgg16", frozen), row("evaluate", "vgg16", evaluated())]
    assert "freeze all, not Table 2's" in accuracy(rows)["note"]


def test_equal_counts_are_within_noise_and_no_rounding_makes_them_equal():
    """747 of 800 is what the study printed as a float32."""
    one = accuracy(golden_rows())
    assert one["measured"] == 747 / 800 != one["published"]
    assert one["verdict"] == "within noise"
    assert 0 < one["difference"] < 3e-8
    assert "the difference is within the printed precision" in one["note"]


def test_what_equals_a_rounded_print_says_what_it_is_rounded_from():
    """0.96 of Table 7 is 767 of 800; the 1.00 and 0.00 of Table 10 are whole."""
    same = ((192, 8), (8, 192))
    found = figures(
        [
            row("train", "xception", trained("xception")),
            row("evaluate", "xception", evaluate_result("xception", same)),
            row("train", "efficientnetb0", trained("efficientnetb0")),
            row(
                "evaluate",
                "efficientnetb0",
                evaluate_result("efficientnetb0", ((395, 0), (405, 0))),
            ),
        ]
    )
    one = found["Table 7", "xception", "accuracy", "accuracy"]
    assert (one["verdict"], one["difference"]) == ("equal", 0)
    assert "the study prints it rounded: its counts give 0.9587" in one["note"]
    one = found["Table 7", "xception", "class 0", "recall"]
    assert "its counts give 0.9570 to 0.9595" in one["note"]
    one = found["Table 10", "efficientnetb0", "class 0", "recall"]
    assert (one["verdict"], "rounded" in one["note"]) == ("equal", False)


def test_the_slips_of_the_text_are_told():
    run = collect_rows([])
    (told,) = (
        block.items
        for block in ledger_section(run, build_ledger(run)).blocks[-1:]
        if isinstance(block, Bullets)
    )
    for word in ("five methods", "refuerzo", "0.74"):
        assert any(word in text for text in told), word


def test_class_weights_are_another_loss():
    weighted = {"settings": {"training": {"class_weights": "balanced"}}}
    found = figures([row("train", "vgg16", trained("vgg16"), **weighted)])
    one = found["Table 4", "vgg16", "VGG16", "loss"]
    assert one["measured"] == "cross-entropy, classes balanced"
    assert one["verdict"] == "not comparable: another loss"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (("Table 1", "efficientnetb0", "size MB"), "20.3"),
        (("Table 1", "vgg16", "ms per inference step (GPU)"), "238 TFLOP/s"),
        (("Table 2", "inceptionv3", "active layers"), "the last is 310"),
        (("Table 2", "efficientnetb0", "frozen layers"), "adds a layer in front"),
        (("Table 4", "inceptionv3", "learning rate"), "Adagrad's usual rate"),
        (("Table 4", "efficientnetb0", "learning rate"), "Adagrad's usual rate"),
        (("Table 9", "resnet50", "recall"), "one normalisation for all six"),
        (("Table 10", "efficientnetb0", "recall"), "called all 800 images class 0"),
        (("Table 11", "efficientnetb0", "accuracy"), "below 0.74"),
    ],
)
@pytest.mark.parametrize("measured", [False, True])
def test_known_errors_stand_beside_their_figures(key, text, measured):
    """Measured or not; and no other figure of that table and column has them."""
    found = figures(golden_rows() if measured else [])
    for (table, backbone, _, column), one in found.items():
        if (table, backbone, column) == key:
            assert text in one["note"]
    others = [
        one["note"]
        for (table, backbone, _, column), one in figures([]).items()
        if (table, column) == (key[0], key[2]) and backbone != key[1]
    ]
    if key[0] in ("Table 1", "Table 2"):
        assert not any(text in note for note in others)


def test_only_vgg16_is_above_the_peak():
    above = {name for name in CONFUSIONS if (implied_tflops(name) or 0) > 156}
    assert above == {"vgg16"}
    assert implied_tflops("keras-mobilenetv2") is None


# Times.


def time_of(*runs: Any, **more: Any) -> dict[str, Any]:
    found = figures([row("latency", "vgg16", {"runs": list(runs)}, **more)])
    return found["Table 1", "vgg16", "VGG16", "ms per inference step (GPU)"]


def test_a_time_names_protocol_device_and_interval():
    one = time_of(latency_run("vgg16"))
    assert one["verdict"] == (
        "not comparable: published on another device (Tesla A100), protocol unstated; "
        "here keras_predict (tf) on Example CPU, 2 cores, batch 32, 224 px, float32, "
        "mean of 45 samples, means of 5 processes 404.0 to 412.0 ms (93.8%)"
    )
    assert one["measured"] == pytest.approx(408.0)
    assert one["measured_interval"] == pytest.approx([404.0, 412.0])
    assert one["difference"] is None


def test_the_same_device_does_not_make_the_protocol_known():
    one = time_of(latency_run("vgg16", device="NVIDIA A100-SXM4-40GB", tf32=True))
    assert one["verdict"].startswith("not comparable: published protocol unstated; ")
    assert "TF32" in one["verdict"]


def test_an_invalid_time_says_so():
    one = time_of(latency_run("vgg16", valid=False, invalid=["9 samples", "drift"]))
    assert "the measurement is INVALID: 9 samples; drift" in one["note"]


def test_the_time_nearest_to_the_published_one_stands_beside_it():
    single = latency_run("vgg16", batch_size=1, mean_ms=1.0)
    half = latency_run("vgg16", precision="mixed_float16", mean_ms=2.0)
    tuned = latency_run("vgg16", model="finetuned", mean_ms=3.0)
    compiled = latency_run("vgg16", protocol="compiled", mean_ms=4.0)
    runs = [tuned, single, half, compiled]
    assert time_of(*runs, latency_run("vgg16"))["measured"] == pytest.approx(408.0)
    assert time_of(*runs)["measured"] == 2.0
    assert time_of(tuned)["verdict"] == "not measured"


def test_one_process_has_no_interval():
    run = latency_run("vgg16")
    one = time_of({**run, "trials": run["trials"][:1]})
    assert "no interval of several processes" in one["verdict"]
    assert one["measured_interval"] is None


# Facts.


def test_facts_are_equal_or_another_value_and_never_rounded():
    found = figures(golden_rows())

    def verdict(*key: str) -> str:
        return found[key]["verdict"]  # type: ignore[index]

    title = "VGG16"
    assert verdict("Table 1", "vgg16", title, "depth") == "equal"
    assert verdict("Table 1", "vgg16", title, "parameters") == (
        "not comparable: printed to 0.1 M, which the measured value rounds to"
    )
    assert found["Table 1", "vgg16", title, "parameters"]["difference"] == -42_456
    assert verdict("Table 1", "efficientnetb0", "EfficientNetB0", "size MB") == (
        "not comparable: another size"
    )
    assert verdict("Table 2", "vgg16", title, "active layers") == "equal"
    assert verdict("Table 2", "inceptionv3", "InceptionV3", "active layers") == (
        "not comparable: another numbering of the same boundary"
    )
    assert verdict("Table 3", "xception", "Xception", "appended layers") == (
        "not comparable: other layers"
    )
    assert verdict("Table 4", "xception", "Xception", "epochs") == (
        "not comparable: another number of epochs"
    )


def test_a_head_for_other_classes_is_told_from_another_head():
    head = ["GlobalAveragePooling2D", "Dense(5, softmax)"]
    classes = [f"c{number}" for number in range(5)]
    rows = [row("train", "xception", trained("xception", head=head, classes=classes))]
    one = figures(rows)["Table 3", "xception", "Xception", "appended layers"]
    assert one["verdict"] == "not comparable: 5 classes, the study has 2"


def test_rows_of_any_shape_give_a_ledger():
    """Result files come from anywhere."""
    odd: list[Any] = [None, [], {}, "x", 3, [None], [{}], {"x": None}]
    keys = ("confusion", "classes", "report", "images", "accuracy", "weights", "head")
    for value in odd:
        broken = dict.fromkeys(keys, value)
        rows = [row("train", "vgg16", broken), row("evaluate", "vgg16", broken)]
        assert len(figures(rows)) == 192


# On the page.


def test_the_page_has_a_row_a_figure():
    run = collect_rows(golden_rows())
    ledger = build_ledger(run)
    section = ledger_section(run, ledger)
    tables = [block for block in section.blocks if hasattr(block, "rows")]
    assert [len(table.rows) for table in tables] == [
        8,  # of the study's counts: two fit VGG16, and Xception
        *(24, 12, 6, 36),
        *([18] * 6),
        6,
    ]
    texts = " ".join(block.text for block in section.blocks if hasattr(block, "text"))
    for word, number in count_verdicts(ledger).items():
        assert f"{word} {number}" in texts


def test_counts_name_every_verdict():
    entry = Entry(FIGURES[0], None, None, "not comparable: x: y")
    assert count_verdicts([entry]) == {
        **dict.fromkeys(VERDICTS, 0),
        "not comparable": 1,
    }


def test_the_golden_rows_are_of_every_kind():
    kinds = {(stage, backbone) for stage, backbone, _ in ledger_results()}
    assert {backbone for _, backbone in kinds} == set(CONFUSIONS)
