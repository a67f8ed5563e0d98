"""Stored bytes to uint8 pixels of the size asked for, on any thread.

    decoder = Decoder.of(manifest, Decode.FAST, image_size=224)
    decoder.decode_into(view, out, scratch)    # out: uint8 [224, 224, 3], filled

`exact` gives what TensorFlow gives: bit for bit the pixels of `tf.io.decode_jpeg` with
`INTEGER_ACCURATE` (libjpeg-turbo in both), resized as by `tf.image.resize` (bilinear)
and rounded; two float32 sums in another order may round to neighbours. `fast` takes
libjpeg-turbo's fast inverse transform and plain upsampling, decodes at 1/2, 1/4 or 1/8
where that is still as large as asked for, and resizes in fixed point.
"""

import contextlib
import dataclasses
from typing import Any, Self

import cv2
import numpy as np
import simplejpeg

from tlperf.core.choices import Decode, Encoding, Exif
from tlperf.dataset.examples import RecordError, RecordView
from tlperf.dataset.guard import UNDECODABLE, decode_rgb
from tlperf.dataset.headers import sniff
from tlperf.dataset.manifest import Manifest
from tlperf.pipeline.memory import Scratch

# Bytes a pixel at most while it is decoded: of a JPEG of many scans its coefficients,
# two a component, and its pixels; of the others what Pillow reads, four, and what that
# is converted to, four, or then an array of it, three, put together from as many.
_JPEG_BYTES, _CMYK_BYTES, _PILLOW_BYTES = 10, 12, 11
# The record, and the copy of it that Pillow reads.
_RECORD_COPIES = 2
# float32 RGB, before it is resized.
_RESIZE_BYTES = 12


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How the records of one data directory become pixels.

    Attributes:
        image_size: side in pixels of what is made.
        decode: exact or fast; the same for raw pixels of that size.
        raw_size: side of stored raw pixels; None where image files are stored.
        turns: whether a record's EXIF orientation is still to be applied.
    """

    image_size: int
    decode: Decode
    raw_size: int | None
    turns: bool

    @classmethod
    def of(cls, manifest: Manifest, decode: Decode, *, image_size: int) -> Self:
        """The decoder of a manifest's records."""
        is_raw = manifest.encoding == Encoding.RAW
        is_source = manifest.encoding == Encoding.SOURCE
        return cls(
            image_size=image_size,
            decode=decode,
            raw_size=manifest.image_size if is_raw else None,
            turns=is_source and manifest.exif == Exif.APPLY,
        )

    def is_copying(self) -> bool:
        """Whether pixels are stored as they are asked for: nothing is computed."""
        return self.raw_size == self.image_size

    def scratch_bytes(self, view: RecordView) -> int:
        """Memory that decoding takes beside `out`, at most."""
        if self.raw_size:
            return 0 if self.is_copying() else _RESIZE_BYTES * self.raw_size**2
        rows = min(view.height, 2 * self.image_size)
        resizing = 0 if self.decode is Decode.FAST else _RESIZE_BYTES * rows
        decoding = (_pixel_bytes(view.encoded) * view.height + resizing) * view.width
        return decoding + _RECORD_COPIES * len(view.encoded)

    def decode_into(self, view: RecordView, out: np.ndarray, scratch: Scratch) -> None:
        """Fills `out`, uint8 [S, S, 3], C-contiguous, RGB.

        Raises:
            RecordError: what is stored is no image of the manifest's kind.
        """
        pixels = self._raw(view) if self.raw_size else self._decoded(view, scratch)
        if self.turns and view.orientation > 1:
            pixels = turn(pixels, view.orientation)
        if pixels.shape == out.shape:
            out[...] = pixels
        elif self.decode is Decode.FAST:
            size = (self.image_size, self.image_size)
            cv2.resize(pixels, size, dst=out, interpolation=cv2.INTER_LINEAR)
        else:
            resize_exact(pixels, out, scratch)

    def _raw(self, view: RecordView) -> np.ndarray:
        side = self.raw_size
        if side is None or len(view.encoded) != side * side * 3:
            shape = (side, side, 3)
            raise RecordError(f"{len(view.encoded)} bytes are no image of {shape}")
        return view.encoded.reshape(side, side, 3)

    def _decoded(self, view: RecordView, scratch: Scratch) -> np.ndarray:
        # Anything but a plain JPEG is for the other decoders.
        with contextlib.suppress(ValueError, KeyError):
            decoded: np.ndarray = simplejpeg.decode_jpeg(
                view.encoded,
                buffer=scratch.array("pixels", (view.height * view.width * 3,)),
                strict=False,
                **self._jpeg_options(),
            )
            return decoded
        return _decode_any(view.encoded.tobytes())

    def _jpeg_options(self) -> dict[str, Any]:
        if self.decode is Decode.EXACT:
            return {}
        return {
            "fastdct": True,
            "fastupsample": True,
            "min_height": self.image_size,
            "min_width": self.image_size,
            # Halves and less: from 5/8 to 7/8 there is no SIMD, which takes longer
            # than the whole.
            "min_factor": 2,
        }


def _pixel_bytes(encoded: np.ndarray) -> int:
    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # no JPEG, or one that is for the other decoders
        return _PILLOW_BYTES
    return _CMYK_BYTES if colorspace in ("CMYK", "YCCK") else _JPEG_BYTES


def _decode_any(data: bytes) -> np.ndarray:
    image_format = sniff(data)
    try:
        return decode_rgb(data, image_format)
    except UNDECODABLE as error:
        text = " ".join(str(error).split())
        raise RecordError(f"cannot be decoded ({text})") from error


def resize_exact(pixels: np.ndarray, out: np.ndarray, scratch: Scratch) -> None:
    """Bilinear without antialiasing, summed in float32, rounded half to even.

    Args:
        pixels: uint8 [H, W, 3].
        out: uint8 [S, S, 3], filled.
        scratch: for what is between.
    """
    if pixels.shape[0] <= 2 * len(out):
        # OpenCV sums 8 bits in fixed point, but 16 in float32, and rounds as wanted.
        resized = _resize_as(np.uint16, pixels, len(out), scratch)
    else:  # so large that most rows are in no sum: leave them out
        at = (np.arange(len(out)) + 0.5) * (pixels.shape[0] / len(out)) - 0.5
        upper = at.astype(np.intp)
        share = (at - upper).astype(np.float32)[:, None, None]
        resized = _resize_as(np.float32, pixels[upper], len(out), scratch).copy()
        lower = _resize_as(np.float32, pixels[upper + 1], len(out), scratch)
        resized += (lower - resized) * share
        np.rint(resized, out=resized)
    np.copyto(out, resized, casting="unsafe")


def _resize_as(
    dtype: type, pixels: np.ndarray, side: int, scratch: Scratch
) -> np.ndarray:
    wide = scratch.array("wide", pixels.shape, dtype)
    np.copyto(wide, pixels)
    resized = scratch.array("resized", (side, side, 3), dtype)
    cv2.resize(wide, (side, side), dst=resized, interpolation=cv2.INTER_LINEAR)
    return resized


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8: uint8 [H, W, 3], sides may swap (TIFF 6.0,
    tag 274); contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
