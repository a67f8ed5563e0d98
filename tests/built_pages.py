"""Pages of made-up rows, and their parts: sections, tables, drawings.

page, markdown = build_page(workdir)
cells(page, "Ranking"), section(page, "Summary"), drawing(page, "Samples of each")
"""

import pathlib
import re

from tests.pages import Element, read_page
from tests.test_reporting_rows import Case, write_pictures, write_rows
from tlperf.reporting.report import write_report

# Of a page that has all.
STAGES = ("shard", "preprocess", "train", "evaluate", "latency")
PLAIN = Case(backbones=("vgg16", "xception"), stages=STAGES, epochs=2)


def build_page(workdir: pathlib.Path, case: Case = PLAIN) -> tuple[str, str]:
    """The page and the Markdown of a workdir."""
    write_rows(workdir, case)
    write_pictures(workdir, case)
    return rebuild_page(workdir)


def rebuild_page(workdir: pathlib.Path) -> tuple[str, str]:
    """The same of what is there."""
    write_report(workdir)
    folder = workdir / "report"
    return (folder / "index.html").read_text(), (folder / "report.md").read_text()


def section(page: str, title: str) -> str:
    """The text of a part, its subsections included."""
    root, _ = read_page(page)
    (main,) = root.find_all("main")
    told: list[str] = []
    level = 0  # of the part's heading; 0 outside of it
    for element in main.elements:
        if re.fullmatch("h[1-6]", element.tag):
            here = int(element.tag[1])
            level = here if element.text == title else level * (here > level)
        if level:
            told.append(element.text)
    assert told, title
    return " ".join(told)


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of a table without its heading."""
    root, _ = read_page(page)
    (table,) = (
        table
        for table in root.find_all("table")
        if table.find_all("caption")[0].text == title
    )
    return [[cell.text for cell in row.elements] for row in table.find_all("tr")[1:]]


def drawing(page: str, name: str) -> Element:
    """The drawing whose label begins so."""
    root, _ = read_page(page)
    (found,) = (
        svg
        for svg in root.find_all("svg")
        if svg.attributes["aria-label"].startswith(name)
    )
    return found


def assert_same(page: str, markdown: str) -> None:
    """Every cell, caption and sentence of the page is in the Markdown."""
    root, _ = read_page(page)
    # Of links their texts.
    plain = re.sub(r"(?<![!\\])\[([^\[\]]*)\]\([^()]*\)", r"\1", markdown)
    plain = " ".join(plain.replace("\\", "").split())
    plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    for tag in ("td", "th", "h2", "h3", "figcaption", "caption", "p", "li"):
        for element in root.find_all(tag):
            is_of_navigation = tag == "li" and element.find_all("a")
            if not element.find_all("figure") and not is_of_navigation:
                assert element.text.replace("\\", "") in plain, element
