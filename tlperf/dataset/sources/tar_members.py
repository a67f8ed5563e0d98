"""Members of a .tar and of a .tar.gz: the headers by one pass, the bytes by place.

    files, folders = list_tar("pets.tar", compressed=False)
    files[b"cats/1.jpg"].read(max_bytes=1 << 27)

The standard library's `tarfile` is not used: it ends in silence at a damaged header and
at a cut end, reads an extended header of any declared size into memory, and follows a
chain of them by recursion. What is read here: ustar, its forerunner, GNU long names and
pax; sparse and split files are refused.
"""

import contextlib
import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from typing import BinaryIO

from tlperf.dataset.sources.gzip_index import GzipOrigin, build_index, new_index
from tlperf.dataset.sources.listing import Origin
from tlperf.dataset.sources.members import (
    FOLDER,
    ArchiveFile,
    Ledger,
    Member,
    Placed,
    check_max_bytes,
    damaged,
    read_at,
)

BLOCK = 512
_CHUNK_BYTES = 1 << 20
# Long names and pax records; a name is refused from 4 KiB on.
_MAX_EXTENDED_BYTES = 1 << 20
# After the end mark only padding may follow: tar fills a record, mostly of 10 KiB.
_MAX_PADDING_BYTES = 1 << 20

_EXTENDED = (b"x", b"g", b"L", b"K")
_FILES = (b"0", b"\0", b"7")
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": FOLDER,
    b"6": "FIFO",
    b"S": "sparse file",
}


class HeaderError(Exception):
    """A header that does not follow the format; the text says how."""


@dataclasses.dataclass(frozen=True, slots=True)
class TarOrigin(Placed):
    """A file in a .tar.

    Attributes:
        offset: of the file's first byte.
        size: bytes of the file.
    """

    size: int

    def read(self, *, max_bytes: int) -> bytes:
        """The file; a .tar has no checksum of it."""
        check_max_bytes(self.size, max_bytes=max_bytes)
        with self.archive.opened() as descriptor:
            return read_at(descriptor, self.offset, size=self.size)


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """One header block.

    Attributes:
        name: of the member.
        kind: the type flag, one byte.
        size: of what follows the header.
    """

    name: bytes
    kind: bytes
    size: int


def parse_header(block: bytes) -> Header:
    """The header in a block of 512 bytes.

    Raises:
        HeaderError: its checksum or a number in it is wrong.
    """
    stated = parse_number(block[148:156])
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated != total:
        raise HeaderError("its checksum does not match")
    name, prefix = _text(block[:100]), b""
    if block[257:263] == b"ustar\0":
        prefix = _text(block[345:500])
    return Header(
        name=prefix + b"/" + name if prefix else name,
        kind=block[156:157],
        size=parse_number(block[124:136]),
    )


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def parse_number(field: bytes) -> int:
    r"""A number field: octal digits, or base 256 after a first byte of 0x80.

    >>> parse_number(b"0000017 \0"), parse_number(b"\x80\0\0\0\0\0\1\0")
    (15, 256)
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    # int() alone takes signs and underscores. A first byte of 0xff, a negative number
    # of base 256, is no digit either.
    digits = _text(field).strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise HeaderError(f"{field!r} is no number")
    return int(digits or b"0", 8)


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE` of a pax header.

    Raises:
        HeaderError: they are none.
    """
    records: dict[bytes, bytes] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length[:9]) <= len(data):
            raise HeaderError("its pax records are damaged")
        record, data = data[: int(length[:9])], data[int(length[:9]) :]
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise HeaderError("its pax records are damaged")
        records[key] = value
    return records


def parse_size(text: bytes) -> int:
    """The size in a pax record; HeaderError where it is none."""
    if not re.fullmatch(rb"[0-9]{1,20}", text):
        raise HeaderError(f"{text[:20]!r} is no size")
    return int(text)


def find_kind(
    name: bytes, *, size: int, flag: bytes, extended: Mapping[bytes, bytes]
) -> str:
    """The kind of member (see `Member.kind`) by name, size, type flag and pax records.

    >>> find_kind(b"a/", size=0, flag=b"0", extended={})
    'folder'
    """
    if any(key.startswith(b"GNU.sparse.") for key in extended):
        return "sparse file"
    if flag not in _FILES:
        return _KINDS.get(flag, f"entry of type {flag!r}")
    if not name.endswith(b"/"):
        return ""
    # As folders were written before they had a type of their own.
    return "file named like a folder" if size else FOLDER


def list_tar(path: str, *, compressed: bool) -> tuple[dict[bytes, Origin], set[bytes]]:
    """Files by name, and folders; TlperfError 65 for an unsafe or damaged archive."""
    archive = ArchiveFile.at(path)
    with new_index() if compressed else contextlib.nullcontext("") as index:
        walk = _GzipWalk(archive, index) if compressed else _Walk(archive)
        try:
            with walk.open() as stream:
                walk.read_all(stream)
        except HeaderError as error:
            raise damaged(path, f"{error}, at byte {walk.header_at:,}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged(path, f"no whole gzip data ({error})") from None
        listed = walk.ledger.finish()
        walk.finish()
    return listed


class _Walk:
    """One pass over the headers of a .tar."""

    def __init__(self, archive: ArchiveFile):
        self.archive = archive
        self.ledger = Ledger(archive.path, archive_bytes=archive.size)
        self.position = 0
        self.header_at = 0  # where the header last read starts

    def open(self) -> BinaryIO:
        """The bytes of the .tar."""
        return open(self.archive.path, "rb")

    def pass_over(self, stream: BinaryIO, size: int) -> int:
        """Skips so many bytes; returns 0: there is nothing to check them by."""
        self.position += size
        if self.position > self.archive.size:
            raise HeaderError("a member is cut")
        stream.seek(self.position)
        return 0

    def make_origin(self, offset: int, size: int, crc: int) -> Origin:
        """How to read a file of the .tar."""
        return TarOrigin(self.archive, offset, size)

    def finish(self) -> None:
        """What a good pass leaves to be done."""

    def read_all(self, stream: BinaryIO) -> None:
        """Hands every member to the ledger."""
        extended: dict[bytes, bytes] = {}
        while (header := self._read_header(stream)) is not None:
            if header.kind in _EXTENDED:
                extended |= self._read_extended(stream, header)
                continue
            name = extended.get(b"path", header.name)
            stated = extended.get(b"size")  # b"" takes an earlier one back
            size = parse_size(stated) if stated else header.size
            kind = find_kind(name, size=size, flag=header.kind, extended=extended)
            extended = {}
            if kind == "":
                self._add_file(stream, name, size)
                continue
            self.ledger.add(Member(name, kind))
            if kind != FOLDER and size:
                # Whether data follow depends on who wrote it: here it ends, refused.
                self.ledger.finish()

    def _add_file(self, stream: BinaryIO, name: bytes, size: int) -> None:
        self.ledger.count_bytes(size)
        start = self.position
        crc = self.pass_over(stream, size)
        self.pass_over(stream, -size % BLOCK)
        origin = self.make_origin(start, size, crc)
        self.ledger.add(Member(name, "", size, size, origin))

    def _read(self, stream: BinaryIO, size: int) -> bytes:
        data = stream.read(size)
        self.position += len(data)
        if len(data) < size:
            raise HeaderError("a header is cut")
        return data

    def _read_header(self, stream: BinaryIO) -> Header | None:
        """The next header, None at the end mark."""
        self.header_at = self.position
        block = stream.read(BLOCK)
        self.position += len(block)
        if len(block) < BLOCK:
            raise HeaderError("it ends without its end mark (cut off?)")
        if not any(block):
            self._check_end(stream)
            return None
        self.ledger.count_header()
        self.ledger.count_bytes(BLOCK)
        try:
            return parse_header(block)
        except HeaderError:
            if self.header_at == 0:
                raise HeaderError("no .tar header") from None
            raise

    def _check_end(self, stream: BinaryIO) -> None:
        padding = stream.read(_MAX_PADDING_BYTES + 1)
        self.position += len(padding)
        if any(padding) or len(padding) > _MAX_PADDING_BYTES:
            raise HeaderError("data follow the end mark")

    def _read_extended(self, stream: BinaryIO, header: Header) -> dict[bytes, bytes]:
        """What an extended header says of the next member."""
        if header.size > _MAX_EXTENDED_BYTES:
            raise HeaderError(f"an extended header of {header.size:,} bytes")
        self.ledger.count_bytes(header.size)
        data = self._read(stream, header.size)
        self.pass_over(stream, -header.size % BLOCK)
        if header.kind == b"L":
            return {b"path": data.rstrip(b"\0")}
        if header.kind == b"K":
            return {}  # the target of a link, which is refused
        records = parse_pax(data)
        if header.kind == b"g" and records.keys() & {b"path", b"size"}:
            raise HeaderError("one name or size for all members")
        return records if header.kind == b"x" else {}


class _GzipWalk(_Walk):
    """The same over a .tar.gz, whose checksum the pass checks.

    indexed_gzip would build its index in this pass too, but it reads on over a flipped
    byte and over a cut end; so the standard library's gzip reads first.
    """

    def __init__(self, archive: ArchiveFile, index: str):
        super().__init__(archive)
        self._index = index

    def open(self) -> BinaryIO:
        """The bytes of the .tar."""
        inflated = gzip.open(self.archive.path)
        return io.BufferedReader(inflated, _CHUNK_BYTES)

    def pass_over(self, stream: BinaryIO, size: int) -> int:
        """Skips so many bytes; returns their CRC-32."""
        crc, end = 0, self.position + size
        while self.position < end:
            data = stream.read(min(_CHUNK_BYTES, end - self.position))
            if not data:
                raise HeaderError("a member is cut")
            self.position += len(data)
            crc = zlib.crc32(data, crc)
        return crc

    def make_origin(self, offset: int, size: int, crc: int) -> Origin:
        """How to read a file of the .tar.gz."""
        return GzipOrigin(self.archive, offset, index=self._index, size=size, crc=crc)

    def finish(self) -> None:
        """Builds the index that random access needs."""
        build_index(self.archive, self._index, inflated_bytes=self.position)
