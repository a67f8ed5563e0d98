"""tools/gpu_matrix.py: which cells there are, their commands, what is kept and told."""

import dataclasses
import fcntl
import json
import os
import signal
import sys
import time

import pytest

from tests.promises import run
from tests.test_reporting_gpu_matrix import CELL, TIMED, measured
from tlperf import cli
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import gpu_facts
from tlperf.core.settings import DeviceConfig
from tlperf.core.stopping import Stop
from tlperf.reporting.gpu_matrix import render_matrix
from tools.gpu_cells import (
    INPUTS,
    Cell,
    Choices,
    Settings,
    cell_command,
    plan_cells,
    plan_counts,
    plan_places,
)
from tools.gpu_child import Child, Done, find_reason
from tools.gpu_data import write_photos
from tools.gpu_file import Matrix
from tools.gpu_matrix import find_missing, main, raise_failure

SETTINGS = Settings("", 16, "none", 1, 32, 4, "cpu")
NO_TF32 = Choices(tf32=[""])


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import atexit, sys; from tools.gpu_matrix import main\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'PIL'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules), file=sys.stderr))\n"
        "main(['--help'])"
    )
    runs = []
    for _ in range(3):
        start = time.perf_counter()
        done = run([sys.executable, "-c", code])
        runs.append(time.perf_counter() - start)
        assert (done.returncode, done.stderr.strip()) == (0, "set()")
        assert "--parts" in done.stdout
    assert min(runs) < 1.0


@pytest.mark.parametrize(
    ("there", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])],
)
def test_numbers_of_devices(there, counts):
    assert plan_counts(there) == counts


@pytest.mark.parametrize(
    ("there", "xlas", "places"),
    [
        (2, ["on"], [("on", 1, "one")]),  # several replicas cannot have it
        (1, ["off"], [("off", 1, "one")]),  # nothing to compare a strategy with
        (
            2,
            ["off"],
            [("off", 1, "one"), ("off", 1, "mirrored"), ("off", 2, "mirrored")],
        ),
    ],
)
def test_places(there, xlas, places):
    assert plan_places(there, xlas) == places
    assert len(plan_places(4, ["on", "off"])) == 5


def test_cells_of_all_parts_on_two_devices():
    """Four ways of precision with and without XLA on one device, and on both."""
    cells = plan_cells(["vgg16", "xception"], Choices(), there=2, settings=SETTINGS)
    assert len(set(cells)) == len(cells)
    parts = [cell.part for cell in cells]
    assert parts.count("input") == 2 * 2
    assert parts.count("latency") == 2 * (4 * 2 + 4)
    assert parts.count("training") == 2 * (2 * 3 * (2 + 2))
    assert parts == sorted(parts)
    texts = [cell.text for cell in cells if cell.part == "latency"]
    assert texts[:6] == [
        "latency of vgg16, float32, TF32, XLA, 1 x one",
        "latency of vgg16, float32, TF32, no XLA, 1 x one",
        "latency of vgg16, float32, TF32, no XLA, 2 x mirrored",
        "latency of vgg16, float32, no TF32, XLA, 1 x one",
        "latency of vgg16, float32, no TF32, no XLA, 1 x one",
        "latency of vgg16, float32, no TF32, no XLA, 2 x mirrored",
    ]


def test_cells_on_one_device_are_there_once():
    cells = plan_cells(["vgg16"], NO_TF32, there=1, settings=SETTINGS)
    assert {(cell.devices, cell.strategy) for cell in cells} == {(1, "one")}
    parts = [cell.part for cell in cells]
    counts = [parts.count(part) for part in ("input", "latency", "training")]
    assert counts == [1, 3 * 2, 2 * 3 * 2]


@pytest.mark.parametrize(
    ("protocols", "xlas", "devices"),
    [
        (["compiled"], ["off"], {1}),
        (["train_step"], ["off"], {1, 2}),
        (["train_step"], ["on"], {1}),
    ],
)
def test_several_devices_are_timed_by_steps_of_training(protocols, xlas, devices):
    settings = dataclasses.replace(SETTINGS, protocols=protocols)
    choices = dataclasses.replace(NO_TF32, parts=["latency"], xla=xlas)
    cells = plan_cells(["vgg16"], choices, there=2, settings=settings)
    assert {cell.devices for cell in cells} == devices


def values_of(cell, settings, folder):
    """Of a cell's command, as the command line takes it."""
    command = cell_command(cell, settings, data_dir=folder, workdir=folder)
    assert command[:3] == [sys.executable, "-m", "tlperf"]
    return cli.parse_values(command[3], command[4:])


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("devices", ["gpu", "cpu"])
def test_a_training_is_a_command(tmp_path, devices, inputs):
    cell = dataclasses.replace(CELL, inputs=inputs, devices=2, strategy="mirrored")
    settings = dataclasses.replace(SETTINGS, devices=devices)
    values = values_of(cell, settings, tmp_path)
    assert values["batch_size"] == 2 * 4
    assert values["weights"] == "none"
    assert values["feature_cache"] == {"features": "on", "images": "off"}[inputs]
    given = (values["devices"], values["logical_devices"])
    assert given == {"gpu": ("gpu:0,1", 0), "cpu": ("cpu", 2)}[devices]
    DeviceConfig(devices=values["devices"])


ALL_PROTOCOLS = "compiled,transfer,stream,train_step"
ITS_OWN = {"latency_secs": None, "min_secs": 10.0}
LIMITED = {"latency_secs": 1.5, "min_secs": 0.0}
ONE = {"latency_batch_size": 4, "strategy": "one", "protocol": ALL_PROTOCOLS}
TWO = {"latency_batch_size": 8, "strategy": "mirrored", "protocol": "train_step"}


@pytest.mark.parametrize(
    ("changes", "limit", "wanted"),
    [
        ({"tf32": "off"}, 0.0, {**ONE, **ITS_OWN, "tf32": False, "processes": 5}),
        ({"xla": "on"}, 0.0, {**ONE, "tf32": True, "xla": "on"}),
        ({"tf32": "", "precision": "mixed_float16"}, 0.0, {**ONE, "tf32": True}),
        ({"devices": 2, "strategy": "mirrored"}, 1.5, {**TWO, **LIMITED}),
    ],
)
def test_a_timed_cell_is_a_command(tmp_path, changes, limit, wanted):
    settings = dataclasses.replace(SETTINGS, latency_secs=limit)
    cell = dataclasses.replace(TIMED, **changes)
    values = values_of(cell, settings, tmp_path)
    assert {name: values[name] for name in wanted} == wanted


def test_an_input_rate_is_a_command(tmp_path):
    values = values_of(Cell("input", "xception", 2, "mirrored"), SETTINGS, tmp_path)
    assert (values["batch_size"], values["secs"]) == (8, 3.0)


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        ("noise\ntlperf train: E71 out_of_memory: a; b\n"
         "tlperf train: E71 backbone_failed: vgg16 (exit 71)\n", "out_of_memory: a; b"),
        ("tlperf latency: E71 out_of_memory: a; b\n"
         "tlperf latency: E71 cell_failed: vgg16, compiled (exit 71); see\n",
         "out_of_memory: a; b"),
        ("vgg16, imagenet, compiled: killed by signal 9 (out of memory?)\n"
         "tlperf latency: E71 cell_failed: x\n", "killed by signal 9 (out of memory?)"),
        ("vgg16: killed by signal 11\n"
         "tlperf train: E70 backbone_failed: vgg16 (exit 70)\n", "killed by signal 11"),
        ("Fatal Python error\nSegmentation fault\n", "Segmentation fault"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_why_a_cell_failed(err, reason):
    assert find_reason(Done(1, "", err, 1.0, False), most_secs=5) == reason


def test_a_cell_that_takes_too_long_is_made_to_end(tmp_path):
    child = Child(tmp_path, most_secs=2, grace_secs=5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    done = child.run([sys.executable, "-c", deaf], stop=Stop())
    assert (done.is_late, done.exit_code) == (True, -2)  # the second signal
    assert find_reason(done, most_secs=2) == "took longer than 2.00 s"
    assert done.secs < 30


def test_what_a_cell_leaves_running_is_waited_for(tmp_path):
    """Its own child, which outlives it."""
    child = Child(tmp_path, most_secs=60, grace_secs=0.2)
    orphan = "import subprocess as s; print(s.Popen(['sleep', '60']).pid)"
    done = child.run([sys.executable, "-c", orphan], stop=Stop())
    assert done.exit_code == 0
    with pytest.raises(TlperfError, match="of an earlier cell has not") as caught:
        child.wait_until_alone()
    assert caught.value.code is ExitCode.RETRY
    os.kill(int(done.out), signal.SIGKILL)
    Child(tmp_path, most_secs=60, grace_secs=20).wait_until_alone()
    with (tmp_path / "stderr").open("ab") as stderr:
        fcntl.flock(stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and not kept


def test_photos_are_of_common_sizes_and_no_two_alike(tmp_path):
    write_photos(tmp_path, 20)
    paths = sorted(tmp_path.rglob("*.jpg"))
    assert len([path for path in paths if "train" in path.parts]) == 20
    assert len({path.read_bytes() for path in paths}) == len(paths) == 20 + 64 + 4
    assert min(path.stat().st_size for path in paths) > 5_000


HALF = dataclasses.replace(CELL, precision="mixed_float16")
FAILED = {
    "cell": dataclasses.asdict(HALF),
    "secs": 4.0,
    "exit_code": 71,
    "reason": "out_of_memory: 2 | 3 GiB",
}


def test_cells_that_are_there_are_not_run_again(tmp_path):
    matrix = Matrix(tmp_path, SETTINGS, {"gpus": []})
    matrix.add(measured(CELL, 100.0))
    matrix.add(FAILED)
    again = Matrix(tmp_path, SETTINGS, {"gpus": []})
    cells = [CELL, HALF, TIMED]
    assert find_missing(cells, again, retry=False) == [TIMED]
    assert find_missing(cells, again, retry=True) == [HALF, TIMED]
    assert (tmp_path / "gpu_matrix.md").read_text() == render_matrix(
        json.loads((tmp_path / "gpu_matrix.json").read_text())
    )
    # One that somebody's signal ended did not fail.
    again.add({**FAILED, "exit_code": 75})
    assert find_missing(cells, again, retry=False) == [HALF, TIMED]
    # A failure stays until its cell was run again.
    again.add(measured(HALF, 200.0))
    assert find_missing(cells, again, retry=True) == [TIMED]
    assert len(again.rows) == 2


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("settings", {"batch_size": 64}, "settings batch_size"),
        ("code", {"commit": "0" * 40}, "code commit"),
        ("machine", {"versions": {}}, "machine versions"),
        ("devices", {"gpus": [{}]}, "devices gpus"),
    ],
)
def test_cells_of_other_settings_code_or_devices_are_refused(
    tmp_path, key, value, told
):
    path = Matrix(tmp_path, SETTINGS, {"gpus": []}).write().with_suffix(".json")
    stored = json.loads(path.read_text())
    stored[key] |= value
    path.write_text(json.dumps(stored))
    with pytest.raises(TlperfError, match=f"another {told}; give another") as caught:
        Matrix(tmp_path, SETTINGS, {"gpus": []})
    assert caught.value.code is ExitCode.EXISTS


def test_a_failure_is_the_exit_code():
    raise_failure([measured(CELL, 100.0)])
    with pytest.raises(TlperfError) as caught:
        raise_failure([measured(CELL, 100.0), FAILED, {**FAILED, "exit_code": 70}])
    assert caught.value.code is ExitCode.MEMORY
    assert caught.value.found == (
        "2 of 3 cells, the first: training of vgg16, mixed_float16, on images, no XLA, "
        "1 x one: out_of_memory: 2 | 3 GiB"
    )


def test_without_a_gpu_it_says_so(tmp_path, capsys):
    if gpu_facts()["gpus"]:
        pytest.skip("this machine has a GPU")
    assert main([f"--out={tmp_path / 'out'}"]) == ExitCode.UNAVAILABLE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("tlperf gpu_matrix: E69 no_gpu: TensorFlow sees no GPU")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_told_before_anything_runs(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", "--devices=cpu", "--backbones=vgg16"]
    assert main([*arguments, f"--weights={tmp_path}"]) == ExitCode.NO_INPUT
    assert "E66 missing_weights" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--precision=float64", "no float64; there are float32, mixed_float16, mixed_"),
        ("--parts=all", "no all; there are input, latency, training"),
        ("--logical_devices=0", "0 is not above 0"),
        ("--cell_secs=nan", "nan is not above 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(capsys, argument, told):
    with pytest.raises(SystemExit):
        main([argument])
    assert told in capsys.readouterr().err


def test_a_backbone_that_is_not_there_is_refused(capsys):
    assert main(["--backbones=vgg17"]) == ExitCode.USAGE
    assert "no backbone is called 'vgg17'" in capsys.readouterr().err
