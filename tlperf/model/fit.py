"""Whether normalised pixels are what a trunk's weights expect, by its first layers.

    probe = build_probe(backbone)
    report = check_fit(spec, probe, image, used=TF_MODE)     # image: uint8 [N, S, S, 3]
    report["verdicts"]   # one a normalisation that the project knows: finding, shift
    report["best"]       # the one with the smallest shift

Where the trunk has BatchNormalization, its moving statistics say what its first layers
saw in pretraining; a batch of photos is compared with them. Where it has none (VGG16),
nothing in the weights does: what the first layer makes of one half of the photos under
the backbone's own normalisation is the measure for the other half.

A shift is the Fisher-Rao distance between two normal distributions, of a channel's mean
and spread here and there (Costa, Santos and Strapasson, 2015): the one distance that
counts a spread of twice and of half alike, and a mean by the spreads. 1 (to 2 %) is a
mean that is one standard deviation off, or a spread of twice or half.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tlperf.model.preprocess import normalise
from tlperf.reference.backbones import (
    NORMALISATIONS,
    BackboneSpec,
    Normalisation,
    normalisation_name,
)

SHIFT_UNIT = (
    "Fisher-Rao distance of a channel's mean and spread, upper quartile of channels: 1 "
    "is a mean one standard deviation off, or a spread of twice or half"
)

# BatchNormalization layers that are looked at: what is done to pixels shows in the
# first, and every layer more is one more to be computed.
_LAYERS = 2
# Images of one forward pass.
_CHUNK = 8
# A channel's variance below this share of the layer's mean one counts as none: dead
# channels, of which pretrained networks have some, are alike.
_NO_VARIANCE = 1e-6
# Spreads below this share of what is expected are told as "hardly varies".
_DEGENERATE = 1 / 8


class Rule(enum.StrEnum):
    """What the statistics are compared with."""

    BATCH_NORM = "batch_norm"  # moving statistics of pretraining
    FIRST_LAYER = "first_layer"  # other photos under the backbone's own normalisation


class Finding(enum.StrEnum):
    """How well a normalisation fits."""

    FITS = "fits"
    MILD = "mild"  # off: a fine-tuning makes up for most of it
    SEVERE = "severe"  # what pretraining learned is lost


# From which shift on a misfit is mild, and severe, by what benchmarks/preprocess.py
# measures on photos of cats and dogs; its header has the accuracies. Xception's own
# normalisation is at most 0.66 off (at 75 to 299 pixels), torch's 1.0 to 1.4, x / 255
# 1.7 to 1.8, pixels that are not scaled 6.7 and more. VGG16's own is at most 0.33 off,
# raw pixels 0.7 to 1.0, x / 255 7.5 to 7.9: without BatchNormalization a network adapts
# to its scale, so of what the project knows nothing is severe there.
LIMITS = {Rule.BATCH_NORM: (0.8, 3.0), Rule.FIRST_LAYER: (0.5, 9.0)}


class Moments(NamedTuple):
    """Mean and variance of each channel, float64 [C]."""

    mean: np.ndarray
    variance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far one layer's values are from what is expected of them.

    Attributes:
        layer: its name.
        distance: in `SHIFT_UNIT`.
        spread: standard deviation as a multiple of the expected, median of channels.
        offset: of the mean, in expected standard deviations, median of channels.
    """

    layer: str
    distance: float
    spread: float
    offset: float

    @property
    def text(self) -> str:
        """In words."""
        if self.spread < _DEGENERATE:
            spread = f"hardly varies (spread {self.spread:.2g} of what is expected)"
        else:
            spread = f"spread {self.spread:.3g} times what is expected"
        return (
            f"{self.layer}: shift {self.distance:.2f}, {spread}, mean off by "
            f"{self.offset:.2g} standard deviations"
        )


@dataclasses.dataclass(frozen=True)
class Probe:
    """The first layers of a trunk, apart from it, in float32.

    Attributes:
        model: images to the values of each layer, before its activation.
        layers: their names.
        rule: what those values are compared with.
        expected: moving statistics of each layer; none without BatchNormalization.
    """

    model: keras.Model
    layers: tuple[str, ...]
    rule: Rule
    expected: tuple[Moments, ...] = ()

    def measure(self, image: np.ndarray, normalisation: Normalisation) -> list[Moments]:
        """Statistics of each layer over images, uint8 [N, S, S, 3]."""
        parts: list[list[Moments]] = []
        for start in range(0, len(image), _CHUNK):
            x = normalise(image[start : start + _CHUNK], normalisation)
            made = keras.tree.flatten(self.model(x, training=False))
            parts.append([_moments(one) for one in made])
        sizes = [min(_CHUNK, len(image) - at) for at in range(0, len(image), _CHUNK)]
        return [_join(column, sizes) for column in zip(*parts, strict=True)]


def build_probe(backbone: keras.Model) -> Probe:
    """The first layers of a trunk with the weights it has now.

    They are copied: a trunk may compute in float16, where raw pixels overflow, and on
    several devices.
    """
    norms = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ][:_LAYERS]
    if not norms:
        layer = _first_weighted(backbone)
        model = _copy(keras.Model(backbone.input, layer.output), linear=layer.name)
        return Probe(model, (layer.name,), Rule.FIRST_LAYER)
    return Probe(
        model=_copy(keras.Model(backbone.input, [layer.input for layer in norms])),
        layers=tuple(layer.name for layer in norms),
        rule=Rule.BATCH_NORM,
        expected=tuple(
            Moments(_array(layer.moving_mean), _array(layer.moving_variance))
            for layer in norms
        ),
    )


def _first_weighted(backbone: keras.Model) -> keras.layers.Layer:
    """The first layer with a kernel, or model inside that has one."""
    for layer in backbone.layers:
        if any(len(weight.shape) == 4 for weight in layer.weights):
            return layer
    raise ValueError(f"{backbone.name} has no layer with a kernel")


def _copy(model: keras.Model, *, linear: str = "") -> keras.Model:
    """The model in float32 with weights of its own, the layer `linear` without its
    activation."""

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = {**layer.get_config(), "dtype": "float32"}
        if layer.name == linear and "activation" in config:
            config["activation"] = "linear"
        return type(layer).from_config(config)

    copied = keras.models.clone_model(model, clone_function=copy_layer, recursive=True)
    copied.set_weights([_array(weight) for weight in model.weights])
    for layer in copied.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with what it derives of its weights
    return copied


def _array(variable: Any) -> np.ndarray:
    values: np.ndarray = keras.ops.convert_to_numpy(variable.value)
    return values


def _moments(values: tf.Tensor) -> Moments:
    """Of each channel, which come last."""
    axes = list(range(len(values.shape) - 1))
    mean, variance = tf.nn.moments(tf.cast(values, tf.float32), axes)
    return Moments(mean.numpy().astype(float), variance.numpy().astype(float))


def _join(parts: Sequence[Moments], sizes: Sequence[int]) -> Moments:
    """The moments of parts of so many images as those of all."""
    share = np.array(sizes)[:, None] / sum(sizes)
    means = np.stack([part.mean for part in parts])
    mean = (share * means).sum(axis=0)
    within = np.stack([part.variance for part in parts])
    return Moments(mean, (share * (within + (means - mean) ** 2)).sum(axis=0))


def find_shift(layer: str, found: Moments, expected: Moments) -> Shift:
    """The shift of a layer, by the statistics of its channels."""
    least = _NO_VARIANCE * expected.variance.mean()
    here = np.sqrt(found.variance + least)
    there = np.sqrt(expected.variance + least)
    off = np.abs(found.mean - expected.mean)
    apart = (off**2 / 2 + (here - there) ** 2) / (2 * here * there)
    distance = np.sqrt(2) * np.arccosh(1 + apart)
    return Shift(
        layer=layer,
        distance=float(np.quantile(distance, 0.75)),
        spread=float(np.median(here / there)),
        offset=float(np.median(off / there)),
    )


def find_shifts(
    probe: Probe, image: np.ndarray, *, own: Normalisation
) -> dict[str, list[Shift]]:
    """The shifts of each layer under each normalisation that the project knows.

    Args:
        probe: of the trunk.
        image: uint8 [N, S, S, 3].
        own: the backbone's own normalisation; without BatchNormalization, what it makes
            of every other image is what is expected of the rest.
    """
    expected, rest = probe.expected, image
    if probe.rule is Rule.FIRST_LAYER:
        expected = tuple(probe.measure(image[::2], own))
        rest = image[1::2] if len(image) > 1 else image
    return {
        name: list(
            map(find_shift, probe.layers, probe.measure(rest, normalisation), expected)
        )
        for name, normalisation in NORMALISATIONS.items()
    }


def judge(shift: Shift, rule: Rule) -> Finding:
    """What a shift means."""
    mild, severe = LIMITS[rule]
    if shift.distance < mild:
        return Finding.FITS
    return Finding.MILD if shift.distance < severe else Finding.SEVERE


def check_fit(
    spec: BackboneSpec, probe: Probe, image: np.ndarray, *, used: Normalisation
) -> dict[str, Any]:
    """The report on a trunk that holds pretrained weights.

    Args:
        spec: row of the backbone table.
        probe: of the trunk.
        image: some training photos, uint8 [N, S, S, 3].
        used: how they are normalised.

    Returns:
        `backbone images rule unit limits verdicts best used finding text`; a verdict is
        `preprocess finding layer shift spread offset text`, of the layer that is
        furthest off.
    """
    shifts = find_shifts(probe, image, own=spec.normalisation)
    worst = {
        name: max(found, key=lambda shift: shift.distance)
        for name, found in shifts.items()
    }
    best = min(worst, key=lambda name: worst[name].distance)
    name = normalisation_name(used)
    mild, severe = LIMITS[probe.rule]
    return {
        "backbone": spec.name,
        "images": len(image),
        "rule": probe.rule.value,
        "unit": SHIFT_UNIT,
        "limits": {"mild": mild, "severe": severe},
        "verdicts": [
            {
                "preprocess": one,
                "finding": judge(shift, probe.rule).value,
                "layer": shift.layer,
                "shift": shift.distance,
                "spread": shift.spread,
                "offset": shift.offset,
                "text": shift.text,
            }
            for one, shift in worst.items()
        ],
        "best": best,
        "used": name,
        "finding": judge(worst[name], probe.rule).value,
        "text": _sentence(spec, worst, used=name, best=best, rule=probe.rule),
    }


_WORDS = {
    Finding.FITS: "fits",
    Finding.MILD: "is a mild misfit for",
    Finding.SEVERE: "is a severe misfit for",
}


def _sentence(
    spec: BackboneSpec, worst: dict[str, Shift], *, used: str, best: str, rule: Rule
) -> str:
    found = judge(worst[used], rule)
    text = f"{used} {_WORDS[found]} {spec.title} ({worst[used].text})"
    if best == used:
        return text
    return f"{text}; {best} fits best (shift {worst[best].distance:.2f})"


def find_advice(report: dict[str, Any], spec: BackboneSpec) -> str:
    """What to do about a misfit."""
    own = normalisation_name(spec.normalisation)
    if report["used"] != own and report["best"] == own:
        return f"give --preprocess=backbone, which is {own} for {spec.title}"
    if report["best"] == report["used"]:
        return "look at the images (tlperf inspect --png): they are unlike ImageNet's"
    return (
        f"these weights were trained on {report['best']}: give {spec.title}'s ImageNet "
        f"weights, which expect {own}"
    )
