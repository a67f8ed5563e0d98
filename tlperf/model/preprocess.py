"""The device half of input: uint8 pixels to the backbone's numbers.

    x = augment(image, draw, Augment.FLIP)     # inside the compiled step
    x = normalise(x, spec.normalisation)
    half = build_device_half(compute, normalisation=..., augmentation=Augment.FLIP)
    x = half(image, draw)                      # both

Batches cross to the device as uint8; this is traced into the step, so the cast and the
arithmetic are compiled with the model.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tlperf.core.choices import Augment, Preprocess
from tlperf.device.setup import Compute
from tlperf.reference.backbones import PAPER_MODE, BackboneSpec, Normalisation


def normalisation_for(spec: BackboneSpec, preprocess: Preprocess) -> Normalisation:
    """The backbone's own normalisation, or the study's x / 255 for every backbone."""
    return PAPER_MODE if preprocess is Preprocess.PAPER else spec.normalisation


# The smallest side of a random crop, as a share of the image's.
_LEAST_CROP = 0.75


def build_device_half(
    compute: Compute, *, normalisation: Normalisation, augmentation: Augment
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The whole half, to be traced: image uint8 [B, S, S, 3] and draw float32 [B, 4]
    to [B, S, S, 3] of the compute dtype."""
    dtype = keras.dtype_policies.get(compute.precision).compute_dtype

    def device_half(image: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        return normalise(augment(image, draw, augmentation), normalisation, dtype=dtype)

    return device_half


def augment(image: tf.Tensor, draw: tf.Tensor, kind: Augment) -> tf.Tensor:
    """Changes each image of a batch as its random numbers say.

    Args:
        image: uint8 [B, S, S, 3].
        draw: float32 [B, 4], from 0 to below 1: flip, size of the crop, top, left.
        kind: `flip` mirrors half of the images; `flip_crop` also takes a square of 0.75
            to 1 of the side from each and brings it back to the side, bilinear.

    Returns:
        [B, S, S, 3], uint8 or, of crops, float32 from 0 to 255.
    """
    if kind is Augment.NONE:
        return image
    is_mirrored = draw[:, 0, None, None, None] < 0.5
    image = tf.where(is_mirrored, tf.reverse(image, axis=[2]), image)
    if kind is Augment.FLIP:
        return image
    share = _LEAST_CROP + (1 - _LEAST_CROP) * draw[:, 1]
    rows = _resample(tf.cast(image, tf.float32), share, draw[:, 2])
    turned = tf.transpose(rows, [0, 2, 1, 3])
    return tf.transpose(_resample(turned, share, draw[:, 3]), [0, 2, 1, 3])


def _resample(image: tf.Tensor, share: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Stretches a part of each image's rows over all of them, linearly.

    By two gathers, which XLA compiles; TensorFlow's crop_and_resize it does not.

    Args:
        image: float32 [B, S, S, 3].
        share: of the rows that is taken, float32 [B].
        place: of the part, from 0 (first rows) to 1 (last), float32 [B].
    """
    side = image.shape[1]
    first = (1 - share) * side * place
    steps = tf.range(side, dtype=tf.float32) + 0.5
    at = first[:, None] + steps[None] * share[:, None] - 0.5
    at = tf.clip_by_value(at, 0.0, side - 1.0)
    low = tf.cast(tf.floor(at), tf.int32)
    high = tf.minimum(low + 1, side - 1)
    part = (at - tf.cast(low, tf.float32))[:, :, None, None]
    above = tf.gather(image, low, axis=1, batch_dims=1)
    below = tf.gather(image, high, axis=1, batch_dims=1)
    return above + part * (below - above)


def normalise(
    image: tf.Tensor, normalisation: Normalisation, *, dtype: str = "float32"
) -> tf.Tensor:
    """`(pixel - mean) / divisor`, computed in float32, cast to `dtype` at the end.

    Args:
        image: pixels of any type from 0 to 255, [B, S, S, 3], RGB.
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
    if isinstance(normalisation.divisor, tuple):
        x = x / tf.constant(normalisation.divisor, tf.float32)
    elif normalisation.divisor != 1.0:
        x = x / normalisation.divisor
    return tf.cast(x, dtype)
