"""The cut between the frozen and the active part of a network.

    frozen, active = cut_model(whole, frozen_names)
    active(frozen(x)) == whole(x)

Several tensors may cross: EfficientNetB0's skip connection and InceptionV3's and
InceptionResNetV2's branches are cut too. Layers are shared, not copied.

Layers after the boundary that hold no weights and do the same in training as in
inference are computed on the frozen side where that makes what crosses no larger: a
head's global average pooling behind a wholly frozen trunk leaves 1/25 of the numbers.
Nothing is trained otherwise by that.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import keras


def crossing_tensors(whole: keras.Model, frozen_names: Collection[str]) -> list[Any]:
    """Symbolic tensors that frozen layers make and active layers read, each once.

    Args:
        whole: a functional model whose layers are each called once.
        frozen_names: names of its frozen layers, the input layer among them.
    """
    frozen = set(frozen_names)
    made_by_frozen = {
        id(tensor)
        for layer in whole.layers
        if layer.name in frozen
        for tensor in keras.tree.flatten(layer.output)
    }
    found: dict[int, Any] = {}
    for layer in whole.layers:
        if layer.name in frozen:
            continue
        for tensor in keras.tree.flatten(layer.input):
            if id(tensor) in made_by_frozen:
                found.setdefault(id(tensor), tensor)
    return list(found.values())


# They hold no weights and do not tell training from inference.
_FIXED_LAYERS = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.ZeroPadding2D,
)


def extend_frozen(whole: keras.Model, frozen_names: Collection[str]) -> tuple[str, ...]:
    """The frozen layers, with those after them that may as well be computed there."""
    frozen = dict.fromkeys(frozen_names)
    crossing = crossing_tensors(whole, frozen)
    for layer in whole.layers:  # in the order of the graph
        if layer.name in frozen or not isinstance(layer, _FIXED_LAYERS):
            continue
        crossed = {id(tensor) for tensor in crossing}
        if not all(id(tensor) in crossed for tensor in keras.tree.flatten(layer.input)):
            continue
        longer = crossing_tensors(whole, [*frozen, layer.name])
        if _numbers(longer) <= _numbers(crossing):
            frozen[layer.name], crossing = None, longer
    return tuple(frozen)


def _numbers(tensors: Sequence[Any]) -> int:
    """Of one image."""
    return sum(math.prod(tensor.shape[1:]) for tensor in tensors)


def cut_model(
    whole: keras.Model, frozen_names: Collection[str]
) -> tuple[keras.Model | None, keras.Model]:
    """The frozen part (None where only the input is frozen) and the active part.

    Returns:
        `(frozen, active)`: frozen maps images to a list of crossing tensors, active
        maps that list to the output of `whole`.
    """
    frozen_layers = [layer for layer in whole.layers if layer.name in set(frozen_names)]
    if len(frozen_layers) <= 1:
        return None, whole
    crossing = crossing_tensors(whole, extend_frozen(whole, frozen_names))
    frozen = keras.Model(whole.input, crossing, name=f"{whole.name}_frozen")
    active = keras.Model(crossing, whole.output, name=f"{whole.name}_active")
    return frozen, active
