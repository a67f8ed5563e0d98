"""Every number links to the file, and the line, that it came from."""

import json
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from tests.built_pages import (
    PLAIN,
    STAGES,
    assert_same,
    build_page,
    cells,
    rebuild_page,
)
from tests.pages import Element, find_faults, read_page
from tests.test_reporting_rows import Case, write_pictures, write_rows
from tlperf.core import files
from tlperf.core.results import read_results
from tlperf.reporting.document import (
    Document,
    Gallery,
    Photos,
    Plot,
    Section,
    Table,
)
from tlperf.reporting.evidence import Evidence, read_evidence
from tlperf.reporting.gpu_matrix import render_matrix
from tlperf.reporting.ledger import build_ledger
from tlperf.reporting.render import render_html, render_markdown
from tlperf.reporting.rows import collect_rows
from tlperf.reporting.sections import build_document
from tlperf.reporting.sources import Source, study_source

Cited = Table | Plot | Photos


def cited_blocks(document: Document) -> Iterator[tuple[str, Cited]]:
    """Whatever may have sources, with a name."""
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Gallery):
                yield from ((plot.name, plot) for plot in block.plots)
            elif isinstance(block, Table | Photos):
                yield block.title, block


def build(rows: list[dict[str, Any]], evidence: Evidence) -> dict[str, Cited]:
    run = collect_rows(rows)
    return dict(cited_blocks(build_document(run, build_ledger(run), evidence)))


def changed(value: Any) -> Any:
    """Every number another one; words, and what is true or false, as they were."""
    if isinstance(value, dict):
        return {key: changed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [changed(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return value + 1 if isinstance(value, int) else value * 0.97


def shown(block: Cited) -> Any:
    """What a reader sees of it."""
    if isinstance(block, Table):
        return block.columns, block.rows, block.notes
    return (block.svg, block.caption) if isinstance(block, Plot) else block.photos


def lines_of(block: Cited) -> set[int]:
    return {
        line
        for source in block.sources
        for line in source.lines
        if source.name == "results.jsonl"
    }


@pytest.mark.B6
def test_what_changes_with_a_row_names_it_and_nothing_else(
    tmp_path: pathlib.Path, record_property
):
    """Each row in turn with other numbers: the tables and pictures that are others then
    are those that name the row's line."""
    old = Case(backbones=("xception",), stages=STAGES, epochs=1)
    write_rows(tmp_path, old)  # replaced, so named nowhere
    write_rows(tmp_path, PLAIN)
    write_pictures(tmp_path, PLAIN)
    rows, evidence = read_results(tmp_path), read_evidence(tmp_path)
    first = len(rows) - 9
    before = build(rows, evidence)
    found: dict[str, set[int]] = {name: set() for name in before}
    for place in range(len(rows)):
        row = rows[place]
        parts = {"result": changed(row["result"]), "machine": changed(row["machine"])}
        if row["stage"] == "train":
            # Words that alone decide some cells and verdicts.
            parts["result"] |= {"head": ["Dense(9)"], "preprocess": "paper"}
            parts["result"]["weights"] = {"kind": "none"}
        # Devices of these rows have no numbers.
        parts["device"] = row["device"] and {**row["device"], "kind": "gpu"}
        others = [*rows[:place], {**row, **parts}, *rows[place + 1 :]]
        after = build(others, evidence)
        for name, block in before.items():
            if name not in after or shown(after[name]) != shown(block):
                found[name].add(place + 1)
    named = {name: lines_of(block) for name, block in before.items()}
    assert named == found
    assert all(first < line for lines in named.values() for line in lines)
    count = sum(map(bool, named.values()))
    record_property("figures", f"{count} tables and pictures name their rows, 0 other")


@pytest.mark.B6
def test_each_link_leads_to_the_row_of_the_number_beside_it(
    tmp_path: pathlib.Path, record_property
):
    """On the page and in the Markdown; each row of a stage has an accuracy, a time or a
    size of its own."""
    for _ in range(2):  # the first time replaced, as older rows are
        write_rows(tmp_path, Case(backbones=PLAIN.backbones, stages=STAGES))
    write_pictures(tmp_path, PLAIN)
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["result"] |= {
            "evaluate": {"accuracy": 0.9 + number / 1e3},
            "train": {"steps_per_sec": 100.0 + number},
            "shard": {"seen": 7000 + number},
            "preprocess": {"images": 7000 + number},
        }.get(row["stage"], {})
        for run in row["result"].get("runs", ()):
            run["p50_ms"] = 500.0 + number
    path.write_text("".join(files.to_json(row) + "\n" for row in rows))
    page, markdown = rebuild_page(tmp_path)
    assert find_faults(page) == []
    assert_same(page, markdown)
    links = [
        link
        for link in read_page(page)[0].find_all("a")
        if not link.attributes["href"].startswith("#")
    ]
    for link in links:
        file, _, line = link.attributes["href"].partition("#L")
        place = tmp_path / "report" / urllib.parse.unquote(file)
        assert place.is_file()
        assert link.text == (line or file.removeprefix("../"))
        assert int(line or 0) <= len(place.read_text().splitlines())
    in_markdown = re.findall(r"(?<!!)\[([^\[\]]*)\]\(([^()]*)\)", markdown)
    assert in_markdown == [(link.text, link.attributes["href"]) for link in links]
    # Under what is told of these, the rows where they stand.
    for title, column, text in (
        ("Ranking", "test accuracy", "{accuracy:.4f}"),
        ("How each backbone was trained", "steps/s", "{steps_per_sec:.2f}"),
        ("Timed runs", "p50, ms", "{runs[0][p50_ms]:.2f}"),
        ("Each normalisation checked against the weights", "photos", "{images}"),
        ("What was stored", "value", "{seen:,}"),
    ):
        told = [text.format(**result) for result in linked_results(tmp_path, title)]
        shown_in = columns_of(page, title).index(column)
        given = {row[shown_in] for row in cells(page, title)}
        assert told
        assert {*told} <= given
    record_property("figures", f"{len(links)} links, each to a file and line there is")


def table_of(page: str, title: str) -> Element:
    (found,) = (
        element
        for element in read_page(page)[0].find_all("div")
        if element.attributes.get("class", "").split()[:1] == ["table"]
        and element.find_all("caption")[0].text == title
    )
    return found


def columns_of(page: str, title: str) -> list[str]:
    head = table_of(page, title).find_all("thead")[0]
    return [cell.text for cell in head.find_all("th")]


def linked_results(workdir: pathlib.Path, title: str) -> list[dict[str, Any]]:
    """Of the rows that the line under a table links to, those that have what is asked
    for: the stage that the table's column is of."""
    page = (workdir / "report" / "index.html").read_text()
    stages = {"Ranking": "evaluate"}
    lines = (workdir / "results.jsonl").read_text().splitlines()
    found = []
    for link in table_of(page, title).find_all("a"):
        line = link.attributes["href"].partition("#L")[2]
        if line:
            row = json.loads(lines[int(line) - 1])
            if row["stage"] == stages.get(title, row["stage"]):
                found.append(row["result"])
    return found


def test_what_is_not_there_is_not_linked(tmp_path: pathlib.Path):
    page, _ = build_page(tmp_path, Case(backbones=("vgg16",), stages=("train",)))
    assert "../examples/examples.json" in page  # the data's: there is no row of them
    (tmp_path / "examples" / "examples.json").unlink()
    page, markdown = rebuild_page(tmp_path)
    for text in (page, markdown):
        assert {*re.findall(r"\.\./[\w./#]*", text)} == {
            "../results.jsonl",
            "../results.jsonl#L1",
        }


def test_a_matrix_is_the_source_of_its_tables(tmp_path: pathlib.Path):
    """In its own Markdown, which stands beside it, there is no link."""
    run = collect_rows([])
    evidence = Evidence(matrix={"cells": []})
    document = build_document(run, build_ledger(run), evidence)
    for _, block in cited_blocks(document):
        assert block.sources == (Source("gpu_matrix.json"),)
    assert "[gpu_matrix.json](../gpu_matrix.json)" in render_markdown(document)
    assert "](" not in render_matrix({"cells": []})


def test_names_of_files_are_inert():
    name = "a b/<script>\n[x](y)`#%\x1b\udcff.jsonl"
    table = Table(
        "t", ("a",), (("1",),), sources=(Source(name, "<b>", (1, 2)), study_source("T"))
    )
    document = Document("t", "", (Section("s", (table,)),))
    page, markdown = render_html(document), render_markdown(document)
    assert find_faults(page) == []
    (main,) = read_page(page)[0].find_all("main")
    link, *numbers = main.find_all("a")
    address = "../a%20b/%3Cscript%3E%0A%5Bx%5D%28y%29%60%23%25%1B%FF.jsonl"
    assert link.attributes["href"] == address
    assert [one.attributes["href"] for one in numbers] == [
        f"{address}#L1",
        f"{address}#L2",
    ]
    assert f"]({address}), &lt;b&gt;: lines [1]({address}#L1)" in markdown
    for text in (page, markdown):
        assert "<script" not in text
        assert "\x1b" not in text
        assert "\udcff" not in text
        assert text.count("; the study") == 1
    assert "<b>" not in page
