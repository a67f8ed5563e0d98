"""The parts of the report: rows, ledger, document, renderers and plots."""

import dataclasses
import itertools
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from tests.pages import TEXT_CONTRAST, contrast
from tlperf.core.files import to_json
from tlperf.reference.backbones import BACKBONES
from tlperf.reference.paper import FIGURES
from tlperf.reporting import facts, study_tables, timed_cells
from tlperf.reporting.document import Document, Gallery, Plot, Section, Table
from tlperf.reporting.ledger import Entry, build_ledger
from tlperf.reporting.plots import (
    BACKBONE_STYLES,
    CELL_COLOURS,
    cell_ink,
    draw_confusion,
    draw_curves,
    file_stem,
    inline_svg,
    style_of,
)
from tlperf.reporting.readings import layer_ranges
from tlperf.reporting.render import escape_markdown, render_html, render_markdown
from tlperf.reporting.report import render_report
from tlperf.reporting.rows import BackboneRows, RunRows, collect_rows


def row(stage: str, result: dict[str, Any], backbone: str = "vgg16") -> dict[str, Any]:
    return {"stage": stage, "backbone": backbone, "result": result, "settings": {}}


def evaluated(**result: Any) -> dict[str, Any]:
    return row("evaluate", {"classes": ["cats", "dogs"], "images": 400, **result})


def timed(**run: Any) -> dict[str, Any]:
    values = {"model": "imagenet", "protocol": "keras_predict", "device": "CPU", **run}
    return row("latency", {"runs": [values]})


def vgg16(run: RunRows) -> BackboneRows:
    (found,) = (results for results in run.backbones if results.name == "vgg16")
    return found


def entry(rows: list[dict[str, Any]], table: str, column: str, name: str = "") -> Entry:
    ledger = build_ledger(collect_rows(rows))
    found = study_tables.find_entry(ledger, table, "vgg16", column, name or None)
    assert found is not None
    return found


def test_no_rows_measure_nothing():
    ledger = build_ledger(collect_rows([]))
    assert [item.figure for item in ledger] == list(FIGURES)
    assert {item.verdict for item in ledger} == {"not measured"}
    assert {(item.measured, item.difference) for item in ledger} == {(None, None)}


@pytest.mark.parametrize(
    ("rows", "table", "column", "verdict", "difference"),
    [
        ([timed(depth=16)], "Table 1", "depth", "equal", 0),
        ([timed(depth=23)], "Table 1", "depth", "not comparable: another depth", 7),
        # The count behind "138.4 M": it rounds to it, and it is not it.
        (
            [timed(params=138_357_544)],
            "Table 1",
            "parameters",
            "not comparable: printed to 0.1 M, which the measured value rounds to",
            -42_456,
        ),
        (
            [timed(size_mib=527.79)],
            "Table 1",
            "size MB",
            "not comparable: printed to 1 MB, which the measured value rounds to",
            527.79 - 528,
        ),
        (
            [row("train", {"optimizer": {"name": "adam", "learning_rate": 5e-5}})],
            "Table 4",
            "learning rate",
            "equal",
            0,
        ),
        (
            [evaluated(accuracy=0.93)],
            "Table 11",
            "accuracy",
            "not comparable: no confusion matrix, so no interval",
            None,
        ),
        (
            [evaluated(accuracy=0.9, classes=["a", "b"])],
            "Table 11",
            "accuracy",
            "not comparable: other classes than the study's cats and dogs",
            None,
        ),
        (
            [evaluated(accuracy=0.9, classes=["cats", "dogs", "owls"])],
            "Table 11",
            "accuracy",
            "not comparable: 3 classes, the study has 2",
            None,
        ),
    ],
)
def test_verdicts(
    rows: list[dict[str, Any]],
    table: str,
    column: str,
    verdict: str,
    difference: float | None,
):
    found = entry(rows, table, column)
    assert found.verdict == verdict
    if difference is not None:
        assert found.difference == pytest.approx(difference)


def test_rounding_is_said_and_not_done():
    near = entry([timed(params=138_357_544)], "Table 1", "parameters")
    assert "the difference is within the printed precision" in near.note
    far = entry([timed(params=138_340_000)], "Table 1", "parameters")
    assert far.verdict == "not comparable: another number of parameters"
    assert far.note == ""


def test_printed_float32_accuracy():
    """747 of 800 is what the study printed as a float32."""
    counts = {"images": 800, "confusion": [[378, 17], [36, 369]]}
    rows = [evaluated(accuracy=747 / 800, **counts)]
    found = entry(rows, "Table 11", "accuracy")
    assert found.verdict == "within noise"
    assert "within the printed precision" in found.note
    assert study_tables.format_difference(found) == "+2.62e-08"


def test_text_figures_compare_whole():
    rows = [row("train", {"head": ["Flatten", "Dense(2, softmax)"]})]
    found = entry(rows, "Table 3", "appended layers")
    assert found.measured == "Flatten, Dense(2, softmax)"
    assert found.verdict == "not comparable: other layers"


def test_class_called_accuracy():
    """Its row of the report must not be taken for the accuracy."""
    report = {"accuracy": {"precision": 0.1, "recall": 0.2, "f1": 0.3, "support": 4}}
    rows = [evaluated(accuracy=0.5, classes=["accuracy", "dogs"], report=report)]
    assert entry(rows, "Table 6", "accuracy", "accuracy").measured == 0.5
    assert entry(rows, "Table 6", "recall", "class 0").measured == 0.2


def test_smoke_is_judged_row_by_row():
    trained = row("train", {"batch_size": 32})
    trained["settings"] = {"preset": "quick"}
    rows = [trained, timed(depth=16)]
    assert entry(rows, "Table 4", "batch size").verdict == "not comparable: smoke run"
    assert entry(rows, "Table 1", "depth").verdict == "equal"
    assert collect_rows(rows).is_smoke


@pytest.mark.parametrize(
    ("frozen", "active", "expected"),
    [
        (15, 4, ("0:14", "15:18")),  # Table 2's VGG16
        (0, 19, ("none", "0:18")),  # --freeze=none
        (19, 0, ("0:18", "none")),  # --freeze=all
        (None, 4, (None, None)),
    ],
)
def test_layer_ranges(frozen: int | None, active: int, expected: tuple[str, str]):
    train = {"frozen_layers": frozen, "active_layers": active}
    assert layer_ranges(train) == expected


def test_backbone_outside_the_table():
    """Rows of an older or newer version are shown, not dropped."""
    rows = [row("train", {"epochs": [{"epoch": 1, "loss": 1.0}]}, "my/<net>")]
    texts = render_report(rows)
    assert "### my/&lt;net&gt;" in texts["report.md"]
    assert f"{file_stem('my/<net>')}-loss.svg" in texts


def test_a_keras_network_has_measured_values_and_no_published_ones():
    trained = {
        "head": ["GlobalAveragePooling2D", "Dense(2, softmax)"],
        "frozen_layers": 154,
        "active_layers": 0,
        "defaults": "of this project, not of the study: so and so",
    }
    run = collect_rows([row("train", trained, "keras-mobilenetv2")])
    ledger = build_ledger(run)
    assert len(ledger) == len(FIGURES)
    table = study_tables.table_2(run, ledger)
    assert table.rows[-1][:5] == ("keras:MobileNetV2", "n/a", "0:153", "n/a", "none")
    note = "keras:MobileNetV2: defaults of this project, not of the study: so and so."
    assert table.notes[-1] == note
    table = study_tables.table_3(run, ledger)
    heads = ("n/a", "GlobalAveragePooling2D, Dense(2, softmax)")
    assert table.rows[-1] == ("keras:MobileNetV2", *heads)
    assert table.notes == (note,)


def test_shard_table_keeps_the_order_of_the_way():
    splits = {"test": {"a": 1}, "train": {"a": 3}, "validation": {"a": 2}}
    table = facts.split_table({"splits": splits, "classes": ["a"]})
    assert table.columns == ("class", "train", "validation", "test")
    assert table.rows == (("a", "3", "2", "1"), ("all", "3", "2", "1"))


def test_many_classes_are_cut_and_counted():
    classes = [f"c{number}" for number in range(60)]
    counts = dict.fromkeys(classes, 1)
    table = facts.split_table({"splits": {"train": counts}, "classes": classes})
    assert len(table.rows) == 51
    assert table.rows[-1] == ("all", "60")
    assert table.notes == ("10 more classes are in results.jsonl.",)
    run = collect_rows([evaluated(classes=classes)])
    report = study_tables.report_table(vgg16(run), build_ledger(run))
    names = [cells[0] for cells in report.rows]
    assert names[:22] == [f"class {number}" for number in range(22)]
    assert names[22:] == ["accuracy", "macro average", "weighted average"]
    assert report.notes[-1] == "38 more classes: results.jsonl."


def test_machines_stand_side_by_side():
    rows = [timed(), row("train", {"precision": "float32"})]
    for number, item in enumerate(rows):
        item["machine"] = {"cores": number + 1, "versions": {"keras": "3.15.1"}}
    table = facts.machine_table(collect_rows(rows))
    assert table.rows == (("cores", "2", "1"), ("versions keras", "3.15.1", "3.15.1"))
    assert table.notes == (
        "The rows come from more than one: compare times with care.",
    )


def test_invalid_times_are_marked():
    run = collect_rows([timed(p50_ms=4.0, valid=False)])
    assert timed_cells.format_ms(vgg16(run), "keras_predict", "p50_ms") == (
        "4.00 (invalid)"
    )
    assert timed_cells.format_ms(vgg16(run), "compiled", "p50_ms") == ("not measured")


def test_a_time_says_how_it_is_unlike_the_others():
    """A sweep's first row is not the one that stands beside Table 1."""
    runs = [
        {"protocol": protocol, "batch_size": batch_size, "runtime": runtime, **VALID}
        for protocol, batch_size, runtime in (
            ("keras_predict", 1, "tf"),
            ("keras_predict", 32, "tf"),
            ("compiled", 1, "openvino"),
            ("train_step", 32, "tf"),
        )
    ]
    runs[-1]["model"] = "finetuned"
    run = collect_rows([row("latency", {"runs": runs})])
    assert timed_cells.measured_protocols(run) == ("keras_predict", "compiled")
    times = [
        timed_cells.format_ms(vgg16(run), protocol, "p50_ms")
        for protocol in ("keras_predict", "compiled")
    ]
    assert times == ["4.00", "4.00 (batch 1, openvino)"]
    assert timed_cells.timed_on(vgg16(run)) == "CPU, batch 32, 224 px"


VALID = {
    "model": "imagenet",
    "precision": "float32",
    "image_size": 224,
    "device": "CPU",
    "p50_ms": 4.0,
    "valid": True,
}


def test_table_refuses_a_short_row():
    with pytest.raises(ValueError, match="T: expected 2 cells, got \\('x',\\)"):
        Table("T", ("a", "b"), (("x",),))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("1", "-2.5", "n/a"), True),
        (("0:14", "4:12 min", "3.0 GiB", "1.2%"), True),
        (("n/a", "not measured"), False),
        (("3c1ce0531f8c",), False),  # a digest
        (("CPU",), False),
    ],
)
def test_numeric_columns(cells: tuple[str, ...], expected: bool):
    table = Table("T", ("a",), tuple((cell,) for cell in cells))
    assert table.numeric == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mixed_float16", "mixed_float16"),  # inside a word it is no markup
        ("_x_", r"\_x\_"),
        ("[a](b)", r"\[a\](b)"),
        ("https://x.org www.x.org a: b.c", r"https\://x.org www\.x.org a: b.c"),
        ("a & b", "a &amp; b"),
        ("\u202eevil", r"\\u202eevil"),  # right-to-left override
    ],
)
def test_escape_markdown(text: str, expected: str):
    assert escape_markdown(text) == expected


def test_empty_document_renders():
    table = Table("Empty", ("a", "b"), ())
    document = Document("T", "", (Section("S", (table,)),))
    assert "| a | b |\n| --- | --- |" in render_markdown(document)
    assert "<h1>T</h1>" in render_html(document)


def _trained(epochs: list[dict[str, Any]]) -> RunRows:
    return collect_rows([row("train", {"epochs": epochs})])


def test_one_epoch_is_a_visible_point():
    run = _trained([{"epoch": 1, "accuracy": 0.5, "val_accuracy": None}])
    plot = draw_curves(vgg16(run), quantity="accuracy", run=run, caption="c")
    assert plot is not None
    ticks = re.findall(r">(\d+)</text>", plot.svg)
    assert ticks == ["1"]
    # Markers are `use` elements inside the axes: one point, one legend sample a curve.
    colour = "#d1453b"
    assert len(re.findall(rf"<use [^>]*fill: {colour}", plot.svg)) == 2


@pytest.mark.parametrize("epochs", [1, 2, 10, 100])
def test_epoch_ticks_are_epochs(epochs: int):
    rows = [{"epoch": number + 1, "accuracy": 0.5} for number in range(epochs)]
    run = _trained(rows)
    plot = draw_curves(vgg16(run), quantity="accuracy", run=run, caption="c")
    assert plot is not None
    ticks = [int(text) for text in re.findall(r">(\d+)</text>", plot.svg)]
    assert ticks
    assert 1 <= min(ticks) <= max(ticks) <= epochs


def test_backbones_differ_in_colour_and_marker():
    assert len(BACKBONE_STYLES) == len(BACKBONES)
    for pair in itertools.combinations(BACKBONE_STYLES, 2):
        (colour, marker), (other_colour, other_marker) = pair
        assert colour != other_colour
        assert marker != other_marker


def test_more_backbones_than_colours_differ_too():
    """As `keras:NAME` beside the study's six."""
    run = collect_rows([row("train", {}, f"keras-{n}") for n in range(12)])
    styles = [style_of(run, results) for results in run.backbones]
    assert len(set(styles)) == len(styles) == 18


def test_counts_are_read_on_every_cell():
    import matplotlib
    from matplotlib.colors import to_hex

    for share in np.linspace(0, 1, 101):
        fill = to_hex(matplotlib.colormaps[CELL_COLOURS](share))
        assert contrast(cell_ink(share), fill) >= TEXT_CONTRAST, share


def test_confusion_of_many_classes_has_no_names():
    classes = [f"name{number}" for number in range(40)]
    counts = np.eye(40, dtype=int).tolist()
    run = collect_rows([evaluated(classes=classes, confusion=counts)])
    plot = draw_confusion(vgg16(run), caption="c")
    assert plot is not None
    assert "name1" not in plot.svg


def test_class_without_test_images():
    run = collect_rows([evaluated(confusion=[[0, 0], [1, 3]])])
    assert draw_confusion(vgg16(run), caption="c") is not None


@pytest.mark.parametrize("confusion", [None, [], [[]], [[1], [2, 3]], [[0, 0]] * 2])
def test_no_confusion_no_plot(confusion: Any):
    run = collect_rows([evaluated(confusion=confusion)])
    assert draw_confusion(vgg16(run), caption="c") is None


def test_inline_picture_takes_the_page_ink():
    run = _trained([{"epoch": 1, "accuracy": 0.5}])
    plot = draw_curves(vgg16(run), quantity="accuracy", run=run, caption="a <b>")
    assert plot is not None
    text = inline_svg(dataclasses.replace(plot, alt=""))
    assert "currentColor" in text
    assert "#1f2329" in plot.svg
    assert "#1f2329" not in text
    assert "<style" not in text
    assert 'aria-label="a &lt;b&gt;"' in text


def test_user_settings_do_not_change_a_plot(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    import matplotlib

    run = _trained([{"epoch": 1, "accuracy": 0.5}])
    before = draw_curves(vgg16(run), quantity="accuracy", run=run, caption="c")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        assert (
            draw_curves(vgg16(run), quantity="accuracy", run=run, caption="c") == before
        )
        assert matplotlib.rcParams["font.size"] == 30


def test_plot_names_are_file_names():
    assert file_stem("keras-vgg19") == "keras-vgg19"
    assert re.fullmatch("----vil-name-[0-9a-f]{6}", file_stem("../Évil name"))
    assert re.fullmatch("backbone-[0-9a-f]{6}", file_stem(""))
    # Or one would overwrite the other.
    assert file_stem("a/b") != file_stem("a b")


def test_document_lists_plots_in_order():
    plots = tuple(Plot(name, name, "<svg/>") for name in "ab")
    document = Document("T", "", (Section("S", (Gallery(plots),)),))
    assert document.plots == plots


def test_ledger_is_plain_json():
    ledger = build_ledger(collect_rows([timed(depth=16)]))
    assert '"verdict": "equal"' in to_json([item.to_dict() for item in ledger])
