"""TFRecord shards: framing with checksums, an index beside each, reads by index.

    written = write_shard(path, examples, classes=("cats", "dogs"))
    reader = TfrecordReader(data_dir, manifest.shards_of("train"))
    reader.read(7)                          # one pread, checksums checked

A record is: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C of
the payload, all little-endian. The index has DALI's form, `offset size` a line, where
the size includes the framing; its name makes tfds pass it over.
"""

import bisect
import hashlib
import itertools
import os
import pathlib
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import atomic_path, sha256_bytes, write_text
from tlperf.dataset.examples import (
    RecordError,
    StoredExample,
    parse_example,
    serialize_example,
)
from tlperf.dataset.manifest import ShardEntry, Written

INDEX_SUFFIX = ".idx"

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAMING_BYTES = _HEADER.size + _FOOTER.size


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and offset as the format asks."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


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
    length = _checked_length(record)
    if length != len(record) - FRAMING_BYTES:
        raise RecordError(
            f"length says {length} bytes, the record holds "
            f"{len(record) - FRAMING_BYTES}"
        )
    payload = record[_HEADER.size : -_FOOTER.size]
    if _FOOTER.unpack_from(record, len(record) - _FOOTER.size)[0] != masked_crc(
        payload
    ):
        raise RecordError("checksum of the payload does not match")
    return payload


def _checked_length(record: bytes) -> int:
    length, crc = _HEADER.unpack_from(record)
    if crc != masked_crc(record[:8]):
        raise RecordError("checksum of the length does not match")
    return length


def read_record(descriptor: int, offset: int, *, size: int) -> bytes:
    """The payload of the record of `size` bytes at `offset`; safe from any thread.

    Raises:
        RecordError: the file ends before, or the length or a checksum is wrong.
    """
    record = os.pread(descriptor, size, offset)
    if len(record) != size:
        raise RecordError(f"record cut: {len(record)} of {size} bytes are there")
    return unframe(record)


def iterate_records(stream: BinaryIO, *, file_bytes: int) -> Iterator[bytes]:
    """Each record of a shard, framing included, without the index.

    A length is compared with the file's size before anything is read: a hostile one
    would ask for all memory.

    Raises:
        RecordError: at the first record whose end cannot be known.
    """
    offset = 0
    while offset < file_bytes:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise RecordError(f"record cut at byte {offset}")
        size = _checked_length(header) + FRAMING_BYTES
        if offset + size > file_bytes:
            raise RecordError(
                f"record cut at byte {offset}: it needs {size} bytes, "
                f"{file_bytes - offset} are left"
            )
        yield header + stream.read(size - _HEADER.size)
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


def write_shard(
    path: pathlib.Path, examples: Iterable[StoredExample], *, classes: Sequence[str]
) -> Written:
    """Writes one shard and its index, durably; memory holds one example at a time."""
    digest, sizes = hashlib.sha256(), []
    with atomic_path(path) as partial, open(partial, "wb") as stream:
        for example in examples:
            payload = serialize_example(example, class_name=classes[example.label])
            record = frame(payload)
            stream.write(record)
            digest.update(record)
            sizes.append(len(record))
        stream.flush()
    index = format_index(sizes)
    index_path = path.with_name(path.name + INDEX_SUFFIX)
    write_text(index_path, index)
    return Written(
        bytes=sum(sizes),
        sha256=digest.hexdigest(),
        index=index_path.name,
        index_sha256=sha256_bytes(index.encode()),
    )


class TfrecordReader:
    """Random access to the records of a split; safe from any number of threads."""

    def __init__(self, data_dir: pathlib.Path, shards: Sequence[ShardEntry]):
        self._data_dir = data_dir
        self._shards = tuple(shards)
        # Shard s holds the indexes from _starts[s] to _starts[s + 1].
        self._starts = list(
            itertools.accumulate((shard.count for shard in shards), initial=0)
        )
        self._opened: dict[int, tuple[int, np.ndarray]] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> StoredExample:
        """The example at `index` of the stored order, checksums checked."""
        position = bisect.bisect_right(self._starts, index) - 1
        record = index - self._starts[position]
        descriptor, table = self._opened.get(position) or self._open(position)
        offset, size = table[record]
        try:
            return parse_example(read_record(descriptor, int(offset), size=int(size)))
        except (RecordError, OSError) as error:
            raise self._damaged(position, str(error), record=record) from error

    def _open(self, position: int) -> tuple[int, np.ndarray]:
        with self._lock:
            if position not in self._opened:
                table = self._read_index(position)
                path = self._data_dir / self._shards[position].file
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._opened[position] = descriptor, table
            return self._opened[position]

    def _read_index(self, position: int) -> np.ndarray:
        shard = self._shards[position]
        try:
            text = (self._data_dir / str(shard.index)).read_bytes()
            if sha256_bytes(text) != shard.index_sha256:
                raise RecordError("index differs from the manifest")
            return parse_index(text)
        except (RecordError, OSError) as error:
            raise self._damaged(position, f"its index: {error}") from error

    def _damaged(
        self, position: int, found: str, *, record: int | None = None
    ) -> TlperfError:
        file = self._shards[position].file
        return TlperfError(
            ExitCode.INTEGRITY,
            "damaged_record",
            path=self._data_dir / file,
            shard=position,
            record=record,
            found=found,
            remedy="delete that file and run tlperf shard again",
        )

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        with self._lock:
            for descriptor, _ in self._opened.values():
                os.close(descriptor)
            self._opened.clear()
