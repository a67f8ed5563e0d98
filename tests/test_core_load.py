"""Who else uses the machine."""

import json
import os

import pytest

from tlperf.core.load import (
    ORDER_VARIABLE,
    LoadReading,
    load_between,
    read_gpu_busy,
    read_load,
)
from tlperf.core.machine import _installed_from

TICKS = os.sysconf("SC_CLK_TCK")


def write_stat(root, lines):
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text("\n".join(lines) + "\nintr 5\n")


def test_load_is_that_of_the_cores_that_may_be_used(tmp_path):
    core, *_ = os.sched_getaffinity(0)
    before = os.sched_getaffinity(0)
    # user nice system idle iowait irq softirq steal guest guest_nice
    own = [f"cpu{core} {TICKS} 0 {TICKS} 9 9 0 0 {3 * TICKS} 0 0"]
    other = [f"cpu{core + 1} {70 * TICKS} 0 0 9 9 0 0 {50 * TICKS} 0 0"]
    write_stat(tmp_path, [f"cpu {99 * TICKS} 0 0 0 0 0 0 0 0 0", *own, *other])
    os.sched_setaffinity(0, {core})
    try:
        reading = read_load(tmp_path)
    finally:
        os.sched_setaffinity(0, before)
    assert reading is not None
    assert (reading.busy_secs, reading.stolen_secs) == (2.0, 3.0)


def test_what_others_used_is_what_this_process_did_not():
    before = LoadReading(clock_secs=5, busy_secs=10, own_secs=1, stolen_secs=0)
    after = LoadReading(clock_secs=15, busy_secs=27, own_secs=11, stolen_secs=1)
    load = load_between(before, after)
    assert (load.others_cores, load.stolen_cores) == (0.7, 0.1)
    assert load_between(before, before).others_cores == 0.0


def test_a_system_without_counters(tmp_path):
    assert read_load(tmp_path) is None


def test_this_machine_tells():
    reading = read_load()
    assert reading is not None
    assert reading.busy_secs > 0


@pytest.mark.parametrize(
    ("shown", "numbers", "expected"),
    [
        ("", [0], 0.37),
        ("", [1, 0], 0.37),
        ("", [], 0.8),
        ("", [3], None),  # [N/A]
        ("", [4], None),
        # The GPU of that number here is another one for the driver.
        ("1, 2", [1], 0.8),
        ("1,0", [], 0.37),
        ("GPU-8a", [0], 0.2),
        ("GPU-8", [0], None),  # of which there are two
        ("MIG-8a", [0], None),
        ("-1", [0], None),
    ],
)
def test_how_busy_gpus_are_says_their_driver(
    tmp_path, monkeypatch, shown, numbers, expected
):
    rows = ["0, GPU-11aa, 37", "1, GPU-8abc, 20", "2, GPU-8fff, 80"]
    if numbers == [3]:
        rows.append("3, GPU-99, [N/A]")
    _write_smi(tmp_path, monkeypatch, "\n".join(f"echo '{row}'" for row in rows))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert read_gpu_busy(numbers) == expected


def _write_smi(folder, monkeypatch, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_driver_that_fails_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _write_smi(tmp_path, monkeypatch, "echo '0, GPU-11aa, 37'; exit 1")
    assert read_gpu_busy([0]) is None


def test_gpus_in_cudas_own_order_are_not_the_drivers(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _write_smi(tmp_path, monkeypatch, "echo '0, GPU-11aa, 37'")
    assert read_gpu_busy([0]) == 0.37
    monkeypatch.setenv(ORDER_VARIABLE, "FASTEST_FIRST")
    assert read_gpu_busy([0]) is None


def test_without_a_driver_nobody_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpu_busy([0]) is None


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, {}),  # a package index
        (
            {"url": "https://example.org/t.git", "vcs_info": {"commit_id": "a1" * 20}},
            {"commit": "a1" * 20, "changed": False},
        ),
        (
            {"url": "file:///src", "dir_info": {}},
            {"commit": "unknown", "changed": True},
        ),
    ],
)
def test_where_an_installed_package_came_from(tmp_path, monkeypatch, origin, expected):
    """As pip writes it (PEP 610)."""
    folder = tmp_path / "tlperf-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tlperf\n")
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _installed_from() == expected
