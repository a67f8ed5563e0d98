"""GIF headers and blocks, with nothing decoded.

header = read_gif(data)
check_blocks(data, header, max_pixels=89_478_485)
"""

import struct

from tlperf.dataset.headers import Header, HeaderError

_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B
_HAS_PALETTE, _PALETTE_BITS = 0x80, 7
# Data come in pieces of at most 255 bytes, which encoders fill, and are walked one by
# one: about 0.1 us each, 0.3 us each block of them. Where they are shorter than half
# of that on average, someone wants the walk to be long.
_FREE_PIECES = 10_000
_LEAST_PIECE_BYTES = 128
_BLOCK_PIECES = 6


def read_gif(data: bytes) -> Header:
    """The header. Every GIF has a palette.

    Raises:
        HeaderError: `truncated`.
    """
    try:
        width, height = struct.unpack_from("<HH", data, 6)
    except struct.error:
        raise HeaderError("truncated", "the file ends inside its GIF header") from None
    return Header(width, height, ("converted:palette",))


def check_blocks(data: bytes, header: Header, *, max_pixels: int) -> None:
    """Walks the blocks to the end, or to the second frame.

    Raises:
        HeaderError: `truncated`, `undecodable`, `animated`, `bomb:pixels`,
            `bomb:blocks`, or `format_not_allowed` (a frame that is not the canvas).
    """
    try:
        _walk_blocks(data, header, max_pixels)
    except (struct.error, IndexError):
        text = "truncated before its end block"
        raise HeaderError("truncated", text) from None


def _walk_blocks(data: bytes, header: Header, max_pixels: int) -> None:
    palette = _palette_bytes(data[10])
    position = 13 + palette
    frames, left = 0, _FREE_PIECES + len(data) // _LEAST_PIECE_BYTES
    while (kind := data[position]) != _END:
        if kind == _EXTENSION:
            position += 2
        elif kind == _FRAME:
            frames += 1
            if frames > 1:
                raise HeaderError("animated", "more than one frame")
            own = _check_frame(data, position + 1, header, max_pixels=max_pixels)
            if not palette and not own:
                raise HeaderError("undecodable", "GIF frame without a palette")
            position += 10 + own + 1  # the last is the code size
        else:
            raise HeaderError("undecodable", f"GIF block of kind {kind:02x}")
        position, left = _skip_pieces(data, position, left)
    if not frames:
        raise HeaderError("undecodable", "GIF without a frame")


def _skip_pieces(data: bytes, position: int, left: int) -> tuple[int, int]:
    """The offset behind the pieces at `position`, and how many more may come."""
    while size := data[position]:
        position += 1 + size
        left -= 1
        if left <= 0:
            break
    if left <= 0:
        raise HeaderError("bomb:blocks", "many small pieces of data")
    return position + 1, left - _BLOCK_PIECES


def _palette_bytes(packed: int) -> int:
    return 3 << (packed & _PALETTE_BITS) + 1 if packed & _HAS_PALETTE else 0


def _check_frame(data: bytes, start: int, header: Header, *, max_pixels: int) -> int:
    """Bytes of the frame's own palette."""
    left, top, width, height, packed = struct.unpack_from("<4HB", data, start)
    text = f"frame of {width} x {height} pixels"
    if width * height > max_pixels:
        raise HeaderError("bomb:pixels", f"{text}, most {max_pixels} (--max_pixels)")
    if (left, top, width, height) != (0, 0, header.width, header.height):
        # TensorFlow gives the frame, Pillow the canvas.
        text = f"GIF {text} at {left}, {top} of a canvas of another size"
        raise HeaderError("format_not_allowed", text)
    return _palette_bytes(packed)
