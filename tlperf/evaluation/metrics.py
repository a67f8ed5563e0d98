"""Metrics counted from predictions; Keras 3.15's `evaluate` can report diluted ones.

metrics = compute_metrics(label, predicted, loss, classes)
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from tlperf.core.statistics import binomial_interval


def compute_metrics(
    label: np.ndarray, predicted: np.ndarray, loss: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, loss, confusion matrix and scikit-learn's classification report.

    Args:
        label: int [N], true classes.
        predicted: int [N].
        loss: float [N], cross-entropy of each image.
        classes: C names in label order.

    Returns:
        The keys of the `evaluate` JSON; confusion rows are true classes, columns
        predicted ones. A loss that is not finite is None. A class never predicted has
        precision 0, as scikit-learn and the study's Table 10 have it.
    """
    numbers = list(range(len(classes)))
    mean_loss = float(np.mean(loss, dtype=np.float64))
    hits = int(np.sum(label == predicted))
    return {
        "images": len(label),
        "accuracy": hits / len(label),
        "interval": list(binomial_interval(hits, len(label)) or ()),
        "loss": mean_loss if math.isfinite(mean_loss) else None,
        "classes": list(classes),
        "confusion": sklearn.metrics.confusion_matrix(
            label, predicted, labels=numbers
        ).tolist(),
        "report": _report(label, predicted, classes),
    }


def _report(
    label: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    # Labels, not names: two classes may bear a name the report itself uses.
    table = sklearn.metrics.classification_report(
        label,
        predicted,
        labels=list(range(len(classes))),
        output_dict=True,
        zero_division=0,
    )
    rows = {name: table[str(number)] for number, name in enumerate(classes)}
    rows |= {name: table[name] for name in ("macro avg", "weighted avg")}
    return {
        name: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "support": int(row["support"]),
        }
        for name, row in rows.items()
    }
