"""Whether a timed step did the work: its outputs, and its time on images never seen.

After MLPerf inference's compliance tests 01 (outputs of the timed run are those of an
untimed one) and 04 (a sample repeated is not faster than new ones).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlperf.latency.protocols import Timed
from tlperf.latency.timer import drop

REPEAT_PAIRS = 5


def output_difference(outputs: Sequence[np.ndarray], reference: np.ndarray) -> float:
    """Largest difference of any output, as a share of the largest reference value.

    Args:
        outputs: each [B, C].
        reference: [B, C].

    Returns:
        Infinity where an output or the reference is not finite, or their shapes differ.
    """
    scale = float(np.max(np.abs(reference.astype(np.float64))))
    worst = 0.0
    for output in (reference, *outputs):
        if output.shape != reference.shape or not np.all(np.isfinite(output)):
            return math.inf
        gap = np.abs(output.astype(np.float64) - reference.astype(np.float64))
        worst = max(worst, float(gap.max()) / max(scale, 1e-30))
    return worst


def count_top1_changes(
    outputs: Sequence[np.ndarray], reference: np.ndarray, *, tolerance: float
) -> int:
    """Images whose first class is another one, over all outputs.

    A class counts as the first where the reference gives it as much as its own first,
    within the tolerance: networks with random weights hardly prefer one.

    Args:
        outputs: each [B, C].
        reference: [B, C].
        tolerance: as a share of the largest reference value.
    """
    slack = tolerance * float(np.max(np.abs(reference)))
    best = reference.max(axis=-1)
    changed = 0
    for output in outputs:
        if output.shape != reference.shape:
            changed += len(reference)
            continue
        found = np.argmax(output, axis=-1)
        given = np.take_along_axis(reference, found[:, None], axis=-1)[:, 0]
        changed += int(np.sum(given < best - slack))
    return changed


def repeat_ratios(timed: Timed, placed: Any, *, pairs: int) -> list[float]:
    """Seconds of a step on images it has seen, by those of one on new images.

    Args:
        timed: the protocol.
        placed: the images of the timed steps.
        pairs: how many; each is the same images, then new ones.
    """
    ratios, count = [], timed.lead + 1
    for pair in range(pairs):
        seeds = range(1 + pair * count, 1 + (pair + 1) * count)
        new = timed.place(*map(timed.make_images, seeds))
        same_secs = timed.steps(placed)(count, math.inf, drop)[-1]
        new_secs = timed.steps(new)(count, math.inf, drop)[-1]
        ratios.append(same_secs / new_secs)
    return ratios
