"""Two or more workdirs side by side: each beside the first.

    report_job("w", compare="w1,w2", out=None)
    write_comparison(parse_workdirs("w1,w2"), folder)
    # {"comparison": ".../comparison.html", "accuracies": [...], ...}

Reads results.jsonl of each workdir, and what its evaluations left of each test image,
nothing else; equal input gives equal bytes.
"""

import os
import pathlib
import string
from collections.abc import Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import SettingsError
from tlperf.reporting.comparison_accuracy import compare_accuracy
from tlperf.reporting.comparison_inputs import Workdir, read_workdir
from tlperf.reporting.comparison_latency import compare_latencies
from tlperf.reporting.comparison_page import build_comparison_document
from tlperf.reporting.comparison_settings import compare_training, list_differences
from tlperf.reporting.render import render_html, render_markdown
from tlperf.reporting.report import REPORT_FOLDER, write_report

# Beside a report none of them takes the place of its files.
_PAGE, _MARKDOWN, _JSON = "comparison.html", "comparison.md", "comparison.json"
_LABELS = string.ascii_uppercase


def parse_workdirs(text: str) -> list[str]:
    """The workdirs of a comma list.

    Raises:
        SettingsError: fewer than two, more than there are letters, or one twice.
    """
    paths = [part.strip() for part in text.split(",")]
    if len(paths) < 2 or not all(paths):
        raise SettingsError(
            f"compare is {text!r}", "give two workdirs or more: --compare=w1,w2"
        )
    if len(paths) > len(_LABELS):
        raise SettingsError(
            f"compare has {len(paths)} workdirs", f"give at most {len(_LABELS)}"
        )
    places = [os.path.realpath(path) for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise SettingsError(
                f"compare names {paths[number]} twice", "give each workdir once"
            )
    return paths


def report_job(
    workdir: str | pathlib.Path, *, compare: str | None, out: str | None
) -> dict[str, Any]:
    """What `tlperf report` does: the report of a workdir, or a comparison.

    Args:
        workdir: of the report; a comparison goes into its report folder.
        compare: comma list of workdirs, or None for a report.
        out: folder of the comparison instead, or None.
    """
    if compare is not None:
        default = pathlib.Path(workdir) / REPORT_FOLDER
        folder = default if out is None else pathlib.Path(out)
        return write_comparison(parse_workdirs(compare), folder)
    if out is not None:
        raise SettingsError(
            "out is given without --compare", "a report goes to WORKDIR/report"
        )
    return write_report(workdir)


def compare_workdirs(paths: Sequence[str]) -> dict[str, Any]:
    """The comparison as JSON.

    Args:
        paths: of two workdirs or more; the first is the one the others stand beside.

    Returns:
        workdirs [{label, path, backbones, smoke}], accuracies, latencies, trainings
        (see `compare_accuracy`, `compare_latencies`, `compare_training`), and settings
        (see `list_differences`).

    Raises:
        TlperfError: see `read_workdir`.
    """
    workdirs = [
        read_workdir(label, path) for label, path in zip(_LABELS, paths, strict=False)
    ]
    first, *others = workdirs
    backbones = _backbones(workdirs)
    return {
        "workdirs": [
            {
                "label": workdir.label,
                "path": workdir.path,
                "backbones": [results.name for results in workdir.run.measured],
                "smoke": workdir.run.is_smoke,
            }
            for workdir in workdirs
        ],
        "accuracies": [
            compare_accuracy(first, other, name)
            for name in backbones
            for other in others
            if first.results(name).evaluate or other.results(name).evaluate
        ],
        "latencies": [
            row
            for name in backbones
            for other in others
            for row in compare_latencies(first, other, name)
        ],
        "trainings": [
            compare_training(workdirs, name)
            for name in backbones
            if any(workdir.results(name).train for workdir in workdirs)
        ],
        "settings": list_differences(workdirs),
    }


def _backbones(workdirs: Sequence[Workdir]) -> list[str]:
    """Those that any workdir has measured, in the order of the reports."""
    listed = [results.name for workdir in workdirs for results in workdir.run.backbones]
    measured = {
        results.name for workdir in workdirs for results in workdir.run.measured
    }
    return [name for name in dict.fromkeys(listed) if name in measured]


def write_comparison(paths: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
    """Writes comparison.html, comparison.md and comparison.json into a folder.

    Returns:
        comparison, markdown and json (paths), and all of `compare_workdirs`.

    Raises:
        TlperfError: see `read_workdir`; 74 where the system refuses a write.
    """
    result = compare_workdirs(paths)
    document = build_comparison_document(result)
    # All is rendered before anything is written: a failure leaves the old one whole.
    texts = {
        _JSON: files.to_json(result, indent=1) + "\n",
        _MARKDOWN: render_markdown(document),
        _PAGE: render_html(document),
    }
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return {
        "comparison": str(folder / _PAGE),
        "markdown": str(folder / _MARKDOWN),
        "json": str(folder / _JSON),
        **result,
    }
