"""Building a backbone, its head, and the split between frozen and active layers.

model = build_classifier(spec, image_size=150, classes=2, freeze="paper")
model.frozen(x)    # the tensors that cross the cut
model.active(...)  # class probabilities, float32 [B, C]
model.whole(x)     # both in one, sharing the same layers
"""

import contextlib
import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tlperf.core.errors import SettingsError
from tlperf.model.cut import cut_model
from tlperf.reference.backbones import (
    BackboneSpec,
    HeadKind,
    HeadLayer,
    check_image_size,
)

IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A backbone with its head, whole and cut in two; the parts share their layers.

    Attributes:
        whole: images [B, S, S, 3] to probabilities float32 [B, C].
        frozen: images to the tensors that cross the cut; None where nothing is frozen.
        active: those tensors (or the images) to probabilities float32 [B, C].
        backbone: the trunk alone.
        frozen_names: backbone layers that are not trained, in Keras' order.
        active_names: backbone layers that are trained, in Keras' order.
        head_text: the appended layers in words.
    """

    whole: keras.Model
    frozen: keras.Model | None
    active: keras.Model
    backbone: keras.Model
    frozen_names: tuple[str, ...]
    active_names: tuple[str, ...]
    head_text: tuple[str, ...]


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Builds under a Keras dtype policy: `keras.applications` takes no dtype."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def find_constructor(spec: BackboneSpec) -> Callable[..., keras.Model]:
    """The function that builds the network."""
    module_name, _, name = spec.constructor.rpartition(":")
    module = importlib.import_module(module_name) if module_name else keras.applications
    return getattr(module, name)


def build_backbone(spec: BackboneSpec, *, image_size: int) -> keras.Model:
    """The trunk with random weights: [B, S, S, 3] to feature maps.

    Raises:
        SettingsError: the image is smaller than the network accepts.
    """
    check_image_size(spec, image_size)
    shape = (image_size, image_size, 3)
    return find_constructor(spec)(weights=None, include_top=False, input_shape=shape)


def build_imagenet_model(spec: BackboneSpec) -> keras.Model:
    """The 1000-class network at its native size that Table 1 describes.

    Weights are random: neither time nor size depends on their values.
    """
    # Not left to Keras: MobileNetV3 would leave its sides open.
    shape = (spec.native_size, spec.native_size, 3)
    constructor = find_constructor(spec)
    return constructor(weights=None, classes=IMAGENET_CLASSES, input_shape=shape)


def build_classifier(
    spec: BackboneSpec,
    *,
    image_size: int,
    classes: int,
    freeze: str = "paper",
    precision: str = "float32",
    load_weights: Callable[[keras.Model], None] | None = None,
) -> Classifier:
    """Backbone and head, with `trainable` set by the freeze boundary.

    Args:
        spec: row of the backbone table.
        image_size: side in pixels.
        classes: C; the last layer is a softmax over them.
        freeze: `paper` (the backbone's own boundary), `all`, `none`, or the name of the
            first active layer.
        precision: Keras dtype policy; the softmax is float32 in each.
        load_weights: called with the bare backbone before the head is appended.
    """
    with dtype_policy(precision):
        backbone = build_backbone(spec, image_size=image_size)
        if load_weights is not None:
            load_weights(backbone)
        first = first_active_index(backbone, spec, freeze)
        layers = [_head_layer(row, n) for n, row in enumerate(spec.head)]
        # float32: a float16 softmax rounds probabilities near 1 to 1 and the loss to 0.
        layers.append(
            keras.layers.Dense(
                classes, activation="softmax", dtype="float32", name="head_softmax"
            )
        )
        x = backbone.output
        for layer in layers:
            x = layer(x)
        whole = keras.Model(backbone.input, x, name=spec.name)
        for layer in backbone.layers[:first]:
            layer.trainable = False
        frozen_names = tuple(layer.name for layer in backbone.layers[:first])
        frozen, active = cut_model(whole, frozen_names)
    return Classifier(
        whole=whole,
        frozen=frozen,
        active=active,
        backbone=backbone,
        frozen_names=frozen_names,
        active_names=tuple(layer.name for layer in backbone.layers[first:]),
        head_text=(*map(str, spec.head), f"Dense({classes}, softmax)"),
    )


def first_active_index(backbone: keras.Model, spec: BackboneSpec, freeze: str) -> int:
    """Index in `backbone.layers` of the first layer that is trained.

    Raises:
        SettingsError: no layer has that name; the text suggests the nearest.
    """
    names = [layer.name for layer in backbone.layers]
    name = spec.first_active if freeze == "paper" else freeze
    if name is None or freeze == "all":
        return len(names)
    if freeze == "none":
        return 1  # the input layer holds nothing to train
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"{spec.title} has no layer {name!r}",
            f"{hint}give paper, all, none or a layer of the backbone",
            reason="unknown_layer",
        )
    return names.index(name)


def _head_layer(row: HeadLayer, position: int) -> keras.layers.Layer:
    name = f"head_{position}_{row.kind.name.lower()}"
    units = int(row.value) if row.kind is HeadKind.DENSE_RELU and row.value else 0
    makers: dict[HeadKind, Callable[[], Any]] = {
        HeadKind.BATCH_NORMALIZATION: lambda: keras.layers.BatchNormalization(
            name=name
        ),
        HeadKind.FLATTEN: lambda: keras.layers.Flatten(name=name),
        HeadKind.GLOBAL_AVERAGE_POOLING: lambda: keras.layers.GlobalAveragePooling2D(
            name=name
        ),
        HeadKind.DENSE_RELU: lambda: keras.layers.Dense(
            units, activation="relu", name=name
        ),
        HeadKind.DROPOUT: lambda: keras.layers.Dropout(row.value, name=name),
    }
    return makers[row.kind]()
