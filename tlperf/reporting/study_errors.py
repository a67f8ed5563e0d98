"""What the study got wrong, or left out, beside the figures it concerns.

    known_error(figure)   # "" of nearly all

Published figures stand as printed (`tlperf.reference.paper`); here is what a reader has
to know of them. Each is checked against Keras or follows from the study's own figures.
"""

from tlperf.reference.backbones import BACKBONES
from tlperf.reference.paper import (
    A100_TF32_PEAK_TFLOPS,
    PUBLISHED_BATCH_SIZE,
    TABLE_1_COLUMNS,
    UNROUNDED_GPU_MS,
    Figure,
)

_GMACS = {spec.name: spec.gmacs for spec in BACKBONES}
_ADAGRAD = "far below Adagrad's usual rate (Keras' own is 0.001)"
_ONE_NORMALISATION = (
    "the study blames features that do not fit cats and dogs; a likelier cause is its "
    "one normalisation for all six backbones"
)
_ONE_CLASS = "its network called all 800 images class 0"

# Beside its figures.
TEXT_SLIPS = (
    "Abstract and introduction announce five methods; six are named and compared.",
    "The abstract speaks of reinforcement learning (aprendizaje por refuerzo); what is "
    "done is transfer learning.",
    "The conclusions call the accuracies of ResNet50 and EfficientNetB0 below 0.74; "
    "Table 11 has 0.62 and 0.49.",
)

# By table, backbone and column.
_BY_FIGURE = {
    ("Table 1", "efficientnetb0", "size MB"): (
        "the other printed sizes are at most 2 above parameters x 4 bytes in MiB; of "
        "its 5.3 M that are 20.3"
    ),
    ("Table 2", "inceptionv3", "active layers"): (
        "the network has 311 layers, the last is 310"
    ),
    ("Table 2", "efficientnetb0", "frozen layers"): (
        "with its ImageNet file Keras adds a layer in front, which moves each number "
        "by one"
    ),
    ("Table 2", "efficientnetb0", "active layers"): (
        "with its ImageNet file Keras adds a layer in front, which moves each number "
        "by one"
    ),
    ("Table 4", "efficientnetb0", "learning rate"): _ADAGRAD,
    ("Table 4", "inceptionv3", "learning rate"): _ADAGRAD,
    ("Table 11", "resnet50", "accuracy"): (
        f"{_ONE_NORMALISATION}; its text speaks of accuracies below 0.74"
    ),
    ("Table 11", "efficientnetb0", "accuracy"): (
        f"{_ONE_NORMALISATION}; {_ONE_CLASS}; its text speaks of accuracies below 0.74"
    ),
}
# Of every score of a table.
_BY_TABLE = {
    "Table 9": _ONE_NORMALISATION,
    "Table 10": f"{_ONE_NORMALISATION}; {_ONE_CLASS}",
}


def implied_tflops(backbone: str) -> float | None:
    """What a published step implies at the stated batch: two operations a multiply-add.

    Args:
        backbone: name of a row of `BACKBONES`.
    """
    gmacs, ms = _GMACS.get(backbone), UNROUNDED_GPU_MS.get(backbone)
    if gmacs is None or ms is None:
        return None
    return 2 * gmacs * PUBLISHED_BATCH_SIZE / ms


def _implausible_time(figure: Figure) -> str:
    tflops = implied_tflops(figure.backbone)
    if tflops is None or tflops <= A100_TF32_PEAK_TFLOPS:
        return ""
    return (
        f"at the stated batch of {PUBLISHED_BATCH_SIZE} it implies {tflops:.0f} "
        f"TFLOP/s, above the device's TF32 peak of {A100_TF32_PEAK_TFLOPS:.0f}"
    )


def known_error(figure: Figure) -> str:
    """What is known to be wrong or missing with a published figure, or ""."""
    if figure.column == TABLE_1_COLUMNS[3]:
        return _implausible_time(figure)
    own = _BY_FIGURE.get((figure.table, figure.backbone, figure.column))
    if own is not None:
        return own
    return "" if figure.column == "support" else _BY_TABLE.get(figure.table, "")
