"""The warning above a report, where its figures are not what they look like.

find_banner(run, ledger)    # "" where there is nothing to warn of
"""

from collections.abc import Iterable

from tlperf.reference.paper import published
from tlperf.reporting.readings import STUDY_TEST_IMAGES
from tlperf.reporting.rows import BackboneRows, RunRows, child, finite
from tlperf.reporting.study_counts import is_score
from tlperf.reporting.study_tables import Ledger
from tlperf.reporting.verdicts import BETTER, EQUAL, WITHIN_NOISE, WORSE

SMOKE_BANNER = (
    "Smoke figures: small images, few epochs, few samples. They show that the "
    "machinery runs; they compare neither the backbones nor anything with the study."
)
# The study split 60/20/20, and its test split had 800.
_STUDY_TRAINING_IMAGES = 3 * STUDY_TEST_IMAGES
_COMPARED = (EQUAL, WITHIN_NOISE, BETTER, WORSE)


def find_banner(run: RunRows, ledger: Ledger) -> str:
    """The warning, or "": smoke figures, or scores that stand against the study's
    though the training had less to learn from."""
    if run.is_smoke:
        return SMOKE_BANNER
    names = {
        entry.figure.backbone
        for entry in ledger
        if is_score(entry.figure) and entry.word in _COMPARED
    }
    compared = [results for results in run.backbones if results.name in names]
    parts = (_fewer_epochs(compared), _fewer_images(run, compared))
    less = ", ".join(filter(None, parts))
    if not less:
        return ""
    return (
        f"Trained on less than the study: {less}. Better and "
        "worse are said of the scores alone: this may be all that is behind them."
    )


def _fewer_epochs(compared: Iterable[BackboneRows]) -> str:
    counts = []
    for results in compared:
        figure = published(results.name, "Table 4", "epochs")
        printed = None if figure is None else finite(figure.value)
        if printed is not None and len(results.epochs) < printed:
            counts.append((len(results.epochs), printed))
    if not counts:
        return ""
    (least, printed), (most, _) = min(counts), max(counts)
    told = f"{least}" if least == most else f"{least} to {most}"
    return f"{told} of {printed:g} epochs"


def _fewer_images(run: RunRows, compared: Iterable[BackboneRows]) -> str:
    """Where the data were stored for this workdir, and are those it was trained on."""
    digest = run.shard.get("digest")
    trained = {results.train.get("data_digest") for results in compared}
    if digest is None or digest not in trained:
        return ""
    split = child(child(run.shard, "splits"), "train")
    counts = [finite(count) for count in split.values()]
    known = [count for count in counts if count is not None]
    total = sum(known)
    if not known or total >= _STUDY_TRAINING_IMAGES:
        return ""
    return f"{total:,.0f} training images, not {_STUDY_TRAINING_IMAGES:,}"
