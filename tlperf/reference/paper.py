"""The study's Tables 1-11 as frozen rows, each figure with its table, row and column.

    published("xception", "Table 11", "accuracy").value  # 0.9587500095367432
    [figure for figure in FIGURES if figure.table == "Table 1"]

Source: see `SOURCE`. Values stand as printed; nothing is rounded or mended here.
"""

import dataclasses
from typing import Any

from tlperf.reference.backbones import BACKBONES

Value = float | int | str

SOURCE = (
    'J. E. Hernández and C. G. Rodríguez, "Aprendizaje por Transferencia", UAQ, 2022'
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        table: `Table 1` to `Table 11`.
        backbone: name of the backbone's row in `BACKBONES`.
        row: row of the table, as printed in English (`Xception`, `class 0`, ...).
        column: column, with its unit where it has one.
        value: as printed.
    """

    table: str
    backbone: str
    row: str
    column: str
    value: Value


# size MB, parameters, depth, ms per inference step (GPU)
_TABLE_1 = {
    "efficientnetb0": (29, 5_300_000, 132, 4.9),
    "inceptionv3": (92, 23_900_000, 189, 6.9),
    "inceptionresnetv2": (215, 55_900_000, 449, 10.0),
    "resnet50": (98, 25_600_000, 107, 4.6),
    "vgg16": (528, 138_400_000, 16, 4.2),
    "xception": (88, 22_900_000, 81, 8.1),
}
# frozen, active layer ranges, inclusive; InceptionV3's last layer is in fact 310
_TABLE_2 = {
    "efficientnetb0": ("0:159", "160:236"),
    "inceptionv3": ("0:247", "248:311"),
    "inceptionresnetv2": ("0:629", "630:779"),
    "resnet50": ("0:142", "143:174"),
    "vgg16": ("0:14", "15:18"),
    "xception": ("0:125", "126:131"),
}
_DENSE_HEAD = "Flatten, Dense(512, relu), Dropout(0.5), Dense(256, relu)"
_SOFTMAX = "Dense(2, softmax)"
_TABLE_3 = {
    "efficientnetb0": f"BatchNormalization, {_DENSE_HEAD}, {_SOFTMAX}",
    "inceptionv3": f"BatchNormalization, {_DENSE_HEAD}, {_SOFTMAX}",
    "inceptionresnetv2": f"GlobalAveragePooling2D, {_SOFTMAX}",
    "resnet50": f"Flatten, BatchNormalization, {_SOFTMAX}",
    "vgg16": f"{_DENSE_HEAD}, {_SOFTMAX}",
    "xception": f"GlobalAveragePooling2D, {_SOFTMAX}",
}
# learning rate, optimiser, loss, metric, batch size, epochs
_TABLE_4 = {
    name: (5e-5, optimiser, "cross-entropy", "accuracy", 32, 10)
    for name, optimiser in zip(
        _TABLE_1, ("Adagrad", "Adagrad", "Adam", "Adam", "Adam", "Adam"), strict=True
    )
}
# Tables 5-10: class 0, class 1 (precision, recall, F1, support), accuracy (value,
# support), macro and weighted average (precision, recall, F1, support)
_REPORTS = {
    ("Table 5", "inceptionv3"): (
        (0.87, 0.91, 0.89, 395),
        (0.90, 0.86, 0.88, 405),
        (0.89, 800),
        (0.89, 0.89, 0.88, 800),
        (0.89, 0.89, 0.88, 800),
    ),
    ("Table 6", "vgg16"): (
        (0.91, 0.96, 0.93, 395),
        (0.96, 0.91, 0.93, 405),
        (0.93, 800),
        (0.93, 0.93, 0.93, 800),
        (0.93, 0.93, 0.93, 800),
    ),
    ("Table 7", "xception"): (
        (0.96, 0.96, 0.96, 395),
        (0.96, 0.96, 0.96, 405),
        (0.96, 800),
        (0.96, 0.96, 0.96, 800),
        (0.96, 0.96, 0.96, 800),
    ),
    ("Table 8", "inceptionresnetv2"): (
        (0.96, 0.96, 0.96, 395),
        (0.97, 0.96, 0.96, 405),
        (0.96, 800),
        (0.96, 0.96, 0.96, 800),
        (0.96, 0.96, 0.96, 800),
    ),
    ("Table 9", "resnet50"): (
        (0.84, 0.29, 0.44, 395),
        (0.58, 0.95, 0.72, 405),
        (0.62, 800),
        (0.71, 0.62, 0.58, 800),
        (0.71, 0.62, 0.58, 800),
    ),
    ("Table 10", "efficientnetb0"): (
        (0.49, 1.00, 0.66, 395),
        (0.00, 0.00, 0.00, 405),
        (0.49, 800),
        (0.25, 0.50, 0.33, 800),
        (0.24, 0.49, 0.33, 800),
    ),
}
_TABLE_11 = {
    "efficientnetb0": 0.4937500059604645,
    "inceptionv3": 0.8849999904632568,
    "inceptionresnetv2": 0.9637500047683716,
    "resnet50": 0.6237499713897705,
    "vgg16": 0.9337499737739563,
    "xception": 0.9587500095367432,
}

TABLE_1_COLUMNS = ("size MB", "parameters", "depth", "ms per inference step (GPU)")
TABLE_2_COLUMNS = ("frozen layers", "active layers")
TABLE_4_COLUMNS = (
    "learning rate",
    "optimiser",
    "loss",
    "metric",
    "batch size",
    "epochs",
)
REPORT_COLUMNS = ("precision", "recall", "F1", "support")
REPORT_ROWS = ("class 0", "class 1", "accuracy", "macro average", "weighted average")

# Keras Applications' unrounded source of Table 1's last column, and its CPU column.
# Average of 30 batches and 10 repetitions, batch size 32, "Tesla A100" and "AMD EPYC
# (with IBPB) (92 core)"; precision, XLA, copies and synchronisation are not stated.
PUBLISHED_DEVICE = "Tesla A100 GPU (Keras Applications, batch 32 as stated)"
PUBLISHED_BATCH_SIZE = 32
UNROUNDED_GPU_MS = {
    "efficientnetb0": 4.91,
    "inceptionv3": 6.86,
    "inceptionresnetv2": 10.02,
    "resnet50": 4.55,
    "vgg16": 4.16,
    "xception": 8.06,
}
# Dense TF32 peak of an A100 (NVIDIA's data sheet): a published step that implies more
# than this cannot be a batch of 32 in float32 or TF32.
A100_TF32_PEAK_TFLOPS = 156.0


def _figures() -> tuple[Figure, ...]:
    figures: list[Figure] = []

    def add(table: str, name: str, row: str, columns: object, values: object) -> None:
        figures.extend(
            Figure(table, name, row, column, value)
            for column, value in zip(columns, values, strict=True)  # type: ignore[call-overload]
        )

    for spec in BACKBONES:
        name, title = spec.name, spec.title
        if name not in _TABLE_1:
            continue  # a backbone the study did not have
        add("Table 1", name, title, TABLE_1_COLUMNS, _TABLE_1[name])
        add("Table 2", name, title, TABLE_2_COLUMNS, _TABLE_2[name])
        add("Table 3", name, title, ("appended layers",), (_TABLE_3[name],))
        add("Table 4", name, title, TABLE_4_COLUMNS, _TABLE_4[name])
        add("Table 11", name, title, ("accuracy",), (_TABLE_11[name],))
    for (table, name), rows in _REPORTS.items():
        for row, values in zip(REPORT_ROWS, rows, strict=True):
            columns = ("accuracy", "support") if row == "accuracy" else REPORT_COLUMNS
            add(table, name, row, columns, values)
    return tuple(sorted(figures, key=lambda figure: int(figure.table.split()[1])))


FIGURES: tuple[Figure, ...] = _figures()

REPORT_TABLES = {name: table for table, name in _REPORTS}


def published(
    backbone: str, table: str, column: str, row: str | None = None
) -> Figure | None:
    """The figure of a backbone in a table, or None where the study has none.

    Args:
        backbone: name of a row of `BACKBONES`.
        table: `Table 1` to `Table 11`.
        column: one of the table's columns.
        row: needed for Tables 5-10 only: one of `REPORT_ROWS`.
    """
    for figure in FIGURES:
        if (figure.backbone, figure.table, figure.column) == (backbone, table, column):
            if row in (None, figure.row):
                return figure
    return None


def published_step(
    backbone: str, gflop: float | None, batch_size: int
) -> dict[str, Any] | None:
    """Table 1's milliseconds of a step and what they imply at the stated batch; None
    for a backbone that it has not, and where a step's work is not counted.

    Args:
        backbone: its 1000-class network.
        gflop: 1e9 operations of a step of it.
        batch_size: images of that step.
    """
    figure = published(backbone, "Table 1", TABLE_1_COLUMNS[3])
    if figure is None or gflop is None:
        return None
    unrounded_ms = UNROUNDED_GPU_MS[backbone]
    published_gflop = gflop / batch_size * PUBLISHED_BATCH_SIZE
    return {
        "ms": figure.value,
        "unrounded_ms": unrounded_ms,
        "device": PUBLISHED_DEVICE,
        "batch_size": PUBLISHED_BATCH_SIZE,
        "implied_tflops_per_sec": published_gflop / unrounded_ms,
        "peak_tflops_per_sec": A100_TF32_PEAK_TFLOPS,
    }
