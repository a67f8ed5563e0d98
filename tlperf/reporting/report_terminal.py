"""What `tlperf report` prints: the ledger in short, or a comparison.

print(render_report(write_report("w")))
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from tlperf.core.errors import escape_text
from tlperf.core.units import NOT_AVAILABLE, format_number
from tlperf.reporting.comparison_page import (
    accuracy_table,
    count_verdicts,
    latency_table,
    title_of,
    training_table,
)
from tlperf.reporting.document import Table
from tlperf.reporting.study_tables import format_edges
from tlperf.reporting.terminal_table import render_table
from tlperf.reporting.verdicts import VERDICTS, verdict_word

Values = Mapping[str, Any]

# A terminal is narrower than a page: the rest is there and in --json.
_ACCURACY_COLUMNS = (
    *("backbone", "pair", "test images", "accuracy", "beside it, accuracy"),
    *("difference", "95 % of the difference", "p", "verdict"),
)
_LATENCY_COLUMNS = (
    *("backbone", "pair", "model", "protocol", "runtime", "batch", "precision"),
    *("p50, ms", "beside it, p50, ms", "ratio", "its interval", "verdict"),
)


def render_report(result: dict[str, Any]) -> str:
    """The accuracies, the verdicts of each table, where the files are; or what was
    compared."""
    if "comparison" in result:
        return render_comparison(result)
    names = ", ".join(map(title_of, result["backbones"])) or "none"
    facts = [
        f"measured backbones: {escape_text(names)}",
        *_render_paths(result, ("report", "markdown", "paper")),
    ]
    if not result["backbones"]:
        return "\n".join(facts)  # the data alone, or a GPU matrix
    ledger = result["ledger"]
    accuracies = _render_accuracies(ledger, result["accuracies"])
    return "\n\n".join([accuracies, _render_counts(ledger), "\n".join(facts)])


def _render_paths(result: Values, names: Sequence[str]) -> list[str]:
    return [f"{name}: {escape_text(result[name])}" for name in names]


def _render_accuracies(ledger: Sequence[Values], accuracies: Values) -> str:
    """The study's backbones, then others that were evaluated."""
    rows = [
        [
            entry["row"],
            format_number(entry["published"], 4),
            format_number(entry["measured"], 4),
            NOT_AVAILABLE
            if entry["difference"] is None
            else f"{entry['difference']:+.4f}",
            format_edges(entry["difference_interval"], sign=True),
            escape_text(entry["verdict"]),
        ]
        for entry in ledger
        if entry["table"] == "Table 11"
    ]
    published = {entry["backbone"] for entry in ledger}
    rows += [
        [
            escape_text(title_of(name)),
            NOT_AVAILABLE,
            format_number(accuracy, 4),
            *(NOT_AVAILABLE,) * 3,
        ]
        for name, accuracy in accuracies.items()
        if name not in published
    ]
    columns = ["test accuracy", "published", "measured", "difference", "95 %"]
    return render_table([*columns, "verdict"], rows)


def _render_counts(ledger: Sequence[Values]) -> str:
    """A row a table, a column a verdict."""
    counts: dict[str, collections.Counter[str]] = {}
    for entry in ledger:
        for name in (entry["table"], "all"):
            own = counts.setdefault(name, collections.Counter())
            own[verdict_word(entry["verdict"])] += 1
    total = counts.pop("all")
    rows = [
        [table, *(str(own[word]) for word in VERDICTS)]
        for table, own in (*counts.items(), ("all", total))
    ]
    return render_table(["figures", *VERDICTS], rows)


def render_comparison(result: Values) -> str:
    """Accuracies, times, trainings, how many settings differ, where the files are."""
    workdirs = [
        f"{workdir['label']}: {escape_text(workdir['path'])}"
        for workdir in result["workdirs"]
    ]
    parts = ["\n".join(workdirs)]
    if any(workdir["smoke"] for workdir in result["workdirs"]):
        parts.append("smoke figures: they show that the machinery runs, no more")
    return "\n\n".join(
        [
            *parts,
            _render_columns(accuracy_table(result), _ACCURACY_COLUMNS),
            f"accuracies: {count_verdicts(result['accuracies'])}",
            _render_columns(latency_table(result), _LATENCY_COLUMNS),
            f"times of a step: {count_verdicts(result['latencies'])}",
            _render_columns(training_table(result)),
            f"{len(result['settings'])} settings or facts differ: see the page",
            "\n".join(_render_paths(result, ("comparison", "markdown", "json"))),
        ]
    )


def _render_columns(table: Table, columns: Sequence[str] | None = None) -> str:
    """Some columns of a table, or all; its title alone where it has no rows."""
    if not table.rows:
        return f"{table.title}: not measured"
    names = table.columns if columns is None else columns
    places = [table.columns.index(name) for name in names]
    rows = [[escape_text(row[place]) for place in places] for row in table.rows]
    return f"{table.title}\n{render_table(names, rows)}"
