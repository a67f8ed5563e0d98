"""What the doctor's checks judge by, and how findings are joined and shown."""

import os

import pytest

from tlperf.core.quiet import VERBOSE_VARIABLE
from tlperf.core.settings import RunConfig
from tlperf.doctor.checks import _run
from tlperf.doctor.compute import judge_tensorflow
from tlperf.doctor.data import resident_bytes
from tlperf.doctor.findings import Check, Level, Patient
from tlperf.doctor.machine import available_bytes, judge_memory
from tlperf.reporting.terminal import render_doctor


@pytest.mark.parametrize("verbose", [False, True])
def test_a_check_that_breaks_is_a_finding(monkeypatch, capsys, verbose):
    if verbose:
        monkeypatch.setenv(VERBOSE_VARIABLE, "1")

    def broken(patient):
        raise KeyError("first line\nsecond")

    found = _run("disk", broken, Patient(RunConfig(workdir="w")))
    assert found.level is Level.BAD
    assert found.found == r"KeyError: 'first line\nsecond'"
    assert "--verbose" in found.advice
    assert ("in broken" in capsys.readouterr().err) == verbose


def test_a_wrong_product_is_found():
    facts = {"tensorflow": "2.21.0", "keras": "3.15.1", "cuda": None, "onednn": True}
    assert judge_tensorflow({**facts, "is_right": True}).level is Level.OK
    assert judge_tensorflow({**facts, "is_right": False}).level is Level.BAD


@pytest.mark.parametrize(
    ("limit", "available", "level"),
    [
        (24 << 30, 20 << 30, Level.OK),
        (24 << 30, None, Level.OK),
        (24 << 30, 1 << 30, Level.WARN),  # others have it
        (3 << 30, 3 << 30, Level.WARN),
        ((2 << 30) - 1, 20 << 30, Level.BAD),
    ],
)
def test_memory_is_judged_by_what_fits(limit, available, level):
    assert judge_memory(limit, available).level is level


def test_available_memory_is_read_from_the_system(tmp_path):
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal:  100 kB\nMemAvailable:   42 kB\n"
    )
    assert available_bytes(tmp_path) == 42 * 1024


def test_several_findings_are_as_bad_as_the_worst():
    joined = Check.joined(
        [Check.ok("a"), Check.bad("b", "do b"), Check.warn("c", "do c"), Check.ok("a")]
    )
    assert joined == Check(Level.BAD, "b; c; a", "do b; do c")


def test_the_page_cache_is_asked(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"x" * 300_001)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        assert stream.read()
        assert resident_bytes(path) == 300_001
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert resident_bytes(path) < 300_001
    path.write_bytes(b"")
    assert resident_bytes(path) == 0


def test_what_is_found_cannot_write_to_the_terminal():
    rows = [
        {"name": "data", "ok": False, "level": "bad", "found": "a\x1b[2J\nb",
         "advice": "c\rd"},
        {"name": "disk", "ok": True, "level": "warn", "found": "e", "advice": "f"},
        {"name": "jpeg", "ok": True, "level": "ok", "found": "g", "advice": ""},
    ]  # fmt: skip
    assert render_doctor({"checks": rows, "ok": False}).splitlines() == [
        r"BAD  data: a\x1b[2J\nb; c\rd",
        "WARN disk: e; f",
        "ok   jpeg: g",
        "1 ok, 1 warn, 1 bad",
    ]
