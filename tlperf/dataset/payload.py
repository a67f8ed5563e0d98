"""What is stored of an image: its bytes, or its pixels at one size.

payload = encode_payload(data, facts, layout=Layout(Encoding.JPEG, 150, Exif.APPLY))
payload.encoded, payload.height, payload.width, payload.orientation
"""

import dataclasses
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from tlperf.core.choices import Encoding, Exif
from tlperf.dataset.guard import ImageFacts, decode_rgb

JPEG_QUALITY = 90
JPEG_SUBSAMPLING = "420"
# Pillow widens the filter by the reduction, which is the antialiasing; the same kernel
# as tf.image.resize(method="bilinear", antialias=True), and without ringing.
RESIZE_FILTER = Image.Resampling.BILINEAR

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How images are stored.

    Attributes:
        encoding: bytes untouched, JPEG, or pixels.
        image_size: side in pixels of jpeg and raw; None with source.
        exif: whether jpeg and raw pixels are turned upright.
    """

    encoding: Encoding
    image_size: int | None
    exif: Exif

    @property
    def raw_size(self) -> int | None:
        """Side of raw pixels, or None where encoded files are stored."""
        return self.image_size if self.encoding is Encoding.RAW else None

    def describe(self) -> dict[str, Any]:
        """The choices that are not settings, for the manifest."""
        if self.encoding is Encoding.SOURCE:
            return {}
        facts = {"resize": "Pillow bilinear, antialiased, aspect not kept"}
        if self.encoding is Encoding.RAW:
            return facts
        sampling = ":".join(JPEG_SUBSAMPLING)
        return {**facts, "jpeg_quality": JPEG_QUALITY, "jpeg_subsampling": sampling}


@dataclasses.dataclass(frozen=True)
class Payload:
    """One stored image.

    Attributes:
        encoded: the file's bytes, a JPEG, or uint8 pixels [S, S, 3] row by row.
        height, width: pixels of what is stored.
        orientation: EXIF turn that is still to be done, 1 to 8 (1: none).
    """

    encoded: bytes
    height: int
    width: int
    orientation: int


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its EXIF orientation, 1 to 8, wants it shown."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def encode_payload(data: bytes, facts: ImageFacts, *, layout: Layout) -> Payload:
    """The payload of an accepted image file."""
    if layout.encoding is Encoding.SOURCE:
        return Payload(data, facts.height, facts.width, facts.orientation)
    assert layout.image_size is not None  # DataConfig sees to it
    side = layout.image_size
    image = Image.fromarray(decode_rgb(data, facts.format))
    orientation = facts.orientation
    if layout.exif is Exif.APPLY:
        image, orientation = turn_upright(image, orientation), 1
    pixels = np.asarray(image.resize((side, side), RESIZE_FILTER))
    if layout.encoding is Encoding.RAW:
        return Payload(pixels.tobytes(), side, side, orientation)
    encoded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=JPEG_QUALITY,
        colorsubsampling=JPEG_SUBSAMPLING,
    )
    return Payload(encoded, side, side, orientation)
