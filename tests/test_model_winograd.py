"""Winograd's convolutions are those of TensorFlow, in networks too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tlperf.model import winograd
from tlperf.model.deploy import with_preprocessing
from tlperf.model.frozen import apply_constant
from tlperf.model.inference import count_winograd, with_winograd
from tlperf.model.winograd import convolve, transform_kernel
from tlperf.reference.backbones import TF_MODE

pytestmark = pytest.mark.usefixtures("two_cpus")

SHAPE = (15, 13, 32)
FILTERS = 64


def difference(found, expected):
    """The largest, as a share of the largest number."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def make(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(
    batch=st.integers(1, 4),
    height=st.integers(3, 14),
    width=st.integers(3, 14),
    border=st.sampled_from([0, 1]),
    kibibytes=st.sampled_from([1, 8, 64]),
)
@settings(max_examples=12, deadline=None)
def test_a_convolution_of_any_shape_is_that_of_tensorflow(
    batch, height, width, border, kibibytes
):
    """However many images or rows of one are a part."""
    x, weights = make((batch, height, width, 3)), make((3, 3, 3, 2), seed=1)
    shift = make((2,), seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_TILES_BYTES", kibibytes << 10)
        found = convolve(
            tf.constant(x), transform_kernel(weights), border=border, shift=shift
        )
    padding = "SAME" if border else "VALID"
    expected = tf.nn.conv2d(x, weights, 1, padding) + shift
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_is_as_exact_as_a_direct_convolution():
    """Beside float64, 256 channels: so its points are chosen."""
    x, weights = np.abs(make((2, 20, 20, 256))), make((3, 3, 256, 64), seed=1)
    exact = tf.nn.conv2d(
        x.astype(np.float64), weights.astype(np.float64), 1, "SAME"
    ).numpy()
    direct = difference(tf.nn.conv2d(x, weights, 1, "SAME").numpy(), exact)
    found = convolve(tf.constant(x), transform_kernel(weights), border=1)
    assert difference(found.numpy(), exact) < 2 * direct


def build(*layers, more=lambda x, made: x):
    """A network whose statistics are no ones and zeros."""
    inputs = keras.Input(SHAPE)
    made = layers[0](inputs)
    x = made
    for layer in layers[1:]:
        x = layer(x)
    network = keras.Model(inputs, more(x, made))
    generator = np.random.default_rng(0)
    for variable in network.variables:
        least = 0.1 if "variance" in variable.path or "gamma" in variable.path else -1
        variable.assign(generator.uniform(least, 1, variable.shape))
    return network


def convolution(**options):
    return keras.layers.Conv2D(FILTERS, 3, **options)


def norm(**options):
    return keras.layers.BatchNormalization(**options)


def relu():
    return keras.layers.Activation("relu")


def run(network, images):
    function = tf.function(lambda x: apply_constant(network, x)[0], autograph=False)
    return function(tf.constant(images))


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        # With those that become a part of the convolution, which the rewritten network
        # has no longer.
        ([convolution], 2),
        ([lambda: convolution(padding="same", activation="relu")], 2),
        ([convolution, norm], 2),
        ([lambda: convolution(use_bias=False), norm, relu], 2),
        ([convolution, lambda: norm(scale=False, center=False), keras.layers.ReLU], 2),
        ([convolution, relu, norm], 3),
        ([lambda: convolution(activation="relu"), norm], 3),
        ([convolution, norm, lambda: keras.layers.Activation("swish")], 3),
        ([convolution, lambda: norm(axis=1)], 3),
        ([convolution, lambda: keras.layers.ReLU(max_value=6)], 3),
        ([convolution, lambda: keras.layers.ReLU(negative_slope=0.1)], 3),
        ([convolution, convolution, relu], 3),
    ],
)
def test_a_rewritten_network_computes_the_same(layers, kept):
    network = build(*(make_layer() for make_layer in layers))
    before = [layer.name for layer in network.layers]
    fast = with_winograd(network)
    assert count_winograd(fast) == sum(
        isinstance(layer, keras.layers.Conv2D) for layer in network.layers
    )
    assert len(fast.layers) == kept
    images = make((2, *SHAPE), seed=3)
    expected = network(images, training=False)
    found = run(fast, images)
    assert difference(found.numpy(), expected.numpy()) < 1e-5
    # The network itself stays as it was.
    assert [layer.name for layer in network.layers] == before
    np.testing.assert_array_equal(network(images, training=False), expected)


@pytest.mark.parametrize(
    "more",
    [
        lambda x, made: keras.layers.Concatenate()([x, made]),
        lambda x, made: [x, made],
    ],
)
def test_what_is_read_elsewhere_too_is_kept(more):
    network = build(convolution(), norm(), relu(), more=more)
    fast = with_winograd(network)
    assert count_winograd(fast) == 1
    names = {type(layer).__name__ for layer in fast.layers}
    assert {"BatchNormalization", "Activation"} <= names
    images = make((2, *SHAPE), seed=3)
    expected = network(images, training=False)
    for one, other in zip(
        keras.tree.flatten(run(fast, images)),
        keras.tree.flatten(expected),
        strict=True,
    ):
        assert difference(one.numpy(), other.numpy()) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Conv2D(FILTERS, 1),
        lambda: keras.layers.Conv2D(FILTERS, (1, 3)),
        lambda: keras.layers.Conv2D(32, 3),
        lambda: convolution(strides=2),
        lambda: convolution(dilation_rate=2),
        lambda: convolution(groups=2),
        lambda: convolution(activation="swish"),
        lambda: convolution(dtype="mixed_bfloat16"),
        lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        lambda: keras.layers.SeparableConv2D(FILTERS, 3),
    ],
)
def test_others_are_left_alone(layer):
    network = build(layer())
    assert with_winograd(network) is network


def test_a_network_in_a_network_is_rewritten():
    """As the one with preprocessing around it."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(32, 3, strides=2)(inputs)
    x = relu()(norm()(convolution()(x)))
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    whole = with_preprocessing(network, TF_MODE)
    fast = with_winograd(whole)
    assert count_winograd(fast) == count_winograd(with_winograd(network)) == 1
    pixels = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = whole(pixels, training=False)
    assert difference(run(fast, pixels).numpy(), expected.numpy()) < 1e-5
