"""The report as a document: which sections, tables and plots, in which order.

document = build_document(collect_rows(rows), ledger, read_evidence(workdir))
"""

import dataclasses
from collections.abc import Iterable, Iterator

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reference.paper import SOURCE
from tlperf.reporting import facts, study_tables
from tlperf.reporting.backbone_section import (
    backbone_section,
    beside,
    unmeasured_section,
)
from tlperf.reporting.banner import find_banner
from tlperf.reporting.data_section import data_section
from tlperf.reporting.document import (
    NOT_MEASURED,
    Block,
    Bullets,
    Document,
    Gallery,
    Paragraph,
    Plot,
    Section,
    Table,
)
from tlperf.reporting.evidence import Evidence
from tlperf.reporting.gpu_matrix import matrix_document, matrix_sections
from tlperf.reporting.latency_plots import (
    draw_roofline,
    draw_spread,
    draw_throughput,
    draw_tradeoff,
)
from tlperf.reporting.ledger_tables import ledger_section, verdict_sentence
from tlperf.reporting.plots import draw_comparison
from tlperf.reporting.preprocessing import preprocessing_section
from tlperf.reporting.ranking import ranking_table
from tlperf.reporting.rows import RunRows
from tlperf.reporting.study_tables import Ledger

TITLE = "Transfer learning, measured beside the published study"

_COMPARISONS = (
    ("accuracy", "training", 21),
    ("accuracy", "validation", 22),
    ("loss", "training", 23),
    ("loss", "validation", 24),
)


def build_document(
    run: RunRows, ledger: Ledger, evidence: Evidence | None = None
) -> Document:
    """The whole report of a workdir's rows and of the files beside them.

    A GPU matrix that stands alone has nothing that the study could be put beside.
    """
    evidence = evidence or Evidence()
    matrix = evidence.matrix
    if matrix is not None and not run.rows:
        return matrix_document(matrix, is_cited=True)
    known = [results for results in run.backbones if results.rows]
    others = [results for results in run.backbones if not results.rows]
    sections = (
        _summary(run, ledger),
        # What a workdir that has one was made for.
        *(matrix_sections(matrix, is_cited=True) if matrix is not None else ()),
        Section("Each backbone", ()),
        *(backbone_section(run, results, ledger, evidence) for results in known),
        *((unmeasured_section(others, ledger),) if others else ()),
        _across(run, ledger),
        preprocessing_section(run, ledger),
        ledger_section(run, ledger),
        data_section(run, evidence),
        _method(run),
    )
    return Document(title=TITLE, banner=find_banner(run, ledger), sections=sections)


def _table_or_text(table: Table, text: str) -> Block:
    return table if table.rows else Paragraph(text)


def _summary(run: RunRows, ledger: Ledger) -> Section:
    names = ", ".join(results.title for results in run.measured) or "none"
    return Section(
        "Summary",
        (
            Paragraph(
                f"The study: {SOURCE}. It fine-tuned six ImageNet networks of Keras on "
                "photos of cats and dogs; the tables and figures that are named below "
                "are its own."
            ),
            Paragraph(f"Measured backbones: {names}."),
            ranking_table(run),
            _gallery(
                _timed((draw_tradeoff(run),), run),
                "Accuracy by time: not measured. It needs an evaluation, and a timed "
                "row of the fine-tuned network with the same weights.",
            ),
            facts.summary_table(run, ledger),
            Paragraph(
                f"{verdict_sentence(ledger)} Each figure stands in the ledger below "
                "and in paper.json with what was measured beside it."
            ),
        ),
    )


def _gallery(plots: Iterable[Plot | None], missing: str) -> Block:
    drawn = tuple(plot for plot in plots if plot is not None)
    return Gallery(drawn) if drawn else Paragraph(missing)


def _across(run: RunRows, ledger: Ledger) -> Section:
    smoke = any(results.is_smoke("train") for results in run.backbones)
    plots = [
        draw_comparison(
            run,
            quantity=quantity,
            split=split,
            caption=beside(
                f"All backbones: {quantity} in {split}", number, smoke=smoke
            ),
        )
        for quantity, split, number in _COMPARISONS
    ]
    return Section(
        "Across backbones",
        (
            _gallery(plots, "Curves across backbones: not measured."),
            study_tables.table_11(run, ledger),
            study_tables.table_1(run, ledger),
            _table_or_text(facts.latency_table(run), "Timed runs: not measured."),
            *_timed_plots(run),
            study_tables.table_2(run, ledger),
            study_tables.table_3(run, ledger),
            study_tables.table_4(run, ledger),
        ),
    )


def _timed_plots(run: RunRows) -> tuple[Block, ...]:
    plots = (draw_spread(run), draw_throughput(run), draw_roofline(run))
    drawn = tuple(_timed(plots, run))
    return (Gallery(drawn),) if drawn else ()


def _timed(plots: Iterable[Plot | None], run: RunRows) -> Iterator[Plot]:
    """The pictures that there are, of smoke figures named as such."""
    smoke = any(results.is_smoke("latency") for results in run.backbones)
    for plot in plots:
        if plot is not None:
            caption = beside(plot.caption, None, smoke=smoke)
            yield dataclasses.replace(plot, caption=caption)


def _protocol_sentences(run: RunRows) -> tuple[str, ...]:
    """As the rows themselves say it: whoever timed knows what was timed."""
    texts = {
        f"{timed.get('protocol')}: {timed.get('protocol_text', NOT_AVAILABLE)}"
        for results in run.backbones
        for timed in results.latency_runs
    }
    return tuple(sorted(texts)) or (NOT_MEASURED,)


def _method(run: RunRows) -> Section:
    return Section(
        "Machine and method",
        (
            facts.machine_table(run),
            _table_or_text(facts.device_table(run), "Devices: not measured."),
            _table_or_text(facts.settings_table(run), "Training: not measured."),
            Paragraph("What one latency sample times, by protocol:"),
            Bullets(_protocol_sentences(run)),
            Paragraph(
                "The first call stands apart, warm-up steps are not counted, and a "
                "percentile is an observed sample. The study's step times come from "
                "Keras Applications and were measured on a device and under a protocol "
                "of their own; a measured time beside them does not reproduce them."
            ),
            Paragraph(
                "Everything here comes from results.jsonl (all epochs and raw latency "
                "samples), from the small pictures that evaluation and sharding leave "
                "beside it, and from the study's printed tables. The line under a "
                "table or picture names the rows that it was made of."
            ),
        ),
    )
