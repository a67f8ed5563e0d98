"""The report from result rows: every figure there, honest, inert and repeatable."""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

# pytest puts this folder on the path; mypy does not know.
from tests.test_reporting_rows import (
    HOSTILE,
    Case,
    write_fixed_rows,
    write_pictures,
    write_rows,
)
from tlperf import cli
from tlperf.core.choices import Preset
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes, to_json
from tlperf.core.results import append_result
from tlperf.reference.backbones import BACKBONES
from tlperf.reference.paper import FIGURES
from tlperf.reporting.report import write_report

FULL = Case(stages=("shard", "preprocess", "train", "evaluate", "latency"))
GOLDEN = pathlib.Path(__file__).parent / "golden" / "report.md"


class _PageReader(html.parser.HTMLParser):
    """Collects tags, identifiers, addresses and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.addresses: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.addresses.add(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_report(workdir: pathlib.Path) -> dict[str, str]:
    """The texts; of a photograph its bytes as Latin-1."""
    return {
        path.name: path.read_bytes().decode(
            "latin-1" if path.suffix == ".jpg" else "utf-8"
        )
        for path in sorted((workdir / "report").iterdir())
    }


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A workdir with every stage of six backbones, its pictures, and its report."""
    workdir = tmp_path_factory.mktemp("full")
    write_rows(workdir, FULL)
    write_pictures(workdir, FULL)
    write_report(workdir)
    return workdir


def test_golden_markdown(tmp_path: pathlib.Path):
    case = Case(backbones=("xception",), epochs=2, stages=FULL.stages)
    write_fixed_rows(tmp_path, case.results(), case.settings())
    write_pictures(tmp_path, case)
    write_report(tmp_path)
    assert (tmp_path / "report" / "report.md").read_text("utf-8") == GOLDEN.read_text(
        "utf-8"
    )


def test_returned_value(tmp_path: pathlib.Path):
    write_rows(tmp_path, Case(backbones=("xception",)))
    written = write_report(tmp_path)
    kept = json.loads((tmp_path / "report" / "paper.json").read_text())
    assert written.pop("ledger") == kept["figures"]
    assert sum(written.pop("verdicts").values()) == 192
    assert written == {
        "report": str(tmp_path / "report" / "index.html"),
        "markdown": str(tmp_path / "report" / "report.md"),
        "paper": str(tmp_path / "report" / "paper.json"),
        "figures": 192,
        "backbones": ["xception"],
        "accuracies": {"xception": 0.96},
    }


def copy_inputs(workdir: pathlib.Path, target: pathlib.Path) -> None:
    """All that a report is made of."""
    ignore = shutil.ignore_patterns("report")
    shutil.copytree(workdir, target, ignore=ignore, dirs_exist_ok=True)


@pytest.mark.B6
def test_rebuilt_byte_for_byte(
    full: pathlib.Path, tmp_path: pathlib.Path, record_property
):
    """In place, and in another workdir from the same rows."""
    built = [read_report(full)]
    write_report(full)
    built.append(read_report(full))
    copy_inputs(full, tmp_path)
    write_report(tmp_path)
    built.append(read_report(tmp_path))
    hashes = {sha256_bytes(to_json(texts).encode()) for texts in built}
    assert len(hashes) == 1
    record_property("figures", f"{len(built)} builds, {len(hashes)} hash")


def test_the_verdict_on_an_accuracy_is_on_the_unrounded_one(full: pathlib.Path):
    """0.96 is what Table 7 prints; Table 11 has 0.95875."""
    section = read_report(full)["report.md"].partition("### Xception")[2]
    assert "by Table 11: within noise." in section.partition("###")[0]


def test_newest_row_counts(tmp_path: pathlib.Path):
    write_rows(tmp_path, Case(backbones=("vgg16",), epochs=2))
    write_rows(tmp_path, Case(backbones=("vgg16",), epochs=7))
    write_report(tmp_path)
    assert _figure(tmp_path, "vgg16", "Table 4", "epochs")["measured"] == 7


def test_every_study_figure_has_its_picture(full: pathlib.Path):
    page, markdown = (read_report(full)[name] for name in ("index.html", "report.md"))
    for number in range(3, 25):
        assert re.search(rf"the study's Fig\. {number}\b", markdown), number
        assert re.search(rf"the study&#39;s Fig\. {number}\b", page), number
    pictures = set(re.findall(r"\]\((.*\.svg)\)", markdown))
    assert pictures == {name for name in read_report(full) if name.endswith(".svg")}
    # Curves, matrix and blocks of each; across, curves, and accuracy, spread and
    # arithmetic by time.
    assert len(pictures) == len(BACKBONES) * 4 + 4 + 3


@pytest.mark.parametrize(
    ("table", "published"),
    [
        (1, ("138.4 M", "528", "4.2", "87.40", "22,910,480", "Example CPU")),
        (2, ("0:125", "160:236", "block14_sepconv1")),
        (3, ("Dropout(0.5)", "Dense(2, softmax)")),
        (4, ("5e-05", "Adagrad", "cross-entropy", "32", "10")),
        (5, ("0.87", "0.91", "395", "0.9600")),
        (6, ("0.96", "0.93", "405")),
        (7, ("0.96", "800")),
        (8, ("0.97",)),
        (9, ("0.29", "0.58", "0.62")),
        (10, ("0.49", "1.00", "0.00", "0.24")),
        (11, ("0.4937500059604645", "0.9360 to 0.9752", "+0.466")),
    ],
)
def test_tables(full: pathlib.Path, table: int, published: tuple[str, ...]):
    markdown = read_report(full)["report.md"]
    text = markdown.partition(f"**Table {table}. ")[2].partition("\n**")[0]
    for cell in published:
        assert cell in text, cell
    assert f">Table {table}. " in read_report(full)["index.html"]


def test_published_scores_are_in_full_in_their_own_tables_alone(full: pathlib.Path):
    markdown = read_report(full)["report.md"]
    summary = markdown.partition("## Summary")[2].partition("\n## ")[0]
    assert "| EfficientNetB0 | 0.9600 | 0.9360 to 0.9752 | 0.4938 | +0.466 |" in summary
    # Table 11, and the ledger's.
    assert markdown.count("0.4937500059604645") == 2
    why = markdown.partition("## Why ResNet50")[2].partition("\n## ")[0]
    assert "| ResNet50 | 0.6237 |" in why


def test_ledger_file(full: pathlib.Path):
    figures = json.loads(read_report(full)["paper.json"])["figures"]
    assert len(figures) == len(FIGURES) == 192
    assert {figure["verdict"].partition(":")[0] for figure in figures} == {
        "equal",
        "within noise",
        "better",
        "worse",
        "not comparable",
    }
    for entry, figure in zip(figures, FIGURES, strict=True):
        assert entry["published"] == figure.value
        if isinstance(figure.value, str) or figure.column.startswith("ms "):
            assert entry["difference"] is None
        else:
            assert entry["difference"] == entry["measured"] - figure.value
            assert (entry["difference"] == 0) == (entry["verdict"] == "equal")


def _figure(
    workdir: pathlib.Path, backbone: str, table: str, column: str
) -> dict[str, Any]:
    figures = json.loads(read_report(workdir)["paper.json"])["figures"]
    (found,) = (
        figure
        for figure in figures
        if (figure["backbone"], figure["table"], figure["column"])
        == (backbone, table, column)
    )
    return found


def test_published_time_is_never_compared(full: pathlib.Path):
    figure = _figure(full, "vgg16", "Table 1", "ms per inference step (GPU)")
    assert figure["measured"] == 429.5
    assert figure["verdict"].startswith("not comparable: published on another device")
    assert "Example CPU, 2 cores, batch 32" in figure["verdict"]
    assert "153%: above the peak" in read_report(full)["report.md"]


@pytest.mark.parametrize(
    ("stages", "measured"),
    [
        (("shard",), []),  # data stored, nothing trained
        (("train",), ["xception"]),
        (("evaluate",), ["xception"]),
        (("latency",), ["xception"]),
        (("shard", "train"), ["xception"]),
        (("train", "evaluate"), ["xception"]),
    ],
)
def test_missing_stages_are_named(
    tmp_path: pathlib.Path, stages: tuple[str, ...], measured: list[str]
):
    write_rows(tmp_path, Case(backbones=("xception",), stages=stages))
    assert write_report(tmp_path)["backbones"] == measured
    markdown = read_report(tmp_path)["report.md"]
    parts = markdown.partition("## Each backbone")[2].partition("## Across")[0]
    section, _, others = parts.partition("### Not measured")
    if measured:
        assert section.startswith("\n\n### Xception\n")
        missing = [s for s in ("train", "evaluate", "latency") if s not in stages]
        assert f"Not measured: {', '.join(missing)}." in section
    else:
        assert section == "\n\n"
    told = [spec.title for spec in BACKBONES if spec.name not in measured]
    assert f"No stage has a row of {', '.join(told)}." in others
    assert "None" not in markdown
    tables = [f"**Table {number}. " for number in range(1, 12)]
    assert all(title in markdown for title in tables)


def test_missing_values_are_not_available(tmp_path: pathlib.Path):
    """Rows whose every value is null, absent, or no list of objects."""
    for stage in ("train", "evaluate", "latency"):
        nulls = dict.fromkeys(("accuracy", "epochs", "runs", "confusion", "optimizer"))
        result = {**nulls, "weights": None, "classes": None, "interval": [None, None]}
        result |= {"epochs": 3, "runs": [3], "confusion": [[1], [2, 3]]}
        append_result(
            tmp_path, stage=stage, backbone="vgg16", result=result, settings={}
        )
    write_report(tmp_path)
    markdown = read_report(tmp_path)["report.md"]
    assert "n/a" in markdown
    assert "None" not in markdown
    figures = json.loads(read_report(tmp_path)["paper.json"])["figures"]
    measured = [
        figure["column"] for figure in figures if figure["measured"] is not None
    ]
    assert measured == ["loss", "metric"]


@pytest.mark.parametrize("preset", list(Preset))
def test_smoke_figures_say_so_everywhere(tmp_path: pathlib.Path, preset: Preset):
    write_rows(tmp_path, Case(backbones=("vgg16",), preset=preset, epochs=1))
    write_report(tmp_path)
    texts = read_report(tmp_path)
    smoke = preset is Preset.QUICK
    assert texts["report.md"].startswith("> **Smoke figures:") == smoke
    header = texts["index.html"].partition("<h1>")[0]
    (banner,) = re.findall('<p class="banner"[^>]*>(.*)</p>', header)
    assert banner.startswith("Smoke figures:" if smoke else "Trained on less than")
    plots = {name: text for name, text in texts.items() if name.endswith(".svg")}
    assert len(plots) == 11
    del plots["vgg16-architecture.svg"]  # it holds no figures
    for name, svg in plots.items():
        assert ("smoke figures, no comparison" in svg) == smoke, name
        caption = texts["report.md"].partition(f"({name})\n\n")[2].partition("\n")[0]
        assert caption.endswith("(smoke figures)") == smoke, name
    verdicts = {
        figure["verdict"]
        for figure in json.loads(texts["paper.json"])["figures"]
        if figure["measured"] is not None
    }
    assert (verdicts == {"not comparable: smoke run"}) == smoke


@pytest.mark.parametrize("classes", [HOSTILE, (*HOSTILE, "accuracy", "猫", "_x_")])
def test_hostile_class_names_are_inert(
    tmp_path: pathlib.Path, classes: tuple[str, ...]
):
    write_rows(tmp_path, Case(backbones=("vgg16",), classes=classes))
    write_report(tmp_path)
    texts = read_report(tmp_path)
    page = _PageReader(texts["index.html"])
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.texts
    assert r"a|b\nc `$x$` \x1b[2J" in page.texts
    for name, text in texts.items():
        assert "\x1b" not in text, name
        assert "<script" not in text or name == "paper.json", name
    # One row a class: neither the pipe nor the newline opened another cell or line.
    row = r"| a\|b\\nc \`\$x\$\` \\x1b\[2J | 600 | 200 | 200 |"
    assert row in texts["report.md"].splitlines()
    figures = json.loads(texts["paper.json"])["figures"]
    verdicts = {f["verdict"] for f in figures if f["table"] in ("Table 6", "Table 11")}
    assert all(verdict.startswith("not ") for verdict in verdicts)


def test_page_stands_alone(full: pathlib.Path):
    """`pages.find_faults` looks closer."""
    page = _PageReader(read_report(full)["index.html"])
    # A link to what a figure was made of asks when it is followed.
    own = ("#", "../results.jsonl", "../examples/examples.json")
    asked = {address for address in page.addresses if not address.startswith(own)}
    assert {address.partition(",")[0] for address in asked} == {
        "data:",
        "data:image/jpeg;base64",
    }
    assert page.tags.isdisjoint({"script", "iframe", "object", "image"})


def test_stale_files_go(tmp_path: pathlib.Path):
    write_rows(tmp_path, Case(backbones=("vgg16", "xception")))
    write_report(tmp_path)
    (tmp_path / "results.jsonl").unlink()
    write_rows(tmp_path, Case(backbones=("vgg16",), stages=("train",)))
    write_report(tmp_path)
    plots = {name for name in read_report(tmp_path) if name.endswith(".svg")}
    assert {name for name in plots if not name.startswith("all-")} == {
        "vgg16-accuracy.svg",
        "vgg16-architecture.svg",
        "vgg16-loss.svg",
    }


@pytest.mark.parametrize("text", [None, "", '{"stage": "unfinished'])
def test_no_rows(tmp_path: pathlib.Path, text: str | None):
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(
        TlperfError, match="no result rows; run a stage first"
    ) as caught:
        write_report(tmp_path)
    assert caught.value.code is ExitCode.NO_INPUT
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (
            b'{"loss": 1.0}\n',
            "E65 foreign_results: ",
            "schema_version None, expected 1",
        ),
        (b"[1]\n", "E65 foreign_results: ", "line 1 is no result row of tlperf: exp"),
        (b"{\n", "E76 damaged_file: ", "not JSON"),
        (b"\xff\xfe\n", "E76 damaged_file: ", "not JSON"),
    ],
)
def test_rows_of_something_else_give_one_line(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    reason: str,
    text: str,
):
    (tmp_path / "results.jsonl").write_bytes(data)
    assert cli.main(["report", f"--workdir={tmp_path}"]) == int(reason[1:3])
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(f"tlperf report: {reason}")
    assert text in err
    assert not (tmp_path / "report").exists()


@pytest.mark.B6
def test_a_report_whose_rows_are_gone_goes_too(tmp_path: pathlib.Path, record_property):
    """Files of others stay."""
    write_rows(tmp_path, Case(backbones=("vgg16",)))
    write_report(tmp_path)
    (tmp_path / "report" / "notes.txt").write_text("mine")
    (tmp_path / "results.jsonl").unlink()
    assert cli.main(["report", f"--workdir={tmp_path}"]) == ExitCode.NO_INPUT
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["notes.txt"]
    record_property("figures", "1 of 1 input deleted: exit 66, no stale report")


_SCRIPT = """
import sys, time
from tlperf.reporting.report import write_report
assert "matplotlib" not in sys.modules and "jinja2" not in sys.modules
write_report(sys.argv[1])
heavy = {"tensorflow", "keras", "sklearn", "matplotlib.pyplot"}
heavy &= {*sys.modules}
assert not heavy, heavy
# CPU time: other work on the machine must not fail this.
assert time.process_time() < 5, time.process_time()
"""


def test_fast_and_without_tensorflow(full: pathlib.Path, tmp_path: pathlib.Path):
    """And the same bytes as another process wrote."""
    copy_inputs(full, tmp_path)
    subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path)], check=True)
    assert read_report(tmp_path) == read_report(full)
