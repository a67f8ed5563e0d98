"""The cut between the frozen and the active part of a network.

    frozen, active = cut_model(whole, frozen_names)
    active(frozen(x)) == whole(x)

Several tensors may cross: EfficientNetB0's skip connection and InceptionV3's and
InceptionResNetV2's branches are cut too. Layers are shared, not copied.
"""

from collections.abc import Collection
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
    crossing = crossing_tensors(whole, frozen_names)
    frozen = keras.Model(whole.input, crossing, name=f"{whole.name}_frozen")
    active = keras.Model(crossing, whole.output, name=f"{whole.name}_active")
    return frozen, active
