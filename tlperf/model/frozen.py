"""The frozen part of a network as a function of its own, optimised as inference is.

    encode = build_encoder(classifier, compute=compute, normalisation=..., ...)
    encode(batch)                      # a FeatureBatch where the batch's images are
    extract = build_extractor(classifier, compute=compute, normalisation=..., ...)
    extract(batch)                     # what crosses the cut, in the host's memory

Off XLA its weights become constants, so that TensorFlow folds BatchNormalization into
the convolutions and fuses their activations: 1.1 to 1.5 times as fast on two cores of a
CPU for the five backbones that have any. Features that are kept and those that a step
computes come from the same function, so a training learns the same either way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.choices import Augment
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier
from tlperf.model.inference import rewrite
from tlperf.model.preprocess import build_device_half
from tlperf.reference.backbones import Normalisation

# Images of one call on a CPU: 3 % slower than 32 for Xception at 299 pixels, and takes
# 1.9 instead of 2.8 GiB. A number of its own, so that the same kernels see an image
# whatever the batch is.
_CPU_IMAGES = 8

# From here on a matrix is handed to the graph, not copied into it: nothing is folded
# into one, and TensorFlow copies constants in each of its passes. VGG16's first step
# takes 6 s instead of 30 to 60 on two cores, further ones 1.05 times the time.
_HANDED_BYTES = 32 * 2**20

# A device's name, images and draws to the tensors that cross the cut.
Frozen = Callable[[str, tf.Tensor, tf.Tensor], list[tf.Tensor]]
Extract = Callable[[Batch], list[np.ndarray]]
Encode = Callable[[Batch], FeatureBatch]


def build_frozen(
    classifier: Classifier,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    dtype: str | None = None,
    parts: int = 1,
) -> Frozen:
    """The frozen part, with the weights it has at its first call.

    Args:
        classifier: whose frozen part; it has one.
        compute: XLA policy and precision.
        normalisation, augmentation: of the device half of input.
        dtype: that the tensors are cast to; None leaves them as they are computed.
        parts: that a GPU takes its images in, one after the other.
    """
    frozen = classifier.frozen
    if frozen is None:
        raise ValueError("expected a classifier with frozen layers")
    device_half = build_device_half(
        compute, normalisation=normalisation, augmentation=augmentation
    )

    apply = _apply if compute.jit_compile else _apply_constant

    def forward(image: tf.Tensor, draw: tf.Tensor) -> list[tf.Tensor]:
        features = tf.nest.flatten(apply(frozen, device_half(image, draw)))
        return [tf.cast(x, dtype) if dtype else x for x in features]

    compiled: dict[tuple[str, int], Callable[..., list[tf.Tensor]]] = {}

    def call(device: str, image: tf.Tensor, draw: tf.Tensor) -> list[tf.Tensor]:
        count = image.shape[0]
        most = _CPU_IMAGES if compute.kind == "CPU" else -(-count // parts)
        made = []
        with tf.device(device):
            for start in range(0, count, most):
                rows = slice(start, min(start + most, count))
                own = image[rows], draw[rows]
                key = (device, own[0].shape[0])
                if key not in compiled:
                    compiled[key] = _compile(forward, *own, compute)
                made.append(compiled[key](*own))
            if len(made) == 1:
                return made[0]
            return [tf.concat(column, axis=0) for column in zip(*made, strict=True)]

    return call


def build_encoder(
    classifier: Classifier,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    parts: int = 1,
) -> Encode:
    """The frozen part of a placed batch, on the devices where its images are;
    arguments as of `build_frozen`."""
    frozen = build_frozen(
        classifier,
        compute=compute,
        normalisation=normalisation,
        augmentation=augmentation,
        parts=parts,
    )
    local_values = compute.strategy.experimental_local_results

    def encode(batch: Batch) -> FeatureBatch:
        images, draws = local_values(batch.image), local_values(batch.draw)
        # Every device has its part before the first one is waited for.
        made = [
            tuple(frozen(device, image, draw))
            for device, image, draw in zip(compute.devices, images, draws, strict=True)
        ]
        features: tuple[tf.Tensor, ...] = made[0]
        if len(made) > 1:
            features = compute.strategy.experimental_distribute_values_from_function(
                lambda place: made[place.replica_id_in_sync_group % len(made)]
            )
        return FeatureBatch(features, batch.label, batch.weight, batch.index)

    return encode


def build_extractor(
    classifier: Classifier,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    dtype: str | None = None,
) -> Extract:
    """The frozen part of a batch in the host's memory, each device an even part of it,
    back to the host: the crossing tensors, each [B, ...]; arguments as of
    `build_frozen`."""
    frozen = build_frozen(
        classifier,
        compute=compute,
        normalisation=normalisation,
        augmentation=augmentation,
        dtype=dtype,
    )

    def extract(batch: Batch) -> list[np.ndarray]:
        own = len(batch.index) // len(compute.devices)
        parts: list[Sequence[tf.Tensor]] = []
        for replica, device in enumerate(compute.devices):
            rows = slice(replica * own, (replica + 1) * own)
            with tf.device("CPU:0"):
                image, draw = batch.image[rows], batch.draw[rows]
            parts.append(frozen(device, image, draw))
        columns = zip(*parts, strict=True)
        return [np.concatenate([np.asarray(x) for x in column]) for column in columns]

    return extract


def _compile(
    forward: Callable[..., list[tf.Tensor]],
    image: tf.Tensor,
    draw: tf.Tensor,
    compute: Compute,
) -> Callable[..., list[tf.Tensor]]:
    function = tf.function(forward, autograph=False, jit_compile=compute.jit_compile)
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in (image, draw)]
    return function.get_concrete_function(*specs)


def _apply(frozen: keras.Model, x: tf.Tensor) -> Any:
    return frozen(x, training=False)  # XLA fuses the arithmetic itself


def _apply_constant(frozen: keras.Model, x: tf.Tensor) -> Any:
    with tf.init_scope():  # not in the graph that is traced
        network = rewrite(frozen, cpu=False)
    (features,) = apply_constant(network, x)
    return features


def apply_constant(model: keras.Model, *inputs: tf.Tensor) -> list[Any]:
    """Inference with its weights as constants of the graph that is traced.

    Args:
        model: whose weights are those that it has now.
        inputs: its input, or several, which share the constants.

    Returns:
        The output for each input.
    """
    groups = (model.trainable_variables, model.non_trainable_variables)
    with tf.init_scope():  # read now, not in the graph
        arrays = [
            [keras.ops.convert_to_numpy(one) for one in group] for group in groups
        ]
    values = [[_constant(array) for array in group] for group in arrays]
    return [model.stateless_call(*values, x, training=False)[0] for x in inputs]


def _constant(array: np.ndarray) -> tf.Tensor:
    if array.ndim == 2 and array.nbytes >= _HANDED_BYTES:
        with tf.init_scope():
            return tf.constant(array)
    return tf.constant(array)
