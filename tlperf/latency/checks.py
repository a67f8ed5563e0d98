"""Whether a timed step did the work: its outputs, and its time on images never seen.

After MLPerf inference's compliance tests 01 (outputs of the timed run are those of an
untimed one) and 04 (a sample repeated is not faster than new ones). Outputs are
compared as logits: see `tlperf.latency.parity`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlperf.latency.parity import centred_logits, relative_difference
from tlperf.latency.protocols import Timed
from tlperf.latency.timer import drop

REPEAT_PAIRS = 5


def output_difference(outputs: Sequence[np.ndarray], reference: np.ndarray) -> float:
    """Largest difference of any output's logits, as a share of the largest of the
    reference.

    Args:
        outputs: each [B, C].
        reference: [B, C].

    Returns:
        Infinity where an output or the reference is not finite, or their shapes differ.
    """
    if not np.all(np.isfinite(reference)):
        return math.inf
    return max(relative_difference(output, reference) for output in outputs)


def count_top1_changes(
    outputs: Sequence[np.ndarray], reference: np.ndarray, *, tolerance: float
) -> int:
    """Images whose first class is another one, over all outputs.

    A class counts as the first where the reference gives it as much as its own first,
    within the tolerance: networks with random weights hardly prefer one.

    Args:
        outputs: each [B, C].
        reference: [B, C].
        tolerance: as a share of the largest logit of the reference.
    """
    logits = centred_logits(reference)
    slack = tolerance * float(np.abs(logits).max())
    best = logits.max(axis=-1)
    changed = 0
    for output in outputs:
        if output.shape != reference.shape:
            changed += len(reference)
            continue
        found = np.argmax(output, axis=-1)
        given = np.take_along_axis(logits, found[:, None], axis=-1)[:, 0]
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
