"""The example contract: what the pipeline delivers and the compiled steps take.

Batch(image, label, weight, index, draw)
FeatureBatch(features, label, weight, index)     # where the frozen part is done already
"""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """One batch of tensors; per-replica values under a strategy.

    Attributes:
        image: uint8 [B, S, S, 3], RGB; cast and normalised on the device.
        label: int32 [B], 0-based.
        weight: float32 [B]; 0 marks padding, 1 an image that counts.
        index: int64 [B], index in the split's stored order.
        draw: float32 [B, 4], random numbers from 0 to below 1 for the augmentation of
            each image; 0 in evaluation.
    """

    image: Any
    label: Any
    weight: Any
    index: Any
    draw: Any


class FeatureBatch(NamedTuple):
    """One batch of what the frozen part of a network makes of its images.

    Attributes:
        features: the tensors that cross the cut, each [B, ...].
        label, weight, index: as of a Batch.
    """

    features: tuple[Any, ...]
    label: Any
    weight: Any
    index: Any
