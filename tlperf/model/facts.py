"""Size, depth and multiply-adds of a network, counted from its layers.

count_macs(model)   # multiply-adds of one image
depth(model)        # layers that hold weights: Table 1's rule, found by counting
"""

import math
from collections.abc import Iterator
from typing import Any

import keras

# Table 1's sizes are parameters x 4 bytes in MiB for all but EfficientNetB0.
BYTES_PER_PARAMETER = 4
# Layers that cannot be fused into the one before them.
_WRITING = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.Multiply,
)


def size_mib(model: keras.Model) -> float:
    """Parameters x 4 bytes, in MiB."""
    return model.count_params() * BYTES_PER_PARAMETER / 2**20


def depth(model: keras.Model) -> int:
    """Layers that hold weights.

    Keras Applications describes its depth column as a topological depth that counts
    activation and normalisation layers; the printed numbers are in fact these counts,
    for all six backbones.
    """
    return sum(bool(layer.weights) for layer in _single_layers(model))


def count_macs(model: keras.Model) -> int:
    """Multiply-adds of one image: convolutions and dense layers.

    Element-wise work (activations, normalisation, pooling) is left out, as published
    counts do.
    """
    return sum(_layer_macs(layer) for layer in _single_layers(model))


def count_moved_values(model: keras.Model) -> int:
    """Numbers of one image that cross memory: what convolutions, products, poolings and
    joining layers write, once written and once read, and the input.

    A lower bound: activations, normalisation and scaling are taken as fused into the
    layer before them, and a number that two layers read as read once.
    """
    written = sum(
        math.prod(layer.output.shape[1:])
        for layer in _single_layers(model)
        if isinstance(layer, _WRITING)
    )
    return 2 * written + math.prod(model.input_shape[1:])


def _single_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers, those of models inside it too: ConvNeXt's stem is one."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _single_layers(layer)
        else:
            yield layer


def _layer_macs(layer: keras.layers.Layer) -> int:
    layers = keras.layers
    if isinstance(layer, layers.Dense):
        # ConvNeXt's are called on each place of a map.
        return math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        height, width = _output_size(layer)
        weights = math.prod(layer.depthwise_kernel.shape) + math.prod(
            layer.pointwise_kernel.shape
        )
        return height * width * weights
    if isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D):
        height, width = _output_size(layer)
        return height * width * math.prod(layer.kernel.shape)
    return 0


def _output_size(layer: keras.layers.Layer) -> tuple[int, int]:
    shape = layer.output.shape
    if keras.config.image_data_format() == "channels_first":
        return shape[2], shape[3]
    return shape[1], shape[2]


def describe_architecture(
    model: keras.Model, frozen_names: tuple[str, ...]
) -> dict[str, Any]:
    """Layers in order with kind, output shape and whether they are trained."""
    frozen = set(frozen_names)

    def shapes(layer: keras.layers.Layer) -> list[list[int | None]]:
        return [list(tensor.shape) for tensor in keras.tree.flatten(layer.output)]

    return {
        "name": model.name,
        "params": model.count_params(),
        "layers": [
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "output_shapes": shapes(layer),
                "params": layer.count_params(),
                "frozen": layer.name in frozen,
            }
            for layer in model.layers
        ],
    }
