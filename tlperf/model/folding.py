"""BatchNormalization after a depthwise convolution, folded into its kernel.

    values = fold_depthwise(model)          # of some variables, by their id
    values.get(id(variable), variable)

TensorFlow folds a normalisation with constant statistics into an ordinary convolution
by itself, and leaves a product and a sum for each number that a depthwise one makes: a
tenth of EfficientNetB0's time on two cores of a CPU.
"""

from collections.abc import Iterator

import keras
import numpy as np


def fold_depthwise(model: keras.Model) -> dict[int, np.ndarray]:
    """Values with which inference is the same and normalises less.

    Args:
        model: a functional model whose layers are each called once.

    Returns:
        By the id of the variable, its value with the kernel scaled and the
        normalisation left with a sum; the other variables stay as they are.
    """
    folded: dict[int, np.ndarray] = {}
    for convolution, norm in _find_pairs(model):
        kernel = keras.ops.convert_to_numpy(convolution.kernel)
        factor, added = fold_statistics(norm)
        if norm.scale:
            folded[id(norm.gamma)] = np.ones_like(factor, norm.gamma.dtype)
        folded[id(convolution.kernel)] = np.asarray(
            kernel * factor.reshape(kernel.shape[-2:]), kernel.dtype
        )
        folded[id(norm.beta)] = np.asarray(added, norm.beta.dtype)
        folded[id(norm.moving_mean)] = np.zeros_like(factor, norm.moving_mean.dtype)
        folded[id(norm.moving_variance)] = np.full_like(
            factor, _variance_of_one(norm.epsilon), norm.moving_variance.dtype
        )
    return folded


def fold_statistics(
    norm: keras.layers.BatchNormalization,
) -> tuple[np.ndarray, np.ndarray]:
    """Inference of a normalisation as a product and a sum, each float64 [C]."""
    array = keras.ops.convert_to_numpy
    variance = array(norm.moving_variance).astype(np.float64)
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor *= array(norm.gamma)
    added = -array(norm.moving_mean) * factor
    if norm.center:
        added += array(norm.beta)
    return factor, added


def _variance_of_one(epsilon: float) -> np.float32:
    """Whose sum with epsilon is 1 in float32, so that the product by it goes."""
    one, added = np.float32(1), np.float32(epsilon)
    variance = one - added
    while variance + added != one:
        variance = np.nextafter(variance, one if variance + added < one else -one)
    return variance


def _find_pairs(
    model: keras.Model,
) -> Iterator[tuple[keras.layers.DepthwiseConv2D, keras.layers.BatchNormalization]]:
    """A linear convolution that a normalisation alone reads, and that one."""
    makers: dict[int, keras.layers.Layer] = {}
    readers: dict[int, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _find_pairs(layer)
        makers |= {id(tensor): layer for tensor in keras.tree.flatten(layer.output)}
        for tensor in keras.tree.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in keras.tree.flatten(model.output)}
    for tensor, found in readers.items():
        convolution, norm = makers.get(tensor), found[0]
        if (
            isinstance(convolution, keras.layers.DepthwiseConv2D)
            and isinstance(norm, keras.layers.BatchNormalization)
            and len(found) == 1
            and tensor not in outputs
            and convolution.activation is keras.activations.linear
            and not convolution.use_bias
            and norm.center
            and norm.axis in (-1, len(norm.input.shape) - 1)
        ):
            yield convolution, norm
