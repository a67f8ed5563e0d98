"""From result rows to a report on disk.

    write_report(workdir)  # {"report": ".../report/index.html", "figures": 192, ...}

Reads WORKDIR/results.jsonl and the study's tables, nothing else; equal rows give equal
bytes.
"""

import pathlib
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import RESULTS_NAME, read_results
from tlperf.reporting.ledger import build_ledger
from tlperf.reporting.render import render_html, render_markdown
from tlperf.reporting.rows import collect_rows
from tlperf.reporting.sections import build_document

REPORT_FOLDER = "report"


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
        TlperfError: exit code 66 where there are no rows; an older report stays.
    """
    rows = read_results(workdir)
    if not rows:
        raise TlperfError(
            ExitCode.NO_INPUT,
            "no_results",
            path=pathlib.Path(workdir) / RESULTS_NAME,
            found="no result rows",
            remedy="run a stage first, or give the --workdir of a run",
        )
    # All is rendered before anything is written: a failure leaves the old report whole.
    texts = render_report(rows)
    folder = pathlib.Path(workdir) / REPORT_FOLDER
    for name, text in texts.items():
        files.write_text(folder / name, text)
    _remove_stale_plots(folder, keep=texts)
    run = collect_rows(rows)
    return {
        "report": str(folder / "index.html"),
        "markdown": str(folder / "report.md"),
        "figures": len(build_ledger(run)),
        "backbones": [results.name for results in run.measured],
    }


def _remove_stale_plots(folder: pathlib.Path, *, keep: dict[str, str]) -> None:
    for path in folder.glob("*.svg"):
        if path.name not in keep:
            with files.io_errors(path):
                path.unlink(missing_ok=True)
