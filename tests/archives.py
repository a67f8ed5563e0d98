"""Archives of class folders, and hostile ones written byte by byte.

path = pack(make_folder(tmp_path / "pets", {"cats": 3, "dogs": 3}), "tar.gz")
path.write_bytes(raw_tar(tar_entry(b"../../evil.jpg", b"x")))
path.write_bytes(raw_zip(ZipEntry(b"/etc/evil.jpg", b"x")))

`tarfile` and `zipfile` would put hostile names right, so they write good ones only.
"""

import dataclasses
import pathlib
import shutil
import struct
import zlib
from typing import Any

from tests.images import image_bytes

BLOCK = 512
TAR_END = bytes(2 * BLOCK)
FORMATS = {"zip": "zip", "tar": "tar", "tar.gz": "gztar"}


def pack(folder: pathlib.Path, suffix: str, *, top: str = ".") -> pathlib.Path:
    """`folder` packed beside itself; `top` is what names in the archive start with.

    With `top` the folder's own name, they start with it; with `.` they do not.
    """
    root = folder if top == "." else folder.parent
    base = folder.with_name(f"{folder.name}-{'flat' if top == '.' else 'top'}")
    made = shutil.make_archive(str(base), FORMATS[suffix], root, top)
    return pathlib.Path(made)


def tar_header(
    name: bytes,
    size: int = 0,
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """One ustar header block, whatever the name is."""
    octal = b"%011o\0" % size
    if size >= 8**11:
        octal = b"\x80" + size.to_bytes(11, "big")
    if size < -(8**9):  # as GNU tar writes a time before 1970
        octal = size.to_bytes(12, "big", signed=True)
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x",
        *(name, b"0000644\0", b"0000000\0", b"0000000\0", octal, b"0" * 11 + b"\0"),
        *(b" " * 8, kind, link, magic, b"", b"", b"0000000\0", b"0000000\0", prefix),
    )
    checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def padded(data: bytes) -> bytes:
    """`data` filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def tar_entry(name: bytes, data: bytes = b"", **options: Any) -> bytes:
    """A header and the data it tells of."""
    return tar_header(name, len(data), **options) + padded(data)


def gnu_long(name: bytes) -> bytes:
    """GNU's header for a name of the next member that does not fit."""
    data = name + b"\0"
    header = tar_header(b"././@LongLink", len(data), kind=b"L", magic=b"ustar  \0")
    return header + padded(data)


def pax(**records: bytes) -> bytes:
    """A pax header for the next member; `GNU_sparse_major` is `GNU.sparse.major`."""
    data = b""
    for key, value in records.items():
        rest = b" %s=%s\n" % (key.replace("_", ".").encode(), value)
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        data += str(length).encode() + rest
    return tar_header(b"pax", len(data), kind=b"x") + padded(data)


def good_tar() -> bytes:
    """Two classes of one real image each, without the end mark."""
    return tar_entry(b"cats/1.jpg", image_bytes(1)) + tar_entry(
        b"dogs/1.jpg", image_bytes(2)
    )


def raw_tar(*entries: bytes) -> bytes:
    """A .tar of two good classes and `entries`."""
    return good_tar() + b"".join(entries) + TAR_END


@dataclasses.dataclass(frozen=True)
class ZipEntry:
    """A member of a .zip, with what may be wrong about it.

    Attributes:
        name: as it is written.
        data: as it is stored: deflated before where `method` is 8.
        size: declared; None is the truth of stored data.
        crc: CRC-32 declared; None is the truth of stored data.
        mode: of a Unix file, e.g. 0o120777 for a link.
        method: 0 stored, 8 deflated.
        flags: 1 encrypted, 0x800 UTF-8.
        local_name: in the member's own header; None is `name`.
    """

    name: bytes
    data: bytes = b""
    size: int | None = None
    crc: int | None = None
    mode: int = 0o100644
    method: int = 0
    flags: int = 0
    local_name: bytes | None = None

    def header(self, offset: int | None) -> bytes:
        """The member's own header, or with an offset its row of the table."""
        name = self.name
        if offset is None and self.local_name is not None:
            name = self.local_name
        size = len(self.data) if self.size is None else self.size
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        common = struct.pack(
            "<HHHHHLLLHH",
            *(20, self.flags, self.method, 0, 33, crc),
            *(len(self.data), size, len(name), 0),
        )
        if offset is None:
            return b"PK\3\4" + common + name
        tail = struct.pack("<HHHLL", 0, 0, 0, self.mode << 16, offset)
        return b"PK\1\2" + struct.pack("<BB", 20, 3) + common + tail + name


def deflated(name: bytes, data: bytes, **options: Any) -> ZipEntry:
    """A deflated member that tells the truth but for `options`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = packer.compress(data) + packer.flush()
    truth = {"size": len(data), "crc": zlib.crc32(data), "method": 8}
    return ZipEntry(name, stored, **(truth | options))


def raw_zip(*entries: ZipEntry, overlap: bool = False) -> bytes:
    """A .zip of two good classes and `entries`.

    Args:
        entries: in this order after the good ones.
        overlap: the table's rows of `entries` all point at the first one.
    """
    good = (
        ZipEntry(b"cats/1.jpg", image_bytes(1)),
        ZipEntry(b"dogs/1.jpg", image_bytes(2)),
    )
    body, table = b"", b""
    shared = 0
    for entry in (*good, *entries):
        offset = len(body)
        if entry in entries:
            shared = shared or offset
            offset = shared if overlap else offset
        table += entry.header(offset)
        body += entry.header(None) + entry.data
    count = len(good) + len(entries)
    end = struct.pack("<HHHHLLH", 0, 0, count, count, len(table), len(body), 0)
    return body + table + b"PK\5\6" + end


def many_zip(count: int) -> bytes:
    """A .zip of so many empty members in two classes."""
    rows, bodies, offset = [], [], 0
    for index in range(count):
        entry = ZipEntry(b"c%d/%07d.jpg" % (index % 2, index), crc=0)
        body = entry.header(None)
        rows.append(entry.header(offset))
        bodies.append(body)
        offset += len(body)
    table = b"".join(rows)
    return b"".join([*bodies, table, zip64_end(count, len(table), offset)])


def zip64_end(
    count: int,
    table_bytes: int,
    table_at: int,
    *,
    signature: int = 0x06064B50,
    located: int | None = None,
    old: tuple[int, int, int] = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
) -> bytes:
    """The end of a .zip whose numbers do not fit into the old end record.

    Args:
        count: of members.
        table_bytes: of the table.
        table_at: where it is.
        signature: of the record.
        located: where the locator says the record is; None is the truth.
        old: the three numbers in the old end record.
    """
    record = struct.pack(
        "<LQHHLLQQQQ",
        *(signature, 44, 45, 45, 0, 0, count, count, table_bytes, table_at),
    )
    located = table_at + table_bytes if located is None else located
    locator = struct.pack("<LLQL", 0x07064B50, 0, located, 1)
    end = struct.pack("<HHHHLLH", 0, 0, old[0], *old, 0)
    return record + locator + b"PK\5\6" + end


def with_zip64(content: bytes, **wrong: Any) -> bytes:
    """A .zip with a zip64 end too, which tells the truth but for `wrong`."""
    facts = struct.unpack("<10xHLL2x", content[-22:])
    return content[:-22] + zip64_end(*facts, **wrong)
