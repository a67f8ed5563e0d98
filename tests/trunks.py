"""Trunks whose BatchNormalization knows the images it was given, as pretrained ones."""

import keras
import numpy as np

from tlperf.model.preprocess import normalise
from tlperf.reference.backbones import Normalisation


def learn_statistics(
    backbone: keras.Model, image: np.ndarray, normalisation: Normalisation
) -> None:
    """Gives BatchNormalization the statistics of images, uint8 [N, S, S, 3]."""
    norms = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.momentum, layer.trainable = 0.0, True
    backbone(normalise(image, normalisation), training=True)


def plain_net(*, weights=None, include_top=True, input_shape=None, classes=1000):
    """Two convolutions without BatchNormalization, as VGG16 has them."""
    assert weights is None
    assert not include_top
    inputs = keras.Input(input_shape or (32, 32, 3))
    x = keras.layers.Conv2D(
        8, 3, activation="relu", bias_initializer="ones", name="first"
    )(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="second")(x)
    return keras.Model(inputs, x, name="plain")
