"""A network rewritten for inference in float32 on a CPU.

    fast = with_winograd(model)             # of the same weights
    count_winograd(fast)

Suitable convolutions become Winograd's (see `tlperf.model.winograd`), the normalisation
and the ReLU after one a part of it. The other layers are the model's own.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.model.folding import fold_statistics
from tlperf.model.winograd import TAPS, convolve, transform_kernel

# Of channels; with fewer, sums take what products save. On two cores 32 to 64 channels
# at 147 x 147 pixels are 1.1 times as fast, 64 to 64 at 224 x 224 1.4 times, 256 to 256
# at 56 x 56 2.3 times; 32 to 32 are slower.
_LEAST_PAIRS = 2048


def with_winograd(model: keras.Model) -> keras.Model:
    """The network with suitable convolutions as Winograd's, with constant kernels.

    Args:
        model: a functional model; its weights are taken as they are now.

    Returns:
        A model that shares its other layers, or `model` where nothing is suitable.
        It is called with batches of a known shape.
    """
    replaced: dict[int, keras.layers.Layer] = {}
    dropped: set[int] = set()
    for chain in _find_chains(model):
        replaced[id(chain.convolution)] = chain.build()
        dropped |= {id(layer) for layer in (chain.norm, chain.relu) if layer}
    if not replaced:
        return model

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if id(layer) in dropped else layer(*args, **kwargs)

    return keras.models.clone_model(
        model,
        clone_function=lambda layer: replaced.get(id(layer), layer),
        call_function=call,
        recursive=True,
    )


def count_winograd(model: keras.Model) -> int:
    """How many convolutions of a rewritten network are Winograd's."""
    return sum(
        count_winograd(layer)
        if isinstance(layer, keras.Model)
        else isinstance(layer, _WinogradConv2D)
        for layer in model.layers
    )


class _WinogradConv2D(keras.layers.Layer):
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

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return convolve(
            x,
            self._transformed,
            border=self._border,
            shift=self._shift,
            relu=self._relu,
        )

    def compute_output_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        less = TAPS - 1 - 2 * self._border
        sides = [side and side - less for side in shape[1:-1]]
        return (shape[0], *sides, len(self._shift))


@dataclasses.dataclass(frozen=True)
class _Chain:
    """A convolution, and what alone reads it."""

    convolution: keras.layers.Conv2D
    norm: keras.layers.BatchNormalization | None
    relu: keras.layers.Layer | None

    def build(self) -> _WinogradConv2D:
        layer = self.convolution
        weights = keras.ops.convert_to_numpy(layer.kernel)
        shift = np.zeros(weights.shape[-1])
        if layer.use_bias:
            shift += keras.ops.convert_to_numpy(layer.bias)
        if self.norm is not None:
            factor, added = fold_statistics(self.norm)
            weights, shift = weights * factor, shift * factor + added
        is_relu = self.relu is not None or _is_relu(layer)
        return _WinogradConv2D(
            weights, shift, padding=layer.padding, relu=is_relu, name=layer.name
        )


def _find_chains(model: keras.Model) -> Iterator[_Chain]:
    if isinstance(model, keras.Sequential):  # no layer of it can be dropped
        return
    readers: dict[int, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in keras.tree.flatten(model.output)}

    def only_reader(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        found = readers.get(id(layer.output), [])
        return found[0] if len(found) == 1 and id(layer.output) not in outputs else None

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _find_chains(layer)
        if type(layer) is not keras.layers.Conv2D or not _is_suitable(layer):
            continue
        norm, relu = None, None
        if layer.activation is keras.activations.linear:
            reader: keras.layers.Layer | None = layer
            norm = only_reader(layer)
            if isinstance(norm, keras.layers.BatchNormalization) and norm.axis in (
                -1,
                3,
            ):
                reader = norm
            else:
                norm = None
            relu = only_reader(reader)
            if relu is not None and not _is_relu(relu):
                relu = None
        yield _Chain(layer, norm, relu)


def _is_suitable(layer: keras.layers.Conv2D) -> bool:
    return (
        layer.kernel_size == (TAPS, TAPS)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding in ("same", "valid")
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and math.prod(layer.kernel.shape[2:]) >= _LEAST_PAIRS
        and (layer.activation is keras.activations.linear or _is_relu(layer))
    )


def _is_relu(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        config = layer.get_config()
        return config["max_value"] is None and not (
            config["negative_slope"] or config["threshold"]
        )
    return getattr(layer, "activation", None) is keras.activations.relu
