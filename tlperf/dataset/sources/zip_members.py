"""Members of a .zip: the table by `zipfile`, the bytes of a member by one read.

    files, folders = list_zip("pets.zip")
    files[b"cats/1.jpg"].read(max_bytes=1 << 27)

A member is read by where the table says it is, in any process, without the table: a
`ZipFile` in each worker would hold as many objects as the archive has members.
"""

import dataclasses
import stat
import struct
import zipfile
import zlib

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.sources.listing import Origin, OriginError
from tlperf.dataset.sources.members import (
    FOLDER,
    MAX_EMPTY,
    MAX_MEMBERS,
    ArchiveFile,
    Ledger,
    Member,
    Placed,
    check_max_bytes,
    damaged,
    read_at,
    refused,
)

# Signature, then what the table repeats, then lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE = b"PK\3\4"
# Of the end records: members, twice, bytes of the table and its place; of that of zip64
# the signature and its length before them; of zip64's locator the place of that record.
_END = struct.Struct("<8xHHLL2x")
_ZIP64_END = struct.Struct("<4sQ12xQQQQ")
_ZIP64_LOCATOR = struct.Struct("<8xQ4x")
_ZIP64_END_BYTES = _ZIP64_END.size + _ZIP64_LOCATOR.size
# What the end says where zip64 says more.
_SATURATED = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
# The end record with the longest comment, and what zip64 has before it.
_MAX_TAIL_BYTES = _END.size + 0xFFFF + _ZIP64_END_BYTES
_MIN_ENTRY_BYTES = 46
_ENCRYPTED = 0x1 | 0x40
_UTF8 = 0x800
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ZipOrigin(Placed):
    """A file in a .zip.

    Attributes:
        offset: of the member's own header.
        name: as the table has it.
        stored: bytes it takes.
        size: bytes of the file.
        crc: CRC-32 of the file.
        method: stored or deflated, zipfile's number.
    """

    name: bytes
    stored: int
    size: int
    crc: int
    method: int

    def read(self, *, max_bytes: int) -> bytes:
        """The file, its checksum checked; inflates to no more than was declared."""
        check_max_bytes(self.size, max_bytes=max_bytes)
        with self.archive.opened() as descriptor:
            stored = self._read_stored(descriptor)
        data = stored
        if self.method == zipfile.ZIP_DEFLATED:
            try:
                # One byte more than declared shows that it would go on.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                    stored, self.size + 1
                )
            except zlib.error as error:
                raise OriginError("damaged_member", str(error)) from None
        if len(data) != self.size:
            found = f"it does not inflate to the {self.size} bytes declared"
            raise OriginError("damaged_member", found)
        if zlib.crc32(data) != self.crc:
            raise OriginError("damaged_member", "its CRC-32 does not match")
        return data

    def _read_stored(self, descriptor: int) -> bytes:
        header = read_at(descriptor, self.offset, size=_LOCAL_HEADER.size)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        start = self.offset + _LOCAL_HEADER.size
        if (
            signature != _LOCAL_SIGNATURE
            or read_at(descriptor, start, size=name_bytes) != self.name
        ):
            found = "its own header differs from the archive's table"
            raise OriginError("damaged_member", found)
        start += name_bytes + extra_bytes
        return read_at(descriptor, start, size=self.stored)


def list_zip(path: str) -> tuple[dict[bytes, Origin], set[bytes]]:
    """Files by name, and folders; TlperfError 65 for an unsafe or damaged archive."""
    archive = ArchiveFile.at(path)
    ledger = Ledger(path, archive_bytes=archive.size)
    _check_table(archive)
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        # ValueError: a name that is not the UTF-8 it is marked as.
        raise damaged(path, f"not a readable .zip ({error})") from None
    for info in infos:
        _check_method(path, info)
        _check_stored(path, info)
        ledger.count_header()
        ledger.count_bytes(info.file_size)
        ledger.add(_member(archive, info))
    listed = ledger.finish()
    _check_places(archive, infos)
    return listed


def _check_table(archive: ArchiveFile) -> None:
    """Refuses a table of too many members before zipfile makes an object of each."""
    with open(archive.path, "rb") as stream:
        stream.seek(max(0, archive.size - _MAX_TAIL_BYTES))
        tail = stream.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or end + _END.size > len(tail):
        raise damaged(archive.path, "a .zip without its table (cut off?)")
    facts = _END.unpack_from(tail, end)
    # zipfile follows a locator whatever the end says.
    if tail[:end][-_ZIP64_LOCATOR.size :].startswith(b"PK\6\7"):
        facts = _zip64_facts(archive, tail=tail, end=end, facts=facts)
    table_bytes = facts[2]
    # A row repeats a member's own header and is longer: where the table is more than
    # half of a large archive, the members are empty.
    most = MAX_EMPTY if 2 * table_bytes > archive.size else MAX_MEMBERS
    if table_bytes > most * _MIN_ENTRY_BYTES:
        what = "empty files" if most == MAX_EMPTY else "members"
        found = f"more than {most:,} {what}, by a table of {table_bytes:,} bytes"
        raise refused(archive.path, "bomb:members", found)


def _zip64_facts(
    archive: ArchiveFile, *, tail: bytes, end: int, facts: tuple[int, ...]
) -> tuple[int, ...]:
    """What the zip64 end says; TlperfError 65 where the other end contradicts it.

    Args:
        archive: the .zip.
        tail: its last bytes.
        end: where in them the other end is.
        facts: what that says.
    """
    at = end - _ZIP64_END_BYTES
    if at >= 0:
        signature, follow, *wide = _ZIP64_END.unpack_from(tail, at)
        (located,) = _ZIP64_LOCATOR.unpack_from(tail, at + _ZIP64_END.size)
        _, _, table_bytes, table_at = wide
        place = archive.size - len(tail) + at
        if (
            (signature, follow) == (b"PK\6\6", _ZIP64_END.size - 12)
            and located == place == table_at + table_bytes
            and all(
                fact in pair
                for fact, *pair in zip(facts, wide, _SATURATED, strict=True)
            )
        ):
            return tuple(wide)
    raise damaged(archive.path, "its two end records contradict each other")


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    # zipfile takes a name for code page 437 where it is not marked as UTF-8; the way
    # back gives the bytes that were written, which mostly are UTF-8 all the same.
    encoding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
    return info.orig_filename.encode(encoding)


def _member(archive: ArchiveFile, info: zipfile.ZipInfo) -> Member:
    name = _raw_name(info)
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode in _KINDS:
        return Member(name, _KINDS[mode])
    if name.endswith(b"/"):
        return Member(name, FOLDER)
    origin = ZipOrigin(
        archive,
        info.header_offset,
        name=name,
        stored=info.compress_size,
        size=info.file_size,
        crc=info.CRC,
        method=info.compress_type,
    )
    return Member(name, "", info.file_size, info.compress_size, origin)


def _check_method(path: str, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        found, what = "is encrypted", "without a password"
    elif info.compress_type not in _METHODS:
        found = f"is compressed by method {info.compress_type}"
        what = "stored or deflated"
    else:
        return
    raise TlperfError(
        ExitCode.DATA,
        "unsupported_archive",
        path=path,
        found=f"{info.filename!r} {found}",
        remedy=f"pack the folders again, {what}",
    )


def _check_stored(path: str, info: zipfile.ZipInfo) -> None:
    """Refuses a member that takes more bytes than its file needs: they are read."""
    size, stored = info.file_size, info.compress_size
    if info.compress_type == zipfile.ZIP_STORED:
        is_right = stored == size
    else:
        # As zlib's deflateBound: 9 bits a byte by fixed codes, the worst a packer may
        # do, and a 64th for the headers of blocks. Most packers store a block that does
        # not shrink as it is, for 5 bytes more in 16 to 64 KiB.
        is_right = stored <= size + size // 8 + size // 64 + 64
    if not is_right:
        found = f"{info.filename!r}: {size:,} bytes stored as {stored:,}"
        raise damaged(path, found)


def _check_places(archive: ArchiveFile, infos: list[zipfile.ZipInfo]) -> None:
    """Refuses members that lie over each other: one stored byte would be many."""
    end, last = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        start = info.header_offset
        if start < end:
            found = f"{info.filename!r} lies over {last or 'the start of the file'!r}"
            raise damaged(archive.path, found)
        end = start + _LOCAL_HEADER.size + len(info.orig_filename) + info.compress_size
        last = info.filename
        if end > archive.size:
            raise damaged(archive.path, f"{info.filename!r} lies beyond its end")
