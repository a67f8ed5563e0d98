"""JPEG headers and scans, by their markers, as libjpeg walks them.

    header = read_jpeg(data)                 # up to the first scan
    check_scans(data, header, max_scans=100)

Nothing is decoded. A count of the bytes FF DA would not do: they stand in comments,
thumbnails and whatever follows the end.
"""

import struct
from typing import Any

import numpy as np

from tlperf.dataset.headers import Header, HeaderError, JpegFrame

_SOI, _EOI, _SOS, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE1, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: RSTn and TEM.
_STANDALONE = frozenset([*range(0xD0, 0xD8), 0x01])
_ADOBE_BYTES = 14  # a shorter one of that name is another
# Bytes searched at once for the end of a scan, which most files hold in one.
_WINDOW_BYTES = 1 << 16
# Segments are walked one by one. 2,048 of the largest fill a file of 128 MiB.
MAX_SEGMENTS = 10_000

# Work of a JPEG of several scans, in about nanoseconds of libjpeg-turbo on one x86-64
# core: 1 a pixel and scan (measured: 0.15 where a scan is empty, 1.0 where it refines,
# 1.6 with three components) and 40 a byte (25 to 50). 1.6e9 of it take 1.6 to 2 s, and
# a photo of 88 million pixels in the usual 10 scans of 0.2 bytes a pixel has as much.
# One scan needs no such limit: 20 ns a pixel at most, 10 a byte.
_PIXEL_WORK, _BYTE_WORK = 1, 40
MAX_SCAN_WORK = 1_600_000_000


def read_jpeg(data: bytes) -> Header:
    """The header, up to the first scan.

    Raises:
        HeaderError: `truncated`, `undecodable` or `bomb:segments`.
    """
    try:
        return _read_segments(data)
    except (struct.error, IndexError):
        text = "the file ends inside its JPEG header"
        raise HeaderError("truncated", text) from None


def _read_segments(data: bytes) -> Header:
    if data[2] != 0xFF:  # libjpeg looks further, TensorFlow does not
        raise HeaderError("undecodable", "no marker follows the first one")
    position = 2
    frame: tuple[int, int, int, int, int] | None = None
    exif, is_adobe = b"", False
    for _ in range(MAX_SEGMENTS):
        marker = data[position + 1]
        if data[position] != 0xFF or marker in (0, 0xFF):
            # libjpeg passes over garbage and fill bytes, here with a warning.
            position = _find_marker(data, position) - 1
            if position < 0:
                raise IndexError
            marker = data[position + 1]
        position += 2
        if marker in _STANDALONE:
            continue
        if marker in (_SOI, _EOI):
            raise HeaderError("undecodable", f"marker {marker:02x} before any scan")
        length = _read_length(data, position)
        if marker == _SOS:
            return _make_header(frame, exif, scan=position, is_adobe=is_adobe)
        if marker in _SOF and frame is None:
            precision, *frame_size = struct.unpack_from(">BHHB", data, position + 2)
            frame = (marker - 0xC0, precision, *frame_size)
        elif marker == _APP1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif = exif or data[position + 8 : position + length]
        elif marker == _APP14 and data[position + 2 : position + 7] == b"Adobe":
            is_adobe = is_adobe or length >= _ADOBE_BYTES
        position += length
    raise HeaderError("bomb:segments", f"over {MAX_SEGMENTS} segments before any scan")


def _make_header(
    frame: tuple[int, int, int, int, int] | None,
    exif: bytes,
    *,
    scan: int,
    is_adobe: bool,
) -> Header:
    if frame is None:
        raise HeaderError("undecodable", "JPEG scan without a frame header")
    process, precision, height, width, components = frame
    flags = {1: ("converted:gray",), 4: ("cmyk",)}.get(components, ())
    found = JpegFrame(process, precision, scan, is_adobe)
    return Header(width, height, flags, exif, found)


def _read_length(data: bytes, position: int) -> int:
    # 0 and 1 make no sense; libjpeg goes on behind the two bytes.
    return max(data[position] << 8 | data[position + 1], 2)


def check_scans(data: bytes, header: Header, *, max_scans: int) -> None:
    """Walks the scans up to the end marker; what follows it is not looked at.

    Raises:
        HeaderError: `truncated` (no end marker), `bomb:scans`, `bomb:segments`, or
            `undecodable` (another image begins inside).
    """
    assert header.jpeg is not None
    position = header.jpeg.scan + _read_length(data, header.jpeg.scan)
    scans = 1
    for _ in range(MAX_SEGMENTS):
        position = _find_marker(data, position)
        if position < 0:
            raise HeaderError("truncated", "no end marker after the last scan")
        marker = data[position]
        if marker == _EOI:
            size = position - header.jpeg.scan
            return _check_work(header, scans=scans, size=size)
        if marker == _SOI:
            raise HeaderError("undecodable", "another image begins inside of this one")
        if marker == _SOS:
            scans += 1
            if scans > max_scans:
                text = f"over {max_scans} scans (--max_jpeg_scans)"
                raise HeaderError("bomb:scans", text)
        elif marker in _STANDALONE:
            position += 1
            continue
        if position + 3 > len(data):
            raise HeaderError("truncated", "the file ends between its scans")
        position += 1 + _read_length(data, position + 1)
    raise HeaderError("bomb:segments", f"over {MAX_SEGMENTS} segments between scans")


def _check_work(header: Header, *, scans: int, size: int) -> None:
    if scans == 1:
        return
    work = _PIXEL_WORK * header.pixels * scans + _BYTE_WORK * size
    if work > MAX_SCAN_WORK:
        text = f"{scans} scans of {header.pixels} pixels in {size} bytes"
        raise HeaderError("bomb:scans", f"{text}: too much to decode")


def _find_marker(data: bytes, position: int) -> int:
    """Offset of the next marker's second byte, from `position` on; -1 where there is
    none. Stuffed zeros, restart markers and fill bytes are part of a scan."""
    whole = np.frombuffer(data, np.uint8)
    for start in range(position, len(data) - 1, _WINDOW_BYTES):
        # One byte more: a marker may lie across the border.
        part = whole[start : start + _WINDOW_BYTES + 1]
        markers = part[1:]
        found = part[:-1] == 0xFF
        found &= markers != 0
        at = int(found.argmax())
        if found[at] and _is_in_scan(markers[at]):
            found &= ~_is_in_scan(markers)
            at = int(found.argmax())
        if found[at]:
            return start + at + 1
    return -1


def _is_in_scan(markers: Any) -> Any:
    """Whether bytes (uint8, one or an array) behind FF are restart marker or fill."""
    return ((markers & 0xF8) == 0xD0) | (markers == 0xFF)
