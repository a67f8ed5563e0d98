"""What the first bytes of a file say: format and size, read before any decoder runs.

    sniff(data)                              # 'jpeg'
    read_header(data, sniff(data)).width     # 500

Only what a decoder would allocate for is read here; whether the rest is sound is
guard.py's business.
"""

import codecs
import dataclasses
import struct
import zlib

# By content: names lie (BMP, PNG and GIF files called .jpg are common in the wild).
_MAGIC = (
    ("jpeg", b"\xff\xd8"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("gif", b"GIF87a"),
    ("gif", b"GIF89a"),
    ("bmp", b"BM"),
    ("tiff", b"II*\0"),
    ("tiff", b"MM\0*"),
    ("jxl", b"\xff\x0a"),
    ("jxl", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("ico", b"\0\0\1\0"),
    ("psd", b"8BPS"),
    ("pdf", b"%PDF"),
)
_HEIF_BRANDS = {b"avif": "avif", b"avis": "avif"}
# Markers without a length: RSTn, SOI and TEM.
_STANDALONE = frozenset([*range(0xD0, 0xD9), 0x01])
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class HeaderError(Exception):
    """The header is cut (`truncated`) or makes no sense."""

    def __init__(self, text: str, *, truncated: bool = False):
        super().__init__(text)
        self.truncated = truncated


@dataclasses.dataclass(frozen=True)
class Header:
    """Size and what else the header tells.

    Attributes:
        width: pixels; as stored, before any EXIF orientation.
        height: pixels.
        jpeg_process: number of the SOF marker (0 baseline, 1 extended, 2 progressive,
            3 lossless, 9 and up arithmetic); None where the file is no JPEG.
        jpeg_precision: bits a sample; None where the file is no JPEG.
        jpeg_scan: where the first scan starts; None where the file is no JPEG.
        exif: the Exif block of a JPEG from its TIFF header on, or None.
    """

    width: int
    height: int
    jpeg_process: int | None = None
    jpeg_precision: int | None = None
    jpeg_scan: int | None = None
    exif: bytes | None = None


def sniff(data: bytes) -> str:
    """The image format by content, or "" where it is none we know."""
    for name, magic in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _HEIF_BRANDS.get(data[8:12], "heif")
    return ""


def describe_other(data: bytes) -> str:
    """What a file that is no image looks like: html, lfs, text or unknown."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if start.startswith(b"version https://git-lfs.github.com/spec"):
        return "lfs"
    try:
        # Incremental: the cut may fall inside a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:512])
    except UnicodeDecodeError:
        return "unknown"
    return "text" if all(c.isprintable() or c in "\t\r\n" for c in text) else "unknown"


def read_header(data: bytes, image_format: str) -> Header:
    """The header of a jpeg, png or gif.

    Raises:
        HeaderError: it is cut or makes no sense.
    """
    try:
        if image_format == "png":
            chunk, width, height = struct.unpack_from(">4sII", data, 12)
            if chunk != b"IHDR":
                raise HeaderError("PNG without IHDR")
            return Header(width, height)
        if image_format == "gif":
            width, height = struct.unpack_from("<HH", data, 6)
            return Header(width, height)
        return _read_jpeg_header(data)
    except (struct.error, IndexError):
        text = f"the file ends inside its {image_format} header"
        raise HeaderError(text, truncated=True) from None


def find_png_damage(data: bytes) -> str:
    """What is wrong with a PNG's chunks, "" where nothing is.

    Decoders differ here: TensorFlow refuses a critical chunk (capital first letter) of
    wrong checksum, Pillow passes over it in the pixels.
    """
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        (crc,) = struct.unpack_from(">I", data, end)
        if kind[:1].isupper() and crc != zlib.crc32(data[position + 4 : end]):
            return f"checksum of chunk {kind!r} does not match"
        if kind == b"IEND":
            return ""
        position = end + 4
    return "truncated before its end chunk"


def _read_jpeg_header(data: bytes) -> Header:
    """Walks the segments up to the first scan, as libjpeg does."""
    position = 2
    frame: tuple[int, int, int, int] | None = None
    exif: bytes | None = None
    while True:
        # libjpeg skips garbage before a marker (with a warning) and fill bytes.
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0 or marker in _STANDALONE:
            continue
        if marker == 0xD9:
            raise HeaderError("JPEG ends without a scan")
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _SOF and frame is None:
            precision, height, width = struct.unpack_from(">BHH", data, position + 2)
            frame = (width, height, marker - 0xC0, precision)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif = exif or data[position + 8 : position + length]
        elif marker == 0xDA:
            break
        position += length
    if frame is None:
        raise HeaderError("JPEG scan without a frame header")
    return Header(*frame, jpeg_scan=position, exif=exif)
