"""Random access to a gzip file: an index of places where inflating can start.

    build_index(archive, index, inflated_bytes=90_000_000)
    GzipOrigin(archive, 512, index, size=30_000, crc=...).read(max_bytes=1 << 27)

No unpacked copy is made: the index holds 32 KiB for each MiB, and a read at random
inflates half a MiB on average before it reaches its member (3 ms on a 2020s core; a
.tar or .zip needs none of that). Members that follow each other closely are inflated
together. Worker processes load the index from a file without a name, which the listing
process holds open: it is gone with that process, however that ends.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
import threading
import zlib
from collections.abc import Iterator

import indexed_gzip  # type: ignore[import-untyped]

from tlperf.core.files import io_errors
from tlperf.dataset.sources.listing import OriginError
from tlperf.dataset.sources.members import ArchiveFile, Placed, check_max_bytes

WINDOW_BYTES = 32 << 10
MIN_SPACING_BYTES = 1 << 20
# Inflated at once where members follow each other, at most so far apart: then a block
# costs less than its members one by one.
BLOCK_BYTES = 2 << 20
NEAR_BYTES = 256 << 10
# Each reading process holds the whole index.
MAX_INDEX_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class GzipOrigin(Placed):
    """A file in a .tar.gz.

    Attributes:
        offset: of the file's first byte, inflated.
        index: path of the archive's index.
        size: bytes of the file.
        crc: CRC-32 of the file when it was listed.
    """

    index: str
    size: int
    crc: int

    @property
    def place(self) -> int:
        """Where it is inflated: see `reading_place`."""
        return self.offset

    def read(self, *, max_bytes: int) -> bytes:
        """The file, equal to what was listed."""
        check_max_bytes(self.size, max_bytes=max_bytes)
        with self.archive.opened():  # refuses a changed archive
            try:
                data = _reader(self.archive, self.index).read(self.offset, self.size)
            except (indexed_gzip.ZranError, indexed_gzip.CrcError) as error:
                raise OriginError("damaged_member", str(error)) from None
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise OriginError("damaged_member", "it differs from what was listed")
        return data


class _Reader:
    """An open gzip file with its index; safe from any thread."""

    def __init__(self, archive: ArchiveFile, index: str):
        self._file = indexed_gzip.IndexedGzipFile(
            archive.path, index_file=index, drop_handles=False
        )
        self._lock = threading.Lock()
        self._block, self._start = b"", 0

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            start = offset - self._start
            if not 0 <= start <= start + size <= len(self._block):
                # Every read inflates from a place of the index on. After one that was
                # little before, what follows is likely to be asked for too.
                ahead = offset - self._start - len(self._block)
                follows = 0 <= ahead <= NEAR_BYTES
                self._file.raw.seek(offset)
                length = max(size, BLOCK_BYTES) if follows else size
                self._block, self._start = self._file.raw.read(length), offset
                start = 0
            return self._block[start : start + size]


@functools.lru_cache(maxsize=1)
def _reader(archive: ArchiveFile, index: str) -> _Reader:
    return _Reader(archive, index)


def spacing_bytes(archive_bytes: int, inflated_bytes: int) -> int:
    """Inflated bytes between two places of the index.

    Such that the index takes at most half of the archive and 256 MiB.

    >>> spacing_bytes(90 << 20, 100 << 20) >> 20, spacing_bytes(1 << 20, 64 << 20) >> 20
    (1, 4)
    """
    most = max(WINDOW_BYTES, min(archive_bytes // 2, MAX_INDEX_BYTES))
    return max(MIN_SPACING_BYTES, inflated_bytes * WINDOW_BYTES // most)


@contextlib.contextmanager
def new_index() -> Iterator[str]:
    """A path for an index that lasts as long as this process, or until an error."""
    with (
        io_errors(pathlib.Path(tempfile.gettempdir())),
        tempfile.TemporaryFile() as file,
    ):
        descriptor = os.dup(file.fileno())
    try:
        # A path that worker processes can open too (proc(5), /proc/PID/fd).
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    except BaseException:
        os.close(descriptor)
        raise


def build_index(archive: ArchiveFile, index: str, *, inflated_bytes: int) -> None:
    """Inflates the whole archive once and keeps the index at `index`."""
    spacing = spacing_bytes(archive.size, inflated_bytes)
    with (
        io_errors(pathlib.Path(index)),
        indexed_gzip.IndexedGzipFile(
            archive.path, spacing=spacing, drop_handles=False
        ) as file,
    ):
        file.build_full_index()
        file.export_index(index)
