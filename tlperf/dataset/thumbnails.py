"""Small pictures of stored images, to be looked at; no network sees them.

thumbnail = make_thumbnail(example, manifest)
thumbnail.jpeg, thumbnail.width      # its bytes; pixels of the image itself

They are pixels encoded anew: no byte of the source's file, and no metadata, is in them.
"""

from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from tlperf.core.choices import Encoding, Exif
from tlperf.core.files import sha256_bytes
from tlperf.dataset.examples import RecordError, StoredExample
from tlperf.dataset.guard import UNDECODABLE, decode_rgb
from tlperf.dataset.headers import sniff
from tlperf.dataset.manifest import Manifest
from tlperf.dataset.payload import turn_upright

# Pixels a side at most: a sixth of a page's column, at two pixels a point.
SIDE = 176
_QUALITY = 80


class Thumbnail(NamedTuple):
    """A small JPEG.

    Attributes:
        jpeg: its bytes.
        width, height: pixels of the image itself, upright.
    """

    jpeg: bytes
    width: int
    height: int

    def facts(self, example: StoredExample, file: str) -> dict[str, Any]:
        """What a list of pictures says of it.

        Args:
            example: that it shows.
            file: name that its bytes are written under.
        """
        return {
            "id": example.filename,
            "file": file,
            "sha256": sha256_bytes(self.jpeg),
            "width": self.width,
            "height": self.height,
        }


def decode_example(example: StoredExample, *, encoding: str) -> np.ndarray:
    """Pixels of a stored example: uint8 [H, W, 3], orientation not applied."""
    if encoding == Encoding.RAW:
        shape = (example.height, example.width, 3)
        return np.frombuffer(example.encoded, dtype=np.uint8).reshape(shape)
    return decode_rgb(example.encoded, sniff(example.encoded))


def show_upright(
    pixels: np.ndarray, example: StoredExample, manifest: Manifest
) -> Image.Image:
    """The image as the input pipeline gives it, turned where the dataset says so."""
    image = Image.fromarray(pixels)
    if manifest.exif == Exif.APPLY:
        return turn_upright(image, example.orientation)
    return image


def make_thumbnail(example: StoredExample, manifest: Manifest) -> Thumbnail:
    """The small picture of a stored example; equal examples give equal bytes.

    Raises:
        RecordError: what is stored is no image.
    """
    try:
        pixels = decode_example(example, encoding=manifest.encoding)
    except UNDECODABLE as error:
        text = " ".join(str(error).split())
        raise RecordError(f"cannot be decoded ({text})") from error
    image = show_upright(pixels, example, manifest)
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(np.asarray(small)), quality=_QUALITY
    )
    return Thumbnail(jpeg, image.width, image.height)
