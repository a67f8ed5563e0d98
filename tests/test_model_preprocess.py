"""The device half of input: what it does to pixels, and that it is compiled."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import TINY
from tlperf.core.batch import Batch
from tlperf.core.choices import Augment, Precision
from tlperf.model.build import build_classifier
from tlperf.model.preprocess import augment
from tlperf.model.steps import StepConfig, build_replica_step
from tlperf.reference.backbones import TF_MODE

SIDE = 32


def pixels(count=6, seed=0):
    shape = (count, SIDE, SIDE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def draws(count=6, seed=1):
    return np.random.default_rng(seed).random((count, 4), dtype=np.float32)


def by_numpy(image, draw):
    """The random crop of one image, written out: float64 [S, S, 3]."""
    share = 0.75 + 0.25 * np.float64(draw[1])
    image = image[:, ::-1] if draw[0] < 0.5 else image

    def weights(place):
        at = (1 - share) * SIDE * place + (np.arange(SIDE) + 0.5) * share - 0.5
        at = np.clip(at, 0, SIDE - 1)
        low = np.floor(at).astype(int)
        table = np.zeros((SIDE, SIDE))
        table[np.arange(SIDE), low] += 1 - (at - low)
        table[np.arange(SIDE), np.minimum(low + 1, SIDE - 1)] += at - low
        return table

    rows, columns = weights(draw[2]), weights(draw[3])
    return np.einsum("ij,jkc,lk->ilc", rows, image.astype(np.float64), columns)


def test_nothing_is_done_where_nothing_is_asked_for(two_cpus):
    image = tf.constant(pixels())
    assert augment(image, tf.constant(draws()), Augment.NONE) is image


def test_a_flip_mirrors_those_that_are_drawn(two_cpus):
    image, draw = pixels(), draws()
    flipped = augment(tf.constant(image), tf.constant(draw), Augment.FLIP)
    assert flipped.dtype == "uint8"
    assert {True, False} == set(draw[:, 0] < 0.5)
    for one, made, drawn in zip(image, flipped.numpy(), draw[:, 0], strict=True):
        np.testing.assert_array_equal(made, one[:, ::-1] if drawn < 0.5 else one)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_crop_is_what_it_is_by_hand(two_cpus, compiled):
    image, draw = pixels(), draws()
    function = tf.function(
        lambda x, y: augment(x, y, Augment.FLIP_CROP), jit_compile=compiled
    )
    made = function(tf.constant(image), tf.constant(draw)).numpy()
    assert made.dtype == np.float32
    for one, drawn, found in zip(image, draw, made, strict=True):
        np.testing.assert_allclose(found, by_numpy(one, drawn), atol=0.01)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.MIXED_BFLOAT16])
def test_the_compiled_step_holds_the_device_half(two_cpus, precision):
    """By XLA's own text of the step: uint8 images come in, are mirrored and resampled
    there, and the first convolution takes the compute dtype."""
    compute = dataclasses.replace(two_cpus, precision=precision.value)
    classifier = build_classifier(
        TINY,
        image_size=SIDE,
        classes=2,
        freeze="none",
        precision=precision.value,
    )
    optimizer = keras.optimizers.SGD()
    optimizer.build(classifier.active.trainable_variables)
    config = StepConfig(TF_MODE, batch_size=6, augmentation=Augment.FLIP_CROP)
    step = build_replica_step(classifier, optimizer, config, compute=compute)
    batch = Batch(
        tf.constant(pixels()),
        tf.zeros([6], tf.int32),
        tf.ones([6]),
        tf.range(6, dtype=tf.int64),
        tf.constant(draws()),
    )
    compiled = tf.function(step, jit_compile=True)
    text = compiled.experimental_get_compiler_ir(batch)(stage="hlo")
    kind = {"float32": "f32", "mixed_bfloat16": "bf16"}[precision.value]
    assert f"u8[6,{SIDE},{SIDE},3]" in text
    assert "reverse(" in text
    assert "gather(" in text
    convolutions = [line for line in text.splitlines() if " convolution(" in line]
    assert convolutions
    first = (SIDE - 3) // 2 + 1
    assert f"{kind}[6,{first},{first},4]" in convolutions[0]
