"""`tlperf latency`: fresh processes, batches that do not fit, and going on."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.timings import make_trial
from tlperf.core import files, machine
from tlperf.core.choices import Precision, Protocol, Runtime, Sweep, Xla
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import read_results
from tlperf.core.settings import DeviceConfig, InputConfig, LatencyConfig, RunConfig
from tlperf.job import timing, trial
from tlperf.job.trial import REPLICAS_NAME
from tlperf.latency.cells import FINETUNED, Cell
from tlperf.reporting.check import check_workdir
from tlperf.reporting.latency_terminal import render_check

SMALL = (
    *("--backbones=keras:MobileNet", "--protocol=stream", "--processes=2"),
    *("--latency_secs=0.2", "--min_secs=0", "--devices=cpu"),
)


def start(workdir, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "tlperf", "latency", f"--workdir={workdir}", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_process_is_a_fresh_one_and_a_stop_loses_no_finished_one(tmp_path):
    first = start(tmp_path, *SMALL, "--json")
    assert first.stderr is not None
    told = first.stderr.readline()
    while "process 1 of 2" not in told:
        assert told, "ended early"
        told = first.stderr.readline()
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate()
    assert first.returncode == ExitCode.RETRY, err
    assert "run again with --resume" in err
    assert read_results(tmp_path) == []

    again = start(tmp_path, *SMALL, "--json", "--resume")
    out, err = again.communicate()
    assert again.returncode == 0, err
    (row,) = json.loads(out)["runs"]
    assert [trial["process"] for trial in row["trials"]] == [0, 1]
    assert (row["protocol"], row["batch_size"]) == ("stream", 1)
    assert not row["valid"]
    assert all(pathlib.Path(path).exists() for path in json.loads(out)["plots"])
    (stored,) = read_results(tmp_path)
    assert (stored["stage"], stored["result"]["runs"]) == ("latency", [row])
    assert files.read_json(tmp_path / row["backbone"] / "latency.json") == {
        "runs": [row]
    }
    assert not [*(tmp_path / "trials").glob("*.json")]


class Children:
    """Stands for the processes: of batches up to `fits` a trial is written."""

    def __init__(self, fits=10**9, code=0, fails=None, replicas=1):
        self.fits, self.code, self.cells = fits, code, []
        self.replicas = replicas
        self.fails = fails or (lambda cell, process: 0)
        self.has_told = False

    def __call__(self):
        return self

    def run(self, module, arguments, *, title, stop):
        assert module == "tlperf.job.trial"
        _, cell_path, out, process = arguments
        cell = Cell.from_dict(files.read_json(pathlib.Path(cell_path)))
        self.cells.append(cell)
        if self.replicas:
            told = pathlib.Path(out).with_name(REPLICAS_NAME)
            files.write_json(told, self.replicas)
        if code := self.code or self.fails(cell, int(process)):
            self.has_told = True
            return code
        if cell.batch_size > self.fits:
            return int(ExitCode.MEMORY)
        trial = make_trial(process=int(process))
        files.write_json(pathlib.Path(out), trial)
        return 0

    def stop(self):
        raise AssertionError("nobody asked")


def config_of(workdir, **latency):
    return RunConfig(
        workdir=str(workdir),
        backbones="vgg16,xception",
        latency=dataclasses.replace(LatencyConfig(), **latency),
    )


def time_with(monkeypatch, children, config):
    monkeypatch.setattr(timing, "Child", children)
    return timing.time_backbones(config)


def test_one_cell_that_fails_and_says_why_is_not_told_again(tmp_path, monkeypatch):
    config = config_of(tmp_path, protocols=(Protocol.COMPILED,))
    for backbones, is_told in (("vgg16", True), ("vgg16,xception", False)):
        config = dataclasses.replace(config, backbones=backbones)
        outcome = time_with(monkeypatch, Children(code=78), config)
        with pytest.raises(TlperfError, match="cell_failed") as caught:
            outcome.raise_failure()
        assert caught.value.is_told is is_told
        assert caught.value.code == ExitCode.CONFIG


def test_how_long_it_may_take_is_told(tmp_path, monkeypatch, capsys):
    config = config_of(tmp_path, processes=5)
    time_with(monkeypatch, Children(), config)
    before, after = [
        line for line in capsys.readouterr().err.splitlines() if "latency: " in line
    ]
    assert before == "latency: 4 rows, each of 5 processes, 300 steps and 10 s of steps"
    assert after.startswith("latency: the first process of every row took ")
    assert ", the other 4 may take " in after


def test_of_trials_that_are_there_no_time_is_told(tmp_path, monkeypatch, capsys):
    """What the first process of every row took is not known."""

    def fails(cell, process):
        return 70 if process == 4 else 0

    config = config_of(tmp_path, protocols=(Protocol.COMPILED,))
    time_with(monkeypatch, Children(fails=fails), config)
    capsys.readouterr()
    time_with(monkeypatch, Children(), resumed(config))
    assert "may take" not in capsys.readouterr().err


def test_processes_go_round_by_round(tmp_path, monkeypatch):
    children = Children()
    config = config_of(tmp_path, processes=5)
    outcome = time_with(monkeypatch, children, config)
    one_round = [("vgg16", "keras_predict"), ("vgg16", "compiled")]
    one_round += [("xception", "keras_predict"), ("xception", "compiled")]
    found = [(cell.backbone, cell.protocol) for cell in children.cells]
    assert found == one_round * 5
    rows = outcome.rows["vgg16"]
    assert [row["processes"] for row in rows] == [5, 5]
    assert all(row["valid"] for row in rows)
    assert [row["backbone"] for row in read_results(tmp_path)] == ["vgg16", "xception"]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path, monkeypatch):
    children = Children(fits=8)
    config = config_of(tmp_path, batch_size=32)
    outcome = time_with(monkeypatch, children, config)
    assert {row["batch_size"] for rows in outcome.rows.values() for row in rows} == {8}
    (row, *_) = outcome.rows["vgg16"]
    assert "a batch of 32 does not fit the memory" in row["warnings"]
    assert "a batch of 16 does not fit the memory" in row["warnings"]
    tried = [c.batch_size for c in children.cells if c.backbone == "vgg16"][:3]
    assert tried == [32, 16, 8]
    outcome.raise_failure()


@pytest.mark.parametrize(
    ("batch_size", "replicas", "tried"),
    [
        (32, 2, [32, 16, 8, 4, 2]),
        (24, 4, [24, 12, 4]),  # of 6 and 2 four replicas cannot have as many each
        (9, 3, [9, 3]),
        (7, 1, [7, 3, 1]),
        (32, None, [32]),  # it ended before it had its devices
    ],
)
def test_half_of_a_batch_is_one_that_replicas_can_share(
    tmp_path, monkeypatch, batch_size, replicas, tried
):
    children = Children(fits=0, replicas=replicas)
    config = config_of(
        tmp_path, protocols=(Protocol.TRAIN_STEP,), batch_size=batch_size
    )
    outcome = time_with(monkeypatch, children, config)
    found = [one.batch_size for one in children.cells if one.backbone == "vgg16"]
    assert found == tried
    assert set(outcome.failures.values()) == {ExitCode.MEMORY}


def test_a_process_tells_its_replicas_before_it_measures(two_cpus, tmp_path, capsys):
    """One that measures nothing: its two replicas cannot share three images."""
    device = DeviceConfig(devices="cpu", logical_devices=2)
    inputs = InputConfig(image_size=32)
    config = dataclasses.replace(config_of(tmp_path), device=device, input=inputs)
    cell = Cell(
        *("keras:mobilenet", FINETUNED, Protocol.TRAIN_STEP, Runtime.TF, 3),
        *(Precision.FLOAT32, Xla.OFF, True),
    )
    files.write_json(tmp_path / "settings", config.to_dict())
    files.write_json(tmp_path / "cell", dataclasses.asdict(cell))
    names = [str(tmp_path / name) for name in ("settings", "cell", "trial.json")]
    assert trial.main([*names, "0"]) == ExitCode.CONFIG
    assert "--latency_batch_size=3 cannot be split over 2" in capsys.readouterr().err
    assert files.read_json(tmp_path / REPLICAS_NAME) == 2
    assert not (tmp_path / "trial.json").exists()


def test_not_even_one_image_fits(tmp_path, monkeypatch):
    outcome = time_with(monkeypatch, Children(fits=0), config_of(tmp_path))
    assert outcome.rows == {}
    with pytest.raises(TlperfError, match="cell_failed") as caught:
        outcome.raise_failure()
    assert caught.value.code == ExitCode.MEMORY


def test_a_sweep_over_batches_ends_with_the_largest_that_fits(tmp_path, monkeypatch):
    children = Children(fits=16)
    config = config_of(tmp_path, sweep=("batch_size",), processes=2)
    config = RunConfig.from_dict(config.to_dict())
    outcome = time_with(monkeypatch, children, config)
    sizes = [
        row["batch_size"]
        for row in outcome.rows["vgg16"]
        if row["protocol"] == "compiled"
    ]
    assert sizes == [1, 2, 4, 8, 16]
    assert max(cell.batch_size for cell in children.cells) == 32  # 64 was not tried
    outcome.raise_failure()  # it found what it looked for


def test_a_sweep_in_which_nothing_fits_is_a_failure(tmp_path, monkeypatch):
    """Another job has the memory."""
    config = config_of(tmp_path, sweep=(Sweep.BATCH_SIZE,), processes=2)
    outcome = time_with(monkeypatch, Children(fits=0), config)
    assert outcome.rows == {}
    assert set(outcome.failures.values()) == {ExitCode.MEMORY}
    with pytest.raises(TlperfError, match=r"batch 1, auto \(exit 71\)"):
        outcome.raise_failure()


def test_memory_that_ends_late_in_a_sweep_is_a_failure(tmp_path, monkeypatch):
    """One batch fitted before: the others' rows are there, its own trials are kept."""

    def fails(cell, process):
        is_one = (cell.backbone, cell.protocol, cell.batch_size) == (
            *("vgg16", "compiled", 4),
        )
        return ExitCode.MEMORY if is_one and process == 1 else 0

    config = config_of(tmp_path, sweep=(Sweep.BATCH_SIZE,), processes=2)
    outcome = time_with(monkeypatch, Children(fits=8, fails=fails), config)
    sizes = [
        row["batch_size"]
        for row in outcome.rows["vgg16"]
        if row["protocol"] == "compiled"
    ]
    assert sizes == [1, 2, 8]
    assert list(outcome.failures.values()) == [ExitCode.MEMORY]
    assert len([*(tmp_path / "trials").glob("*.json")]) == 1
    checked = check_workdir(tmp_path)
    assert checked["unfinished"] == 1
    assert "1 process of rows that are not finished: on the same" in render_check(
        checked
    )


def resumed(config):
    training = dataclasses.replace(config.training, resume=True)
    return dataclasses.replace(config, training=training)


def test_what_failed_is_all_that_is_measured_again(tmp_path, monkeypatch):
    def fails(cell, process):
        return 70 if (cell.backbone, process) == ("xception", 4) else 0

    config = config_of(tmp_path, protocols=(Protocol.COMPILED,))
    first = time_with(monkeypatch, Children(fails=fails), config)
    assert list(first.rows) == ["vgg16"]
    again = Children()
    outcome = time_with(monkeypatch, again, resumed(config))
    # VGG16's row is written: it is anew; of Xception one process was missing.
    assert [cell.backbone for cell in again.cells].count("xception") == 1
    assert [row["processes"] for row in outcome.rows["xception"]] == [5]
    assert not [*(tmp_path / "trials").glob("*.json")]


def test_trials_of_another_machine_are_measured_again(tmp_path, monkeypatch):
    def fails(cell, process):
        return 70 if process == 4 else 0

    config = config_of(tmp_path, protocols=(Protocol.COMPILED,))
    time_with(monkeypatch, Children(fails=fails), config)
    facts = {"gpus": ["Tesla V100"], "gpu_driver": "Example driver 1.0"}
    monkeypatch.setattr(machine, "gpu_facts", lambda: facts)
    again = Children()
    time_with(monkeypatch, again, resumed(config))
    assert len(again.cells) == 10  # both backbones, all five processes
    assert not check_workdir(tmp_path)["unfinished"]  # nor are the others kept


def test_trials_of_other_flags_stay(tmp_path, monkeypatch):
    one = config_of(tmp_path, protocols=(Protocol.COMPILED,))
    fails = Children(fails=lambda cell, process: 70 if process == 4 else 0)
    time_with(monkeypatch, fails, one)
    other = config_of(tmp_path, protocols=(Protocol.STREAM,))
    time_with(monkeypatch, Children(), resumed(other))
    assert check_workdir(tmp_path)["unfinished"] == 8
    again = Children()
    time_with(monkeypatch, again, resumed(one))
    assert len(again.cells) == 2


@pytest.mark.parametrize("code", [ExitCode.IO, ExitCode.RETRY])
def test_a_process_that_fails_as_it_is_stopped_says_with_which_code(
    tmp_path, monkeypatch, code
):
    class Asked(Children):
        def stop(self):
            """It ends with its code by itself."""

    def fails(cell, process):
        signal.raise_signal(signal.SIGTERM)
        return code

    with pytest.raises(TlperfError, match="stopped") as caught:
        time_with(monkeypatch, Asked(fails=fails), config_of(tmp_path))
    assert (caught.value.code, caught.value.is_told) == (code, True)


def test_a_cell_that_fails_ends_no_other(tmp_path, monkeypatch):
    outcome = time_with(monkeypatch, Children(code=70), config_of(tmp_path))
    assert len(outcome.failures) == 4
    with pytest.raises(TlperfError, match=r"vgg16, imagenet, keras_predict.*exit 70"):
        outcome.raise_failure()


def test_two_timings_in_one_workdir_would_time_each_other(tmp_path):
    from tlperf.core.locks import directory_lock

    with directory_lock(tmp_path / "trials"), pytest.raises(TlperfError) as caught:
        timing.time_backbones(config_of(tmp_path))
    assert caught.value.code == ExitCode.RETRY


def test_a_time_is_soon_known(tmp_path):
    """A first look does not wait for TensorFlow where a flag is wrong."""
    begin = time.perf_counter()
    process = start(tmp_path, "--runtime=tensorrt")
    _, err = process.communicate()
    assert process.returncode == ExitCode.USAGE
    assert "'tensorrt' is no Runtime; use tf, onnxruntime, openvino" in err
    assert time.perf_counter() - begin < 2
