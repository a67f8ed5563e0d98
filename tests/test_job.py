"""Whole ways through child processes, as a user runs them."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tlperf.core import files
from tlperf.core.choices import Protocol, Sweep
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import LatencyConfig, RunConfig, TrainConfig
from tlperf.job import plan, sweep
from tlperf.job.plan import measure_matmul_gflops, plan_job, plan_latency
from tlperf.job.run import stage_job
from tlperf.reporting.plan_terminal import render_job_plan, render_latency_plan


def tlperf(*arguments):
    """Runs the command line in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "tlperf", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = (
    *("--preset=quick", "--image_size=32", "--limit=40", "--epochs=1"),
    *("--latency_secs=0.2", "--batch_size=8"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of one backbone, and its JSON."""
    workdir = tmp_path_factory.mktemp("run")
    done = tlperf(
        "run", *SMALL, "--backbones=resnet50", f"--workdir={workdir}", "--json"
    )
    assert done.returncode == 0, done.stderr
    return workdir, json.loads(done.stdout.splitlines()[-1]), done


def test_run_prints_one_json_object_and_nothing_else(finished):
    _, result, done = finished
    assert len(done.stdout.splitlines()) == 1
    assert set(result) >= {"data", "runs", "report", "seconds"}
    assert [run["backbone"] for run in result["runs"]] == ["resnet50"]
    for run in result["runs"]:
        assert run["evaluate"]["images"] == 8
        timed = {row["model"]: row["weights_sha256"] for row in run["latency"]}
        weights = run["evaluate"]["weights_sha256"]
        assert timed == {"imagenet": None, "finetuned": weights}
        assert len(weights) == 64


def test_stderr_holds_progress_and_no_library_noise(finished):
    *_, done = finished
    noise = [
        line
        for line in done.stderr.splitlines()
        if "0000" in line[:10] or "WARNING" in line or "Traceback" in line
    ]
    assert noise == []
    assert "resnet50: epoch 1/1" in done.stderr


def test_the_workdir_holds_the_contracts_files(finished):
    workdir, result, _ = finished
    for name in (
        *("config.json", "flags.txt", "results.jsonl", "data/COMPLETE"),
        "examples/examples.json",
    ):
        assert (workdir / name).is_file(), name
    for backbone in ("resnet50",):
        for name in (
            *("history.jsonl", "weights.h5", "evaluation.json", "predictions.csv"),
            *("latency.json", "architecture.json"),
        ):
            assert (workdir / backbone / name).is_file(), name
    page = pathlib.Path(result["report"]).read_text()
    assert "smoke" in page.lower()
    mistakes = [*(workdir / "resnet50" / "mistakes").glob("*.jpg")]
    examples = [*(workdir / "examples").glob("*.jpg")]
    assert page.count('src="data:image/jpeg;base64,') == len(mistakes + examples)
    assert "ResNet50, from the image down: " in page
    rows = files.read_json_lines(workdir / "results.jsonl")
    stages = [(row["stage"], row["backbone"]) for row in rows]
    assert stages == [
        ("shard", None),
        *((stage, "resnet50") for stage in ("train", "evaluate", "latency")),
    ]
    for row in rows:
        assert row["machine"]["versions"]["tensorflow"].startswith("2.21")
        assert row["settings"]["preset"] == "quick"


def test_single_stages_go_on_in_the_workdir(finished):
    workdir, result, _ = finished
    done = tlperf("evaluate", f"--workdir={workdir}", "--json")
    assert done.returncode == 0, done.stderr
    (again,) = json.loads(done.stdout)["runs"]
    first = result["runs"][0]["evaluate"]
    for key in ("accuracy", "confusion", "images"):
        assert again[key] == first[key]


def test_a_backbone_that_fails_does_not_end_the_others(photos_dir, tmp_path, capfd):
    """The layer is one of VGG16's; what it gave is told before the failure."""
    config = RunConfig.from_dict(
        {
            **RunConfig(
                workdir=str(tmp_path),
                data_dir=str(photos_dir),
                backbones="xception,vgg16",
                training=TrainConfig(epochs=1),
            ).to_dict(),
            "input": {"image_size": 71, "batch_size": 8},
            "model": {"weights": "none", "freeze": "block5_conv1"},
        }
    )
    with pytest.raises(TlperfError, match=r"xception \(exit 64\); finished: vgg16"):
        stage_job(config, "train")
    *_, head, line = capfd.readouterr().err.splitlines()
    assert head.split()[:2] == ["backbone", "epochs"]
    assert line.split()[:2] == ["vgg16", "1"]


@pytest.mark.parametrize(
    "command",
    [("latency", "--protocol=train_step", "--image_size=32"), ("run", *SMALL)],
    ids=lambda command: command[0],
)
def test_one_mistake_is_told_in_one_line(tmp_path, command):
    """Of one backbone; the process that found it has told it."""
    wrong = ("--backbones=vgg16", "--freeze=block9", "--devices=cpu")
    done = tlperf(*command, *wrong, f"--workdir={tmp_path}")
    assert done.returncode == ExitCode.USAGE
    (line,) = [line for line in done.stderr.splitlines() if ": E" in line]
    assert line.startswith(f"tlperf {command[0]}: E64 ")
    assert "block9" in line


@pytest.mark.parametrize(
    ("code", "has_told", "expected"),
    [
        (ExitCode.RETRY, True, ExitCode.RETRY),
        (ExitCode.IO, True, ExitCode.IO),
        (ExitCode.INTERNAL, False, ExitCode.RETRY),  # it was killed
        (ExitCode.OK, False, ExitCode.RETRY),
    ],
)
def test_a_stop_ends_with_what_the_child_said_of_it(
    tmp_path, monkeypatch, code, has_told, expected
):
    """75 tells that all is saved: not where the child says that it could not save."""

    class Child:
        def __init__(self):
            self.has_told = False

        def run(self, module, arguments, *, title, stop):
            assert module == "tlperf.job.child"
            signal.raise_signal(signal.SIGTERM)
            self.has_told = has_told
            return int(code)

        def stop(self):
            """It ends by itself."""

    monkeypatch.setattr(sweep, "Child", Child)
    with pytest.raises(TlperfError, match="stopped") as caught:
        sweep.run_sweep(
            RunConfig(workdir=str(tmp_path)), stages=("train",), command="train"
        )
    assert (caught.value.code, caught.value.is_told) == (expected, has_told)


def test_a_run_that_is_stopped_goes_on(photos_dir, tmp_path):
    """Stopped by a signal to the parent alone; what is done is not done again."""
    command = [
        *(sys.executable, "-m", "tlperf", "train", "--backbones=resnet50,vgg16"),
        *("--weights=none", "--image_size=32", "--batch_size=8", "--epochs=300"),
        *(f"--data_dir={photos_dir}", f"--workdir={tmp_path}"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        history = tmp_path / "resnet50" / "history.jsonl"
        deadline = time.monotonic() + 120
        while not history.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        _, text = process.communicate(timeout=60)
    assert process.returncode == ExitCode.RETRY, text
    (line,) = [line for line in text.splitlines() if ": E" in line]
    assert line.startswith("tlperf train: E75 stopped: ")
    assert "all is saved; run again with --resume" in line
    done = len(files.read_json_lines(history))
    again = tlperf(*command[3:-3], f"--epochs={done + 1}", *command[-2:], "--resume")
    assert again.returncode == 0, again.stderr
    assert f"resnet50: goes on in epoch {done + 1}" in again.stderr
    assert f"vgg16: epoch {done + 1}/{done + 1}" in again.stderr
    third = tlperf(*command[3:-3], f"--epochs={done + 1}", *command[-2:], "--resume")
    assert third.returncode == 0
    assert third.stderr.count("all is there already") == 2


def test_a_plan_counts_steps_and_bounds_the_time_and_writes_nothing(tmp_path):
    config = RunConfig(workdir=str(tmp_path / "w"), backbones="xception")
    planned = plan_job(config)
    (run,) = planned["runs"]
    # 240 training, 80 validation and 80 test photos in batches of 32.
    assert (run["train_steps"], run["dropped_images"]) == (7, 16)
    assert (run["validation_steps"], run["test_steps"]) == (3, 3)
    # 7 steps of 32 images: 8.357 forward and twice 0.477 backward; 3 of validation.
    gflop = 2 * 10 * (7 * 32 * (8.357 + 2 * 0.477) + 3 * 32 * 8.357)
    assert run["train_gflop"] == pytest.approx(gflop)
    rate = planned["cpu_matmul_gflops_per_sec"]
    assert run["train_secs_at_cpu_matmul_rate"] == pytest.approx(gflop / rate)
    # Predict and compiled, and compiled once more when fine-tuned; a run times each for
    # a minute at most.
    assert run["latency_rows"] == 3
    secs = 3 * min(60, 300 * 32 * 2 * 8.357 / rate)
    assert run["latency_secs_at_cpu_matmul_rate"] == pytest.approx(secs)
    text = render_job_plan(planned)
    assert "\nreasons: none\n" in text
    (line,) = [one for one in text.splitlines() if one.startswith("xception")]
    assert line.split()[:7] == ["xception", "299", "10", "7", "3", "3", "16"]
    assert f"at this CPU's matrix-product rate, {rate:.0f} GFLOP/s: a measure" in text
    assert text.count("timed rows") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("latency", "secs", "amount"),
    [
        ({}, 300 * 8 * 2 * 15.47 / 1000, "300 steps"),
        ({"min_secs": 100.0}, 100.0, "300 steps and 100 s of steps"),
        ({"latency_secs": 5.0}, 5.0, "300 steps, at most 5 s"),
    ],
)
def test_a_plan_of_latency_names_its_rows(tmp_path, monkeypatch, latency, secs, amount):
    monkeypatch.setattr(plan, "measure_matmul_gflops", lambda: 1000.0)
    config = RunConfig(
        workdir=str(tmp_path / "w"),
        backbones="vgg16",
        latency=LatencyConfig(
            protocols=(Protocol.COMPILED,), batch_size=8, **{"min_secs": 0.0, **latency}
        ),
    )
    found = plan_latency(config)
    (row,) = found["rows"]
    assert (row["backbone"], row["kind"], row["batch_size"]) == ("vgg16", "imagenet", 8)
    assert found["timed_secs_at_cpu_matmul_rate"] == pytest.approx(secs, rel=1e-3)
    lines = render_latency_plan(found).splitlines()
    assert f"1 row, each of 5 processes, {amount}" in lines
    assert not (tmp_path / "w").exists()


def test_a_plan_of_training_has_no_timed_rows(tmp_path):
    planned = plan_job(RunConfig(workdir=str(tmp_path)), is_timed=False)
    assert not [name for run in planned["runs"] for name in run if "latency" in name]
    assert "timed rows" not in render_job_plan(planned)


def test_a_plan_of_latency_counts_all_its_steps_and_tells_swept_rows_apart(tmp_path):
    config = RunConfig(
        workdir=str(tmp_path),
        backbones="vgg16",
        latency=LatencyConfig(
            protocols=(Protocol.COMPILED,),
            sweep=(Sweep.XLA, Sweep.TF32),
            processes=4,  # 3 repetitions of 30 steps each, for 2.5
            min_secs=0,
        ),
    )
    found = plan_latency(config)
    assert found["samples"] == 360
    secs = 4 * 360 * 32 * 2 * 15.47 / found["cpu_matmul_gflops_per_sec"]
    assert found["timed_secs_at_cpu_matmul_rate"] == pytest.approx(secs, rel=1e-3)
    head, *rows = [line.split() for line in render_latency_plan(found).splitlines()[:5]]
    assert head[-2:] == ["XLA", "TF32"]
    assert sorted(row[-2:] for row in rows) == [
        [xla, tf32] for xla in ("off", "on") for tf32 in ("no", "yes")
    ]


def test_steps_of_unknown_arithmetic_have_no_time(tmp_path):
    config = RunConfig(workdir=str(tmp_path), backbones="keras:VGG19")
    assert plan_latency(config)["timed_secs_at_cpu_matmul_rate"] is None


def test_the_matrix_rate_is_a_real_measurement():
    assert 0.1 < measure_matmul_gflops(side=256, repeats=3) < 1e5


@pytest.mark.slow
def test_the_embedded_default_runs_all_six_backbones(tmp_path):
    done = tlperf("run", "--preset=quick", f"--workdir={tmp_path}", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["runs"]) == 6
    for run in result["runs"]:
        for stage in ("train", "evaluate"):
            assert run[stage]["process_peak_memory_bytes"] < 4 << 30
