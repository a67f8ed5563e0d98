"""A one-block backbone, so that tests of the loop take seconds."""

import dataclasses

import keras

from tlperf.reference.backbones import (
    TF_MODE,
    VGG16,
    BackboneSpec,
    HeadKind,
    HeadLayer,
)


def tiny_net(*, weights=None, include_top=True, input_shape=None, classes=1000):
    """Two convolutions and a normalisation, built as `keras.applications` builds."""
    assert weights is None
    inputs = keras.Input(input_shape or (32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv1")(inputs)
    skip = keras.layers.Conv2D(8, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(name="norm")(skip)
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.Add(name="add")([x, skip])
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(classes, activation="softmax", name="top")(x)
    return keras.Model(inputs, x, name="tiny")


TINY = dataclasses.replace(
    VGG16,
    name="tiny",
    title="Tiny",
    constructor="tests.tiny:tiny_net",
    native_size=32,
    min_size=8,
    normalisation=TF_MODE,
    first_active="norm",
    head=(HeadLayer(HeadKind.GLOBAL_AVERAGE_POOLING), HeadLayer(HeadKind.DROPOUT, 0.2)),
    imagenet=None,
)
# Replicas' losses are those of one device: no mask is drawn.
WITHOUT_DROPOUT = dataclasses.replace(TINY, head=TINY.head[:1])
assert isinstance(TINY, BackboneSpec)
