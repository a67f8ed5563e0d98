"""`tlperf check`: rows that lack something or say what their samples do not."""

import copy
import json
import math

import numpy as np
import pytest

from tlperf import cli
from tlperf.core import files
from tlperf.core.choices import Precision, Protocol, Runtime, Xla
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import machine_facts, package_versions
from tlperf.core.results import append_result, read_results, settings_digest
from tlperf.core.settings import LatencyConfig, RunConfig
from tlperf.core.trials import TRIALS_FOLDER, largest_difference
from tlperf.latency.cells import FINETUNED, IMAGENET, Cell
from tlperf.latency.rows import build_row
from tlperf.reference.backbones import BACKBONES, find_backbone
from tlperf.reporting.check import check_rows, check_workdir
from tlperf.reporting.latency_terminal import render_check

pytestmark = pytest.mark.B3

PROCESSES = 5
CONFIG = LatencyConfig(
    protocols=tuple(Protocol), runtimes=tuple(Runtime), processes=PROCESSES
)
COMMIT = {"version": package_versions()["tlperf"], "commit": "a1" * 20}


def make_trial(cell, process, *, seed, kind="CPU", step_secs=0.04):
    """As a process would have measured it, a second of set-up included."""
    spec = find_backbone(cell.backbone)
    generator = np.random.default_rng([seed, process])
    samples = (step_secs * generator.normal(1.0, 0.02, 60)).tolist()
    is_training = cell.protocol is Protocol.TRAIN_STEP
    assert spec.gmacs is not None
    gflop = 2 * spec.gmacs * cell.batch_size
    tolerance = largest_difference(
        cell.precision, tf32=device_facts(cell, kind)["tf32"]
    )
    return {
        "process": process,
        "seed": 0,
        "samples_secs": samples,
        "first_step_secs": 1.5,
        "warmup_steps": 8,
        "steady": True,
        "prepare_secs": {"trace": 0.7},
        "runtime_version": package_versions()["tensorflow"],
        "winograd_convolutions": 0,
        "weights_sha256": "ab" * 32
        if cell.kind == FINETUNED and not is_training
        else None,
        "measured_secs": math.fsum(samples) + 2.5,
        "traces": 1,
        "retraces": 0,
        "load": {"others_cores": 0.02, "stolen_cores": 0.0, "gpu_busy": None},
        "machine": {
            **machine_facts(),
            "gpu_driver": None if kind == "CPU" else "Example driver 1.0",
        },
        "process_peak_memory_bytes": 3 << 30,
        "device_peak_memory_bytes": None if kind == "CPU" else [1 << 30],
        "device": device_facts(cell, kind),
        "device_text": f"Example {kind}",
        "code": {**COMMIT, "changed": False},
        "checks": None
        if is_training
        else {
            "outputs": 7,
            "difference": tolerance / 100,
            "tolerance": tolerance,
            "variety": 0.4,
            "top1_changes": 0,
            "repeat_ratios": [1.01, 0.97, 1.0, 1.02, 0.99],
        },
        "image_size": spec.native_size,
        "gflop_per_step": None if is_training else gflop,
        "gbytes_per_step": None if is_training else 0.9,
        "params": 5_330_571,
        "depth": 132,
        "size_mib": 20.3,
        "matmul_tflops_per_sec": 0.11,
        "copy_gbytes_per_sec": 11.0,
    }


def device_facts(cell, kind):
    return {
        "kind": kind,
        "devices": [f"{kind}:0"],
        "text": f"Example {kind}",
        "precision": cell.precision.value,
        "xla": cell.xla is Xla.ON,
        "tf32": cell.tf32 and kind == "GPU",
    }


def write_row(workdir, cell, *, kind="CPU", seed=0, config=CONFIG, code=None):
    """Appends the row of five processes to a workdir."""
    trials = [
        make_trial(cell, process, seed=seed, kind=kind) for process in range(PROCESSES)
    ]
    for trial in trials:
        trial["code"] = code or trial["code"]
    run = build_row(cell, trials, config)
    append_result(
        workdir,
        stage="latency",
        backbone=cell.backbone,
        result={"runs": [run]},
        settings=RunConfig(workdir="w", latency=config).to_dict(),
        device=device_facts(cell, kind),
    )


def make_cell(backbone="vgg16", kind=IMAGENET, protocol=Protocol.COMPILED, **changes):
    values = {
        "runtime": Runtime.TF,
        "batch_size": 32,
        "precision": Precision.FLOAT32,
        "xla": Xla.OFF,
        "tf32": True,
    }
    return Cell(backbone, kind, protocol, **{**values, **changes})


GOOD = [
    *(make_cell(spec.name) for spec in BACKBONES),
    *(make_cell(spec.name, protocol=Protocol.KERAS_PREDICT) for spec in BACKBONES[:3]),
    *(make_cell(spec.name, protocol=Protocol.TRANSFER) for spec in BACKBONES[3:]),
    make_cell(protocol=Protocol.STREAM, batch_size=1),
    make_cell(kind=FINETUNED, protocol=Protocol.TRAIN_STEP),
    make_cell(kind=FINETUNED),
    make_cell(batch_size=64),
    make_cell(precision=Precision.MIXED_FLOAT16, xla=Xla.ON),
    make_cell(precision=Precision.MIXED_BFLOAT16),
    make_cell(tf32=False),
    make_cell(xla=Xla.ON),
    make_cell(xla=Xla.ON, tf32=False),
    make_cell(protocol=Protocol.TRANSFER, batch_size=8),
]


def test_good_rows_are_all_taken(tmp_path, record_property):
    refused = {}
    for number, cell in enumerate(GOOD):
        workdir = tmp_path / str(number)
        is_plain = cell.precision is Precision.FLOAT32 and cell.xla is Xla.OFF
        kind = "CPU" if is_plain else "GPU"
        write_row(workdir, cell, kind=kind, seed=number)
        (row,) = check_workdir(workdir)["rows"]
        if not row["ok"]:
            refused[cell.text] = row["problems"]
    assert refused == {}
    assert len(GOOD) == 22
    record_property("figures", f"0 of {len(GOOD)} good rows refused")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ({**COMMIT, "commit": None, "changed": None}, None),  # an installed release
        ({**COMMIT, "changed": True}, "code: files were changed since the commit"),
        ({**COMMIT, "commit": "unknown", "changed": True}, "code: the commit is not"),
        ({**COMMIT, "commit": None, "changed": True}, "code: neither a commit nor"),
        ({**COMMIT, "version": "9.9", "changed": False}, "code: version 9.9, inst"),
    ],
)
def test_which_code_it_was(tmp_path, code, problem):
    write_row(tmp_path, make_cell(), code=code)
    (row,) = check_workdir(tmp_path)["rows"]
    assert [text.startswith(problem or "") for text in row["problems"]] == (
        [True] if problem else []
    )


RUN = ("result", "runs", 0)
TRIAL = (*RUN, "trials", 2)
LATENCY = ("settings", "latency")
_LEFT_OUT = [
    *((name,) for name in ("stage", "backbone", "schema_version", "settings")),
    *((name,) for name in ("settings_digest", "machine", "device", "result")),
    *(("machine", name) for name in ("versions", "platform", "cpu", "cores")),
    *(("machine", "versions", name) for name in ("tensorflow", "keras", "tlperf")),
    *(("device", name) for name in ("kind", "text", "devices")),
    *((*LATENCY, name) for name in ("min_secs", "batches", "processes", "protocols")),
    *((*RUN, name) for name in ("backbone", "model", "protocol", "protocol_text")),
    *((*RUN, name) for name in ("runtime", "runtime_version", "batch_size", "device")),
    *((*RUN, name) for name in ("image_size", "precision", "xla", "tf32", "seed")),
    *((*RUN, name) for name in ("samples", "mean_ms", "min_ms", "p50_ms", "p90_ms")),
    *((*RUN, name) for name in ("p95_ms", "p99_ms", "interval_ms", "half_width")),
    *((*RUN, name) for name in ("jitter_ms", "percentile_intervals_ms", "processes")),
    *((*RUN, name) for name in ("requested_samples", "images_per_sec", "params")),
    *((*RUN, name) for name in ("first_call_secs", "first_step_secs", "compile_secs")),
    *((*RUN, name) for name in ("gflop_per_step", "published", "code", "valid")),
    *((*RUN, name) for name in ("invalid", "trials", "process_peak_memory_bytes")),
    *((*RUN, "code", name) for name in ("commit", "changed", "version")),
    *((*TRIAL, name) for name in ("process", "samples_secs", "first_step_secs")),
    *((*TRIAL, name) for name in ("measured_secs", "traces", "retraces", "load")),
    *((*TRIAL, name) for name in ("machine", "device", "device_text", "code")),
    *((*TRIAL, "load", name) for name in ("others_cores", "stolen_cores", "gpu_busy")),
    *((*TRIAL, "checks", name) for name in ("difference", "repeat_ratios", "variety")),
    *((*RUN, name) for name in ("warnings", "device_peak_memory_bytes")),
    (*TRIAL, "checks"),
    (*RUN, "weights_sha256"),
    (*TRIAL, "weights_sha256"),
]
_CHANGED = [
    ((*RUN, "p50_ms"), lambda value: 0.99 * value, "p50_ms: is"),
    ((*RUN, "p50_ms"), lambda value: -value, "p50_ms: is -"),
    ((*RUN, "p50_ms"), lambda value: math.nan, "p50_ms: is nan"),
    ((*RUN, "p50_ms"), lambda value: math.inf, "p50_ms: is inf"),
    ((*RUN, "p50_ms"), lambda value: None, "p50_ms: is None"),
    ((*RUN, "p50_ms"), str, "p50_ms: is"),
    ((*RUN, "p99_ms"), lambda value: 0.9 * value, "p99_ms: is"),
    ((*RUN, "samples"), lambda value: value + 1, "samples: is 301"),
    ((*RUN, "images_per_sec"), lambda value: 2 * value, "images_per_sec: is"),
    ((*RUN, "tflops_per_sec"), lambda value: 2 * value, "tflops_per_sec: is"),
    ((*RUN, "interval_ms", "low"), lambda value: value / 2, "interval_ms: is"),
    ((*RUN, "interval_ms", "confidence"), lambda value: 0.99, "interval_ms: is"),
    ((*RUN, "interval_ms"), lambda value: None, "interval_ms: is None"),
    ((*RUN, "half_width"), lambda value: 0.0, "half_width: is"),
    ((*RUN, "percentile_intervals_ms", "p50", 1), lambda value: 1.0, "percentile_"),
    ((*RUN, "compile_secs"), lambda value: 0.0, "compile_secs: is"),
    ((*RUN, "seed"), lambda value: None, "seed: expected a whole number from 0"),
    ((*RUN, "seed"), lambda value: -1, "seed: expected"),
    ((*RUN, "seed"), lambda value: True, "seed: expected"),
    ((*RUN, "valid"), lambda value: False, "valid: is false"),
    ((*RUN, "valid"), lambda value: "yes", "valid: expected true or false"),
    ((*RUN, "invalid"), lambda value: ["a reason"], "INVALID: a reason"),
    ((*RUN, "invalid"), lambda value: [0], "invalid: expected texts or none, got [0]"),
    ((*RUN, "code", "changed"), lambda value: True, "code: files were changed"),
    ((*RUN, "code", "commit"), lambda value: "a1", "code: the commit is not known"),
    ((*RUN, "device"), lambda value: " ", "device: expected a text"),
    ((*RUN, "device"), lambda value: "NVIDIA H100", "device: is not what its proc"),
    ((*RUN, "xla"), lambda value: not value, "xla: is not what its processes"),
    ((*RUN, "tf32"), lambda value: not value, "tf32: is not what its processes"),
    ((*RUN, "protocol_text"), lambda value: "a step", "protocol_text: is not what"),
    ((*RUN, "weights_sha256"), lambda value: "cd" * 32, "weights_sha256: is not what"),
    ((*RUN, "weights_sha256"), lambda value: "a file", "weights_sha256: expected a"),
    ((*TRIAL, "weights_sha256"), lambda value: "cd" * 32, "INVALID: its processes had"),
    ((*RUN, "published", "implied_tflops_per_sec"), lambda value: 10 * value, "publ"),
    ((*RUN, "device_peak_memory_bytes"), lambda value: [-5], "device_peak_memory_by"),
    ((*TRIAL, "device_text"), lambda value: "a V100", "INVALID: its processes had"),
    ((*TRIAL, "code", "changed"), lambda value: True, "INVALID: its processes had"),
    ((*TRIAL, "load", "gpu_busy"), lambda value: -1, "trial 2 load gpu_busy: exp"),
    (("machine", "cpu"), lambda value: "another", "machine: is not what its proc"),
    ((*RUN, "precision"), lambda value: "float64", "precision: expected float32"),
    ((*RUN, "protocol"), lambda value: "fast", "protocol: expected"),
    ((*RUN, "runtime"), lambda value: "cuda", "runtime: expected tf"),
    ((*RUN, "runtime_version"), lambda value: "1.15", "runtime_version: is not"),
    ((*RUN, "backbone"), lambda value: "xception", "backbone: is another one"),
    ((*RUN, "batch_size"), lambda value: 16, "images_per_sec: is"),
    ((*RUN, "image_size"), lambda value: 112, "image_size: expected 224"),
    ((*RUN, "gflop_per_step"), lambda value: 1.1 * value, "gflop_per_step: expected"),
    ((*RUN, "published", "ms"), lambda value: 400.0, "published: is not what"),
    ((*RUN, "requested_samples"), lambda value: 30, "requested_samples: expected 300"),
    ((*RUN, "trials"), lambda value: value[:4], "4 of 5 processes"),
    ((*RUN, "trials"), lambda value: [], "trials: expected a list of at least one"),
    ((*TRIAL, "process"), lambda value: 1, "process: expected each from 0 to 4"),
    ((*TRIAL, "samples_secs", 3), lambda value: -value, "trial 2 samples_secs: exp"),
    ((*TRIAL, "samples_secs", 3), lambda value: math.nan, "trial 2 samples_secs: exp"),
    ((*TRIAL, "samples_secs", 3), lambda value: 0.0, "trial 2 samples_secs: exp"),
    ((*TRIAL, "samples_secs", 3), lambda value: 10**400, "trial 2 samples_secs: exp"),
    ((*TRIAL, "samples_secs"), lambda value: value[:-1], "299 of 300 samples"),
    ((*TRIAL, "samples_secs"), lambda value: [], "trial 2 samples_secs: expected"),
    ((*TRIAL, "measured_secs"), lambda value: 0.5, "trial 2 measured_secs: is less"),
    ((*TRIAL, "retraces"), lambda value: 1, "INVALID: traced 1 times"),
    ((*TRIAL, "load"), lambda value: None, "trial 2 load: expected an object"),
    ((*TRIAL, "load", "others_cores"), lambda value: -0.1, "trial 2 load others_cor"),
    ((*TRIAL, "checks", "difference"), lambda value: 0.5, "INVALID: outputs of timed"),
    ((*TRIAL, "checks", "difference"), lambda value: None, "INVALID: outputs of tim"),
    ((*TRIAL, "checks", "tolerance"), lambda value: 0.9, "trial 2 checks tolerance"),
    ((*TRIAL, "checks", "top1_changes"), lambda value: 3, "INVALID: 3 images got"),
    ((*TRIAL, "checks", "outputs"), lambda value: 0, "trial 2 checks outputs: exp"),
    (("machine", "cores"), lambda value: 0, "machine cores: expected"),
    (("machine", "versions", "tensorflow"), lambda value: None, "version of tensor"),
    (("settings", "preset"), lambda value: "quick", "smoke figures"),
    ((*LATENCY, "min_secs"), lambda value: 0.0, "settings_digest: is another one"),
    (("schema_version",), lambda value: 2, "schema_version: expected 1"),
    (("stage",), lambda value: "Latency", "stage: expected latency"),
    (("result", "runs"), lambda value: {}, "runs: missing"),
    (("result", "runs"), lambda value: [], "runs: missing"),
    (("result", "runs", 0), lambda value: [1.0], "trials: missing"),
]


def change(row, path, make):
    """A copy of a row with one value replaced."""
    changed = copy.deepcopy(row)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = make(place[path[-1]])
    return changed


def leave_out(row, path):
    """A copy of a row without one value."""

    def without(value):
        return {key: one for key, one in value.items() if key != path[-1]}

    if len(path) == 1:
        return without(row)
    return change(row, path[:-1], without)


@pytest.fixture(scope="module")
def good_row(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("good")
    write_row(workdir, make_cell())
    (row,) = read_results(workdir)
    return row


def test_changed_rows_are_all_refused(good_row, record_property):
    """Each by itself; what a reader gets through JSON, whatever it is."""
    mutated = {f"without {path}": leave_out(good_row, path) for path in _LEFT_OUT}
    mutated |= {
        f"{number}: {path} changed": change(good_row, path, make)
        for number, (path, make, _) in enumerate(_CHANGED)
    }
    assert len(mutated) == len(_LEFT_OUT) + len(_CHANGED) >= 100
    taken = []
    for name, row in mutated.items():
        checked = check_rows([json.loads(json.dumps(row))])
        files.to_json(checked)  # no NaN comes through
        render_check({"rows": checked, "ok": False, "unfinished": 0})
        if len(checked) != 1 or checked[0]["ok"] or not checked[0]["problems"]:
            taken.append(name)
    assert taken == []
    record_property("figures", f"{len(mutated)} of {len(mutated)} changed rows refused")


@pytest.mark.parametrize(("path", "make", "problem"), _CHANGED)
def test_what_is_wrong_is_told(good_row, path, make, problem):
    (row,) = check_rows([change(good_row, path, make)])
    assert any(text.startswith(problem) for text in row["problems"]), row["problems"]


@pytest.mark.parametrize("path", _LEFT_OUT)
def test_what_is_missing_is_named(good_row, path):
    (row,) = check_rows([leave_out(good_row, path)])
    name = {"result": "runs", "machine": "cpu", "device": "kind", "versions": "keras"}
    wanted = name.get(path[-1], path[-1]) if len(path) <= 2 else path[-1]
    wanted = {"settings": "min_secs", "tlperf": "code: version"}.get(wanted, wanted)
    if path[-2:-1] == ("code",):
        wanted = "code: "
    assert any(wanted in text for text in row["problems"]), row["problems"]


def test_rows_that_do_not_tell_their_weights_are_taken(good_row):
    """Those of older versions: neither the row nor its processes do."""
    older = leave_out(good_row, (*RUN, "weights_sha256"))
    for process in range(PROCESSES):
        older = leave_out(older, (*RUN, "trials", process, "weights_sha256"))
    (row,) = check_rows([older])
    assert row["problems"] == []


def test_raw_samples_that_were_copied_are_found(good_row):
    def copied(trials):
        return [*trials[:4], {**trials[3], "process": 4}]

    (row,) = check_rows([change(good_row, (*RUN, "trials"), copied)])
    assert (
        "samples_secs: two processes have the same to the last bit" in (row["problems"])
    )


def rebuilt(good_row, alter):
    """A row whose figures are those of altered trials, and says that it is valid."""
    cell = make_cell()
    trials = [make_trial(cell, process, seed=1) for process in range(PROCESSES)]
    alter(trials)
    run = {**build_row(cell, trials, CONFIG), "valid": True, "invalid": []}
    return change(good_row, RUN, lambda value: run)


def slow_one(trials):
    trials[0]["samples_secs"] = [2 * secs for secs in trials[0]["samples_secs"]]
    trials[0]["measured_secs"] *= 2


def drifts(trials):
    for trial in trials:
        own = trial["samples_secs"]
        own[-20:] = [1.3 * secs for secs in own[-20:]]
        trial["measured_secs"] *= 2


def busy(trials):
    for trial in trials:
        trial["load"]["others_cores"] = 9.0 * 64


def remembers(trials):
    for trial in trials:
        trial["checks"]["repeat_ratios"] = [0.1] * 5


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (slow_one, "the processes' medians lie 3"),
        (drifts, "the last steps took 1.3"),
        (busy, "other programs used 576.0 of"),
        (remembers, "a step on images it has seen takes 0.10 of one on new images"),
    ],
)
def test_a_row_that_says_it_is_valid_is_not_believed(good_row, alter, reason):
    (row,) = check_rows([rebuilt(good_row, alter)])
    invalid, said = row["problems"]
    assert invalid.startswith(f"INVALID: {reason}")
    assert said == "valid: is true, its samples say otherwise"


def test_what_was_asked_for_and_not_done(tmp_path):
    config = LatencyConfig(
        protocols=(Protocol.STREAM,),
        runtimes=(Runtime.OPENVINO,),
        batches=100,
        processes=6,
        min_secs=60.0,
    )
    write_row(tmp_path, make_cell(), config=config)
    (row,) = check_workdir(tmp_path)["rows"]
    first, second, *rest = row["problems"]
    assert first == "300 of 1000 samples"
    assert second.startswith("12.0 of 60 s") or second.startswith("11.9 of 60 s")
    assert rest == [
        "5 of 6 processes",
        "protocol: compiled was not asked for",
        "runtime: tf was not asked for",
    ]


def test_the_rows_measured_last_count_and_nameless_ones_stay(tmp_path, good_row):
    bad = change(good_row, (*RUN, "seed"), lambda value: None)
    other = change(good_row, ("backbone",), lambda value: "tiny")
    assert [row["ok"] for row in check_rows([bad, good_row])] == [True]
    assert [row["ok"] for row in check_rows([good_row, bad])] == [False]
    assert [row["ok"] for row in check_rows([good_row, other])] == [True, False]
    nameless = [leave_out(good_row, ("backbone",)), 7, {"stage": ["latency"]}]
    checked = check_rows([*nameless, {"stage": "train", "backbone": "x"}, good_row])
    assert [row["ok"] for row in checked] == [False, False, False, True]


def test_the_command_and_its_exit_codes(tmp_path, capsys):
    write_row(tmp_path, make_cell())
    assert cli.main(["check", f"--workdir={tmp_path}"]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert printed.endswith("1 of 1 rows can be published\n")
    code = {**COMMIT, "changed": True}
    write_row(tmp_path, make_cell("xception"), code=code)
    assert cli.main(["check", f"--workdir={tmp_path}"]) == ExitCode.DATA
    printed = capsys.readouterr().out
    assert "xception, imagenet, compiled, tf, batch 32:\n  code: files were" in printed
    assert printed.endswith("1 of 2 rows can be published\n")
    assert cli.main(["check", f"--workdir={tmp_path}", "--json"]) == ExitCode.DATA
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], [row["ok"] for row in result["rows"]]) == (
        False,
        [True, False],
    )
    assert result["rows"][1]["problems"] == [
        "code: files were changed since the commit"
    ]


def checked_row(backbone, *problems):
    row = {"backbone": backbone, "model": IMAGENET, "protocol": "compiled"}
    row |= {"runtime": "tf", "batch_size": 32, "precision": "float32", "p50_ms": 1.0}
    return {
        **row,
        "xla": False,
        "tf32": False,
        "ok": not problems,
        "problems": problems,
    }


def lacking_lines(*rows):
    """What stands between the table and the count."""
    text = render_check({"rows": rows, "ok": False, "unfinished": 0})
    return text.splitlines()[1 + len(rows) : -1]


def test_a_reason_is_told_once_with_the_rows_that_it_holds_for():
    code = "code: files were changed since the commit"
    name = "{}, imagenet, compiled, tf, batch 32".format
    rows = [
        checked_row("vgg16", code, "INVALID: 3 samples, fewer than 10"),
        checked_row(
            "xception", code, "INVALID: 4 samples, fewer than 10", "seed: \x1b"
        ),
        checked_row("resnet50", code),
    ]
    some = [
        name("vgg16"),
        name("xception") + ":",
        "  INVALID: 3 samples, fewer than 10 (the others alike)",
        name("xception") + ":",
        "  seed: \\x1b",
    ]
    assert lacking_lines(*rows) == ["all 3 rows:", f"  {code}", *some]
    good = checked_row("inceptionv3")
    named = [name("vgg16"), name("xception"), name("resnet50") + ":"]
    assert lacking_lines(*rows, good) == [*named, f"  {code}", *some]
    assert lacking_lines(good) == []


def test_reasons_of_other_names_are_others():
    rows = [
        checked_row("vgg16", "p50_ms: is 1.5, its samples give 2"),
        checked_row("vgg16", "p90_ms: is 1.5, its samples give 2"),
    ]
    assert [line.split(":")[0] for line in lacking_lines(*rows)[1::2]] == [
        "  p50_ms",
        "  p90_ms",
    ]


def test_of_many_rows_some_are_named():
    rows = [checked_row(f"b{number}", "seed: missing") for number in range(9)]
    lines = lacking_lines(*rows, checked_row("good"))
    assert lines[5].startswith("b5, ")
    assert lines[6:] == ["and 3 more (--json names all):", "  seed: missing"]


def test_no_timed_row_is_no_good_one(tmp_path):
    for _ in range(2):
        with pytest.raises(TlperfError, match="no timed row") as caught:
            check_workdir(tmp_path)
        assert caught.value.code is ExitCode.NO_INPUT
        assert caught.value.remedy.startswith("run tlperf latency first")
        append_result(tmp_path, stage="train", backbone="vgg16", result={}, settings={})


def test_processes_of_rows_that_are_not_written_are_named(tmp_path):
    """As a `latency` that was stopped in its first round leaves them."""
    for number in range(2):
        files.write_json(tmp_path / TRIALS_FOLDER / f"{number}-0.json", {})
    with pytest.raises(TlperfError) as caught:
        check_workdir(tmp_path)
    assert caught.value.remedy == (
        "2 processes of rows that are not finished: on the same code and machine "
        "tlperf latency --resume with the same flags goes on with them"
    )
    write_row(tmp_path, make_cell())
    assert check_workdir(tmp_path)["unfinished"] == 2


def test_a_settings_digest_is_of_the_settings(good_row):
    assert good_row["settings_digest"] == settings_digest(good_row["settings"])
