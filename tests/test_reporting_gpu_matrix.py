"""gpu_matrix.json as tables and as a part of the report."""

import dataclasses
import json
import re

import pytest

from tests.built_pages import assert_same, build_page, cells, rebuild_page
from tests.pages import find_faults
from tlperf import cli
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.reporting.evidence import Evidence
from tlperf.reporting.gpu_matrix import matrix_sections, read_matrix, render_matrix
from tlperf.reporting.gpu_tables import format_result
from tlperf.reporting.report import render_report, write_report
from tools.gpu_cells import Cell

CELL = Cell("training", "vgg16", 1, "one", "float32", "off", inputs="images")
TIMED = Cell("latency", "vgg16", 1, "one", "float32", "off", "on")
INPUT = Cell("input", "vgg16", 1, "one")


def row_of(cell, result=None, *, exit_code=0, reason=""):
    """A row as the tool writes it."""
    row = {"cell": dataclasses.asdict(cell), "secs": 9.0, "exit_code": exit_code}
    row |= {"reason": reason, "device": {"text": "NVIDIA A100"}}
    return row if result is None else {**row, "result": result}


def measured(cell, rate, *, peaks=None):
    """A row of a training, as one on a GPU would be."""
    result = {
        "images_per_sec": rate,
        "steps_per_sec": rate / 32,
        "input_wait_fraction": 0.25,
        "epochs": [{"first_step_secs": 12.5}],
        "features": {"computed_images": 0, "secs": 0.0},
        "device_peak_memory_bytes": peaks,
        "process_peak_memory_bytes": 3 << 30,
    }
    return row_of(cell, result)


def timed(protocol, p50_ms, *invalid, batch_size=4):
    """What one protocol gave."""
    return {
        "protocol": protocol,
        "batch_size": batch_size,
        "p50_ms": p50_ms,
        "p99_ms": None,
        "interval_ms": {"low": 0.9 * p50_ms, "high": 1.1 * p50_ms},
        "images_per_sec": 4e3 / p50_ms,
        "share_of_matmul": 0.5,
        "first_call_secs": 2.0,
        "device_peak_memory_bytes": [1 << 30],
        "valid": not invalid,
        "invalid": list(invalid),
    }


RATE = {
    "images_per_sec": 812.0,
    "state": "warm",
    "bottleneck": "decode",
    "stages": {"read": 9000.0, "decode": 900.0},
    "cores": 2,
    "image_size": 224,
}


def assert_lines(text, *lines):
    for line in lines:
        assert line in text, f"{line}\nis not in\n{text}"


def test_the_table_of_input():
    failed = row_of(INPUT, exit_code=70, reason="bug")
    text = render_matrix({"cells": [row_of(INPUT, RATE), failed]})
    assert_lines(
        text,
        "| vgg16 | 1 | one | 224 | 812.0 | warm | decode | 900.0 | 2 | done |",
        f"| vgg16 | 1 | one | {' | '.join(['not measured'] * 6)} | exit 70: bug |",
    )


def test_the_tables_of_latency():
    """A batch that was halved is no match for a whole one; what is INVALID for none."""
    half = dataclasses.replace(TIMED, precision="mixed_float16", tf32="")
    bfloat = dataclasses.replace(TIMED, precision="mixed_bfloat16", tf32="")
    slow = "other programs used 1.0 of 2 cores"
    rows = [
        row_of(TIMED, {"runs": [timed("compiled", 8.0), timed("stream", 2.5)]}),
        row_of(
            half,
            {"runs": [timed("compiled", 4.0), timed("stream", 2.0, slow, "drift")]},
            exit_code=71,
            reason="too large",
        ),
        row_of(bfloat, {"runs": [timed("compiled", 3.0, batch_size=2)]}),
        row_of(dataclasses.replace(TIMED, xla="on"), exit_code=78, reason="no"),
    ]
    missing = " | ".join(["not measured"] * 8)
    text = render_matrix({"cells": rows})
    assert_lines(
        text,
        "| vgg16 | float32 | off | on | 1 | compiled | 4 | 8.00 ms | 7.20 to 8.80 "
        "| n/a | 500.0 | 50.0 % | 2.00 s | 1.0 GiB | done |",
        "| vgg16 | mixed_float16 | off | n/a | 1 | stream | 4 | 2.00 ms | 1.80 to 2.20 "
        f"| n/a | 2000.0 | 50.0 % | 2.00 s | 1.0 GiB | INVALID: {slow}; drift |",
        f"| vgg16 | mixed_float16 | off | n/a | 1 | the others | {missing} "
        "| exit 71: too large |",
        f"| vgg16 | float32 | on | on | 1 | all | {missing} | exit 78: no |",
        "**The fastest way on one device**",
        "| vgg16 | compiled | 4 | mixed_float16 | off | n/a | 4.00 ms | 2.00 | 2 |",
        "| vgg16 | stream | 4 | float32 | off | on | 2.50 ms | 1.00 | 1 |",
        "| vgg16 | compiled | 2 | mixed_bfloat16 | off | n/a | 3.00 ms | 1.00 | 1 |",
    )


def test_the_tables_of_training_on_two_gpus():
    two = dataclasses.replace(CELL, devices=2, strategy="mirrored")
    xla = dataclasses.replace(CELL, xla="on")
    half = dataclasses.replace(CELL, precision="mixed_float16")
    rows = [
        measured(CELL, 100.0, peaks=[1 << 30]),
        measured(xla, 150.0, peaks=[2 << 30]),
        measured(two, 180.0, peaks=[1 << 30, 5 << 29]),
        row_of(half, exit_code=71, reason="out_of_memory: 2 | 3 GiB"),
    ]
    gpu = {"device_name": "NVIDIA A100", "compute_capability": [8, 0]}
    found = {"gpus": [gpu, gpu], "cuda_version": "12.5.1", "driver": None}
    settings = {"devices": "gpu", "weights": "none", "protocols": ["a", "b"]}
    text = render_matrix({"cells": rows, "devices": found, "settings": settings})
    assert_lines(
        text,
        "Measured on: NVIDIA A100.",
        "Weights are random (--weights=none); no rate depends on them.",
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
        "| --protocols | a, b |",
    )
    assert "Logical CPU" not in text
    # With one device there is nothing that grows.
    assert "Scaling" in text
    assert "Scaling" not in render_matrix({"cells": rows[:2]})


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (measured(CELL, 100.0), "100.0 images/s"),
        (row_of(TIMED, {"runs": [timed("stream", 2.5)]}), "stream 2.50 ms"),
        (
            row_of(TIMED, {"runs": [timed("stream", 2.5)]}, exit_code=1, reason="no"),
            "stream 2.50 ms, exit 1: no",
        ),
        (row_of(CELL, exit_code=64, reason="no"), "exit 64: no"),
    ],
)
def test_a_cell_as_a_line(row, text):
    assert format_result(row) == text


@pytest.mark.B6
def test_a_report_of_the_matrix_that_is_in_the_workdir(tmp_path, record_property):
    """Equal files give equal bytes, and no report of a deleted one stays."""
    matrix = {"cells": [measured(CELL, 100.0)], "settings": {"devices": "cpu"}}
    assert "GPU matrix" not in render_report([])["report.md"]
    path = tmp_path / "gpu_matrix.json"
    path.write_text(json.dumps(matrix))
    built = []
    for _ in range(3):
        write_report(tmp_path)
        built.append((tmp_path / "report" / "report.md").read_text())
    assert len(set(built)) == 1
    assert built[0] == render_report([], Evidence(matrix=matrix))["report.md"]
    assert_lines(
        built[0],
        "## GPU matrix",
        "### Training on images",
        "Logical CPU devices: nothing here is a figure of a GPU.",
    )
    assert "GPU matrix" in (tmp_path / "report" / "index.html").read_text()
    path.unlink()
    with pytest.raises(TlperfError, match="no result rows"):
        write_report(tmp_path)
    assert not (tmp_path / "report" / "report.md").exists()
    record_property("figures", "3 builds, 1 hash; its file deleted: exit 66")


def test_the_page_shows_what_the_markdown_does(tmp_path):
    """Reasons, backbones and drivers come from outside: they are inert in both."""
    bad = "<script>alert(1)</script>|\n\x1b[31m`$x$`](http://x)"
    gpu = {"device_name": bad, "compute_capability": [8, 0]}
    rows = [
        row_of(INPUT, RATE),
        row_of(TIMED, {"runs": [timed("stream", 2.5), timed("compiled", 8.0, bad)]}),
        row_of(dataclasses.replace(CELL, backbone=bad), exit_code=71, reason=bad),
        measured(CELL, 100.0),
    ]
    matrix = {"cells": rows, "devices": {"gpus": [gpu], "driver": bad}}
    (tmp_path / "gpu_matrix.json").write_text(json.dumps(matrix))
    page, markdown = build_page(tmp_path)
    assert find_faults(page) == []
    for text in (page, markdown):
        assert "<script" not in text
        assert "\x1b" not in text
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    # Where a workdir has one it stands first.
    assert page.index("GPU matrix</h2>") < page.index("Each backbone</h2>")
    assert cells(page, "Input rates")[0][:5] == ["vgg16", "1", "one", "224", "812.0"]
    assert cells(page, "Timed steps")[0][5:8] == ["stream", "4", "2.50 ms"]
    assert_same(page, markdown)


def test_a_matrix_alone_is_a_report_of_its_own(tmp_path, capsys):
    """Of backbones that nobody measured there is no word."""
    matrix = {"cells": [measured(CELL, 100.0)]}
    (tmp_path / "gpu_matrix.json").write_text(json.dumps(matrix))
    page, markdown = rebuild_page(tmp_path)
    assert find_faults(page) == []
    assert_same(page, markdown)
    assert markdown.startswith("# Measured on one machine\n\n## GPU matrix\n")
    for text in (page, markdown):
        assert "Xception" not in text
        assert "the study" not in text
    assert cli.main(["report", f"--workdir={tmp_path}"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("measured backbones: none\nreport: ")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"cells": [', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "expected an object with a list of cells"),
        (b"{}", "expected an object with a list of cells"),
        (b'{"cells": 3}', "expected an object with a list of cells"),
        (b'{"cells": [3]}', "expected an object with a list of cells"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, capsys, data, found):
    assert read_matrix(tmp_path) is None
    path = tmp_path / "gpu_matrix.json"
    path.write_bytes(data)
    assert cli.main(["report", f"--workdir={tmp_path}"]) == ExitCode.INTEGRITY
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"tlperf report: E76 damaged_file: {path}: {found}")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "cells",
    [
        None,
        [{}, {"cell": {"part": "latency"}}, {"cell": {"part": "input"}}],
        [{"cell": {"part": "training", "inputs": "images", "xla": "off"}}],
        [{**measured(CELL, 1.0), "result": {"epochs": [], "features": 3}}],
        [row_of(CELL, {"epochs": 3, "device_peak_memory_bytes": [None, "a"]})],
        [row_of(TIMED, {"runs": [3, {}, {"invalid": 3, "interval_ms": 3}]})],
        [row_of(INPUT, {"stages": 3})],
    ],
)
def test_what_a_matrix_lacks_is_told_as_such(cells):
    matrix = {"cells": cells, "machine": None, "devices": {"gpus": [{}]}}
    assert matrix_sections(matrix)
    assert "None" not in render_matrix(matrix)
