"""A network rewritten for inference: the same outputs from less work.

    fast = rewrite(model, cpu=True)         # of the weights it has now
    count_winograd(fast)

- A normalisation after a depthwise convolution is folded into its kernel; TensorFlow
  does that by itself for others in float32. Zeros before it that are those of "same" go
  with it.
- In mixed precision it is folded into each convolution: Keras normalises in float32
  (3.15), and TensorFlow folds nothing through the two casts around that.
- On CPUs, in float32: suitable convolutions are Winograd's, the normalisation and the
  ReLU after one a part of them; the layers that scale pixels are one; the normalisation
  before a residual sum is folded too.

The other layers are the model's own.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import Operation

from tlperf.model.folded import CONVOLVE, FoldedConv2D, Scale, WinogradConv2D
from tlperf.model.graph import Graph, count_calls
from tlperf.model.winograd import TAPS

# Of channels; with fewer, sums take what products save. On two cores 64 to 64 channels
# at 224 x 224 pixels are 1.4 times as fast, 256 to 256 at 56 x 56 2.3 times; with 32 to
# 64 at 147 x 147 Xception takes 1.03 times its time.
_LEAST_PAIRS = 3072
_LARGE = 2.0**12
_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)


def rewrite(model: keras.Model, *, cpu: bool) -> keras.Model:
    """The network for inference.

    Args:
        model: a functional model. What is called more than once in it stays.
        cpu: whether it is for a CPU without XLA around it.

    Returns:
        A model that shares the layers that stay, or `model` where all do. Rewritten
        for a CPU it is called with batches of a known shape.
    """
    replaced: dict[int, Operation] = {}
    dropped: set[int] = set()
    for chain in _find_chains(model, count_calls(model), cpu=cpu):
        replaced[id(chain.first)] = chain.layer
        dropped |= {id(one) for one in chain.others}
    if not replaced:
        return model

    def call(operation: Operation, *args: Any, **kwargs: Any) -> Any:
        if id(operation) in dropped:
            return args[0] if args else kwargs["inputs"]
        return operation(*args, **kwargs)

    return keras.models.clone_model(
        model,
        clone_function=lambda one: replaced.get(id(one), one),
        call_function=call,
        recursive=True,
    )


def count_winograd(model: keras.Model) -> int:
    """How many convolutions of a rewritten network are Winograd's."""
    return sum(
        count_winograd(layer)
        if isinstance(layer, keras.Model)
        else isinstance(layer, WinogradConv2D)
        for layer in model.layers
    )


def release_constants(model: keras.Model) -> None:
    """Lets go of the kernels of a rewritten network that has been traced: the graph
    has them, and the layers that stay remember the network as long as they live."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            release_constants(layer)
        elif isinstance(layer, WinogradConv2D):
            layer.release()


def _fold_statistics(
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


@dataclasses.dataclass(frozen=True)
class _Chain:
    """Operations of which each alone reads the one before.

    Attributes:
        first: that `layer` takes the place of.
        layer: in place of all of them.
        others: that go.
    """

    first: Operation
    layer: keras.layers.Layer
    others: tuple[Operation, ...]


def _find_chains(
    model: keras.Model, counts: Counter[int], *, cpu: bool
) -> Iterator[_Chain]:
    if not isinstance(model, keras.Function):  # nothing of it can be dropped
        return
    graph = Graph(model, counts)
    scaled: set[int] = set()
    for one in model.operations:
        kind = type(one)
        if isinstance(one, keras.Model):
            yield from _find_chains(one, counts, cpu=cpu)
        elif not graph.has_once(one):
            continue
        elif kind is keras.layers.DepthwiseConv2D or (
            kind in CONVOLVE and one.compute_dtype != "float32"
        ):
            yield from _folding_chain(one, graph)
        elif cpu and kind is keras.layers.Conv2D and _is_suitable(one):
            yield _winograd_chain(one, graph)
        elif cpu and kind is keras.layers.Conv2D:
            yield from _residual_chain(one, graph)
        elif cpu and kind in _SCALING and id(one) not in scaled:
            for chain in _scaling_chain(one, graph):
                scaled |= {id(other) for other in chain.others}
                yield chain


def _norm_after(
    layer: keras.layers.Layer, graph: Graph
) -> keras.layers.BatchNormalization | None:
    """A normalisation of a convolution's channels, which reads it alone."""
    norm = graph.reader(layer)
    if type(norm) is not keras.layers.BatchNormalization or norm.axis not in (-1, 3):
        return None
    is_linear = layer.activation is keras.activations.linear
    return norm if is_linear and norm.compute_dtype == layer.compute_dtype else None


def _folded(
    layer: keras.layers.Layer, norm: keras.layers.BatchNormalization | None
) -> tuple[np.ndarray, np.ndarray]:
    """The last kernel of a convolution, and its shift, with the normalisation after
    it."""
    is_separable = isinstance(layer, keras.layers.SeparableConv2D)
    kernel = keras.ops.convert_to_numpy(
        layer.pointwise_kernel if is_separable else layer.kernel
    )
    factor, shift = np.ones(layer.output.shape[-1]), np.zeros(layer.output.shape[-1])
    if norm is not None:
        factor, shift = _fold_statistics(norm)
    if layer.use_bias:
        shift = shift + keras.ops.convert_to_numpy(layer.bias) * factor
    # Of a depthwise convolution the last two axes are the channels.
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    scaled = kernel * (factor.reshape(kernel.shape[-2:]) if is_depthwise else factor)
    return scaled, shift


def _folding_chain(layer: keras.layers.Layer, graph: Graph) -> Iterator[_Chain]:
    norm = _norm_after(layer, graph)
    groups = getattr(layer, "groups", 1)  # plain convolutions alone have them
    if norm is None or layer.data_format != "channels_last" or groups != 1:
        return
    padding, others = layer.padding, [norm]
    before = graph.maker(layer)
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    if is_depthwise and _is_same(before, layer, graph):
        padding = "same"
        others.append(before)
    kernel, shift = _folded(layer, norm)
    kernels = [kernel]
    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels.insert(0, keras.ops.convert_to_numpy(layer.depthwise_kernel))
    made = FoldedConv2D(layer, kernels, shift, padding=padding)
    yield _Chain(layer, made, tuple(others))


def _is_same(before: Any, layer: keras.layers.DepthwiseConv2D, graph: Graph) -> bool:
    """Whether zeros and a "valid" convolution are what TensorFlow calls "same"."""
    if type(before) is not keras.layers.ZeroPadding2D or layer.padding != "valid":
        return False
    if before.data_format != layer.data_format:
        return False
    needed = []
    for length, stride, taps in zip(
        graph.input_of(before).shape[1:3],
        layer.strides,
        layer.kernel_size,
        strict=True,
    ):
        if length is None or layer.dilation_rate != (1, 1):
            return False
        total = max((math.ceil(length / stride) - 1) * stride + taps - length, 0)
        needed.append((total // 2, total - total // 2))
    return tuple(needed) == tuple(tuple(one) for one in before.padding)


def _residual_chain(layer: keras.layers.Conv2D, graph: Graph) -> Iterator[_Chain]:
    """A convolution whose normalised outputs are added to others and rectified: with
    nothing but a bias between, TensorFlow does all of that in the convolution."""
    norm = _norm_after(layer, graph)
    is_plain = layer.data_format == "channels_last" and layer.compute_dtype == "float32"
    if norm is None or not is_plain:
        return
    added = graph.reader(norm)
    if not isinstance(added, keras.layers.Add):
        return
    relu = graph.reader(added)
    if not _is_relu(relu):
        return
    # Not from its configuration: that also says how its variables are made and trained.
    made = keras.layers.Conv2D(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        groups=layer.groups,
        kernel_initializer="zeros",
        dtype=layer.dtype_policy,
        name=layer.name,
    )
    made.build(graph.input_of(layer).shape)
    made.set_weights(_folded(layer, norm))
    yield _Chain(layer, made, (norm,))


def _winograd_chain(layer: keras.layers.Conv2D, graph: Graph) -> _Chain:
    norm = _norm_after(layer, graph)
    others = [] if norm is None else [norm]
    has_relu = layer.activation is keras.activations.relu
    after = graph.reader(norm or layer)
    if not has_relu and _is_relu(after) and after.compute_dtype == layer.compute_dtype:
        others.append(after)
        has_relu = True
    weights, shift = _folded(layer, norm)
    made = WinogradConv2D(
        weights, shift, padding=layer.padding, relu=has_relu, name=layer.name
    )
    return _Chain(layer, made, tuple(others))


def _is_suitable(layer: keras.layers.Conv2D) -> bool:
    return (
        layer.kernel_size == (TAPS, TAPS)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding in ("same", "valid")
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and math.prod(layer.kernel.shape[2:]) >= _LEAST_PAIRS
        and layer.activation in (keras.activations.linear, keras.activations.relu)
    )


def _is_relu(one: Any) -> bool:
    """Whether an operation is max(x, 0) and nothing else: other layers too have an
    `activation`, after what they compute."""
    if type(one) is keras.layers.ReLU:
        return one.max_value is None and not (one.negative_slope or one.threshold)
    return (
        type(one) is keras.layers.Activation
        and one.activation is keras.activations.relu
    )


def _scaling_chain(first: keras.layers.Layer, graph: Graph) -> Iterator[_Chain]:
    """Layers that scale channels one after the other, seen by what they make of zeros
    and of a number so large that little is lost in the difference."""
    shape = graph.input_of(first).shape
    layers: list[Operation] = [first]
    while type(after := graph.reader(layers[-1])) in _SCALING:
        layers.append(after)
    is_plain = all(one.compute_dtype == "float32" for one in layers)
    if len(shape) != 4 or shape[-1] is None or not is_plain:
        return
    made = [np.full((1, 1, 1, shape[-1]), value, np.float32) for value in (0, _LARGE)]
    for one in layers:
        made = [keras.ops.convert_to_numpy(one(values)) for values in made]
    if made[0].shape != (1, 1, 1, shape[-1]):  # each place by numbers of its own
        return
    zeros, large = (values.reshape(-1).astype(np.float64) for values in made)
    scale = Scale((large - zeros) / _LARGE, zeros, name=first.name)
    yield _Chain(first, scale, tuple(layers[1:]))
