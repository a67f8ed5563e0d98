"""What the page shows of backbones, timed rows and data; outside text is inert."""

import base64
import json
import pathlib
import re
from typing import Any

import pytest

from tests.built_pages import (
    STAGES,
    build_page,
    cells,
    drawing,
    rebuild_page,
    section,
)
from tests.pages import (
    find_faults,
    read_page,
)
from tests.test_reporting_rows import (
    ARCHITECTURE,
    PICTURES,
    Case,
)
from tests.timings import make_row, make_trial
from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import append_result
from tlperf.reporting import facts
from tlperf.reporting.report import write_report
from tlperf.reporting.rows import collect_rows


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return build_page(tmp_path_factory.mktemp("page"))


def timed(*runs: dict[str, Any], backbone: str = "vgg16") -> dict[str, Any]:
    return {"stage": "latency", "backbone": backbone, "result": {"runs": [*runs]}}


def test_a_timed_row_shows_its_spread_and_why_it_is_no_result():
    """Rows as `tlperf latency` writes them."""
    good = make_row(*[make_trial((0.1 + n / 1e4,) * 60) for n in range(5)])
    mixed = [make_trial(machine={"cpu": str(number)}) for number in range(5)]
    rows = [timed(good)]
    table = facts.latency_table(collect_rows(rows))
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    names = ("processes", "their medians, ms", "jitter, ms", "tf32", "valid")
    assert [shown[name] for name in names] == [
        *("5", "100.00 to 100.40", "0.15", "off", "yes")
    ]
    assert len(table.notes) == 1
    rows.append(timed(make_row(*mixed), backbone="another"))
    table = facts.latency_table(collect_rows(rows))
    assert table.rows[1][-1] == "INVALID: its processes had unlike machine"
    assert "unlike machines, devices, versions, code or weights" in table.notes[1]


@pytest.mark.parametrize(
    ("timed_of", "trained_as", "is_told"),
    [("b" * 64, "a" * 64, True), ("a" * 64, "a" * 64, False), (None, "a" * 64, False)],
)
def test_which_weights_were_timed(timed_of: str | None, trained_as: str, is_told: bool):
    """Rows of older versions, the third, do not tell."""
    runs: list[dict[str, Any]] = [
        {"model": "finetuned", "protocol": "compiled", "weights_sha256": timed_of},
        {"model": "imagenet", "protocol": "compiled"},
    ]
    train: dict[str, Any] = {"stage": "train", "backbone": "vgg16"}
    train["result"] = {"weights_sha256": trained_as}
    table = facts.latency_table(collect_rows([train, timed(*runs)]))
    place = table.columns.index("its weights")
    text = f"sha256 {timed_of[:12]}" if timed_of else "n/a"
    assert [row[place] for row in table.rows] == [text, "random"]
    told = [note for note in table.notes if "another training's weights" in note]
    assert bool(told) == is_told
    if is_told:
        assert told[0].startswith("VGG16: finetuned compiled was timed with another")


def test_what_a_newer_timing_left_out_is_told():
    old = [
        {"model": "imagenet", "protocol": protocol}
        for protocol in ("compiled", "keras_predict")
    ]
    rows = [timed(*old), timed({"model": "imagenet", "protocol": "compiled"})]
    notes = facts.latency_table(collect_rows(rows)).notes
    assert notes[-1].startswith("VGG16: older rows have imagenet keras_predict too;")
    notes = facts.latency_table(collect_rows(rows[:1])).notes
    assert not any("older rows" in note for note in notes)


def test_a_row_that_does_not_say_that_it_is_valid_is_not():
    table = facts.latency_table(collect_rows([timed({"p50_ms": 4.0})]))
    assert table.rows[0][-1] == "INVALID: no reason given"


def test_a_network_that_the_study_had_not_is_put_beside_nothing(
    tmp_path: pathlib.Path,
):
    case = Case(backbones=("keras:MobileNetV2",), stages=("train", "evaluate"))
    page, _ = build_page(tmp_path, case)
    assert find_faults(page) == []
    title = "Classification report of keras:MobileNetV2"
    assert cells(page, title)[0] == [
        *("class 0", "cats", "0.9600", "0.9600", "0.9600", "200"),
    ]
    assert cells(page, "Frozen and active layers of keras:MobileNetV2")
    text = section(page, "keras:MobileNetV2")
    assert "Annex I" not in text
    assert "published" not in text.partition("Frozen and active")[0]


def test_mistakes_are_shown_as_small_pictures(tmp_path: pathlib.Path):
    page, markdown = build_page(tmp_path)
    root, _ = read_page(page)
    images = [image.attributes for image in root.find_all("img")]
    # Two of each backbone, two of the data.
    assert len(images) == 6
    shown = {image["src"].partition(",")[2] for image in images}
    assert {base64.b64decode(one) for one in shown} == {*PICTURES}
    assert "that Xception takes for dogs" in images[2]["alt"]
    text = section(page, "Xception")
    assert "Worst mistakes of Xception: 2 of 16, on 400 test images" in text
    assert "cats/000.jpg: cats 0.0100, taken for dogs 0.9900" in text
    for name in re.findall(r"\]\(([a-z0-9-]*\.jpg)\)", markdown):
        assert (tmp_path / "report" / name).read_bytes() in PICTURES
    assert "xception-mistake-01.jpg" in markdown


@pytest.mark.parametrize("data", [None, b"", b"other", bytes(1 << 19)])
def test_another_picture_than_the_rows_is_not_shown(
    tmp_path: pathlib.Path, data: bytes | None
):
    build_page(tmp_path)
    for path in tmp_path.glob("*/mistakes/*.jpg"):
        path.unlink() if data is None else path.write_bytes(data)
    page, markdown = rebuild_page(tmp_path)
    gone = "no picture: its file is gone or altered"
    # The album's pictures are the same files, so they are found by what is in them.
    for path in tmp_path.glob("examples/*.jpg"):
        path.unlink()
    page, markdown = rebuild_page(tmp_path)
    assert page.count(gone) == markdown.count(gone) == 6
    assert find_faults(page) == []
    assert not list((tmp_path / "report").glob("*.jpg"))


def test_no_mistake_is_said(tmp_path: pathlib.Path):
    result = {"images": 8, "accuracy": 1.0, "mistakes": {"count": 0, "worst": []}}
    append_result(
        tmp_path, stage="evaluate", backbone="vgg16", result=result, settings={}
    )
    page, _ = rebuild_page(tmp_path)
    assert "No mistake on 8 test images." in section(page, "VGG16")


def test_the_network_is_drawn_with_its_cut(built: tuple[str, str]):
    page, _ = built
    drawn = drawing(page, "Xception, from the image down")
    assert [text.text for text in drawn.find_all("text")] == [
        *("image", "150 × 150 × 3"),
        *("block1 to block12", "10 × 10 × 728"),
        *("12 blocks, 120 layers, 16,000,000 parameters", "frozen"),
        *("block13", "6 layers of 12", "frozen"),
        *("cut: frozen above, trained below", "crosses: block13_add, 5 × 5 × 728"),
        *("block13", "5 × 5 × 1024"),
        *("6 layers of 12, 4,865,578 parameters in all", "trained"),
        *("Dense(2, softmax)", "2", "1 layer, 2,050 parameters", "trained"),
    ]
    places = [float(box.attributes["y"]) for box in drawn.find_all("rect")]
    assert places == sorted(places)
    assert len(places) == 5
    # The dashed line stands between the halves of the block that it cuts.
    (cut,) = (
        path
        for path in drawn.find_all("path")
        if "dasharray" in path.attributes["style"]
    )
    line = float(cut.attributes["d"].partition(" ")[2].partition("H")[0])
    assert places[2] + 38 <= line <= places[3]
    text = section(page, "Xception")
    assert "Crossing the cut: block13_add, 5 × 5 × 728." in text
    assert ["frozen layers", "0:125", "0:125", "126", "126"] in cells(
        page, "Frozen and active layers of Xception (Table 2)"
    )


@pytest.mark.parametrize(
    "architecture",
    [
        None,
        {},
        {"blocks": None, "cut": None},
        {"blocks": ["name"], "cut": ["x"]},
        {"blocks": [{"name": "a"}], "cut": [{}]},
        {**ARCHITECTURE, "cut": []},
        {"blocks": [{"name": f"b{n}", "layers": 1} for n in range(99)]},
    ],
)
def test_facts_of_a_network_may_be_missing(tmp_path: pathlib.Path, architecture: Any):
    result = {"architecture": architecture}
    append_result(tmp_path, stage="train", backbone="vgg16", result=result, settings={})
    page, _ = rebuild_page(tmp_path)
    assert find_faults(page) == []
    assert "None" not in page


def test_evidence_of_the_preprocessing_check(tmp_path: pathlib.Path):
    """Where it was measured its figures stand, elsewhere that it was not."""
    page, _ = build_page(tmp_path, Case(backbones=("efficientnetb0",), stages=STAGES))
    title = "Why ResNet50 and EfficientNetB0 failed in the study"
    text = section(page, title)
    assert "reports 0.6237 for ResNet50 and 0.4938 for EfficientNetB0" in text
    assert "Adagrad at 5e-05, which InceptionV3 had too and reached 0.8850" in text
    assert (
        "EfficientNetB0: measured, x / 255: mild (block1_conv1_bn, shift 0.900)" in text
    )
    assert "tf (-1 to 1) fits best" in text
    assert "ResNet50: not measured." in text
    rows = {row[0]: row for row in cells(page, _OVERVIEW)}
    assert rows["ResNet50"][2] == "caffe (BGR minus the mean)"
    assert rows["ResNet50"][3:6] == ["not measured"] * 3
    assert rows["EfficientNetB0"][4] == "mild (block1_conv1_bn, shift 0.900)"
    details = cells(page, "Each normalisation checked against the weights")
    assert [row[1:5] for row in details] == [
        ["tf (-1 to 1)", "fits", "block1_conv1_bn", "0.100"],
        ["x/255", "mild", "block1_conv1_bn", "0.900"],
        ["raw (0 to 255)", "severe", "block1_conv1_bn", "120.500"],
    ]
    assert "Shift: standard deviations. By rule batch norm a misfit is mild" in text


@pytest.mark.parametrize(
    ("trained", "asked", "used", "is_warned"),
    [
        ("ab", "paper", "x/255", True),
        ("ab", "backbone", "tf (-1 to 1)", False),  # the check's own training was ended
        (None, "paper", "x/255", False),  # from a random start
    ],
)
def test_a_check_of_another_training_is_not_taken_for_this_ones(
    tmp_path: pathlib.Path, trained: str, asked: str, used: str, is_warned: bool
):
    rows = {
        "train": ({"weights": {"sha256": trained}, "preprocess": asked}, asked),
        "preprocess": (
            {"weights": {"sha256": "ab"}, "used": "x/255", "warnings": ["a misfit"]},
            "paper",
        ),
    }
    for stage, (result, word) in rows.items():
        append_result(
            tmp_path,
            stage=stage,
            backbone="xception",
            result=result,
            settings={"input": {"preprocess": word}},
        )
    page, _ = rebuild_page(tmp_path)
    shown = {row[0]: row[6] for row in cells(page, _OVERVIEW)}
    assert shown["Xception"] == used
    assert shown["VGG16"] == "not measured"
    assert ("preprocess: a misfit" in section(page, "Xception")) == is_warned


_OVERVIEW = "What the weights expect, and what they are given"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"weights": {"kind": "none"}}, "The weights that were checked are random"),
        ({"verdicts": []}, "There is no check of x / 255"),
        (
            {"verdicts": [{"preprocess": "paper", "finding": "fits"}]},
            "The hypothesis does not hold for it.",
        ),
    ],
)
def test_nothing_is_concluded_that_was_not_measured(
    tmp_path: pathlib.Path, changed: dict[str, Any], expected: str
):
    result = {
        "weights": {"kind": "file", "file": "w.h5"},
        "verdicts": [{"preprocess": "paper", "finding": "severe", "layer": "bn1"}],
        "best": "caffe",
        **changed,
    }
    append_result(
        tmp_path, stage="preprocess", backbone="resnet50", result=result, settings={}
    )
    page, _ = rebuild_page(tmp_path)
    text = section(page, "Why ResNet50 and EfficientNetB0 failed in the study")
    assert expected in text
    assert "Measured backbones: none." in section(page, "Summary")


def test_data_that_were_stored_by_another_run(tmp_path: pathlib.Path):
    """Without a row of sharding the album alone tells of them."""
    case = Case(backbones=("vgg16",), stages=("train", "evaluate"))
    page, _ = build_page(tmp_path, case)
    assert ["cats", "600", "200", "200"] in cells(page, "Images by class and split")
    assert ["quarantined", "3"] in cells(page, "What was stored")
    assert cells(page, "Files that are not used") == [
        ["cats/=cmd().jpg", "truncated", "Premature end"],
        ["dogs/<script>.jpg", "truncated", "Premature end"],
    ]
    assert "1 more are in quarantine.jsonl." in section(page, "Data")


def test_an_album_of_other_data_is_not_shown(tmp_path: pathlib.Path):
    build_page(tmp_path)
    path = tmp_path / "examples" / "examples.json"
    files.write_json(path, {**json.loads(path.read_text()), "digest": "f" * 12})
    page, _ = rebuild_page(tmp_path)
    text = section(page, "Data")
    assert "are of other data than the rows" in text
    assert "Examples of the train split" not in text


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_damaged_album_is_named(tmp_path: pathlib.Path, text: str):
    build_page(tmp_path)
    (tmp_path / "examples" / "examples.json").write_text(text)
    with pytest.raises(TlperfError, match=r"examples\.json") as caught:
        write_report(tmp_path)
    assert caught.value.code is ExitCode.INTEGRITY


def test_hostile_words_are_inert_wherever_they_come_from(tmp_path: pathlib.Path):
    """File names, layers, texts of checks, backbones: all come from outside."""
    bad = "=cmd()|'<script>alert(1)</script>\n\x1b[31m\u202e`$x$`](http://x)"
    mistake = {"id": bad, "label": bad, "predicted": bad, "sha256": bad}
    block = {"name": bad, "shape": [bad], "layers": 2, "frozen_layers": 1}
    verdict = {"preprocess": bad, "finding": bad, "layer": bad, "text": bad}
    rows: dict[str, dict[str, Any]] = {
        "train": {
            "architecture": {"blocks": [block], "cut": [{"layer": bad, "shape": bad}]},
            "weights": {"kind": bad, "file": bad},
            "warnings": [bad],
        },
        "evaluate": {
            "classes": [bad, "b"],
            "confusion": [[1, 2], [3, 4]],
            "mistakes": {"count": 1, "worst": [mistake]},
        },
        "preprocess": {"verdicts": [verdict], "best": bad, "used": bad, "text": bad},
    }
    for name in ("vgg16", bad):
        for stage, result in rows.items():
            append_result(
                tmp_path, stage=stage, backbone=name, result=result, settings={}
            )
    album = {
        "quarantine": [{"path": bad, "reason": bad, "detail": bad}],
        "pictures": [{"class": bad, "id": bad}],
        "splits": {"train": {bad: 1}},
        "classes": [bad],
    }
    files.write_json(tmp_path / "examples" / "examples.json", album)
    page, markdown = rebuild_page(tmp_path)
    assert find_faults(page) == []
    for text in (page, markdown):
        assert "<script" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    # No link was made of it: every bracket before an address is escaped.
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    assert markdown.count(r"\`\$x\$\`\](http\://x)") > 10
    for path in (tmp_path / "report").glob("*.svg"):
        assert re.fullmatch(r"[a-z0-9-]+\.svg", path.name)
        assert "<script" not in path.read_text()
