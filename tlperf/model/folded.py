"""Layers of a network rewritten for inference, with constants: it may be rewritten
while a function is traced, which could not make variables.

FoldedConv2D(layer, [kernel], shift, padding="same")
WinogradConv2D(kernel, shift, padding="same", relu=True, name="conv1")
Scale(factor, added, name="rescaling")
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.model.winograd import TAPS, convolve, transform_kernel


class WinogradConv2D(keras.layers.Layer):
    """A convolution with constants: [B, H, W, C] to [B, H', W', O], float32."""

    def __init__(
        self,
        weights: np.ndarray,
        shift: np.ndarray,
        *,
        padding: str,
        relu: bool,
        name: str,
    ):
        super().__init__(dtype="float32", name=name)
        with tf.init_scope():  # handed to a graph, not copied into it
            self._transformed = transform_kernel(weights)
        self._shift, self._relu = shift.astype(np.float32), relu
        self._border = TAPS // 2 if padding == "same" else 0

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return convolve(
            inputs,
            self._transformed,
            border=self._border,
            shift=self._shift,
            relu=self._relu,
        )

    def release(self) -> None:
        """It is not called again."""
        del self._transformed

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        less = TAPS - 1 - 2 * self._border
        sides = [side and side - less for side in shape[1:-1]]
        return (shape[0], *sides, len(self._shift))


# What a layer of each kind computes.
CONVOLVE = {
    keras.layers.Conv2D: keras.ops.conv,
    keras.layers.DepthwiseConv2D: keras.ops.depthwise_conv,
    keras.layers.SeparableConv2D: keras.ops.separable_conv,
}


class FoldedConv2D(keras.layers.Layer):
    """A convolution as a layer's, in its dtype: [B, H, W, C] to [B, H', W', O].

    Args:
        layer: of a kind in CONVOLVE.
        kernels: in the place of its own.
        shift: added to each channel, [O].
        padding: in the place of its own.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Sequence[np.ndarray],
        shift: np.ndarray,
        *,
        padding: str,
    ):
        super().__init__(dtype=layer.dtype_policy, name=layer.name)
        self._convolve = CONVOLVE[type(layer)]
        self._arrays = [x.astype(np.float32) for x in (*kernels, shift)]
        self._options = {
            "strides": layer.strides,
            "padding": padding,
            "data_format": layer.data_format,
            "dilation_rate": layer.dilation_rate,
        }

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        *kernels, shift = (
            keras.ops.cast(one, self.compute_dtype) for one in self._arrays
        )
        return self._convolve(inputs, *kernels, **self._options) + shift


class Scale(keras.layers.Layer):
    """A product and a sum for each channel, float32, in one pass."""

    def __init__(self, factor: np.ndarray, added: np.ndarray, *, name: str):
        super().__init__(dtype="float32", name=name)
        self._factor, self._added = (x.astype(np.float32) for x in (factor, added))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _scale(inputs, self._factor, self._added)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _scale(x: tf.Tensor, factor: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, factor.dtype) * factor + added  # of pixels in bytes too
