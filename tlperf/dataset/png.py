"""PNG headers and chunks, with nothing inflated but the compressed texts.

header = read_png(data)
exif = check_chunks(data, header, max_pixels=89_478_485)
"""

import struct
import zlib

from tlperf.dataset.headers import Header, HeaderError

# Most bytes a compressed text or color profile inflates to, and all of them. The first
# is Pillow's own limit; libpng, which TensorFlow reads with, has 8,000,000 a chunk.
MAX_TEXT_BYTES = 1 << 20
MAX_TEXTS_BYTES = 8 << 20
# Chunks are walked one by one; a file of 128 MiB in chunks of 8 KiB has 16,384.
MAX_CHUNKS = 30_000

# Color types of the standard: bit depths and flags. Gray and palette of fewer bits are
# widened, which loses nothing and is not told.
_PALETTE = 3
_TYPES: dict[int, tuple[frozenset[int], tuple[str, ...]]] = {
    0: (frozenset((1, 2, 4, 8, 16)), ("converted:gray",)),
    2: (frozenset((8, 16)), ()),
    _PALETTE: (frozenset((1, 2, 4, 8)), ("converted:palette",)),
    4: (frozenset((8, 16)), ("converted:gray_alpha",)),
    6: (frozenset((8, 16)), ("converted:rgba",)),
}
_CRITICAL = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
_COMPRESSED = frozenset((b"zTXt", b"iTXt", b"iCCP"))


def read_png(data: bytes) -> Header:
    """The header chunk.

    Raises:
        HeaderError: `truncated` or `undecodable`.
    """
    try:
        chunk, width, height, bits, kind, *rest = struct.unpack_from(
            ">4sII5B", data, 12
        )
    except struct.error:
        raise HeaderError("truncated", "the file ends inside its PNG header") from None
    if chunk != b"IHDR":
        raise HeaderError("undecodable", "PNG without IHDR")
    depths, flags = _TYPES.get(kind, (frozenset(), ()))
    # Methods of compression and filtering have one value each, interlacing has two.
    if bits not in depths or rest[:2] != [0, 0] or rest[2] > 1:
        text = f"PNG color type {kind} of {bits} bits, methods {rest}"
        raise HeaderError("undecodable", text)
    if bits == 16:
        flags = (*flags, "converted:16bit")
    return Header(width, height, flags)


def check_chunks(data: bytes, header: Header, *, max_pixels: int) -> bytes:
    """The Exif block, b"" where there is none, of a PNG whose chunks are whole.

    Decoders differ in what they check: TensorFlow refuses a critical chunk (capital
    first letter) of wrong checksum, Pillow passes over it in the pixels.

    Args:
        data: the file.
        header: of it.
        max_pixels: most pixels of all frames.

    Raises:
        HeaderError: `truncated`, `undecodable`, `animated`, `bomb:pixels`,
            `bomb:text`, `bomb:profile` or `bomb:chunks`.
    """
    position, texts, exif = 8, 0, b""
    seen: set[bytes] = set()
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        if end + 4 > len(data):
            break
        if kind[0] < ord("a"):  # critical
            _check_critical(data, kind, position + 4, end)
            seen.add(kind)
        elif kind == b"acTL" and length == 8 and b"IDAT" not in seen:
            _check_frames(data, header, start, max_pixels=max_pixels)
        elif kind in _COMPRESSED:
            texts += _measure_text(data, kind, start, end)
            if texts > MAX_TEXTS_BYTES:
                raise HeaderError("bomb:text", f"texts over {MAX_TEXTS_BYTES} bytes")
        elif kind == b"eXIf":
            exif = exif or data[start:end]
        if kind == b"IEND":
            _check_needed(header, seen)
            return exif
        position = end + 4
    else:
        raise HeaderError("bomb:chunks", f"over {MAX_CHUNKS} chunks")
    raise HeaderError("truncated", "truncated before its end chunk")


def _check_critical(data: bytes, kind: bytes, start: int, end: int) -> None:
    if kind not in _CRITICAL:
        raise HeaderError("undecodable", f"critical chunk {kind!r} is unknown")
    (crc,) = struct.unpack_from(">I", data, end)
    if crc != zlib.crc32(memoryview(data)[start:end]):
        text = f"checksum of chunk {kind!r} does not match"
        raise HeaderError("undecodable", text)


def _check_needed(header: Header, seen: set[bytes]) -> None:
    needed = {b"IDAT"}
    if "converted:palette" in header.flags:
        needed.add(b"PLTE")
    if missing := sorted(needed - seen):
        raise HeaderError("undecodable", f"PNG without {missing[0].decode()}")


def _check_frames(data: bytes, header: Header, start: int, *, max_pixels: int) -> None:
    (frames,) = struct.unpack_from(">I", data, start)
    text = f"{frames} frames of {header.width} x {header.height} pixels"
    if header.pixels * frames > max_pixels:
        raise HeaderError("bomb:pixels", f"{text}, most {max_pixels} (--max_pixels)")
    if frames > 1:
        raise HeaderError("animated", text)


def _measure_text(data: bytes, kind: bytes, start: int, end: int) -> int:
    """Bytes that a compressed chunk inflates to."""
    keyword = data.find(b"\0", start, end)
    if keyword < 0:
        return 0
    position = keyword + 2
    if kind == b"iTXt":
        if data[keyword + 1 : keyword + 2] != b"\1":
            return 0  # stored as it is
        language = data.find(b"\0", keyword + 3, end)
        translated = data.find(b"\0", language + 1, end) if language >= 0 else -1
        if translated < 0:
            return 0
        position = translated + 1
    size = end - position
    # A stream of more bytes than it may inflate to is not worth looking into.
    if size <= MAX_TEXT_BYTES:
        try:
            inflater = zlib.decompressobj()
            stream = memoryview(data)[position:end]
            size = len(inflater.decompress(stream, MAX_TEXT_BYTES + 1))
        except zlib.error:
            return 0  # decoders leave out a damaged text
    if size > MAX_TEXT_BYTES:
        reason = "bomb:profile" if kind == b"iCCP" else "bomb:text"
        text = f"chunk {kind.decode()} over {MAX_TEXT_BYTES} bytes"
        raise HeaderError(reason, text)
    return size
