"""A network in a few blocks, with the cut between its frozen and its trained part.

facts = describe_blocks(classifier)
facts["blocks"][0]     # {"name": "block1", "shape": [75, 75, 64], "layers": 3, ...}
facts["cut"]           # [{"layer": "block4_pool", "shape": [4, 4, 512]}]

A block ends where one tensor alone goes on. Which of these ends are shown follows from
the names that Keras' source writes out (`block4_conv1`, `conv4_block2_add`); numbered
names (`conv2d_94`) depend on what was built before in the process and name nothing.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from tlperf.model.build import Classifier
from tlperf.model.cut import crossing_tensors

# A trunk in fewer blocks than this tells nothing: then its sides in pixels divide it.
_LEAST_BLOCKS = 4


class _Block(NamedTuple):
    """Layers in a row; one tensor alone leaves the last.

    Attributes:
        layers: in Keras' order.
        words: names of the blocks of the network's own in it, some "".
    """

    layers: tuple[keras.layers.Layer, ...]
    words: tuple[str, ...]

    @property
    def shape(self) -> list[int | None]:
        """What leaves it, of one image."""
        (tensor,) = keras.tree.flatten(self.layers[-1].output)
        return list(tensor.shape[1:])

    @property
    def names(self) -> list[str]:
        """The words, each once."""
        return list(dict.fromkeys(filter(None, self.words)))


def describe_blocks(classifier: Classifier) -> dict[str, Any]:
    """What a drawing of the network needs, in plain values.

    Returns:
        `input` (the shape of an image), `blocks`, each `name`, `shape` (of what leaves
        it, of one image), `layers`, `frozen_layers`, `params`, `parts` (blocks of the
        network's own in it) and `is_head`, and `cut`, the tensors that cross from
        frozen to trained layers, each `layer` and `shape`; empty where nothing or all
        is frozen but the input.
    """
    whole, frozen = classifier.whole, set(classifier.frozen_names)
    trunk = {layer.name for layer in classifier.backbone.layers}
    segments = [
        segment for segment in _cut_segments(whole) if segment.layers[-1].name in trunk
    ]
    head = [layer for layer in whole.layers if layer.name not in trunk]
    blocks = _join_blocks(segments, frozen)
    blocks += [
        _Block((layer,), (text,))
        for layer, text in zip(head, classifier.head_text, strict=True)
    ]
    return {
        "input": list(whole.input_shape[1:]),
        "blocks": [
            {
                "name": _name(block),
                "shape": block.shape,
                "layers": len(block.layers),
                "frozen_layers": sum(layer.name in frozen for layer in block.layers),
                "params": sum(layer.count_params() for layer in block.layers),
                "parts": max(1, len(block.names)),
                "is_head": block.layers[0].name not in trunk,
            }
            for block in blocks
        ],
        "cut": _describe_cut(whole, classifier.frozen_names),
    }


def _is_input(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.InputLayer)


def _cut_segments(model: keras.Model) -> Iterator[_Block]:
    """The layers, parted wherever one tensor alone is still to be read."""
    last_read: dict[int, int] = {}
    for place, layer in enumerate(model.layers):
        if not _is_input(layer):
            for tensor in keras.tree.flatten(layer.input):
                last_read[id(tensor)] = place
    last_read |= {id(tensor): len(model.layers) for tensor in model.outputs}
    waiting: set[int] = set()
    segment: list[keras.layers.Layer] = []
    for place, layer in enumerate(model.layers):
        made = {id(tensor) for tensor in keras.tree.flatten(layer.output)}
        waiting = {one for one in waiting | made if last_read.get(one, -1) > place}
        if _is_input(layer):
            continue
        segment.append(layer)
        if len(waiting) == 1 and waiting == made:
            yield _Block(tuple(segment), (_word(segment),))
            segment = []


def _join_blocks(segments: Sequence[_Block], frozen: set[str]) -> list[_Block]:
    """Few enough to be drawn: by names, then what is alike on one side of the cut."""
    named = _join(segments, _are_named_alike)
    if len(named) < _LEAST_BLOCKS:
        named = _join(segments, lambda one, other: one.shape[:2] == other.shape[:2])

    def are_alike(one: _Block, other: _Block) -> bool:
        sides = {
            layer.name in frozen for block in (one, other) for layer in block.layers
        }
        return one.shape == other.shape and len(sides) == 1

    return _join(named, are_alike)


def _join(
    blocks: Sequence[_Block], belongs: Callable[[_Block, _Block], bool]
) -> list[_Block]:
    """Puts each block to the one before it where `belongs(before, block)`."""
    joined: list[_Block] = []
    for block in blocks:
        if joined and belongs(joined[-1], block):
            before = joined.pop()
            layers = (*before.layers, *block.layers)
            block = _Block(layers, (*before.words, *block.words))
        joined.append(block)
    return joined


def _are_named_alike(before: _Block, block: _Block) -> bool:
    """Whether the second block's name is the first's, or none."""
    (word,) = block.words
    return not word or before.names[-1:] == [word]


def _word(segment: Sequence[keras.layers.Layer]) -> str:
    """First word of the last name in it that the source writes out, with the number
    that follows: `block4` of block4_conv1, `mixed_5b` of mixed_5b; "" without any."""
    for layer in reversed(segment):
        if not _is_numbered(layer):
            first, *rest = layer.name.split("_")
            numbers = itertools.takewhile(lambda word: word[:1].isdigit(), rest)
            return "_".join([first, *numbers])
    return ""


def _is_numbered(layer: keras.layers.Layer) -> bool:
    """Whether Keras made the name: the class' in snake case, and a number."""
    kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
    return re.fullmatch(rf"{re.escape(kind)}(_\d+)?", layer.name) is not None


def _name(block: _Block) -> str:
    """`block4`, `mixed1 to mixed2`, or the first and last layer where none is named."""
    words = block.names or [block.layers[0].name, block.layers[-1].name]
    return words[0] if words[0] == words[-1] else f"{words[0]} to {words[-1]}"


def _describe_cut(
    whole: keras.Model, frozen_names: tuple[str, ...]
) -> list[dict[str, Any]]:
    if len(frozen_names) <= 1:  # the input alone: nothing is frozen
        return []
    made_by = {
        id(tensor): layer.name
        for layer in whole.layers
        for tensor in keras.tree.flatten(layer.output)
    }
    return [
        {"layer": made_by[id(tensor)], "shape": list(tensor.shape[1:])}
        for tensor in crossing_tensors(whole, frozen_names)
    ]
