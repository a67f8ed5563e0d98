"""What a report says of one backbone: curves, mistakes, its split, its blocks.

section = backbone_section(run, results, ledger, evidence)
"""

from collections.abc import Iterator, Sequence

from tlperf.core.units import NOT_AVAILABLE, format_number
from tlperf.reporting import study_tables
from tlperf.reporting.diagram import cut_tensors, draw_architecture
from tlperf.reporting.document import (
    NOT_MEASURED,
    Block,
    Bullets,
    Gallery,
    Paragraph,
    Photo,
    Photos,
    Plot,
    Section,
    Table,
)
from tlperf.reporting.evidence import Evidence
from tlperf.reporting.plots import draw_confusion, draw_curves, file_stem
from tlperf.reporting.ranking import name_with_weights
from tlperf.reporting.readings import layer_ranges
from tlperf.reporting.rows import WAY_STAGES, BackboneRows, Row, RunRows, child, finite
from tlperf.reporting.sources import study_source
from tlperf.reporting.study_tables import (
    Ledger,
    find_entry,
    format_fact,
    format_published,
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


def backbone_section(
    run: RunRows, results: BackboneRows, ledger: Ledger, evidence: Evidence
) -> Section:
    """The part of one backbone, with what was not measured named."""
    missing = [stage for stage in WAY_STAGES if not results.result(stage)]
    blocks: list[Block] = []
    if missing:
        blocks.append(Paragraph(f"{NOT_MEASURED}: {', '.join(missing)}.".capitalize()))
    if child(results.train, "weights").get("kind") == "none":
        blocks.append(
            Paragraph(
                "Trained from a random start, without pretrained weights: its accuracy "
                "tells nothing about transfer learning."
            )
        )
    plots = _plots(run, results)
    blocks += [Gallery(plots)] if plots else []
    blocks.append(study_tables.report_table(results, ledger))
    blocks += _mistakes(results, evidence)
    blocks.append(split_table(results, ledger))
    caption = f"{results.title}: its blocks, the shape that leaves each, and the cut"
    if results.name in _STUDY_FIGURES:
        caption += "; the study's Annex I"
    drawn = draw_architecture(results, caption=caption)
    if drawn:
        blocks.append(Gallery((drawn,)))
    if results.warnings:
        blocks += [Paragraph("Warnings:"), Bullets(results.warnings)]
    return Section(name_with_weights(results), tuple(blocks), level=3)


def unmeasured_section(others: Sequence[BackboneRows], ledger: Ledger) -> Section:
    """The study's backbones without a row, in one part: what it printed of them."""
    names = ", ".join(results.title for results in others)
    reports = (study_tables.report_table(results, ledger) for results in others)
    return Section(
        "Not measured",
        (Paragraph(f"No stage has a row of {names}."), *reports),
        level=3,
    )


def beside(text: str, number: int | None, *, smoke: bool) -> str:
    """A caption that names the study's figure, and smoke figures as such."""
    figure = f"; the study's Fig. {number}" if number else ""
    return f"{text}{figure}{' (smoke figures)' if smoke else ''}"


def _plots(run: RunRows, results: BackboneRows) -> tuple[Plot, ...]:
    numbers = _STUDY_FIGURES.get(results.name, (None, None, None))
    smoke = results.is_smoke("train")
    curves = [
        draw_curves(
            results,
            quantity=quantity,
            run=run,
            caption=beside(
                f"{results.title}: {quantity} in training and validation",
                number,
                smoke=smoke,
            ),
        )
        for quantity, number in zip(("accuracy", "loss"), numbers, strict=False)
    ]
    confusion = draw_confusion(
        results,
        caption=beside(
            f"{results.title}: confusion matrix of the test images",
            numbers[2],
            smoke=results.is_smoke("evaluate"),
        ),
    )
    return tuple(plot for plot in (*curves, confusion) if plot is not None)


def split_table(results: BackboneRows, ledger: Ledger) -> Table:
    """Which layers are frozen, in the study and here, and how many they are."""
    train = results.train
    rows = []
    for side, measured in zip(("frozen", "active"), layer_ranges(train), strict=True):
        entry = find_entry(ledger, "Table 2", results.name, f"{side} layers")
        published = format_published(entry.figure) if entry else NOT_AVAILABLE
        rows.append(
            (
                f"{side} layers",
                published,
                NOT_MEASURED if measured is None else measured,
                _count_range(published) if entry else NOT_AVAILABLE,
                format_fact(train, f"{side}_layers"),
            )
        )
    source = " (Table 2)" if results.name in _STUDY_FIGURES else ""
    return Table(
        f"Frozen and active layers of {results.title}{source}",
        ("part", "published", "measured", "number, published", "number, measured"),
        tuple(rows),
        tuple(_split_notes(train)),
        (
            *((study_source("Table 2"),) if source else ()),
            *results.sources("train"),
        ),
    )


def _count_range(text: str) -> str:
    """How many layers an inclusive range of Table 2 has."""
    first, last = map(int, text.split(":"))
    return str(last - first + 1)


def _split_notes(train: Row) -> Iterator[str]:
    if not train:
        return
    yield (
        f"First active layer: {train.get('first_active') or 'none'}. Trained: "
        f"{format_fact(train, 'trainable_params')} of {format_fact(train, 'params')} "
        "parameters, the appended layers included."
    )
    crossing = cut_tensors(child(train, "architecture"))
    if crossing:
        yield f"Crossing the cut: {'; '.join(crossing)}."


def _mistakes(results: BackboneRows, evidence: Evidence) -> Iterator[Block]:
    mistakes = child(results.evaluate, "mistakes")
    count, worst = mistakes.get("count"), mistakes.get("worst") or ()
    if count is None:
        return
    images = results.evaluate.get("images", NOT_AVAILABLE)
    if not count:
        yield Paragraph(f"No mistake on {images} test images.")
        return
    title = (
        f"Worst mistakes of {results.title}: {len(worst)} of {count}, on {images} test "
        "images; the true class got the least probability"
    )
    yield Photos(
        title,
        tuple(
            _mistake(results, facts, number, evidence)
            for number, facts in enumerate(worst, 1)
        ),
        results.sources("evaluate"),
    )


def _mistake(
    results: BackboneRows, facts: Row, number: int, evidence: Evidence
) -> Photo:
    label, predicted = facts.get("label"), facts.get("predicted")
    title, place = results.title, f"{number:02d}"
    given, taken = (
        format_number(finite(facts.get(f"{key}_probability")), 4)
        for key in ("label", "predicted")
    )
    return Photo(
        name=f"{file_stem(results.name)}-mistake-{place}",
        caption=f"{facts.get('id')}: {label} {given}, taken for {predicted} {taken}",
        alt=f"A test image of class {label} that {title} takes for {predicted}",
        jpeg=evidence.find(facts),
    )
