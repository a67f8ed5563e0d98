"""Rows from trials that are made up: their figures, and what makes them INVALID."""

import json

import pytest

from tests.timings import GFLOP, make_cell, make_row, make_trial
from tlperf.core import files
from tlperf.core.choices import Protocol, Runtime, Sweep, Xla
from tlperf.core.settings import DeviceConfig, LatencyConfig
from tlperf.core.trials import find_drift, is_memoising
from tlperf.latency.cells import Cell, plan_cells
from tlperf.reference.backbones import VGG16
from tlperf.reporting.latency_terminal import render_latency


def test_a_row_has_the_contracts_keys_and_every_sample():
    row = make_row()
    keys = {"backbone", "protocol", "runtime", "batch_size", "image_size", "precision"}
    keys |= {"xla", "device", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"}
    keys |= {"min_ms", "samples", "requested_samples", "first_call_secs", "size_mib"}
    keys |= {"images_per_sec", "gflop_per_step", "tflops_per_sec", "params", "depth"}
    keys |= {"published", "valid", "warnings", "model"}
    assert keys <= set(json.loads(files.to_json(row)))
    assert [len(trial["samples_secs"]) for trial in row["trials"]] == [60] * 5
    assert (row["samples"], row["p50_ms"]) == (300, pytest.approx(100.0))
    assert row["images_per_sec"] == pytest.approx(320)
    assert (row["valid"], row["warnings"]) == (True, [])


def test_figures_of_a_row():
    medians = [0.098, 0.102, 0.1, 0.099, 0.101]
    row = make_row(*[make_trial([secs] * 60) for secs in medians])
    interval = row["interval_ms"]
    assert (interval["low"], interval["high"]) == (
        pytest.approx(98),
        pytest.approx(102),
    )
    assert interval["confidence"] == 0.9375
    assert row["half_width"] == pytest.approx(0.02)
    assert row["first_call_secs"] == pytest.approx(3.1)
    assert row["compile_secs"] == pytest.approx(2.0)
    assert row["tflops_per_sec"] == pytest.approx(GFLOP / 100)
    assert row["share_of_matmul"] == pytest.approx(GFLOP / 100 / 20)
    # 247 FLOP a byte x 100 GB/s is more than 20 TFLOP/s: the products bound it.
    assert row["share_of_roofline"] == row["share_of_matmul"]
    # Of 300 samples ranks 133 and 168 are 95 % around the middle one.
    assert row["percentile_intervals_ms"]["p50"] == pytest.approx([100, 100])
    assert row["percentile_intervals_ms"]["p90"] == pytest.approx([102, 102])
    assert row["percentile_intervals_ms"]["p99"] is None  # of 300 too few for 95 %


def test_memory_bounds_a_row_of_few_operations_a_byte():
    row = make_row(*[make_trial(gbytes_per_step=20.0)] * 5)
    # 49.5 FLOP a byte x 100 GB/s.
    assert row["share_of_roofline"] == pytest.approx(GFLOP / 100 / 4.95, rel=1e-3)


def test_the_published_figure_breaks_its_devices_limit():
    published = make_row()["published"]
    assert (published["ms"], published["batch_size"]) == (4.2, 32)
    assert published["implied_tflops_per_sec"] == pytest.approx(238, rel=0.01)
    assert published["implied_tflops_per_sec"] > published["peak_tflops_per_sec"]


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([make_trial([0.1])] * 5, "5 samples, fewer than 10"),
        ([make_trial([0.1])], "1 sample, fewer than 10"),
        ([make_trial()], "no interval: 1 process, where 5 are needed"),
        ([make_trial()] * 2, "an interval of 2 processes, where 5 are needed"),
        ([make_trial()] * 4, "an interval of 4 processes, where 5 are needed"),
        ([make_trial([0.1 + 0.006 * n] * 60) for n in range(5)], "lie 11% around"),
        ([make_trial([0.1] * 20 + [0.115] * 40)] * 5, "took 1.15 of the first"),
        ([make_trial([0.12] * 20 + [0.1] * 40)] * 5, "took 0.83 of the first"),
        ([make_trial(load={"others_cores": 100.0})] * 5, "other programs used 100"),
        ([make_trial(load={"stolen_cores": 100.0})] * 5, "host gave others 100"),
        ([make_trial(load={"gpu_busy": 0.4})] * 5, "GPU was busy for 40% of the mom"),
        (
            [*[make_trial()] * 4, make_trial(device_text="another")],
            "its processes had unlike device text",
        ),
        (
            [*[make_trial()] * 4, make_trial(runtime_version="2.20.0")],
            "its processes had unlike runtime version",
        ),
        ([make_trial()] * 4 + [make_trial(retraces=1)], "traced 1 times while"),
        (
            [make_trial()] * 4 + [make_trial(checks={"difference": 0.01})],
            "differ by 0.01 from",
        ),
        (
            [make_trial()] * 4 + [make_trial(checks={"difference": None})],
            "are no numbers, or of another shape",
        ),
        ([make_trial()] * 4 + [make_trial(checks={"top1_changes": 2})], "2 images got"),
        ([make_trial(checks={"repeat_ratios": [0.5] * 5})] * 5, "takes 0.50 of"),
    ],
)
def test_a_row_is_invalid_and_says_why(trials, reason):
    row = make_row(*trials)
    assert not row["valid"]
    assert any(reason in text for text in row["invalid"]), row["invalid"]
    none = [text for text in row["invalid"] if text.startswith("no interval")]
    assert bool(none) == (row["interval_ms"] is None)
    assert set(row["invalid"]) <= set(row["warnings"])


@pytest.mark.parametrize(
    "trials",
    [
        [make_trial([0.1 + 0.005 * n] * 60) for n in range(5)],  # 9 %
        [make_trial([0.1] * 20 + [0.109] * 40)] * 5,
        # One process that was disturbed is what the interval is for.
        [make_trial()] * 4 + [make_trial(load={"others_cores": 100.0})],
        [make_trial(load=None)] * 5,
        # One pair that was disturbed, of 25.
        [make_trial(checks={"repeat_ratios": [1.0, 1.0, 0.4, 1.0, 1.0]})] * 5,
        [make_trial(checks={"repeat_ratios": [0.85, 0.85, 0.85, 1.02, 1.02]})] * 5,
    ],
)
def test_a_row_within_its_limits_is_valid(trials):
    assert make_row(*trials)["valid"]


@pytest.mark.parametrize(
    ("trials", "cell", "config", "warning"),
    [
        ([make_trial([0.1] * 20)] * 5, {}, {}, "100 of 300 samples"),
        ([make_trial(steady=False)] * 5, {}, {}, "before steps were steady"),
        ([make_trial(matmul_tflops_per_sec=5.0)] * 5, {}, {}, "faster than the meas"),
        ([make_trial()] * 5, {"batch_size": 1}, {}, "published figure states batch 32"),
    ],
)
def test_a_row_says_what_else_limits_it(trials, cell, config, warning):
    row = make_row(*trials, cell=make_cell(**cell), **config)
    assert row["valid"]
    assert any(warning in text for text in row["warnings"])


@pytest.mark.parametrize(
    "cell",
    [
        {"kind": "finetuned"},
        {"backbone": "keras:mobilenetv2"},
    ],
)
def test_other_networks_have_no_published_figure(cell):
    row = make_row(cell=make_cell(**cell, batch_size=1))
    assert row["published"] is None
    assert row["warnings"] == []


def test_drift_is_the_typical_process():
    steady, slower = [1.0] * 9, [1.0] * 3 + [2.0] * 6
    assert find_drift([steady, steady, slower]) == 1.0
    assert find_drift([steady, slower, slower]) == 2.0
    assert find_drift([[1.0, 2.0]]) is None


@pytest.mark.parametrize(
    ("ratios", "found"),
    [([], False), ([0.89] * 5, True), ([0.91] * 5, False), ([0.1] * 4 + [1.1], False)],
)
def test_memoising_is_nearly_all_pairs(ratios, found):
    assert is_memoising(ratios) is found


def cells(device=None, kinds=("imagenet", "finetuned"), **config):
    return plan_cells(
        VGG16, LatencyConfig(**config), device=device or DeviceConfig(), kinds=kinds
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {},
            [
                ("imagenet", "keras_predict"),
                ("imagenet", "compiled"),
                ("finetuned", "compiled"),
            ],
        ),
        # Asked for alone, the fine-tuned network is timed under it too.
        (
            {"protocols": (Protocol.KERAS_PREDICT,)},
            [("imagenet", "keras_predict"), ("finetuned", "keras_predict")],
        ),
        ({"protocols": (Protocol.TRAIN_STEP,)}, [("finetuned", "train_step")]),
    ],
)
def test_networks_and_protocols(config, expected):
    assert [(cell.kind, cell.protocol) for cell in cells(**config)] == expected


def test_a_sweep_is_every_combination_that_means_something():
    found = cells(
        kinds=("imagenet",),
        protocols=(Protocol.COMPILED,),
        runtimes=(Runtime.TF, Runtime.OPENVINO),
        sweep=(Sweep.PRECISION, Sweep.XLA, Sweep.TF32),
    )
    own = [(c.precision, c.xla, c.tf32) for c in found if c.runtime is Runtime.TF]
    assert own == [
        (precision, xla, tf32)
        for precision in ("float32", "mixed_float16", "mixed_bfloat16")
        for xla in ("off", "on")
        for tf32 in ((True, False) if precision == "float32" else (True,))
    ]
    others = [c for c in found if c.runtime is Runtime.OPENVINO]
    assert [(c.precision, c.xla) for c in others] == [("float32", "off")]


def test_a_stream_is_of_single_images_and_batches_are_swept():
    found = cells(
        kinds=("imagenet",),
        protocols=(Protocol.STREAM, Protocol.TRANSFER),
        sweep=(Sweep.BATCH_SIZE,),
    )
    sizes = {
        protocol: [c.batch_size for c in found if c.protocol is protocol]
        for protocol in (Protocol.STREAM, Protocol.TRANSFER)
    }
    assert sizes[Protocol.STREAM] == [1]
    assert sizes[Protocol.TRANSFER] == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_a_cell_survives_json():
    cell = make_cell(xla=Xla.ON, tf32=False)
    stored = json.loads(files.to_json(vars(cell)))
    back = Cell.from_dict(stored)
    assert back == cell
    assert back.protocol is Protocol.COMPILED


def test_inference_is_one_devices_and_training_all_of_them():
    device = DeviceConfig()
    assert make_cell().device_config(device).strategy == "one"
    training = make_cell(protocol=Protocol.TRAIN_STEP)
    assert training.device_config(device).strategy == "auto"


@pytest.mark.parametrize(
    ("devices", "runtime", "expected"),
    [
        ("auto", Runtime.OPENVINO, "cpu"),
        ("auto", Runtime.ONNXRUNTIME, "auto"),
        ("auto", Runtime.TF, "auto"),
        ("gpu:1", Runtime.OPENVINO, "gpu:1"),  # refused there, with a line
    ],
)
def test_openvino_takes_the_cpu_where_nothing_else_is_asked_for(
    devices, runtime, expected
):
    cell = make_cell(runtime=runtime)
    assert cell.device_config(DeviceConfig(devices=devices)).devices == expected


def test_the_terminal_tells_a_rule_once_however_many_rows_break_it():
    rows = [
        make_row(
            *[make_trial([0.1 * number] * 60) for number in range(first, first + 5)]
        )
        for first in (1, 2)
    ]
    rows.append(make_row(*[make_trial(retraces=2)] * 5))
    text = render_latency({"runs": rows})
    assert [line for line in text.splitlines() if line.startswith("INVALID")] == [
        "INVALID: the processes' medians lie 67% around their middle (and 1 alike)",
        "INVALID: traced 10 times while it was timed",
    ]
