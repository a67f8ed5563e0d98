"""The example contract: what the pipeline delivers and the compiled steps take.

Batch(image, label, weight, index, draw)
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
