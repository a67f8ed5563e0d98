"""Winograd's convolutions are those of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import difference, normal_values
from tlperf.model import winograd
from tlperf.model.winograd import convolve, transform_kernel

pytestmark = pytest.mark.usefixtures("two_cpus")


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
    x, weights = (
        normal_values((batch, height, width, 3)),
        normal_values((3, 3, 3, 2), seed=1),
    )
    shift = normal_values((2,), seed=2)
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
    x, weights = (
        np.abs(normal_values((2, 20, 20, 256))),
        normal_values((3, 3, 256, 64), seed=1),
    )
    exact = tf.nn.conv2d(
        x.astype(np.float64), weights.astype(np.float64), 1, "SAME"
    ).numpy()
    direct = difference(tf.nn.conv2d(x, weights, 1, "SAME").numpy(), exact)
    found = convolve(tf.constant(x), transform_kernel(weights), border=1)
    assert difference(found.numpy(), exact) < 2 * direct


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("relu", [False, True])
def test_what_is_no_number_spoils_its_tiles_and_no_others(value, relu):
    x, weights = (
        normal_values((1, 16, 16, 3)),
        normal_values((3, 3, 3, 2), seed=1),
    )
    direct = tf.nn.conv2d(x, weights, 1, "SAME").numpy()
    x[0, 8, 8, 1] = value
    found = convolve(
        tf.constant(x), transform_kernel(weights), border=1, relu=relu
    ).numpy()
    if relu:
        direct = np.maximum(direct, 0)
    is_far = np.ones(found.shape, bool)
    is_far[:, 4:12, 4:12] = False
    np.testing.assert_allclose(found[is_far], direct[is_far], atol=1e-5)
    assert np.isnan(found[:, 8:10, 8:10]).all()
