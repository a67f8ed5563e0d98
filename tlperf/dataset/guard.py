"""Whether a file can be used: refused by its header, or decoded once, strictly.

    facts = check_image(data, limits=Limits())      # RefusedError says why not
    facts.format, facts.height, facts.width, facts.orientation

Accepted is what TensorFlow's `decode_jpeg` decodes by content: JPEG, PNG and GIF of one
frame; gray, palette, alpha, CMYK and 16 bits included.
"""

import contextlib
import dataclasses
import io
import struct
import warnings
from collections.abc import Iterator
from typing import Self

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from tlperf.core.choices import ImageCheck, OnWarning
from tlperf.core.settings import DataConfig
from tlperf.dataset.headers import (
    Header,
    HeaderError,
    describe_other,
    find_png_damage,
    read_header,
    sniff,
)

ALLOWED_FORMATS = ("jpeg", "png", "gif")
DECODER_WARNING = "decoder_warning"

_ORIENTATION_TAG = 0x0112
# libjpeg's warnings about a damaged scan. It and TensorFlow decode on; the rest of the
# texts that strict decoding raises are errors for them too.
_JPEG_WARNING = "Corrupt JPEG data"
_JPEG_CUT = "Premature end of JPEG file"
# TurboJPEG names only common samplings; libjpeg itself decodes the others. Reading the
# header alone, simplejpeg then looks up a name that is not there.
_RARE_SAMPLING = "Could not determine subsampling"
_JPEG_ERRORS = (ValueError, KeyError)


class RefusedError(Exception):
    """An image that cannot be used.

    Attributes:
        reason: slug for counting, e.g. `truncated`.
        detail: what was found.
        format: format by content, "" where unknown.
        width, height: pixels by the header, None where it was not read.
    """

    def __init__(
        self, reason: str, detail: str, *, format: str = "", size: Header | None = None
    ):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.format = format
        self.width = size.width if size else None
        self.height = size.height if size else None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is refused of what decodes; all but the last two from the header alone.

    Attributes:
        max_pixels: most pixels, width x height.
        min_side: shortest side, in pixels.
        max_jpeg_scans: most scans of a JPEG.
        image_check: how far an image is read.
        on_warning: what becomes of a JPEG that decodes with warnings.
        tfds_compat: whether JPEGs without JFIF header are left out.
    """

    max_pixels: int = 89_478_485
    min_side: int = 8
    max_jpeg_scans: int = 100
    image_check: ImageCheck = ImageCheck.DECODE
    on_warning: OnWarning = OnWarning.ACCEPT
    tfds_compat: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """The limits that the settings give."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(config, name) for name in names})


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """A usable image.

    Attributes:
        format: jpeg, png or gif.
        height, width: pixels as stored, before any orientation.
        orientation: of EXIF, 1 to 8; 1 where there is none.
        flags: what to count about it: `decoder_warning`.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    flags: tuple[str, ...] = ()


def check_image(data: bytes, *, limits: Limits, name: str = "") -> ImageFacts:
    """Facts of the image in `data`, after one full decode.

    Args:
        data: the file.
        limits: what to refuse.
        name: of the file, whose extension may say something else than its content.

    Raises:
        RefusedError: it cannot be used.
    """
    if not data:
        raise RefusedError("empty", "0 bytes")
    image_format = sniff(data)
    if not image_format:
        kind = describe_other(data)
        raise RefusedError(f"not_image:{kind}", "no known image format by content")
    if image_format not in ALLOWED_FORMATS:
        raise RefusedError(
            "format_not_allowed",
            f"content is {image_format}; allowed are {', '.join(ALLOWED_FORMATS)}",
            format=image_format,
        )
    try:
        header = read_header(data, image_format)
    except HeaderError as error:
        reason = "truncated" if error.truncated else "undecodable"
        raise RefusedError(reason, str(error), format=image_format) from None
    max_pixels = limits.max_pixels
    _check_header(header, image_format, limits)
    if image_format == "jpeg":
        flags = _check_jpeg(data, header, max_pixels)
        orientation = _parse_orientation(header.exif) if header.exif else 1
    else:
        flags = ()
        orientation = _check_with_pillow(data, header, image_format, max_pixels)
    return ImageFacts(image_format, header.height, header.width, orientation, flags)


def decode_rgb(data: bytes, image_format: str) -> np.ndarray:
    """Pixels of an accepted image: uint8 [H, W, 3], alpha and low bits dropped as
    TensorFlow drops them, orientation not applied."""
    if image_format == "jpeg":
        try:
            return simplejpeg.decode_jpeg(data, strict=False)
        except _JPEG_ERRORS as error:
            if not _is_rare_sampling(error):
                raise
    with _pillow_image(data) as image:
        if image.mode.startswith("I"):  # 16-bit gray; convert() would clip, not scale
            gray = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def _check_header(header: Header, image_format: str, limits: Limits) -> None:
    def refused(reason: str, detail: str) -> RefusedError:
        return RefusedError(reason, detail, format=image_format, size=header)

    size = f"{header.width} x {header.height} pixels"
    if header.width * header.height > limits.max_pixels:
        most = f"most {limits.max_pixels} (--max_pixels)"
        raise refused("bomb:pixels", f"{size}, {most}")
    if min(header.width, header.height) < limits.min_side:
        raise refused("too_small", f"{size}, least {limits.min_side} a side")
    process, precision = header.jpeg_process, header.jpeg_precision
    if process not in (None, 0, 1, 2) or precision not in (None, 8):
        # Arithmetic, lossless or 12-bit: TensorFlow's decoder has none of them.
        raise refused(
            "format_not_allowed",
            f"JPEG process {process} of {precision} bits",
        )


def _check_jpeg(data: bytes, header: Header, max_pixels: int) -> tuple[str, ...]:
    """Flags of a JPEG that decodes.

    What cannot be told: a flipped byte that still makes valid Huffman codes decodes
    without a word (about 7 of 10 flips).
    """

    def refused(reason: str, detail: str) -> RefusedError:
        return RefusedError(reason, detail, format="jpeg", size=header)

    try:
        # The decoder's own header decides what it allocates: both must agree first.
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
        if (width, height) != (header.width, header.height):
            raise refused(
                "undecodable", f"two frame headers, one of {width} x {height}"
            )
        simplejpeg.decode_jpeg(data, strict=True)
    except _JPEG_ERRORS as error:
        text = str(error)
        # Only the first warning is told, so a cut may hide behind another: no marker of
        # the end after the start of the scan (a thumbnail before it has its own).
        cut = data.find(b"\xff\xd9", header.jpeg_scan) < 0
        if _JPEG_CUT in text or (cut and _JPEG_WARNING in text):
            raise refused("truncated", text) from None
        if _JPEG_WARNING in text and _decodes(data):
            return (DECODER_WARNING,)
        if not _is_rare_sampling(error):
            raise refused("undecodable", text) from None
        _check_with_pillow(data, header, "jpeg", max_pixels)
    return ()


def _decodes(data: bytes) -> bool:
    """Whether decoding comes to its end, warnings passed over."""
    try:
        simplejpeg.decode_jpeg(data, strict=False)
    except _JPEG_ERRORS:
        return False
    return True


def _is_rare_sampling(error: Exception) -> bool:
    return isinstance(error, KeyError) or _RARE_SAMPLING in str(error)


# What Pillow's PNG, GIF and JPEG plugins raise on damaged data.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)


def _check_with_pillow(
    data: bytes, header: Header, image_format: str, max_pixels: int
) -> int:
    """The orientation of an image that decodes and has one frame."""

    def refused(reason: str, detail: str) -> RefusedError:
        return RefusedError(reason, detail, format=image_format, size=header)

    try:
        if image_format == "png" and (damage := find_png_damage(data)):
            raise ValueError(damage)
        with _pillow_image(data) as image:
            # Pillow enlarges a GIF's canvas to its first frame.
            if image.width * image.height > max_pixels:
                raise refused("bomb:pixels", f"frame of {image.width} x {image.height}")
            if image_format != "jpeg" and getattr(image, "is_animated", False):
                raise refused("animated", "more than one frame")
            if image_format == "gif" and not _fills_canvas(image, header):
                raise refused("format_not_allowed", "GIF frame smaller than its canvas")
            image.load()
            if image_format == "gif" and _has_wrong_index(image):
                raise ValueError("color index outside of the palette")
            return _clean_orientation(image.getexif().get(_ORIENTATION_TAG))
    except _PILLOW_ERRORS as error:
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "truncated" if "truncated" in text.lower() else "undecodable"
        raise refused(reason, text) from None


def _fills_canvas(image: ImageFile.ImageFile, header: Header) -> bool:
    # Where it does not, TensorFlow gives the frame and Pillow the canvas.
    return image.tile[0].extents == (0, 0, header.width, header.height)


def _has_wrong_index(image: Image.Image) -> bool:
    # Pillow shows such pixels black; TensorFlow refuses the image.
    palette = image.getpalette()
    return palette is not None and int(np.asarray(image).max()) >= len(palette) // 3


@contextlib.contextmanager
def _pillow_image(data: bytes) -> Iterator[ImageFile.ImageFile]:
    # Both changes are to the process, so this is not for several threads.
    with warnings.catch_warnings():
        # Ours is --max_pixels, decided from the header; Pillow also warns of metadata
        # that we do not use.
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF")) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _parse_orientation(block: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(block)
        return _clean_orientation(exif.get(_ORIENTATION_TAG))
    except (*_PILLOW_ERRORS, KeyError, TypeError):
        return 1  # a damaged Exif block does not make the picture unusable


def _clean_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
