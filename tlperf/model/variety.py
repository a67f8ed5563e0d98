"""A network with random weights that tells images apart, as one that learnt does.

    spread_outputs(model, images)

Random weights answer every image nearly alike: whether a timed step computed anything
at all could not be seen from what it gives.
"""

import keras
import numpy as np


def spread_outputs(model: keras.Model, images: np.ndarray) -> None:
    """Gives BatchNormalization the images' statistics, and scales the last layer so
    that logits of unlike images lie about 1 apart.

    Args:
        model: images to probabilities by a softmax; of random weights.
        images: float32 [N, S, S, 3], preprocessed, unlike each other; N is 2 or more.
    """
    take_statistics(model, images)
    *_, last = (layer for layer in model.layers if hasattr(layer, "kernel"))
    # In float64: of probabilities in float16 most are 0.
    features = keras.Model(model.input, last.input)(images, training=False)
    arrays = [keras.ops.convert_to_numpy(one) for one in (features, last.kernel)]
    features, kernel = (one.astype(np.float64) for one in arrays)
    logits = features @ kernel
    spread = float((logits - logits.mean(axis=0)).std())
    if spread > 0:
        last.kernel.assign(last.kernel / spread)


def take_statistics(model: keras.Model, images: np.ndarray) -> None:
    """Gives BatchNormalization the images' statistics: with those that it begins with,
    values shrink or grow from layer to layer.

    Args:
        model: that has or has not such layers.
        images: float32 [N, S, S, 3], preprocessed.
    """
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [(layer.momentum, layer.trainable) for layer in norms]
    for layer in norms:
        layer.momentum, layer.trainable = 0.0, True
    if norms:
        model(images, training=True)
    for layer, (momentum, trainable) in zip(norms, before, strict=True):
        layer.momentum, layer.trainable = momentum, trainable
