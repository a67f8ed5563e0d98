"""What is warned of above a report."""

import pytest

from tests.ledger_rows import CONFUSIONS, evaluate_result
from tests.test_reporting_rows import shard_result, train_result
from tlperf.core.choices import Preset
from tlperf.reference.backbones import find_backbone
from tlperf.reporting.banner import SMOKE_BANNER, find_banner
from tlperf.reporting.ledger import build_ledger
from tlperf.reporting.rows import collect_rows

CLASSES = ("cats", "dogs")
DIGEST = "d" * 64


def banner_of(*, epochs=10, images=1200, digest=DIGEST, settings=None, **train):
    """Of a workdir with Xception's training and evaluation, and as many training images
    of each class."""
    shard = shard_result(CLASSES)
    shard["splits"]["train"] = dict.fromkeys(CLASSES, images)
    trained = train_result(find_backbone("xception"), classes=2, epochs=epochs)
    results = {
        "shard": {**shard, "digest": digest},
        "train": {**trained, "data_digest": DIGEST, **train},
        "evaluate": evaluate_result("xception", CONFUSIONS["xception"]),
    }
    rows = collect_rows(
        [
            {
                "stage": stage,
                "backbone": None if stage == "shard" else "xception",
                "result": result,
                "settings": settings or {},
            }
            for stage, result in results.items()
        ]
    )
    return find_banner(rows, build_ledger(rows))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"epochs": 12, "images": 5000}, ""),
        ({"epochs": 1}, "Trained on less than the study: 1 of 10 epochs. Better"),
        ({"images": 11}, "than the study: 22 training images, not 2,400. Better"),
        (
            {"epochs": 3, "images": 600},
            "3 of 10 epochs, 1,200 training images, not 2,4",
        ),
        # Data of another training: how many images that had is not known.
        ({"images": 11, "digest": "e" * 64}, ""),
        # No score is compared, so there is nothing to warn of.
        ({"epochs": 1, "weights": {"kind": "none"}}, ""),
    ],
)
def test_a_training_on_less_is_told_where_a_score_is_compared(values, text):
    found = banner_of(**values)
    assert text in found
    assert bool(text) == bool(found)


def test_smoke_figures_come_first():
    settings = {"preset": Preset.QUICK.value}
    assert banner_of(epochs=1, settings=settings) == SMOKE_BANNER


def test_nothing_measured_is_nothing_to_warn_of():
    rows = collect_rows([])
    assert find_banner(rows, build_ledger(rows)) == ""
