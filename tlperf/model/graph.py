"""Who reads what in a functional model, by its own calls.

    graph = Graph(model, count_calls(model))
    graph.reader(layer)          # what alone reads its output, or None

Layers may be called in other models too, and their own `input` and `output` are those
of the first call of all; a model's in another are those of its inside.
"""

from collections import Counter
from typing import Any

import keras
from keras import Operation


class Graph:
    """A functional model's calls. Its methods but `has_once` take operations that are
    called once.

    Args:
        model: whose calls.
        counts: from `count_calls`, of the outermost model.
    """

    def __init__(self, model: keras.Model, counts: Counter[int]):
        nodes = _list_nodes(model)
        # Of operations that are called once.
        self._nodes = {
            id(node.operation): node
            for node in nodes
            if counts[id(node.operation)] == 1
        }
        self._makers = {id(x): node.operation for node in nodes for x in node.outputs}
        self._readers: dict[int, list[Operation]] = {}
        for node in nodes:
            for x in node.input_tensors:
                self._readers.setdefault(id(x), []).append(node.operation)
        self._kept = {id(x) for x in model.outputs}

    def has_once(self, one: Operation) -> bool:
        """Whether an operation is called here, and nowhere else that counts."""
        return id(one) in self._nodes

    def input_of(self, one: Operation) -> keras.KerasTensor:
        """What it reads, the first where it reads several."""
        return self._nodes[id(one)].input_tensors[0]

    def maker(self, one: Operation) -> Any:
        """What makes its input for it alone, where that is called once, or None."""
        maker = self._makers.get(id(self.input_of(one)))
        is_alone = self.has_once(maker) and self.reader(maker) is one
        return maker if is_alone else None

    def reader(self, one: Operation) -> Any:
        """What alone reads its output, where that is called once, or None."""
        output = id(self._nodes[id(one)].outputs[0])
        reader, *more = self._readers.get(output, [None])
        is_alone = not more and output not in self._kept
        return reader if is_alone and self.has_once(reader) else None


def _list_nodes(model: keras.Model) -> list[Any]:
    """A functional model's calls, which Keras 3.15 shows nowhere else."""
    return [node for nodes in model._nodes_by_depth.values() for node in nodes]


def count_calls(model: keras.Model) -> Counter[int]:
    """How often an operation is called in a model and those in it, by its id."""
    called = model.layers
    if isinstance(model, keras.Function):
        called = [node.operation for node in _list_nodes(model)]
    counts = Counter(map(id, called))
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            counts += count_calls(layer)
    return counts
