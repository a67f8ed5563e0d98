"""The page as people meet it: accessible, whole without a network, what it shows."""

import pathlib
from typing import Any

import pytest

from tests.built_pages import (
    PLAIN,
    STAGES,
    assert_same,
    build_page,
    cells,
    drawing,
    rebuild_page,
    section,
)
from tests.pages import (
    GRAPHICS_CONTRAST,
    contrast,
    find_faults,
    read_page,
    read_themes,
)
from tests.test_reporting_rows import (
    HOSTILE,
    Case,
)
from tlperf.core.results import append_result
from tlperf.reporting.plots import BACKBONE_STYLES


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return build_page(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize(
    "case",
    [
        PLAIN,
        Case(backbones=("vgg16",), stages=("shard",)),
        Case(backbones=("vgg16",), stages=("train",), epochs=1),
        Case(backbones=("vgg16",), stages=("evaluate",)),
        Case(backbones=("vgg16",), stages=("latency",)),
        Case(backbones=("vgg16",), stages=("preprocess",)),
        Case(backbones=("vgg16",), stages=STAGES, classes=(*HOSTILE, "猫", "=cmd()")),
    ],
)
def test_the_page_keeps_the_rules(tmp_path: pathlib.Path, case: Case):
    page, _ = build_page(tmp_path, case)
    assert find_faults(page) == []


# What is changed in a good page, and the rule that it then breaks.
PLANTED = [
    ('lang="en"', "", "html-has-lang"),
    ("<h1>", "<h4>", "</h1> where <h4> is open"),
    ("<h2 ", "<h4 ", "</h2> where <h4> is open"),
    ("<caption ", "<b ", "</caption> where <b> is open"),
    (' scope="col"', "", "th without a scope: Ranking"),
    (' tabindex="0"', "", "scrollable-region-focusable"),
    (' role="group"', "", "scroll area without a name"),
    (' role="img"', "", "svg-img-alt"),
    ('href="#section-data"', 'href="#section-dat"', "refers to nothing: section-dat"),
    ('id="section-data"', 'id="section-summary"', "duplicate-id: section-summary"),
    ("</main>", '<img src="http://x/a.png" alt="a"></main>', "external address: "),
    ("</main>", '<p onclick="a()"></p></main>', "runs code: p onclick"),
    ("</main>", "<script>1</script></main>", "forbidden element: script"),
    ("</main>", "<h5>deep</h5></main>", "heading-order: h5 after h2"),
    ("</main>", '<img src="data:,"></main>', "image-alt"),
    ("</main>", "<ul><p>x</p></ul></main>", "list: ['p']"),
    ("</main>", "<li>x</li></main>", "listitem"),
    ("--ink: #e4e8ec", "--ink: #50555a", "color-contrast: dark, ink on page"),
    ("<style>", "<style>@import 'x';", "external address: @import"),
    ("<style>", "<style>a{background:url(//x)}", "external address: //x"),
]


@pytest.mark.parametrize(("text", "changed", "fault"), PLANTED)
def test_the_rules_find_what_breaks_them(
    built: tuple[str, str], text: str, changed: str, fault: str
):
    page, _ = built
    assert text in page
    faults = find_faults(page.replace(text, changed, 1))
    assert [line for line in faults if line.startswith(fault)], faults


def test_lines_of_plots_are_seen_in_both_themes(built: tuple[str, str]):
    page, _ = built
    themes = read_themes(page)
    assert {"light", "dark", "print"} == {*themes}
    for theme in ("light", "dark"):
        for colour, _ in BACKBONE_STYLES:
            assert contrast(colour, themes[theme]["page"]) >= GRAPHICS_CONTRAST


def test_contrast_of_known_colours():
    """WCAG's own ends, and its well-known gray."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_summary_comes_first_then_backbones_across_data_and_method(
    built: tuple[str, str],
):
    root, _ = read_page(built[0])
    assert [heading.text for heading in root.find_all("h2")] == [
        "Summary",
        "Each backbone",
        "Across backbones",
        "Why ResNet50 and EfficientNetB0 failed in the study",
        "Ledger: every published figure",
        "Data",
        "Machine and method",
    ]
    (navigation,) = root.find_all("nav")
    titles = [heading.text for heading in root.find_all("h2", "h3")]
    assert [link.text for link in navigation.find_all("a")] == titles


def test_page_and_markdown_say_the_same(built: tuple[str, str]):
    assert_same(*built)


def _measured(
    workdir: pathlib.Path,
    name: str,
    *,
    accuracy: float,
    p50_ms: float,
    secs: float,
    trained_as: str | None = None,
    **timed: Any,
) -> None:
    rows: dict[str, dict[str, Any]] = {
        "train": {
            "train_secs": secs,
            "weights": {"kind": "file", "file": "w.h5"},
            "weights_sha256": trained_as,
        },
        "evaluate": {
            "weights_sha256": trained_as,
            "accuracy": accuracy,
            "interval": [accuracy - 0.02, accuracy + 0.02],
            "images": 400,
        },
        "latency": {
            "runs": [
                {
                    "model": "finetuned",
                    "protocol": "compiled",
                    "runtime": "tf",
                    "batch_size": 4,
                    "precision": "float32",
                    "device": "CPU",
                    "p50_ms": p50_ms,
                    "valid": True,
                    **timed,
                }
            ]
        },
    }
    for stage, result in rows.items():
        append_result(workdir, stage=stage, backbone=name, result=result, settings={})


def test_a_ledger_of_one_answer_is_folded(built: tuple[str, str]):
    """What it says stands in its place, and what compares anything is open."""
    page, _ = built
    root, _ = read_page(page)
    told = [
        (box.find_all("summary")[0].text, box.find_all("caption")[0].text)
        for box in root.find_all("details")
    ]
    folded = {caption: summary for summary, caption in told}
    captions = [one.text for one in root.find_all("caption")]
    ledger = [caption for caption in captions if caption.startswith("Ledger, ")]
    assert len(ledger) == 11
    for caption in ledger:
        verdicts = [row[7] for row in cells(page, caption)]
        is_alike = len(set(verdicts)) == 1 and verdicts[0].startswith("not ")
        assert (caption in folded) == is_alike, caption
        if is_alike:
            text = f"{caption}: {len(verdicts)} figures, each {verdicts[0]}"
            assert folded[caption] == text
    assert 0 < len(folded) < 11


def test_a_note_of_all_measured_figures_stands_once(built: tuple[str, str]):
    """Under the table; what is said of some stands with them."""
    page, _ = built
    shared = "epochs 2, not 10"
    notes = [row[8] for row in cells(page, "Ledger, Table 6")]
    assert len(notes) == 18
    assert not any(shared in note for note in notes)
    assert any(notes)
    text = section(page, "Ledger: every published figure")
    (told,) = [
        part
        for part in text.split("Note of each measured figure: ")[1:]
        if "From: the study's Table 6;" in part.partition("Ledger, ")[0]
    ]
    assert shared in told


def test_ranking(tmp_path: pathlib.Path):
    """Reckoned here by hand: each respect has another first."""
    _measured(tmp_path, "vgg16", accuracy=0.90, p50_ms=40, secs=300)
    _measured(tmp_path, "xception", accuracy=0.97, p50_ms=80, secs=200)
    _measured(tmp_path, "resnet50", accuracy=0.96, p50_ms=20, secs=200)
    page, _ = rebuild_page(tmp_path)
    assert cells(page, "Ranking") == [
        ["Xception", "1", "0.9700", "0.9500 to 0.9900", "3", "20.00", "1", "3:20 min"],
        ["ResNet50", "2", "0.9600", "0.9400 to 0.9800", "1", "5.00", "1", "3:20 min"],
        ["VGG16", "3", "0.9000", "0.8800 to 0.9200", "2", "10.00", "3", "5:00 min"],
    ]
    text = section(page, "Summary")
    assert "The intervals of ResNet50 overlap with that of Xception: so few" in text
    assert "Not measured: EfficientNetB0, InceptionV3, InceptionResNetV2." in text
    assert "fine-tuned networks, compiled, tf, batch 4, float32, CPU" in text


def test_an_invalid_time_has_no_place(tmp_path: pathlib.Path):
    _measured(tmp_path, "vgg16", accuracy=0.90, p50_ms=4, secs=30, valid=False)
    _measured(tmp_path, "xception", accuracy=0.97, p50_ms=80, secs=20)
    page, _ = rebuild_page(tmp_path)
    places = {row[0]: row[4:6] for row in cells(page, "Ranking")}
    assert places["VGG16"] == ["", "1.00 (invalid)"]
    assert places["Xception"] == ["1", "20.00"]
    assert "without a place by time: VGG16" in section(page, "Summary")


def test_times_of_another_way_are_not_ranked_together(tmp_path: pathlib.Path):
    """Two of three were timed alike; the third's time stands with its own kind."""
    _measured(tmp_path, "vgg16", accuracy=0.90, p50_ms=4, secs=30)
    _measured(tmp_path, "xception", accuracy=0.97, p50_ms=80, secs=20)
    _measured(
        tmp_path, "resnet50", accuracy=0.96, p50_ms=2, secs=20, runtime="openvino"
    )
    page, _ = rebuild_page(tmp_path)
    places = {row[0]: row[4:6] for row in cells(page, "Ranking")}
    assert places["ResNet50"] == ["", "not measured"]
    assert places["VGG16"] == ["1", "1.00"]


def test_a_time_of_another_training_is_not_beside_the_accuracy(tmp_path: pathlib.Path):
    """Trained again, and not timed again. Of older rows, which do not tell their
    weights, the order tells it."""
    for name, told in (
        ("vgg16", {"weights_sha256": "a" * 64}),
        ("xception", {"weights_sha256": "b" * 64}),
        ("resnet50", {}),
        ("inceptionv3", {}),
    ):
        _measured(
            tmp_path,
            name,
            accuracy=0.9,
            p50_ms=40,
            secs=30,
            trained_as="b" * 64,
            **told,
        )
    again = {"weights_sha256": "b" * 64}
    append_result(
        tmp_path, stage="train", backbone="inceptionv3", result=again, settings={}
    )
    page, _ = rebuild_page(tmp_path)
    times = {row[0]: row[5] for row in cells(page, "Ranking")[:4]}
    assert times == {
        **dict.fromkeys(("VGG16", "InceptionV3"), "not measured"),
        **dict.fromkeys(("Xception", "ResNet50"), "10.00"),
    }
    text = section(page, "Summary")
    left_out = "eft out, timed with another training's weights: InceptionV3, VGG16"
    assert f"L{left_out}." in text
    drawn = drawing(page, "Test accuracy against time an image")
    assert "Xception" in drawn.attributes["aria-label"]
    assert "VGG16" not in drawn.attributes["aria-label"]
    assert f"CPU; l{left_out}" in text


def test_where_all_were_trained_again_there_is_no_trade_off(tmp_path: pathlib.Path):
    _measured(
        tmp_path,
        "vgg16",
        accuracy=0.9,
        p50_ms=40,
        secs=30,
        trained_as="b" * 64,
        weights_sha256="a" * 64,
    )
    page, _ = rebuild_page(tmp_path)
    text = section(page, "Summary")
    assert "Accuracy by time: not measured. It needs an evaluation, and a timed" in text
    assert "Left out, timed with another training's weights: VGG16." in text


def test_without_an_accuracy_the_fastest_is_first(tmp_path: pathlib.Path):
    for name, p50_ms in (("vgg16", 30.0), ("xception", 20.0)):
        runs = [_timed_run(4, p50_ms=p50_ms)]
        append_result(
            tmp_path, stage="latency", backbone=name, result={"runs": runs}, settings={}
        )
    page, _ = rebuild_page(tmp_path)
    assert [row[0] for row in cells(page, "Ranking")[:2]] == ["Xception", "VGG16"]


def _timed_run(batch_size: int, **values: Any) -> dict[str, Any]:
    secs = [0.001 * batch_size * (1 + 0.01 * n) for n in range(20)]
    return {
        "model": "imagenet",
        "protocol": "compiled",
        "runtime": "tf",
        "precision": "float32",
        "batch_size": batch_size,
        "p50_ms": 1e3 * secs[10],
        "images_per_sec": batch_size / secs[10],
        "trials": [{"samples_secs": secs}],
        "valid": True,
        **values,
    }


def test_pictures_of_timed_rows(tmp_path: pathlib.Path):
    """A line by batch size, a box a row; what has no room is counted."""
    runs = [_timed_run(2**n) for n in range(7)]
    runs += [_timed_run(2**n, runtime="openvino", valid=False) for n in range(7)]
    runs += [_timed_run(2**n, model="finetuned") for n in range(7)]
    runs += [_timed_run(2**n, precision="mixed_float16") for n in range(5)]
    append_result(
        tmp_path, stage="latency", backbone="vgg16", result={"runs": runs}, settings={}
    )
    page, _ = rebuild_page(tmp_path)
    assert find_faults(page) == []
    lines = drawing(page, "Images a second at the median step")
    labels = [text.text for text in lines.find_all("text")]
    assert "VGG16, compiled, openvino, float32" in labels
    boxes = drawing(page, "Samples of each timed row")
    labels = [text.text for text in boxes.find_all("text")]
    assert sum(label.startswith("VGG16, compiled") for label in labels) == 24
    assert "; 2 more rows are not drawn" in section(page, "Across backbones")


def test_a_random_start_is_said_wherever_its_accuracy_stands(tmp_path: pathlib.Path):
    _measured(tmp_path, "vgg16", accuracy=0.5, p50_ms=4, secs=30)
    append_result(
        tmp_path,
        stage="train",
        backbone="vgg16",
        result={"weights": {"kind": "none", "file": None}},
        settings={},
    )
    page, _ = rebuild_page(tmp_path)
    assert cells(page, "Ranking")[0][0] == "VGG16 (random start)"
    assert "tells nothing about transfer" in section(page, "VGG16 (random start)")
