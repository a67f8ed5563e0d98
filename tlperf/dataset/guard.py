"""Whether a file can be used: refused by its headers, or decoded once, strictly.

    facts = check_image(data, limits=Limits())      # RefusedError says why not
    facts.format, facts.height, facts.width, facts.orientation

Accepted is what TensorFlow's `decode_jpeg` decodes by content: JPEG, PNG and GIF of one
frame; gray, palette, alpha, CMYK and 16 bits included.
"""

import contextlib
import dataclasses
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import Self

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from tlperf.core.choices import ImageCheck, OnWarning
from tlperf.core.settings import DataConfig
from tlperf.dataset import gif, jpeg, png
from tlperf.dataset.headers import (
    Header,
    HeaderError,
    describe_other,
    named_format,
    read_orientation,
    sniff,
)

_READERS = {"jpeg": jpeg.read_jpeg, "png": png.read_png, "gif": gif.read_gif}
ALLOWED_FORMATS = tuple(_READERS)
DECODER_WARNING = "decoder_warning"
NO_JFIF = "no_jfif"
EXT_MISMATCH = "ext_mismatch"
ASPECT = "aspect"

# A longer side of more than so many shorter ones is flagged.
_MAX_ASPECT = 100
# Where tfds' cats_vs_dogs looks for the letters JFIF.
_JFIF_BYTES = 10
# How libjpeg's warnings begin: it and TensorFlow decode on. All other texts are errors
# for both, though simplejpeg passes over most of them where it is not strict.
_JPEG_WARNINGS = (
    "Corrupt JPEG data",
    "Inconsistent progression sequence",
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
    "Warning: unknown JFIF revision number",
)
# The one warning of libjpeg, and so of TensorFlow, that is taken for an error here.
_JPEG_CUT = "Premature end of JPEG file"
# TurboJPEG names only common samplings; libjpeg itself decodes the others. Reading the
# header alone, simplejpeg then looks up a name that is not there.
_RARE_SAMPLING = "Could not determine subsampling"
_JPEG_ERRORS = (ValueError, KeyError)
# What `decode_rgb` raises on damaged data.
UNDECODABLE = (HeaderError, OSError, SyntaxError, ValueError, KeyError, EOFError)


_PILLOW_LOCK = threading.Lock()


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

    max_pixels: int = DataConfig.max_pixels
    min_side: int = DataConfig.min_side
    max_jpeg_scans: int = DataConfig.max_jpeg_scans
    image_check: ImageCheck = DataConfig.image_check
    on_warning: OnWarning = DataConfig.on_warning
    tfds_compat: bool = DataConfig.tfds_compat

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
        flags: what to count about it, sorted: `aspect`, `cmyk`, `converted:16bit`,
            `converted:gray`, `converted:gray_alpha`, `converted:palette`,
            `converted:rgba`, `decoder_warning`, `ext_mismatch`, `no_jfif`.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    flags: tuple[str, ...] = ()


def check_image(data: bytes, *, limits: Limits, name: str = "") -> ImageFacts:
    """Facts of the image in `data`, all limits checked before anything is decoded.

    Args:
        data: the file.
        limits: what to refuse.
        name: of the file, whose extension may say something else than its content.

    Raises:
        RefusedError: it cannot be used.
    """
    image_format = _find_format(data)
    header: Header | None = None
    try:
        header = _READERS[image_format](data)
        _check_header(data, header, image_format, limits=limits)
        exif = _check_structure(data, header, image_format, limits=limits)
        flags = _find_flags(data, header, image_format, name=name)
        if limits.image_check is ImageCheck.DECODE:
            warning = _check_decode(data, header, image_format)
            if warning and limits.on_warning is OnWarning.QUARANTINE:
                raise HeaderError(DECODER_WARNING, warning)
            if warning:
                flags.append(DECODER_WARNING)
    except HeaderError as error:
        raise RefusedError(
            error.reason, str(error), format=image_format, size=header
        ) from None
    return ImageFacts(
        image_format,
        header.height,
        header.width,
        read_orientation(exif) if exif else 1,
        tuple(sorted(flags)),
    )


def _find_format(data: bytes) -> str:
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
    return image_format


def decode_rgb(data: bytes, image_format: str) -> np.ndarray:
    """Pixels of an accepted image: uint8 [H, W, 3], alpha and low bits dropped as
    TensorFlow drops them, orientation not applied."""
    if image_format == "jpeg":
        header = jpeg.read_jpeg(data)
        try:
            if header.jpeg and "cmyk" in header.flags:
                return _decode_cmyk(data, is_inverted=header.jpeg.is_adobe)
            return simplejpeg.decode_jpeg(data, strict=False)
        except _JPEG_ERRORS:
            pass  # a rare sampling, or a header that warns: Pillow decodes these
    with _pillow_image(data) as image:
        if image.mode.startswith("I"):  # 16-bit gray; convert() would clip, not scale
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        converted = image.convert("RGB")
        image.close()  # or both would stay in memory beside the array
        return np.asarray(converted)


def _decode_cmyk(data: bytes, *, is_inverted: bool) -> np.ndarray:
    """Pixels by TensorFlow's formula: uint8 [H, W, 3]."""
    inks = simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=False)
    light = (inks if is_inverted else 255 - inks).astype(np.uint16)
    return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)


def _check_header(
    data: bytes, header: Header, image_format: str, *, limits: Limits
) -> None:
    size = f"{header.width} x {header.height} pixels"
    if header.pixels > limits.max_pixels:
        most = f"most {limits.max_pixels} (--max_pixels)"
        raise HeaderError("bomb:pixels", f"{size}, {most}")
    if min(header.width, header.height) < limits.min_side:
        raise HeaderError("too_small", f"{size}, least {limits.min_side} a side")
    frame = header.jpeg
    if frame and (frame.process not in (0, 1, 2) or frame.precision != 8):
        # Arithmetic, lossless or 12-bit: TensorFlow's decoder has none of them.
        text = f"JPEG process {frame.process} of {frame.precision} bits"
        raise HeaderError("format_not_allowed", text)
    if limits.tfds_compat and _lacks_jfif(data, image_format):
        text = f"no JFIF in the first {_JFIF_BYTES} bytes (--tfds_compat)"
        raise HeaderError(NO_JFIF, text)


def _lacks_jfif(data: bytes, image_format: str) -> bool:
    return image_format == "jpeg" and b"JFIF" not in data[:_JFIF_BYTES]


def _check_structure(
    data: bytes, header: Header, image_format: str, *, limits: Limits
) -> bytes:
    """The Exif block of a file whose parts are all there."""
    if image_format == "png":
        return png.check_chunks(data, header, max_pixels=limits.max_pixels)
    if image_format == "gif":
        gif.check_blocks(data, header, max_pixels=limits.max_pixels)
    else:
        jpeg.check_scans(data, header, max_scans=limits.max_jpeg_scans)
    return header.exif


def _find_flags(
    data: bytes, header: Header, image_format: str, *, name: str
) -> list[str]:
    flags = list(header.flags)
    if _lacks_jfif(data, image_format):
        flags.append(NO_JFIF)
    if named_format(name) not in ("", image_format):
        flags.append(EXT_MISMATCH)
    sides = sorted((header.width, header.height))
    if sides[1] > _MAX_ASPECT * sides[0]:
        flags.append(ASPECT)
    return flags


def _check_decode(data: bytes, header: Header, image_format: str) -> str:
    """The decoder's warning, "" where there is none."""
    if image_format == "jpeg":
        return _check_jpeg(data, header)
    _check_with_pillow(data, header, image_format)
    return ""


def _check_jpeg(data: bytes, header: Header) -> str:
    """The warning with which a JPEG decodes, "" where it does without.

    What cannot be told: a flipped byte that still makes valid Huffman codes decodes
    without a word (about 7 of 10 flips).
    """
    try:
        # The decoder's own header decides what it allocates: both must agree first.
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
        if (width, height) != (header.width, header.height):
            text = f"two frame headers, one of {width} x {height}"
            raise HeaderError("undecodable", text)
        decode_eighth(data)
    except _JPEG_ERRORS as error:
        text = str(error)
        if _JPEG_CUT in text:
            raise HeaderError("truncated", text) from None
        is_rare = isinstance(error, KeyError) or _RARE_SAMPLING in text
        if not is_rare and not text.startswith(_JPEG_WARNINGS):
            raise HeaderError("undecodable", text) from None
        if is_rare or _warns_in_header(data):
            _check_with_pillow(data, header, "jpeg")
        return "" if is_rare else text
    return ""


def decode_eighth(data: bytes) -> None:
    """Decodes every bit of a JPEG, and forms one pixel of each 8 x 8.

    Errors and warnings come from markers and Huffman codes; the inverse transform that
    is left out knows none. It takes 0.6 of the time of a full decode.

    Raises:
        ValueError: libjpeg's error, or its warning where it has no error.
        KeyError: a rare sampling.
    """
    simplejpeg.decode_jpeg(
        data,
        min_height=1,
        min_width=1,
        min_factor=8,
        fastdct=True,
        fastupsample=True,
        strict=True,
    )


def _warns_in_header(data: bytes) -> bool:
    """Whether it is the header that warns, as of JFIF revision 0.00. simplejpeg stops
    there, strict or not, before any scan."""
    try:
        simplejpeg.decode_jpeg_header(data, strict=True)
    except _JPEG_ERRORS:
        return True
    return False


# What Pillow's PNG, GIF and JPEG plugins raise on damaged data.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)


def _check_with_pillow(data: bytes, header: Header, image_format: str) -> None:
    try:
        with _pillow_image(data) as image:
            if image.size != (header.width, header.height):
                text = f"two headers, one of {image.width} x {image.height}"
                raise HeaderError("undecodable", text)
            image.load()
            if image_format == "gif" and _has_wrong_index(image):
                raise HeaderError("undecodable", "color index outside of the palette")
    except _PILLOW_ERRORS as error:
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "truncated" if "truncated" in text.lower() else "undecodable"
        raise HeaderError(reason, text) from None


def _has_wrong_index(image: Image.Image) -> bool:
    # Pillow shows such pixels black; TensorFlow refuses the image.
    palette = image.getpalette()
    return palette is not None and int(np.asarray(image).max()) >= len(palette) // 3


@contextlib.contextmanager
def _pillow_image(data: bytes) -> Iterator[ImageFile.ImageFile]:
    # Both changes are to the process: one thread at a time.
    with _PILLOW_LOCK, warnings.catch_warnings():
        # Ours is --max_pixels, decided from the header; Pillow also warns of metadata
        # that we do not use.
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF")) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit
