"""How a TFRecord shard is framed, and the two texts that lie beside it.

    frame(payload)                          # with its checksums
    unframe(record)                         # checked
    format_index([20, 30]), format_seals(seals, ids)

A record is: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C of
the payload, all little-endian.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np

from tlperf.core.errors import escape_text
from tlperf.dataset.examples import RecordError

INDEX_SUFFIX = ".idx"
SEALS_SUFFIX = ".seals"

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
HEADER_BYTES, FOOTER_BYTES = _HEADER.size, _FOOTER.size
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
# What the format adds to a rotated checksum.
_MASK = 0xA282EAD8


def masked_crc(*pieces: bytes | np.ndarray) -> int:
    """CRC-32C of the pieces together (bytes, or contiguous uint8), rotated and offset
    as the format asks."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def unmask(crc: np.ndarray) -> np.ndarray:
    """The CRC-32C, int64 [N], of what `masked_crc` gives."""
    rotated = (crc - _MASK) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """The record that holds `payload`."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (
            length,
            _FOOTER.pack(masked_crc(length)),
            payload,
            _FOOTER.pack(masked_crc(payload)),
        )
    )


def unframe(record: bytes) -> bytes:
    """The payload of one whole record.

    Raises:
        RecordError: the length or a checksum is wrong.
    """
    if len(record) < FRAMING_BYTES:
        raise RecordError(f"record cut: {len(record)} bytes are left")
    length = parse_length(record)
    if length != len(record) - FRAMING_BYTES:
        raise RecordError(
            f"length says {length} bytes, the record holds "
            f"{len(record) - FRAMING_BYTES}"
        )
    payload = record[HEADER_BYTES:-FOOTER_BYTES]
    if seal_of(record) != masked_crc(payload):
        raise RecordError("checksum of the payload does not match")
    return payload


def parse_length(record: bytes) -> int:
    """The payload's length, from a record's first bytes.

    Raises:
        RecordError: its checksum does not match.
    """
    length, crc = _HEADER.unpack_from(record)
    if crc != masked_crc(record[:8]):
        raise RecordError("checksum of the length does not match")
    return length


def seal_of(record: bytes | np.ndarray) -> int:
    """The checksum that ends a record."""
    return int.from_bytes(record[-FOOTER_BYTES:], "little")


def iterate_records(stream: BinaryIO, *, file_bytes: int) -> Iterator[bytes]:
    """Each record of a shard, framing included, without the index.

    A length is compared with the file's size before anything is read: a hostile one
    would ask for all memory.

    Raises:
        RecordError: at the first record whose end cannot be known.
    """
    offset = 0
    while offset < file_bytes:
        header = stream.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            raise RecordError(f"record cut at byte {offset}")
        size = parse_length(header) + FRAMING_BYTES
        if offset + size > file_bytes:
            raise RecordError(
                f"record cut at byte {offset}: it needs {size} bytes, "
                f"{file_bytes - offset} are left"
            )
        yield header + stream.read(size - HEADER_BYTES)
        offset += size


def format_index(sizes: Sequence[int]) -> str:
    """The index of records of so many bytes each.

    >>> format_index([20, 30])
    '0 20\\n20 30\\n'
    """
    lines, offset = [], 0
    for size in sizes:
        lines.append(f"{offset} {size}\n")
        offset += size
    return "".join(lines)


def parse_index(text: bytes) -> np.ndarray:
    """Offsets and sizes, int64 [N, 2], of an index as `format_index` writes it.

    Raises:
        RecordError: it is none.
    """
    try:
        table = np.array(text.split(), dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError) as error:
        raise RecordError(f"not an index ({error})") from None
    offsets, sizes = table[:, 0], table[:, 1]
    if not np.array_equal(offsets, np.cumsum(sizes) - sizes) or np.any(sizes <= 0):
        raise RecordError("index whose records do not follow each other")
    return table


def format_seals(seals: Iterable[int], ids: Iterable[str]) -> str:
    r"""The seals of records of these ids.

    >>> format_seals([255, 1], ["cats/1.jpg", "cats/2\n.jpg"])
    '000000ff cats/1.jpg\n00000001 cats/2\\n.jpg\n'
    """
    pairs = zip(seals, ids, strict=True)
    return "".join(f"{seal:08x} {escape_text(name)}\n" for seal, name in pairs)


def parse_seals(text: bytes) -> tuple[np.ndarray, list[str]]:
    """Checksums, uint32 [N], and ids as `format_seals` wrote them.

    Raises:
        RecordError: it holds something else.
    """
    lines = text.decode(errors="replace").split("\n")[:-1]
    try:
        seals = np.array([int(line[:8], 16) for line in lines], dtype=np.uint32)
    except ValueError as error:
        raise RecordError(f"not seals ({error})") from None
    return seals, [line[9:] for line in lines]
