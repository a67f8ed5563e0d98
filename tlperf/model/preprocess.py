"""The device half of input: uint8 pixels to the backbone's numbers.

    x = normalise(image, spec.normalisation)   # inside the compiled step

Batches cross to the device as uint8; this is traced into the step, so the cast and the
arithmetic are compiled with the model.
"""

import tensorflow as tf

from tlperf.core.choices import Preprocess
from tlperf.reference.backbones import PAPER_MODE, BackboneSpec, Normalisation


def normalisation_for(spec: BackboneSpec, preprocess: Preprocess) -> Normalisation:
    """The backbone's own normalisation, or the study's x / 255 for every backbone."""
    return PAPER_MODE if preprocess is Preprocess.PAPER else spec.normalisation


def normalise(
    image: tf.Tensor, normalisation: Normalisation, *, dtype: str = "float32"
) -> tf.Tensor:
    """`(pixel - mean) / divisor`, computed in float32, cast to `dtype` at the end.

    Args:
        image: uint8 [B, S, S, 3], RGB.
        normalisation: mean and divisor in pixel units, and the channel order.
        dtype: the model's compute dtype; float16 holds whole pixel values exactly, but
            not their differences from a mean, hence the cast last.

    Returns:
        `dtype` [B, S, S, 3], in the backbone's channel order.
    """
    x = tf.cast(image, tf.float32)
    if normalisation.reverse_channels:
        x = tf.reverse(x, axis=[-1])
    if any(normalisation.mean):
        x = x - tf.constant(normalisation.mean, tf.float32)
    if normalisation.divisor != 1.0:
        x = x / normalisation.divisor
    return tf.cast(x, dtype)
