"""The latency benchmarks: their names, the published table beside them, the gate."""

import json
import re
import statistics
import subprocess
import sys

import pytest

from benchmarks.cases import Case, plan_cases
from benchmarks.published import main as write_published
from tests.promises import ROOT, environment
from tlperf.core.choices import Protocol, Runtime
from tlperf.core.machine import gpu_facts
from tlperf.reference.paper import UNROUNDED_GPU_MS

BENCH = "benchmarks/bench_latency.py"


def run_pytest(*arguments, cwd, root=ROOT):
    """pytest on the latency benchmarks in a process of its own; what it stores goes to
    the working directory, and is not the project's."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += [str(root / BENCH), f"--rootdir={root}", *arguments]
    # pytest-benchmark measures nothing where a worker of pytest-xdist seems to be.
    own = {key: value for key, value in environment().items() if "XDIST" not in key}
    return subprocess.run(
        command,
        cwd=cwd,
        env=own,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "published.json"
    assert write_published([f"--out={path}"]) == 0
    return path


def test_cases_of_a_backbone():
    assert [case.text for case in plan_cases([1, 32], [Runtime.TF])] == [
        "compiled-tf-1",
        "compiled-tf-32",
        "stream-tf-1",
    ]
    case = Case(Protocol.STREAM, Runtime.OPENVINO, 1)
    assert case.group == "latency-stream-batch-1"


def test_published_rows_bear_the_names_of_the_benchmarks(published, tmp_path):
    done = run_pytest(
        *("--collect-only", "-q", "--batch-size=32", "-k", "compiled"),
        f"--runtime={','.join(Runtime)}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    collected = re.findall(r"^benchmarks/.*$", done.stdout, re.M)
    rows = json.loads(published.read_text())["benchmarks"]
    assert sorted(row["fullname"] for row in rows) == sorted(collected)
    assert len(rows) == len(UNROUNDED_GPU_MS) * len(Runtime)


def test_nothing_of_a_published_row_looks_measured(published):
    stored = json.loads(published.read_text())
    assert "A100" in stored["machine_info"]["processor"]
    assert stored["datetime"].startswith("2021-08-22")
    for row in stored["benchmarks"]:
        info, stats = row["extra_info"], row["stats"]
        repeated = info["not_published_the_mean_repeated"]
        assert {stats[name] for name in repeated} == {stats["mean"]}
        none = info["not_published_one_round_has_none"]
        assert {stats[name] for name in none} == {0, "0;0"}
        told = {*info["published"], *repeated, *none}
        # One round of so many steps follows from the mean and their number.
        assert set(stats) == told | {"ops", "rounds"}
        assert (stats["rounds"], stats["iterations"]) == (1, 300)


STAND_IN = """
import time
import pytest

@pytest.mark.benchmark(group="latency-compiled-batch-32")
@pytest.mark.parametrize("name", ["efficientnetb0-compiled-tf-32"])
def test_step(benchmark, name):
    benchmark.pedantic(time.sleep, args=(0.002,), rounds=3)
"""


def read_table(printed):
    """Milliseconds of each row's mean by where it comes from."""
    rows = re.findall(r"^test_step\[\S+\] \((?:\S*/)?(\w+)\)(.*)$", printed, re.M)
    numbers = {name: re.findall(r"([\d.,]+) \(", line) for name, line in rows}
    return {name: float(found[2].replace(",", "")) for name, found in numbers.items()}


def test_the_published_table_stands_beside_a_run(published, tmp_path):
    path = tmp_path / BENCH
    path.parent.mkdir()
    path.write_text(STAND_IN)
    done = run_pytest(
        *("--benchmark-only", "--benchmark-time-unit=ms"),
        f"--benchmark-compare={published}",
        cwd=tmp_path,
        root=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_table(done.stdout)
    assert found["published"] == UNROUNDED_GPU_MS["efficientnetb0"]
    assert found["NOW"] >= 2.0


@pytest.mark.slow
def test_a_real_backbone_beside_the_published_table(published, tmp_path):
    out = tmp_path / "run.json"
    done = run_pytest(
        *("--benchmark-only", "--backbones=efficientnetb0", "-k", "compiled"),
        *("--batch-size=32", "--rounds=12", f"--benchmark-json={out}"),
        *(f"--benchmark-compare={published}", "--benchmark-time-unit=ms"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_table(done.stdout)
    assert found["published"] == UNROUNDED_GPU_MS["efficientnetb0"]
    stored = json.loads(out.read_text())
    assert "gpus" in stored["machine_info"]["tlperf"]
    (row,) = stored["benchmarks"]
    assert row["group"] == "latency-compiled-batch-32"
    assert found["NOW"] == pytest.approx(1e3 * row["stats"]["mean"], abs=1e-3)
    info = row["extra_info"]
    ordered = sorted(row["stats"]["data"])
    assert info["p50_ms"] == 1e3 * ordered[5]
    assert info["p90_ms"] == 1e3 * ordered[10]
    assert info["p95_ms"] is info["p99_ms"] is None  # too few rounds
    low, high = info["percentile_intervals_ms"]["p50"]
    assert low <= info["p50_ms"] <= high
    assert info["published"]["ms"] == 4.9
    assert info["first_step_secs"] > 0
    assert info["prepare_secs"]["trace"] > 0
    assert info["device"]["kind"] in ("CPU", "GPU")


def run_gate(*arguments, cwd):
    """The latency benchmark of one network on single images."""
    return run_pytest(
        *("--benchmark-only", "--backbones=efficientnetb0", "-k", "stream"),
        *("--rounds=200", *arguments),
        cwd=cwd,
    )


@pytest.mark.slow
def test_the_gate_fails_for_a_slowed_build_and_passes_for_an_equal_one(
    tmp_path, figures
):
    before = tmp_path / "before.json"
    done = run_gate(f"--benchmark-json={before}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    gate = (f"--benchmark-compare={before}", "--benchmark-compare-fail=min:15%")
    slowed = run_gate("-p", "tests.slowed", *gate, cwd=tmp_path)
    assert slowed.returncode != 0
    assert "Performance has regressed" in slowed.stdout + slowed.stderr
    times = figures.pick(1, 10)
    codes = [run_gate(*gate, cwd=tmp_path).returncode for _ in range(times)]
    assert codes == [0] * times


def test_gpus_as_the_driver_tells_them(tmp_path):
    assert gpu_facts(tmp_path) == {"gpus": [], "gpu_driver": None}
    folder = tmp_path / "proc/driver/nvidia"
    for number in range(2):
        card = folder / f"gpus/0000:0{number}:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text("Model: \t\t NVIDIA A100\nIRQ:   20\n")
    (folder / "version").write_text("NVRM version: NVIDIA 550.54\nGCC version: 12\n")
    assert gpu_facts(tmp_path) == {
        "gpus": ["NVIDIA A100", "NVIDIA A100"],
        "gpu_driver": "NVRM version: NVIDIA 550.54",
    }


def test_paired_ratios_and_their_table():
    from benchmarks.bench_runtimes import find_best, pair_ratio, render_runtimes

    drift = [1.0 + 0.1 * number for number in range(9)]  # of the machine
    secs = {
        "keras predict": [2.0 * one for one in drift],
        "traced Keras call": [1.5 * one for one in drift],
        "tf": drift,
        "openvino": [0.8 * one for one in drift],
    }
    assert pair_ratio(secs, ("keras predict", "tf")) == pytest.approx((2.0, 2.0, 2.0))
    assert pair_ratio(secs, ("keras predict", "best")) == pytest.approx((2.5,) * 3)
    assert pair_ratio(secs, ("openvino", "openvino by hand")) is None
    # Of each round the fastest is chosen by the others: 4 / 2, 4 / 2 and 4 / 9, where
    # tf is by all three.
    three = {"keras predict": [4.0] * 3, "tf": [1.0, 1.9, 9.0], "openvino": [2.0] * 3}
    assert find_best(three) == "tf"
    found = pair_ratio(three, ("keras predict", "best"))
    assert found is not None
    assert found[0] == pytest.approx(2.0)
    row = {
        "secs": secs,
        "left_out": ["onnxruntime: no package onnxruntime; pip install it"],
        "process_peak_memory_bytes": 3 << 30,
    }
    other = {name: [4 * one for one in own] for name, own in secs.items()}
    other["tf"] = secs["tf"]
    text = render_runtimes({"vgg16": row, "xception": {**row, "secs": other}})
    middle = statistics.geometric_mean([2.0, 8.0])
    assert f"| geometric mean | {middle:.2f} |" in text
    assert "| vgg16 | 2.00 (2.00 to 2.00) | 1.50 (1.50 to 1.50) |" in text
    assert "Left out: onnxruntime: no package onnxruntime" in text
    assert "| 3.0 GiB |" in text
