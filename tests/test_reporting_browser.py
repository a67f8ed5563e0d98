"""The page in headless Chromium, with axe-core: skipped where they are not there.

    apt-get install chromium
    pip install '.[test,browser]'
    pytest tests/test_reporting_browser.py

What a browser alone can tell: what is asked for, what overflows, how it is drawn.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compared import Compared, write_workdir
from tests.test_reporting_rows import Case, write_pictures, write_rows
from tlperf.core.choices import Preset
from tlperf.reporting.comparison import write_comparison
from tlperf.reporting.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

STAGES = ("shard", "preprocess", "train", "evaluate", "latency")
# Pixels of a desktop's window, a tablet's and a small phone's.
WIDTHS = (1280, 768, 360)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Root in a container has no sandbox to run in.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=list(Preset), ids=lambda preset: preset.value)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Of a page with all there is, its names long and hostile in one preset."""
    workdir: pathlib.Path = tmp_path_factory.mktemp("page")
    is_quick = request.param is Preset.QUICK
    classes = ("<script>alert(1)</script>", "w" * 90) if is_quick else ("cats", "dogs")
    case = Case(stages=STAGES, classes=classes, preset=request.param)
    write_rows(workdir, case)
    write_pictures(workdir, case)
    return pathlib.Path(write_report(workdir)["report"]).as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page(browser: Any, address: str, width: int, theme: str):
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=theme)
    try:
        page = context.new_page()
        asked: list[str] = []
        told: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(address)
        assert page.evaluate(_OVERFLOW) <= 0
        assert page.evaluate(_BROKEN_IMAGES) == 0
        assert [one for one in asked if not one.startswith("data:")] == [address]
        assert told == []
        violations = axe.Axe().run(page).response["violations"]
        assert [f"{one['id']}: {one['help']}" for one in violations] == []
    finally:
        context.close()


_OVERFLOW = """
document.documentElement.scrollWidth - document.documentElement.clientWidth
"""
_BROKEN_IMAGES = """
Array.from(document.images).filter(image => !image.naturalWidth).length
"""


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no poppler-utils")
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_no_printed_page_ends_with_a_heading(
    browser: Any, address: str, tmp_path: pathlib.Path, kind: str
):
    """Nor with the name of a table or of photographs. A comparison's tables are wide,
    each on pages of another kind than the text before it."""
    page = browser.new_page()
    page.goto(address if kind == "report" else _compare(tmp_path))
    titles = [" ".join(title.split()) for title in page.evaluate(_TITLES)]
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    page.close()
    command = ["pdftotext", "-layout", str(tmp_path / "page.pdf"), "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pages = [
        [" ".join(line.split()) for line in one.splitlines() if line.strip()]
        for one in text.split("\f")
    ]
    assert len(pages) > 3
    lonely = [
        lines[-1]
        for lines in pages
        if lines and any(_is_end(lines[-1], title) for title in titles)
    ]
    assert lonely == []
    for lines in pages:  # a short table is on one, with its notes
        begun = [line for line in lines if "Classification report of" in line]
        ended = [line for line in lines if line.startswith("Verdict on the acc")]
        assert len(begun) == len(ended), lines[0]


def _compare(workdir: pathlib.Path) -> str:
    paths = [
        str(write_workdir(workdir / name, Compared(epochs=epochs)))
        for name, epochs in (("w1", 10), ("w2", 3))
    ]
    written = write_comparison(paths, workdir / "c")
    return pathlib.Path(written["comparison"]).as_uri()


def _is_end(line: str, title: str) -> bool:
    """Whether a line is a title, or the last of its lines."""
    return line == title or (len(line) > 9 and title.endswith(line))


_TITLES = """
Array.from(document.querySelectorAll("h2, h3, .title, caption"))
  .map(element => element.textContent)
"""
