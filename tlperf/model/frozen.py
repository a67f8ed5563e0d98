"""The frozen part of a network as a function of its own, for computing it once.

    extract = build_extractor(classifier, compute=compute, normalisation=..., ...)
    extract(batch)                     # the tensors that cross the cut, on the host

Off XLA its weights become constants, so that TensorFlow folds BatchNormalization into
the convolutions and fuses their activations: 1.1 to 1.5 times as fast on two cores of a
CPU for the five backbones that have any, and at most 4e-6 of the largest value apart.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from tlperf.core.batch import Batch
from tlperf.core.choices import Augment
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier
from tlperf.model.preprocess import build_device_half
from tlperf.reference.backbones import Normalisation

# Images of one call on a CPU.
_CPU_IMAGES = 8

Extract = Callable[[Batch], list[np.ndarray]]


def build_extractor(
    classifier: Classifier,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    dtype: str | None = None,
) -> Extract:
    """The frozen part with the device half of input, compiled at its first batch.

    Args:
        classifier: whose frozen part; it has one.
        compute: each device takes an even part of a batch.
        normalisation, augmentation: of the device half of input.
        dtype: that the tensors are cast to; None leaves them as they are computed.

    Returns:
        A Batch, in the host's memory, to the crossing tensors, each [B, ...].
    """
    frozen = classifier.frozen
    if frozen is None:
        raise ValueError("expected a classifier with frozen layers")
    device_half = build_device_half(
        compute, normalisation=normalisation, augmentation=augmentation
    )

    def forward(image: tf.Tensor, draw: tf.Tensor) -> list[tf.Tensor]:
        features = tf.nest.flatten(frozen(device_half(image, draw), training=False))
        return [tf.cast(x, dtype) if dtype else x for x in features]

    compiled: dict[tuple[str, int], Callable[..., list[tf.Tensor]]] = {}

    def extract(batch: Batch) -> list[np.ndarray]:
        parts = []
        # Every device has its part before the first one is waited for.
        for device, image, draw in _parts(batch, compute):
            key = (device, len(image))
            with tf.device(device):
                if key not in compiled:
                    compiled[key] = _compile(forward, image, draw, compute)
                parts.append(compiled[key](image, draw))
        columns = zip(*parts, strict=True)
        return [np.concatenate([np.asarray(x) for x in column]) for column in columns]

    return extract


def _parts(
    batch: Batch, compute: Compute
) -> Iterator[tuple[str, tf.Tensor, tf.Tensor]]:
    """Each device's images and draws; on CPUs a few at a time, which takes 3 % longer
    for Xception at 299 pixels, and 1.9 instead of 2.8 GiB."""
    own = len(batch.index) // len(compute.devices)
    most = _CPU_IMAGES if compute.kind == "CPU" else own
    for replica, device in enumerate(compute.devices):
        for start in range(replica * own, (replica + 1) * own, most):
            rows = slice(start, min(start + most, (replica + 1) * own))
            with tf.device("CPU:0"):
                image, draw = batch.image[rows], batch.draw[rows]
            yield device, image, draw


def _compile(
    forward: Callable[..., list[tf.Tensor]],
    image: tf.Tensor,
    draw: tf.Tensor,
    compute: Compute,
) -> Callable[..., list[tf.Tensor]]:
    function = tf.function(forward, autograph=False, jit_compile=compute.jit_compile)
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in (image, draw)]
    traced = function.get_concrete_function(*specs)
    if compute.jit_compile:
        return traced  # XLA fuses the arithmetic itself
    return convert_to_constants.convert_variables_to_constants_v2(traced)
