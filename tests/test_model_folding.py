"""Depthwise convolutions with the normalisation after them in their kernels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlperf.model.deploy import with_preprocessing
from tlperf.model.folding import fold_depthwise
from tlperf.model.frozen import apply_constant
from tlperf.reference.backbones import TF_MODE

pytestmark = pytest.mark.usefixtures("two_cpus")

SHAPE = (16, 16, 3)


def depthwise(**options):
    return keras.layers.DepthwiseConv2D(
        3, **{"depth_multiplier": 2, "use_bias": False, **options}
    )


def build(convolution, norm, *, rest=lambda x, made: x):
    """A network whose statistics are no ones and zeros."""
    inputs = keras.Input(SHAPE)
    made = convolution(inputs)
    network = keras.Model(inputs, rest(norm(made), made))
    generator = np.random.default_rng(0)
    for variable in network.variables:
        least = 0.1 if "variance" in variable.path or "gamma" in variable.path else -1
        variable.assign(generator.uniform(least, 1, variable.shape))
    return network


def images():
    return np.random.default_rng(1).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"epsilon": 1e-5}])
def test_a_folded_network_computes_the_same(options):
    network = build(depthwise(), keras.layers.BatchNormalization(**options))
    folded = fold_depthwise(network)
    # Kernel, sum, mean and variance, and the factor where there is one.
    assert len(folded) == 5 - (options == {"scale": False})
    variables = network.trainable_variables, network.non_trainable_variables
    values = [
        [folded.get(id(one), one.numpy()) for one in group] for group in variables
    ]
    found, _ = network.stateless_call(*values, images(), training=False)
    expected = network(images(), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("convolution", "norm", "rest"),
    [
        # What is read elsewhere too keeps its values.
        ({}, {}, lambda x, made: keras.layers.Add()([x, made])),
        ({}, {}, lambda x, made: [x, made]),
        ({"activation": "relu"}, {}, lambda x, made: x),
        ({"use_bias": True}, {}, lambda x, made: x),
        ({}, {"center": False}, lambda x, made: x),
        ({}, {"axis": 1}, lambda x, made: x),
    ],
)
def test_others_are_left_alone(convolution, norm, rest):
    norm = keras.layers.BatchNormalization(**norm)
    assert fold_depthwise(build(depthwise(**convolution), norm, rest=rest)) == {}


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1.001e-5, 1e-7, 0.3])
def test_the_products_are_by_one(epsilon):
    norm = keras.layers.BatchNormalization(epsilon=epsilon)
    folded = fold_depthwise(build(depthwise(), norm))
    variance = folded[id(norm.moving_variance)]
    np.testing.assert_array_equal(variance + np.float32(epsilon), 1.0)


def test_a_network_in_a_network_is_folded():
    """As the one with preprocessing around it."""
    network = build(depthwise(), keras.layers.BatchNormalization())
    whole = with_preprocessing(network, TF_MODE)
    assert fold_depthwise(whole).keys() == fold_depthwise(network).keys() != set()
    pixels = np.random.default_rng(2).integers(0, 256, (2, *SHAPE), np.uint8)
    expected = whole(pixels, training=False)
    function = tf.function(lambda x: apply_constant(whole, x)[0], autograph=False)
    np.testing.assert_allclose(function(pixels), expected, rtol=1e-5, atol=1e-6)
