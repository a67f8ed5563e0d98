"""Why two backbones failed in the study: a hypothesis, and what was measured of it.

section = preprocessing_section(run, ledger)

The evidence is in rows of stage `preprocess`: what the pretrained weights say about
their input, for each normalisation. Where there is no row, that is said, and nothing is
concluded.
"""

from collections.abc import Iterator

from tlperf.core.units import NOT_AVAILABLE, format_number
from tlperf.reference.backbones import BACKBONES
from tlperf.reporting.document import (
    NOT_MEASURED,
    Block,
    Bullets,
    Paragraph,
    Section,
    Table,
)
from tlperf.reporting.facts import format_weights
from tlperf.reporting.normalisation import (
    EXPECTED,
    STUDY_NORMALISATION,
    name_preprocessing,
    used_normalisation,
)
from tlperf.reporting.rows import BackboneRows, Row, RunRows, child, finite
from tlperf.reporting.sources import study_source
from tlperf.reporting.study_tables import (
    Ledger,
    find_entry,
    format_measured,
    format_published_score,
)

FAILED = ("resnet50", "efficientnetb0")
TITLE = "Why ResNet50 and EfficientNetB0 failed in the study"
# The study's own normalisation, as rows call it.
_STUDY = (STUDY_NORMALISATION, "paper")
_STUDIED = tuple(spec.name for spec in BACKBONES)


def preprocessing_section(run: RunRows, ledger: Ledger) -> Section:
    """The whole part, whatever was measured."""
    blocks: list[Block] = [
        Paragraph(_HYPOTHESIS.format(**_accuracies(ledger))),
        _overview(run, ledger),
        Paragraph("What follows for the two:"),
        Bullets(tuple(_conclude(results) for results in _failed(run))),
    ]
    details = _details(run)
    if details.rows:
        blocks.append(details)
    texts = tuple(
        f"{results.title}: {results.preprocess['text']}"
        for results in run.backbones
        if results.preprocess.get("text")
    )
    if texts:
        blocks.append(Bullets(texts))
    return Section(TITLE, tuple(blocks))


_HYPOTHESIS = (
    "The study reports {resnet50} for ResNet50 and {efficientnetb0} for "
    "EfficientNetB0, and concludes that their features may not be fully compatible "
    "with cats and dogs. A likelier cause, which it does not state: one "
    "normalisation, most plausibly x / 255, for all six backbones, while each one's "
    "ImageNet weights expect their own. EfficientNetB0 divides by 255 itself, so x / "
    "255 reaches it 255 times too small. This is a hypothesis to measure, and it must "
    "also explain VGG16, which expects what ResNet50 expects and reached {vgg16}: a "
    "wrong normalisation is not always a costly one. Of EfficientNetB0 another cause "
    "may be Adagrad at 5e-05, which InceptionV3 had too and reached {inceptionv3}; "
    "ResNet50 had Adam."
)


def _accuracies(ledger: Ledger) -> dict[str, str]:
    found = {}
    for name in (*FAILED, "vgg16", "inceptionv3"):
        entry = find_entry(ledger, "Table 11", name, "accuracy")
        found[name] = format_published_score(entry)
    return found


def _failed(run: RunRows) -> Iterator[BackboneRows]:
    for name in FAILED:
        yield from (results for results in run.backbones if results.name == name)


def _is_random(row: Row) -> bool:
    """Whether the weights were drawn at random, and so expect nothing of the input."""
    return child(row, "weights").get("kind") == "none"


def _find_verdict(row: Row, words: tuple[object, ...]) -> Row:
    for verdict in row.get("verdicts") or ():
        if verdict.get("preprocess") in words:
            found: Row = verdict
            return found
    return {}


def _describe_verdict(verdict: Row) -> str:
    """`severe (conv1_bn, shift 3.200)`; says so where there is none."""
    if not verdict:
        return NOT_MEASURED
    shift = format_number(finite(verdict.get("shift")), 3)
    finding, layer = (verdict.get(key) or NOT_AVAILABLE for key in ("finding", "layer"))
    return f"{finding} ({layer}, shift {shift})"


def _overview(run: RunRows, ledger: Ledger) -> Table:
    columns = (
        "backbone",
        "study's accuracy",
        "its weights expect",
        "checked weights",
        "x / 255, as in the study",
        "fits best",
        "used in training here",
        "accuracy here",
    )
    rows = [
        (
            results.title,
            format_published_score(
                find_entry(ledger, "Table 11", results.name, "accuracy")
            ),
            name_preprocessing(EXPECTED.get(results.name, NOT_AVAILABLE)),
            format_weights(results.preprocess),
            _describe_verdict(_find_verdict(results.preprocess, _STUDY)),
            name_preprocessing(results.preprocess.get("best", NOT_MEASURED)),
            name_preprocessing(used_normalisation(results) or NOT_MEASURED),
            format_measured("accuracy", finite(results.evaluate.get("accuracy"))),
        )
        for results in run.backbones
        if results.name in _STUDIED or results.preprocess
    ]
    notes = (
        "A finding tells how far the first layers' statistics of a sample of photos "
        "lie from those that the weights were trained with. It is no accuracy: a "
        "backbone that is trained on may adapt.",
    )
    return Table(
        "What the weights expect, and what they are given",
        columns,
        tuple(rows),
        notes,
        (study_source("Table 11"), *run.sources("preprocess", "train", "evaluate")),
    )


def _details(run: RunRows) -> Table:
    columns = (
        "backbone",
        "normalisation",
        "finding",
        "layer",
        "shift",
        "photos",
        "rule",
        "in words",
    )
    rows = tuple(
        (
            results.title,
            name_preprocessing(verdict.get("preprocess", NOT_AVAILABLE)),
            str(verdict.get("finding", NOT_AVAILABLE)),
            str(verdict.get("layer", NOT_AVAILABLE)),
            format_number(finite(verdict.get("shift")), 3),
            str(results.preprocess.get("images", NOT_AVAILABLE)),
            str(results.preprocess.get("rule", NOT_AVAILABLE)).replace("_", " "),
            str(verdict.get("text", "")),
        )
        for results in run.backbones
        for verdict in results.preprocess.get("verdicts") or ()
    )
    notes = dict.fromkeys(
        text for results in run.backbones for text in _measure(results.preprocess)
    )
    return Table(
        "Each normalisation checked against the weights",
        columns,
        rows,
        tuple(notes),
        run.sources("preprocess"),
    )


def _measure(row: Row) -> Iterator[str]:
    """What a shift is, and from which one on it is a misfit, where the row says so."""
    if row.get("unit"):
        yield f"Shift: {row['unit']}."
    limits = child(row, "limits")
    if limits:
        rule = str(row.get("rule", NOT_AVAILABLE)).replace("_", " ")
        mild, severe = (limits.get(key, NOT_AVAILABLE) for key in ("mild", "severe"))
        yield f"By rule {rule} a misfit is mild from {mild}, severe from {severe}."


def _conclude(results: BackboneRows) -> str:
    """What the rows allow to say about one of the two that failed."""
    row = results.preprocess
    verdict = _find_verdict(row, _STUDY)
    if not verdict:
        return (
            f"{results.title}: not measured. There is no check of x / 255 against its "
            "pretrained weights in this workdir."
        )
    if _is_random(row):
        return (
            f"{results.title}: not measured. The weights that were checked are random, "
            "and tell nothing about pretrained ones."
        )
    told = f"{results.title}: measured, x / 255: {_describe_verdict(verdict)}"
    if verdict.get("finding") == "fits":
        return f"{told}. The hypothesis does not hold for it."
    best = name_preprocessing(row.get("best", NOT_AVAILABLE))
    return (
        f"{told}; {best} fits best. The input was not what its weights expect, as the "
        "hypothesis has it; how much accuracy that costs, a training with "
        "--preprocess=paper tells."
    )
