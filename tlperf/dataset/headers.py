"""What the first bytes of a file say, and the words in which readers of headers speak.

    sniff(data)                              # 'jpeg'
    read_jpeg(data).width                    # 500, see jpeg.py, png.py and gif.py

The readers take only what a decoder would allocate or loop for; whether the rest is
sound is guard.py's business.
"""

import codecs
import dataclasses
import struct

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
_EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "jif"), "jpeg"),
    **dict.fromkeys(("png", "apng"), "png"),
    **dict.fromkeys(("tif", "tiff"), "tiff"),
    **dict.fromkeys(("heic", "heif"), "heif"),
    **{name: name for name in ("gif", "bmp", "webp", "jxl", "jp2", "avif")},
    **{name: name for name in ("ico", "psd", "pdf")},
}
_ORIENTATION_TAG = 0x0112
_SHORT = 3  # TIFF's name for 16 bits


class HeaderError(Exception):
    """A file that its header refuses.

    Attributes:
        reason: slug as of guard.RefusedError.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class JpegFrame:
    """What only a JPEG's header tells.

    Attributes:
        process: number of the SOF marker (0 baseline, 1 extended, 2 progressive,
            3 lossless, 9 and up arithmetic).
        precision: bits a sample.
        scan: offset of the first scan's header, behind its marker.
        is_adobe: whether Adobe's segment is there, which inverts CMYK.
    """

    process: int
    precision: int
    scan: int
    is_adobe: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Size and what else the header tells.

    Attributes:
        width: pixels; as stored, before any EXIF orientation.
        height: pixels.
        flags: what a decoder to three channels of 8 bits changes: `cmyk`,
            `converted:palette`, ...
        exif: the Exif block from its TIFF header on, where it stands before the pixels
            of a JPEG; b"" where there is none.
        jpeg: of JPEG files only.
    """

    width: int
    height: int
    flags: tuple[str, ...] = ()
    exif: bytes = b""
    jpeg: JpegFrame | None = None

    @property
    def pixels(self) -> int:
        """Width x height."""
        return self.width * self.height


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


def named_format(name: str) -> str:
    """The image format that a file's extension promises, or "" where it says none."""
    return _EXTENSIONS.get(name.rpartition(".")[2].lower(), "") if "." in name else ""


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


def read_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, of an Exif block; 1 where it has none or is damaged.

    A damaged block does not make the picture unusable.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, at)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + "H", exif, at + 8)
                return value if (kind, values) == (_SHORT, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
