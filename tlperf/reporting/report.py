"""From result rows to a report on disk.

    write_report(workdir)  # {"report": ".../report/index.html", "figures": 192, ...}

Reads WORKDIR/results.jsonl and the study's tables, nothing else; equal rows give equal
bytes.
"""

import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import RESULTS_NAME, read_results
from tlperf.reporting.ledger import build_ledger
from tlperf.reporting.render import render_html, render_markdown
from tlperf.reporting.rows import collect_rows
from tlperf.reporting.sections import build_document

REPORT_FOLDER = "report"
# Of the files in it.
_NAMES = ("index.html", "report.md", "paper.json", "*.svg")


def render_report(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Every file of the report by its name."""
    run = collect_rows(rows)
    ledger = build_ledger(run)
    document = build_document(run, ledger)
    figures = [entry.to_dict() for entry in ledger]
    return {
        **{f"{plot.name}.svg": plot.svg for plot in document.plots},
        "paper.json": files.to_json({"figures": figures}, indent=1) + "\n",
        "report.md": render_markdown(document),
        "index.html": render_html(document),
    }


def write_report(workdir: str | pathlib.Path) -> dict[str, Any]:
    """Writes WORKDIR/report from WORKDIR/results.jsonl.

    Returns:
        report and markdown (paths), figures (published figures in the ledger), and
        backbones (names of those with at least one row).

    Raises:
        TlperfError: exit code 66 where there are no rows; an older report, whose rows
            are gone, goes too.
    """
    rows = read_results(workdir)
    folder = pathlib.Path(workdir) / REPORT_FOLDER
    if not rows:
        _remove_files(folder, _NAMES, keep=())
        raise TlperfError(
            ExitCode.NO_INPUT,
            "no_results",
            path=pathlib.Path(workdir) / RESULTS_NAME,
            found="no result rows",
            remedy="run a stage first, or give the --workdir of a run",
        )
    # All is rendered before anything is written: a failure leaves the old report whole.
    texts = render_report(rows)
    for name, text in texts.items():
        files.write_text(folder / name, text)
    _remove_files(folder, ("*.svg",), keep=texts)
    run = collect_rows(rows)
    return {
        "report": str(folder / "index.html"),
        "markdown": str(folder / "report.md"),
        "figures": len(build_ledger(run)),
        "backbones": [results.name for results in run.measured],
    }


def _remove_files(
    folder: pathlib.Path, patterns: Sequence[str], *, keep: Collection[str]
) -> None:
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.name not in keep:
            with files.io_errors(path):
                path.unlink(missing_ok=True)
