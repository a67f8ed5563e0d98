"""The report as a document: which sections, tables and plots, in which order.

document = build_document(collect_rows(rows), ledger)
"""

import collections
from collections.abc import Iterable

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reporting import facts, study_tables
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
from tlperf.reporting.ledger import STUDY_TEST_IMAGES
from tlperf.reporting.plots import draw_comparison, draw_confusion, draw_curves
from tlperf.reporting.rows import BackboneRows, RunRows
from tlperf.reporting.study_tables import Ledger

TITLE = "Transfer learning, measured beside the published study"
SMOKE_BANNER = (
    "Smoke figures: small images, few epochs, few samples. They show that the "
    "machinery runs; they compare neither the backbones nor anything with the study."
)

# Figures of the study by backbone: accuracy, loss, confusion matrix.
_STUDY_FIGURES = {
    "inceptionv3": (3, 4, 5),
    "vgg16": (6, 7, 8),
    "xception": (9, 10, 11),
    "inceptionresnetv2": (12, 13, 14),
    "resnet50": (15, 16, 17),
    "efficientnetb0": (18, 19, 20),
}
_COMPARISONS = (
    ("accuracy", "training", 21),
    ("accuracy", "validation", 22),
    ("loss", "training", 23),
    ("loss", "validation", 24),
)


def build_document(run: RunRows, ledger: Ledger) -> Document:
    """The whole report of a workdir's rows."""
    sections = (
        _summary(run, ledger),
        Section(
            "Backbones",
            (
                study_tables.table_1(run, ledger),
                _table_or_text(facts.latency_table(run), "Timed runs: not measured."),
                study_tables.table_2(run, ledger),
                study_tables.table_3(run, ledger),
                study_tables.table_4(run, ledger),
            ),
        ),
        Section("Each backbone", ()),
        *(_backbone(run, results, ledger) for results in run.backbones),
        _across(run, ledger),
        _data(run),
        _method(run),
    )
    banner = SMOKE_BANNER if run.is_smoke else ""
    return Document(title=TITLE, banner=banner, sections=sections)


def _table_or_text(table: Table, text: str) -> Block:
    return table if table.rows else Paragraph(text)


def _summary(run: RunRows, ledger: Ledger) -> Section:
    names = ", ".join(results.title for results in run.measured) or "none"
    counts = collections.Counter(
        entry.verdict.partition(":")[0] for entry in ledger
    ).most_common()
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in counts)
    return Section(
        "Summary",
        (
            Paragraph(f"Measured backbones: {names}."),
            facts.summary_table(run, ledger),
            Paragraph(
                f"Verdicts on the study's {len(ledger)} figures: {verdicts}. Each "
                "figure stands in paper.json with what was measured beside it. Values "
                "are compared as they are: one that only rounds to the printed one "
                "differs."
            ),
        ),
    )


def _gallery(plots: Iterable[Plot | None], missing: str) -> Block:
    drawn = tuple(plot for plot in plots if plot is not None)
    return Gallery(drawn) if drawn else Paragraph(missing)


def _beside(text: str, number: int | None, *, smoke: bool) -> str:
    figure = f"; the study's Fig. {number}" if number else ""
    return f"{text}{figure}{' (smoke figures)' if smoke else ''}"


def _backbone(run: RunRows, results: BackboneRows, ledger: Ledger) -> Section:
    title = results.title
    numbers = _STUDY_FIGURES.get(results.name, (None, None, None))
    smoke = results.is_smoke("train"), results.is_smoke("evaluate")
    captions = [
        _beside(f"{title}: {what}", number, smoke=flag)
        for what, number, flag in zip(
            (
                "accuracy in training and validation",
                "loss in training and validation",
                "confusion matrix of the test images",
            ),
            numbers,
            (smoke[0], smoke[0], smoke[1]),
            strict=True,
        )
    ]
    plots = (
        draw_curves(results, quantity="accuracy", run=run, caption=captions[0]),
        draw_curves(results, quantity="loss", run=run, caption=captions[1]),
        draw_confusion(results, caption=captions[2]),
    )
    missing = [
        stage for stage in ("train", "evaluate", "latency") if not results.result(stage)
    ]
    blocks: list[Block] = [
        _gallery(plots, "Curves and confusion matrix: not measured.")
    ]
    if missing:
        blocks.append(Paragraph(f"{NOT_MEASURED}: {', '.join(missing)}.".capitalize()))
    blocks.append(study_tables.report_table(results, ledger))
    if results.warnings:
        blocks += [Paragraph("Warnings:"), Bullets(results.warnings)]
    return Section(title, tuple(blocks), level=3)


def _across(run: RunRows, ledger: Ledger) -> Section:
    smoke = any(results.is_smoke("train") for results in run.backbones)
    plots = [
        draw_comparison(
            run,
            quantity=quantity,
            split=split,
            caption=_beside(
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
        ),
    )


def _data(run: RunRows) -> Section:
    study = Paragraph(
        "The study: 4,000 photos of cats and dogs, split at random into 2,400 for "
        f"training, 800 for validation and {STUDY_TEST_IMAGES} for the test (395 of "
        "class 0, 405 of class 1). It names no files, so no other set of images is "
        "known to be the same, and its scores carry the noise of its own 800."
    )
    if not run.shard:
        return Section("Data", (Paragraph("Stored data: not measured."), study))
    return Section(
        "Data", (facts.split_table(run.shard), facts.shard_table(run.shard), study)
    )


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
                "samples) and from the study's printed tables."
            ),
        ),
    )
