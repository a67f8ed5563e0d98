"""A few training images as they reach the device, for a look before training.

image = sample_training(pipeline, count=1200, seed=0)    # uint8 [64, S, S, 3]
"""

import numpy as np

from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.order import plan_view, training_order

SAMPLE_IMAGES = 64


def sample_training(
    pipeline: InputPipeline, *, count: int, seed: int, images: int = SAMPLE_IMAGES
) -> np.ndarray:
    """The first images of the first epoch, decoded by the pipeline.

    Args:
        pipeline: of the data.
        count: images of the training split.
        seed: of the training order.
        images: at most so many.

    Returns:
        uint8 [N, S, S, 3]; without the records that are skipped.
    """
    index = training_order(count=count, seed=seed, epoch=0)[:images]
    plan = plan_view(index, batch_size=pipeline.batch_size, seed=seed, view=0)
    parts = []
    for batch in pipeline.planned("train", plan, in_order=True):
        parts.append(batch.image.numpy()[batch.weight.numpy() > 0])
    return np.concatenate(parts)
