"""tools/gpu_matrix.py on logical CPU devices: whole runs, killed and run again."""

import json
import subprocess
import sys
import time

import pytest

from tests.promises import ROOT, environment
from tlperf import cli
from tlperf.core.errors import ExitCode
from tools.gpu_matrix import main

COMMON = (
    *("--devices=cpu", "--logical_devices=2", "--weights=none", "--image_size=32"),
    *("--precision=float32", "--xla=off", "--images=16", "--epochs=1"),
)


def read_cells(out):
    path = out / "gpu_matrix.json"
    return json.loads(path.read_text())["cells"] if path.exists() else []


def interrupt(out, *arguments, after, kill=False):
    """Runs the tool, ends it once so many cells are there; its exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", "tools.gpu_matrix", f"--out={out}", *arguments],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while len(read_cells(out)) < after and time.monotonic() < deadline:
            time.sleep(0.02)
        if kill:
            process.kill()
        else:
            process.terminate()
        _, err = process.communicate(timeout=120)
    return process.returncode, err


def test_it_goes_on_after_a_signal_and_cells_that_fail(tmp_path, capsys):
    """Xception takes no 32 pixels: its trainings say so within a second or two."""
    arguments = [*COMMON, "--backbones=xception", "--inputs=images", "--parts=training"]
    code, err = interrupt(tmp_path, *arguments, after=1)
    assert code == ExitCode.RETRY, err
    assert "E75 stopped" in err
    assert "SIGTERM in cell: training of xception, float32, on images, no XLA" in err
    before = read_cells(tmp_path)
    assert 1 <= len(before) < 3
    # The exit code is that of the first, also where nothing is left to run.
    for _ in range(2):
        assert main([f"--out={tmp_path}", *arguments]) == ExitCode.USAGE
        out, err = capsys.readouterr()
        assert out == f"{tmp_path / 'gpu_matrix.md'}\n"
        assert "E64 cell_failed: 3 of 3 cells, the first: training of" in err
    cells = read_cells(tmp_path)
    assert cells[: len(before)] == before
    places = [(row["cell"]["devices"], row["cell"]["strategy"]) for row in cells]
    assert places == [(1, "one"), (1, "mirrored"), (2, "mirrored")]
    for row in cells:
        assert row["exit_code"] == ExitCode.USAGE
        assert "give 71 or more: Xception" in row["reason"]
        assert row["log"]
    text = (tmp_path / "gpu_matrix.md").read_text()
    assert "| exit 64: bad_setting: image_size is 32" in text
    assert not (tmp_path / "cell").exists()
    assert main([f"--out={tmp_path}", *arguments, "--batch_size=4"]) == ExitCode.EXISTS
    assert "made with another settings batch_size" in capsys.readouterr().err


ALL = (
    *(*COMMON, "--backbones=efficientnetb0", "--inputs=features", "--batch_size=2"),
    *("--protocols=stream,train_step", "--processes=1", "--latency_secs=0.5"),
    "--input_secs=0.2",
)


@pytest.mark.slow
def test_all_parts_killed_twice_and_the_report(tmp_path, capsys):
    code, err = interrupt(tmp_path, *ALL, after=1, kill=True)
    assert code == -9, err
    code, err = interrupt(tmp_path, *ALL, after=3)
    assert code == ExitCode.RETRY, err
    before = read_cells(tmp_path)
    assert main([f"--out={tmp_path}", *ALL]) == ExitCode.OK
    cells = read_cells(tmp_path)
    assert cells[: len(before)] == before
    assert [row["exit_code"] for row in cells] == [0] * 7, cells
    assert [row["cell"]["part"] for row in cells] == [
        *(*["input"] * 2, *["latency"] * 2, *["training"] * 3)
    ]
    assert [row["result"]["state"] for row in cells[:2]] == ["warm", "warm"]
    timed = [
        (run["protocol"], run["batch_size"])
        for row in cells[2:4]
        for run in row["result"]["runs"]
    ]
    assert timed == [("stream", 1), ("train_step", 2), ("train_step", 4)]
    trained = [
        (
            *(row["result"][key] for key in ("replicas", "strategy", "batch_size")),
            row["device"]["devices"],
        )
        for row in cells[4:]
    ]
    mirrored = "MirroredStrategy"
    assert trained == [
        (1, "OneDeviceStrategy", 2, ["CPU:0"]),
        (1, mirrored, 2, ["CPU:0"]),
        (2, mirrored, 4, ["CPU:0", "CPU:1"]),
    ]
    assert all(row["result"]["images_per_sec"] > 0 for row in cells[4:])
    assert {row["result"]["weights"]["kind"] for row in cells[4:]} == {"none"}
    capsys.readouterr()
    assert cli.main(["report", f"--workdir={tmp_path}"]) == ExitCode.OK
    text = (tmp_path / "report" / "report.md").read_text()
    for line in (
        "Logical CPU devices: nothing here is a figure of a GPU.",
        "### Input",
        "### Latency",
        "| INVALID: ",
        "no interval: 1 process, where 5 are needed",
        "### Training on features",
        "| backbone | precision | 1 alone | 1 mirrored | 2 mirrored |",
        "Weights are random (--weights=none)",
    ):
        assert line in text
