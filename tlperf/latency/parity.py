"""How far the outputs of an exported network are from those of the network itself.

relative_difference(exported, reference)     # 2.1e-6
largest_logit(reference)                     # 3.4; where it is 0, nothing was compared

On logits: probabilities near 0 and 1 hide what a network computes.
"""

import numpy as np

# Largest difference of a logit, as a share of the largest one: float32 sums in another
# order. The deepest of the six backbones stays below a tenth of it.
PARITY_LIMIT = 1e-4
# Below it a probability of float32 is not known to many digits, and some runtimes make
# the smallest ones 0.
_LEAST_PROBABILITY = 1e-30
# The same of float16, as a softmax under mixed_float16 gives it: its smallest normal.
_LEAST_FLOAT16 = 2.0**-14
# A probability of float32 is rounded by 6e-8 of itself, and so is its logarithm: where
# all logits are smaller than this, such roundings are no share of them worth a word.
_LEAST_SCALE = 1e-2


def least_probability(*probabilities: np.ndarray) -> float:
    """Below it one of these is as good as 0."""
    is_half = any(one.dtype == np.float16 for one in probabilities)
    return _LEAST_FLOAT16 if is_half else _LEAST_PROBABILITY


def centred_logits(probability: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """Log-probabilities less their mean over classes: float64 [N, C] of [N, C].

    The softmax's inputs but for a number that is the same for all classes, and where
    they are not far below the largest one.

    Args:
        probability: [N, C].
        least: below which another array's is as good as 0, to compare the two.
    """
    least = max(least, least_probability(probability))
    kept = np.maximum(probability.astype(np.float64), least)
    logarithm = np.log(kept)
    return logarithm - logarithm.mean(axis=-1, keepdims=True)


def largest_logit(probability: np.ndarray) -> float:
    """Of all images and classes, [N, C]."""
    return float(np.abs(centred_logits(probability)).max())


def relative_difference(probability: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference of a logit, as a share of the largest logit of the reference.

    Args:
        probability: [N, C].
        reference: [N, C].

    Returns:
        Infinity where the first is of another shape or not finite.
    """
    if probability.shape != reference.shape or not np.all(np.isfinite(probability)):
        return float("inf")
    least = least_probability(probability, reference)
    logits = centred_logits(reference, least=least)
    gap = np.abs(centred_logits(probability, least=least) - logits).max()
    return float(gap / max(np.abs(logits).max(), _LEAST_SCALE))
