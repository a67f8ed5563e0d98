"""Pictures of timed rows: what is drawn, and what a caption says of it."""

import xml.etree.ElementTree as ElementTree

import pytest

from tests.timings import make_cell, make_row, make_trial
from tlperf.core.choices import Precision, Protocol
from tlperf.reporting.latency_plots import draw_latency, write_latency_plots
from tlperf.reporting.rows import collect_rows


def plots_of(*runs):
    """Pictures by name of rows of VGG16."""
    row = {"stage": "latency", "backbone": "vgg16", "result": {"runs": list(runs)}}
    return {plot.name: plot for plot in draw_latency(collect_rows([row]))}


def trials(precision="float32", peak=0.2, **changes):
    made = [make_trial(**changes) for _ in range(5)]
    for trial in made:
        trial["device"]["precision"] = precision
        trial["matmul_tflops_per_sec"] = peak
    return made


def test_each_picture_is_a_whole_file():
    sizes = [make_row(*trials(), cell=make_cell(batch_size=size)) for size in (8, 32)]
    found = plots_of(*sizes)
    names = {"latency-spread", "latency-throughput", "latency-roofline"}
    assert found.keys() == names
    for plot in found.values():
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")


def labels_of(plot):
    """Its texts."""
    elements = ElementTree.fromstring(plot.svg).iter()
    return [one.text or "" for one in elements if one.tag.endswith("}text")]


def test_logarithmic_axes_have_plain_numbers():
    """No formula: its source would stand there."""
    rows = [make_row(*trials(), cell=make_cell(batch_size=size)) for size in (1, 8, 32)]
    found = plots_of(*rows)
    for plot in found.values():
        assert not [text for text in labels_of(plot) if "$" in text], plot.name
    shown = labels_of(found["latency-throughput"])
    assert shown[:3] == ["1", "8", "32"]
    numbers = [float(text) for text in labels_of(found["latency-roofline"])[:3]]
    assert numbers == sorted(numbers)


def test_without_rows_there_is_none(tmp_path):
    assert plots_of() == {}
    assert write_latency_plots(tmp_path) == []


def test_boxes_that_are_not_drawn_are_counted():
    rows = [make_row(*trials(), cell=make_cell(batch_size=1 + n)) for n in range(26)]
    assert plots_of(*rows)["latency-spread"].caption.endswith(
        "2 more rows are not drawn"
    )
    assert "not drawn" not in plots_of(*rows[:24])["latency-spread"].caption


def test_each_way_of_computing_has_its_own_roof():
    half = make_row(
        *trials("mixed_float16", peak=0.9),
        cell=make_cell(precision=Precision.MIXED_FLOAT16),
    )
    caption = plots_of(make_row(*trials()), half)["latency-roofline"].caption
    assert "a CPU in float32: 0.2 TFLOP/s of matrix products" in caption
    assert "a CPU in mixed_float16: 0.9 TFLOP/s" in caption


@pytest.mark.parametrize("retraces", [0, 1])
def test_invalid_points_are_hollow(retraces):
    """Of two batches, one traced in its rounds: the picture says less of it."""
    rows = [
        make_row(*trials(), cell=make_cell(batch_size=8)),
        make_row(*trials(retraces=retraces), cell=make_cell(batch_size=16)),
    ]
    svg = plots_of(*rows)["latency-throughput"].svg
    good = plots_of(rows[0], make_row(*trials(), cell=make_cell(batch_size=16)))
    assert (svg == good["latency-throughput"].svg) is (not retraces)


def test_a_step_of_training_has_no_place_under_a_roof():
    training = make_row(*trials(), cell=make_cell(protocol=Protocol.TRAIN_STEP))
    training.update(gflop_per_step=None, tflops_per_sec=None)
    assert "latency-roofline" not in plots_of(training)
