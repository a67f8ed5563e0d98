"""`tlperf report --compare`: its files, what it prints, and what it refuses."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.compared import Compared, write_workdir
from tests.test_reporting_report import _PageReader
from tlperf import cli
from tlperf.core.choices import Preset
from tlperf.core.errors import ExitCode, SettingsError
from tlperf.core.files import append_json_line, sha256_bytes
from tlperf.core.results import append_result
from tlperf.reporting.comparison import parse_workdirs, report_job, write_comparison

Wrong = frozenset[int]


def run_report(*arguments: str) -> int:
    return cli.main(["report", *arguments])


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> str:
    first = write_workdir(tmp_path / "w1", Compared(wrong=Wrong(range(8))))
    second = write_workdir(tmp_path / "w2", Compared(scale=0.8, epochs=3))
    return f"{first},{second}"


def test_a_comparison_is_written_beside_the_report(tmp_path, pair, capsys):
    workdir = tmp_path / "w1"
    assert run_report(f"--workdir={workdir}") == 0
    before = (workdir / "report" / "paper.json").read_bytes()
    capsys.readouterr()
    assert run_report(f"--workdir={workdir}", f"--compare={pair}", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    page = pathlib.Path(result["comparison"])
    assert page == workdir / "report" / "comparison.html"
    kept = json.loads(pathlib.Path(result["json"]).read_text())
    assert kept == {name: result[name] for name in kept}
    assert (workdir / "report" / "paper.json").read_bytes() == before
    # The next report leaves it where it is.
    assert run_report(f"--workdir={workdir}") == 0
    assert page.exists()


def test_a_comparison_goes_where_it_is_told(tmp_path, pair, capsys):
    assert run_report(f"--compare={pair}", f"--out={tmp_path / 'c'}") == 0
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "comparison.html",
        "comparison.json",
        "comparison.md",
    }
    text = capsys.readouterr().out
    for part in ("VGG16", "better", "+0.0800", "0.0078", "0.800", "A: ", "0.788 to"):
        assert part in text, part


def test_page_and_markdown_say_the_same(tmp_path, pair):
    result = write_comparison(pair.split(","), tmp_path / "c")
    page = _PageReader((tmp_path / "c" / "comparison.html").read_text())
    markdown = (tmp_path / "c" / "comparison.md").read_text()
    # Within the page; the empty icon asks for none.
    assert {one for one in page.addresses if one[0] != "#"} == {"data:,"}
    assert page.tags.isdisjoint({"script", "img", "iframe", "object"})
    assert len(page.ids) == len(set(page.ids))
    for text in ("0.788 to", "better", "setting: training epochs", "A, B"):
        assert text in " ".join(page.texts), text
        assert text in markdown, text
    assert result["accuracies"][0]["verdict"] == "better"


def test_equal_input_gives_equal_bytes(tmp_path, pair):
    hashes = set()
    for name in ("a", "b", "c"):
        write_comparison(pair.split(","), tmp_path / name)
        texts = [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]
        hashes.add(sha256_bytes(b"".join(texts)))
    assert len(hashes) == 1


_HOSTILE = "a|b\n<script>\x1b[2J"


def test_hostile_names_are_inert(tmp_path, capsys):
    classes = (_HOSTILE, "=cmd()")
    first, second = (
        write_workdir(tmp_path / name, Compared(classes=classes, wrong=wrong))
        for name, wrong in (("w<script>\x1b1", Wrong()), ("w=cmd()", Wrong((1, 2))))
    )
    append_json_line(
        second / "results.jsonl",
        {
            "schema_version": 1,
            "stage": "latency",
            "backbone": "../" + _HOSTILE,
            "result": {"runs": [{"device": _HOSTILE, "model": _HOSTILE}]},
            "settings": {_HOSTILE: _HOSTILE},
        },
    )
    out = tmp_path / "c"
    assert run_report(f"--compare={first},{second}", f"--out={out}") == 0
    printed = capsys.readouterr().out
    page = (out / "comparison.html").read_text()
    assert "script" not in _PageReader(page).tags
    for text in (printed, page, (out / "comparison.md").read_text()):
        assert "\x1b" not in text
    markdown = (out / "comparison.md").read_text()
    assert "<script" not in markdown
    assert r"a\|b\\n&lt;script&gt;" in markdown


@pytest.mark.parametrize(
    ("compare", "code", "text"),
    [
        ("{w1}", 64, "give two workdirs or more"),
        ("{w1},", 64, "give two workdirs or more"),
        ("", 64, "give two workdirs or more"),
        ("{w1},{w1}", 64, "twice; give each workdir once"),
        ("{w1},{w1}/../w1", 64, "twice; give each workdir once"),
        ("{w1},{tmp}/none", 66, "none: no such folder; give --compare the workdirs"),
        ("{w1},{tmp}/file", 66, "file: is no folder; give --compare the workdirs"),
        ("{w1},{tmp}/empty", 66, "empty/results.jsonl: no such file; give --compare"),
        ("{w1},{tmp}/begun", 66, "begun/results.jsonl: no result rows; give --compare"),
        (
            "{w1},{tmp}/list",
            65,
            "line 1 is no result row of tlperf: expected an object",
        ),
        ("{w1},{tmp}/other", 65, "schema_version None, expected 1"),
        ("{w1},{tmp}/newer", 65, "schema_version 2, expected 1"),
        ("{w1},{tmp}/half", 65, "line 1 is no result row of tlperf: no settings"),
        ("{w1},{tmp}/binary", 76, "not JSON"),
        ("{w1},{tmp}/damaged", 76, "not JSON"),
        ("{w1},{tmp}/folder", 74, "results.jsonl"),
    ],
)
def test_what_cannot_be_compared_gives_one_line(
    tmp_path, pair, capsys, compare, code, text
):
    (tmp_path / "file").write_text("x")
    contents: dict[str, bytes | None] = {
        "empty": None,
        "begun": b'{"stage": "unfin',
        "list": b"[1]\n",
        "other": b'{"loss": 1.0}\n',
        "newer": b'{"schema_version": 2}\n',
        "half": b'{"schema_version": 1, "stage": "x", "backbone": "x", "result": {}}\n',
        "binary": b"\xff\xfe\n",
        "damaged": b"{\n",
    }
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "results.jsonl").write_bytes(content)
    (tmp_path / "folder" / "results.jsonl").mkdir(parents=True)
    given = compare.format(w1=tmp_path / "w1", tmp=tmp_path)
    assert run_report(f"--compare={given}", f"--out={tmp_path / 'c'}") == code
    error = capsys.readouterr().err.strip()
    assert text in error
    assert len(error.splitlines()) == 1
    assert error.startswith(f"tlperf report: E{code} ")
    assert not (tmp_path / "c").exists()


def test_out_is_of_a_comparison(tmp_path, pair, capsys):
    code = run_report(f"--workdir={tmp_path / 'w1'}", f"--out={tmp_path / 'c'}")
    assert code == ExitCode.USAGE
    assert "out is given without --compare" in capsys.readouterr().err


def test_more_workdirs_than_letters(tmp_path):
    with pytest.raises(SettingsError, match="give at most 26"):
        parse_workdirs(",".join(f"w{number}" for number in range(27)))


def test_smoke_figures_say_so(tmp_path, capsys):
    quick = Compared(preset=Preset.QUICK)
    for name in ("w1", "w2"):
        write_workdir(tmp_path / name, quick)
    compare = f"{tmp_path / 'w1'},{tmp_path / 'w2'}"
    assert run_report(f"--compare={compare}", f"--out={tmp_path / 'c'}") == 0
    assert "smoke figures" in capsys.readouterr().out
    assert (tmp_path / "c" / "comparison.md").read_text().startswith("> **Smoke")


def test_the_report_prints_its_ledger(tmp_path, capsys):
    write_workdir(tmp_path, Compared(wrong=Wrong((1, 2, 3))))
    assert run_report(f"--workdir={tmp_path}") == 0
    text = capsys.readouterr().out
    assert "VGG16" in text
    assert "0.9337     0.9700" in text
    assert "within noise" in text
    counts = [line for line in text.splitlines() if line.startswith("all ")]
    assert sum(map(int, counts[0].split()[1:])) == 192
    result = report_job(tmp_path, compare=None, out=None)
    assert result["verdicts"]["not measured"] == int(counts[0].split()[-1])


def test_the_report_prints_networks_that_the_study_had_not(tmp_path, capsys):
    append_result(
        tmp_path,
        stage="evaluate",
        backbone="keras-mobilenetv2",
        result={"accuracy": 0.99, "images": 100},
        settings={},
    )
    assert run_report(f"--workdir={tmp_path}") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [one for one in lines if one.startswith("keras:MobileNetV2 ")]
    assert line.split()[1:3] == ["n/a", "0.9900"]


_SCRIPT = """
import sys
from tlperf.reporting.comparison import report_job
report_job("w", compare=sys.argv[1], out=sys.argv[2])
heavy = {"tensorflow", "keras", "sklearn", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
"""


def test_without_tensorflow_and_the_same_in_another_process(tmp_path, pair):
    write_comparison(pair.split(","), tmp_path / "here")
    there = str(tmp_path / "there")
    subprocess.run([sys.executable, "-c", _SCRIPT, pair, there], check=True)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
