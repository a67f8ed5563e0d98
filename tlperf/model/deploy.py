"""A network with its preprocessing inside: pixels in, probabilities out.

    network = with_preprocessing(model, normalisation)
    network(images)          # uint8 [B, S, S, 3], RGB
    network(build_decode(recipe)(files))      # string [B], image files

Of layers and operations that Keras itself ships, so that a file of it opens without
tlperf; files are decoded by TensorFlow's own.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tlperf.core.choices import Encoding
from tlperf.core.recipe import PixelRecipe
from tlperf.reference.backbones import RAW_PIXELS, Normalisation


def with_preprocessing(model: keras.Model, normalisation: Normalisation) -> keras.Model:
    """The same layers behind the device half of input.

    Args:
        model: preprocessed pixels [B, S, S, 3] to its outputs.
        normalisation: what it expects of the pixels (see
            `tlperf.model.preprocess.normalise`), done in float32 in any case.

    Returns:
        A model of images uint8 [B, S, S, 3], RGB.
    """
    images = keras.Input(model.input_shape[1:], dtype="uint8", name="images")
    x = keras.ops.cast(images, "float32")
    if normalisation.reverse_channels:
        x = keras.ops.flip(x, axis=-1)
    if (normalisation.mean, normalisation.divisor) != (
        RAW_PIXELS.mean,
        RAW_PIXELS.divisor,
    ):
        x = _normalisation_layer(normalisation)(x)
    return keras.Model(images, model(x), name=model.name)


def _normalisation_layer(normalisation: Normalisation) -> keras.layers.Layer:
    divisor = normalisation.divisor
    divisors = divisor if isinstance(divisor, tuple) else (divisor,) * 3
    return keras.layers.Normalization(
        mean=list(normalisation.mean),
        variance=[one**2 for one in divisors],
        dtype="float32",
        name="normalise",
    )


def build_decode(
    recipe: PixelRecipe, *, jpeg_quality: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """What decodes and resizes image files as a recipe says, in a graph: string [B] to
    uint8 [B, S, S, 3], RGB.

    A pixel may be rounded to its neighbour where `tlperf.pipeline.decode` sums in
    another order. JPEGs are decoded exactly, whatever the recipe says; the EXIF
    orientation is not applied: TensorFlow has no operation that reads it.

    Args:
        recipe: of the training.
        jpeg_quality: with which images were encoded anew, where they were.
    """
    side = recipe.image_size

    def decode_one(data: tf.Tensor) -> tf.Tensor:
        pixels = _decode_file(data)
        if recipe.stored_size is not None:
            pixels = _resized(pixels, recipe.stored_size, antialias=True)
        if recipe.encoding is Encoding.JPEG:
            encoded = tf.io.encode_jpeg(
                pixels, quality=jpeg_quality, chroma_downsampling=True
            )
            pixels = _decode_file(encoded)
        return _resized(pixels, side)

    def decode(files: tf.Tensor) -> tf.Tensor:
        made = tf.TensorSpec([side, side, 3], tf.uint8)
        return tf.map_fn(decode_one, files, fn_output_signature=made)

    return decode


def _decode_file(data: tf.Tensor) -> tf.Tensor:
    # By content: this operation takes PNG and GIF too.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _resized(pixels: tf.Tensor, side: int, *, antialias: bool = False) -> tf.Tensor:
    """Bilinear, rounded: uint8 [H, W, 3] to uint8 [S, S, 3]; the same pixels where they
    are of that size."""
    resized = tf.image.resize(
        pixels, (side, side), method="bilinear", antialias=antialias
    )
    return tf.cast(tf.round(resized), tf.uint8)
