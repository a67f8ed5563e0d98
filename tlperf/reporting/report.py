"""From result rows to a report on disk.

    write_report(workdir)  # {"report": ".../report/index.html", "figures": 192, ...}

Reads WORKDIR/results.jsonl, the small pictures and the GPU matrix beside it, and the
study's tables, nothing else; equal files give equal bytes.
"""

import concurrent.futures
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import RESULTS_NAME, read_own_results
from tlperf.reporting.document import Document
from tlperf.reporting.evidence import Evidence, read_evidence
from tlperf.reporting.ledger import build_ledger, count_verdicts
from tlperf.reporting.render import render_html, render_markdown
from tlperf.reporting.rows import collect_rows, finite
from tlperf.reporting.sections import build_document
from tlperf.reporting.study_tables import Ledger

REPORT_FOLDER = "report"
_REMEDY = "give the --workdir of a run"
_WRITERS = 8
# Of the files in it.
_NAMES = ("index.html", "report.md", "paper.json", "*.svg", "*.jpg")


def render_report(
    rows: list[dict[str, Any]], evidence: Evidence | None = None
) -> dict[str, str]:
    """Every text of the report by its file's name; its photographs are beside it."""
    run = collect_rows(rows)
    ledger = build_ledger(run)
    return _render_texts(build_document(run, ledger, evidence), ledger)


def _render_texts(document: Document, ledger: Ledger) -> dict[str, str]:
    figures = [entry.to_dict() for entry in ledger]
    return {
        **{f"{plot.name}.svg": plot.svg for plot in document.plots},
        "paper.json": files.to_json({"figures": figures}, indent=1) + "\n",
        "report.md": render_markdown(document),
        "index.html": render_html(document),
    }


def write_report(workdir: str | pathlib.Path) -> dict[str, Any]:
    """Writes WORKDIR/report from WORKDIR/results.jsonl and the files beside it.

    Returns:
        report, markdown and paper (paths), figures (published figures in the ledger),
        verdicts (how many of them have each), ledger (as in paper.json), backbones
        (names of those with at least one row), and accuracies (test accuracy of each of
        them, None where it was not evaluated).

    Raises:
        TlperfError: exit code 66 where there is nothing; an older report, whose rows
            are gone, goes too. 65 where a row is none of this version, 76 where a
            file is damaged.
    """
    rows = read_own_results(workdir, remedy=_REMEDY)
    evidence = read_evidence(workdir)
    folder = pathlib.Path(workdir) / REPORT_FOLDER
    if not rows and evidence.matrix is None:
        _remove_files(folder, _NAMES, keep=())
        raise TlperfError(
            ExitCode.NO_INPUT,
            "no_results",
            path=pathlib.Path(workdir) / RESULTS_NAME,
            found="no result rows",
            remedy=f"run a stage first, or {_REMEDY}",
        )
    run = collect_rows(rows)
    ledger = build_ledger(run)
    document = build_document(run, ledger, evidence)
    # All is rendered before anything is written: a failure leaves the old report whole.
    made = {
        **{f"{photo.name}.jpg": photo.jpeg or b"" for photo in document.photos},
        **{k: text.encode() for k, text in _render_texts(document, ledger).items()},
    }
    _write_files(folder, made)
    _remove_files(folder, ("*.svg", "*.jpg"), keep=made)
    return {
        "report": str(folder / "index.html"),
        "markdown": str(folder / "report.md"),
        "paper": str(folder / "paper.json"),
        "figures": len(ledger),
        "verdicts": count_verdicts(ledger),
        "ledger": [entry.to_dict() for entry in ledger],
        "backbones": [results.name for results in run.measured],
        "accuracies": {
            results.name: finite(results.evaluate.get("accuracy"))
            for results in run.measured
        },
    }


def _write_files(folder: pathlib.Path, made: Mapping[str, bytes]) -> None:
    """Each whole and on disk; several at once, since they mostly wait for the disk."""
    with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
        paths = [folder / name for name in made]
        for _ in pool.map(files.write_bytes, paths, made.values()):
            pass  # raises what a writer raised


def _remove_files(
    folder: pathlib.Path, patterns: Sequence[str], *, keep: Collection[str]
) -> None:
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.name not in keep:
            with files.io_errors(path):
                path.unlink(missing_ok=True)
