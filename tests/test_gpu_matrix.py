"""tools/gpu_matrix.py on logical CPU devices: what is measured, kept and told."""

import contextlib
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import time

import pytest

from tests.promises import ROOT, environment
from tlperf import cli
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DeviceConfig
from tlperf.core.stopping import Stop
from tools.gpu_cells import (
    INPUTS,
    Cell,
    Child,
    Done,
    Settings,
    find_reason,
    plan_counts,
    plan_places,
    train_command,
)
from tools.gpu_matrix import Matrix, main, write_photos
from tools.gpu_tables import render_matrix

SETTINGS = Settings("", 16, "none", 1, 32, 4, "cpu")
CELL = Cell("vgg16", "images", "float32", "off", 1, "one")


@pytest.mark.parametrize(
    ("there", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])],
)
def test_numbers_of_devices(there, counts):
    assert plan_counts(there) == counts


@pytest.mark.parametrize(
    ("xlas", "places"),
    [
        (["on"], [("on", 1, "one")]),  # several replicas cannot have it
        (["off"], [("off", 1, "one"), ("off", 1, "mirrored"), ("off", 2, "mirrored")]),
    ],
)
def test_places(xlas, places):
    assert plan_places([1, 2], xlas) == places
    assert len(plan_places([1, 2, 4], ["on", "off"])) == 5


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("devices", ["gpu", "cpu"])
def test_a_cell_is_a_training_that_the_command_line_takes(tmp_path, devices, inputs):
    cell = dataclasses.replace(CELL, inputs=inputs, devices=2, strategy="mirrored")
    settings = dataclasses.replace(SETTINGS, devices=devices)
    command = train_command(cell, settings, data_dir=tmp_path, workdir=tmp_path)
    assert command[1:5] == ["-m", "tlperf", "train", "--json"]
    values = cli.parse_values("train", command[4:])
    assert values["batch_size"] == 2 * 4
    assert values["feature_cache"] == {"features": "on", "images": "off"}[inputs]
    given = (values["devices"], values["logical_devices"])
    assert given == {"gpu": ("gpu:0,1", 0), "cpu": ("cpu", 2)}[devices]
    DeviceConfig(devices=values["devices"])


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        ("noise\ntlperf train: E71 out_of_memory: a; b\n"
         "tlperf train: E71 backbone_failed: vgg16 (exit 71)\n", "out_of_memory: a; b"),
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


def test_photos_are_of_common_sizes_and_no_two_alike(tmp_path):
    write_photos(tmp_path, 20)
    paths = sorted(tmp_path.rglob("*.jpg"))
    assert len([path for path in paths if "train" in path.parts]) == 20
    assert len({path.read_bytes() for path in paths}) == len(paths) == 20 + 64 + 4
    assert min(path.stat().st_size for path in paths) > 5_000


def measured(cell, rate, *, peaks=None):
    """A row as a cell on a GPU would give."""
    result = {
        "images_per_sec": rate,
        "steps_per_sec": rate / 32,
        "input_wait_fraction": 0.25,
        "epochs": [{"first_step_secs": 12.5}],
        "features": {"computed_images": 0, "secs": 0.0},
        "device_peak_memory_bytes": peaks,
        "process_peak_memory_bytes": 3 << 30,
    }
    row = {"cell": dataclasses.asdict(cell), "secs": 9.0, "exit_code": 0, "reason": ""}
    return {**row, "result": result}


def test_the_tables_of_two_gpus(tmp_path):
    two = dataclasses.replace(CELL, devices=2, strategy="mirrored")
    xla = dataclasses.replace(CELL, xla="on")
    half = dataclasses.replace(CELL, precision="mixed_float16")
    failed = {
        "cell": dataclasses.asdict(half),
        "secs": 4.0,
        "exit_code": 71,
        "reason": "out_of_memory: 2 | 3 GiB",
    }
    rows = [
        measured(CELL, 100.0, peaks=[1 << 30]),
        measured(xla, 150.0, peaks=[2 << 30]),
        measured(two, 180.0, peaks=[1 << 30, 5 << 29]),
        failed,
    ]
    gpu = {"device_name": "NVIDIA A100", "compute_capability": [8, 0]}
    found = {"gpus": [gpu, gpu], "cuda_version": "12.5.1", "driver": None}
    settings = dataclasses.replace(SETTINGS, devices="gpu")
    matrix = Matrix(tmp_path, settings, found)
    for row in rows:
        matrix.add(row)
    text = matrix.write().read_text()
    assert text == render_matrix(matrix._head, rows)
    for line in (
        "| vgg16 | float32 | off | 1 | one | 100.0 | 320.00 ms | 25.0 % | 12.50 s "
        "| n/a | 1.0 GiB | 3.0 GiB | done |",
        "| vgg16 | float32 | off | 2 | mirrored | 180.0 | 177.78 ms | 25.0 % | 12.50 s "
        "| n/a | 2.5 GiB | 3.0 GiB | done |",
        r"| exit 71: out_of_memory: 2 \| 3 GiB |",
        "| backbone | precision | 1 alone | 2 mirrored |",
        "| vgg16 | float32 | 100.0 (1.00) | 180.0 (0.90) |",
        "| vgg16 | mixed_float16 | not measured | not measured |",
        "| GPU 1 | NVIDIA A100, compute capability 8.0 |",
        "| cuda_version | 12.5.1 |",
    ):
        assert line in text, text
    assert "Logical CPU" not in text
    again = Matrix(tmp_path, settings, found)
    assert [again.has(cell) for cell in (CELL, half)] == [True, True]
    again.drop_failed()
    assert [again.has(cell) for cell in (CELL, half)] == [True, False]
    other = dataclasses.replace(settings, batch_size=64)
    with pytest.raises(TlperfError, match="give another --out") as caught:
        Matrix(tmp_path, other, found)
    assert caught.value.code is ExitCode.EXISTS


def test_without_a_gpu_it_says_so(tmp_path, capsys):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert main([f"--out={tmp_path / 'out'}"]) == ExitCode.UNAVAILABLE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("tlperf gpu_matrix: E69 no_gpu: TensorFlow sees no GPU")
    assert not (tmp_path / "out").exists()


def test_words_that_are_not_there_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--precision=float64"])
    told = capsys.readouterr().err
    assert "no float64; there are float32, mixed_float16, mixed_bfloat16" in told
    assert main(["--backbones=vgg17"]) == ExitCode.USAGE
    assert "no backbone is called 'vgg17'" in capsys.readouterr().err


def arguments(out):
    """Xception takes no 32 pixels: its cells fail."""
    return [
        *(f"--out={out}", "--devices=cpu", "--logical_devices=2", "--weights=none"),
        *("--backbones=xception,vgg16", "--precision=float32", "--xla=off"),
        *("--inputs=images", "--image_size=32", "--batch_size=4", "--images=16"),
        "--epochs=1",
    ]


def read_cells(out):
    path = out / "gpu_matrix.json"
    return json.loads(path.read_text())["cells"] if path.exists() else []


def test_no_device_is_none_to_measure(capsys):
    with pytest.raises(SystemExit):
        main(["--devices=cpu", "--logical_devices=0"])
    assert "--logical_devices is 1 or more" in capsys.readouterr().err


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A matrix that a signal ended in its fifth cell: its folder, exit code, stderr."""
    out = tmp_path_factory.mktemp("matrix")
    with subprocess.Popen(
        [sys.executable, "-m", "tools.gpu_matrix", *arguments(out)],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while len(read_cells(out)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        _, err = process.communicate(timeout=120)
    return out, process.returncode, err


@pytest.fixture(scope="module")
def finished(interrupted):
    """The same once more: its folder, stdout, and the cells before."""
    out, *_ = interrupted
    before, printed = read_cells(out), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(arguments(out)) == ExitCode.OK
    return out, printed.getvalue(), before


def test_a_signal_keeps_whole_cells(interrupted):
    out, code, err = interrupted
    assert code == ExitCode.RETRY, err
    assert len(read_cells(out)) == 4
    assert "E75 stopped" in err
    assert "SIGTERM in cell: vgg16 on images, float32, no XLA, 1 x mirrored" in err


def test_it_goes_on_with_the_cells_that_are_not_there(finished):
    out, printed, before = finished
    cells = read_cells(out)
    assert pathlib.Path(printed.strip()) == out / "gpu_matrix.md"
    assert cells[:4] == before
    assert len(cells) == 6
    assert not (out / "cell").exists()


def test_a_cell_that_fails_tells_why_and_the_rest_goes_on(finished):
    out, *_ = finished
    cells = read_cells(out)
    for row in cells[:3]:
        assert row["cell"]["backbone"] == "xception"
        assert row["exit_code"] == ExitCode.USAGE
        assert "give 71 or more: Xception" in row["reason"]
        assert row["log"]
    assert "| exit 64: bad_setting: image_size is 32" in (
        out / "gpu_matrix.md"
    ).read_text()  # fmt: skip


def test_what_is_measured_on_one_and_two_devices(finished):
    out, *_ = finished
    found = {}
    for row in read_cells(out)[3:]:
        result, device = row["result"], row["device"]
        found[row["cell"]["devices"], row["cell"]["strategy"]] = (
            result["replicas"],
            result["strategy"],
            result["batch_size"],
            device["devices"],
        )
        assert result["images_per_sec"] > 0
        assert result["device_peak_memory_bytes"] is None
        assert result["feature_cache"] == "off"
    mirrored = "MirroredStrategy"
    assert found == {
        (1, "one"): (1, "OneDeviceStrategy", 4, ["CPU:0"]),
        (1, "mirrored"): (1, mirrored, 4, ["CPU:0"]),
        (2, "mirrored"): (2, mirrored, 8, ["CPU:0", "CPU:1"]),
    }
    text = (out / "gpu_matrix.md").read_text()
    assert "nothing here is a figure of a GPU" in text
    assert "| backbone | precision | 1 alone | 1 mirrored | 2 mirrored |" in text
