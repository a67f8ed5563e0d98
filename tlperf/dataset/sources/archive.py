"""A .zip, .tar or .tar.gz of a folder with one sub-folder a class; never unpacked.

    ArchiveSource("pets.zip").read_listing().items[0].id      # 'cats/1.jpg'

What an archive is is told by its first bytes, not its name. A chain of single folders
above the class folders is left out of ids, so that an archive of a folder lists what
the folder lists; files beside such a folder are counted as ignored.
"""

import dataclasses
import os
import pathlib
import re

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import io_errors, sha256_file
from tlperf.dataset.sources.folder import check_special
from tlperf.dataset.sources.listing import Listing, Origin
from tlperf.dataset.sources.tar_members import (
    BLOCK,
    HeaderError,
    list_tar,
    parse_header,
)
from tlperf.dataset.sources.tree import list_tree, strip_tops
from tlperf.dataset.sources.zip_members import list_zip

_OTHERS = {
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"7z\xbc\xaf\x27\x1c": ".7z",
    b"Rar!": ".rar",
    b"\x1f\x9d": ".Z",
    b"\x04\x22\x4d\x18": ".lz4",
}


@dataclasses.dataclass(frozen=True)
class ArchiveSource:
    """An archive of a class-folder tree.

    Attributes:
        path: of the archive.
        sha256: that it has to have, hexadecimal; "" takes any.
    """

    path: pathlib.Path
    sha256: str = ""

    @property
    def name(self) -> str:
        """The archive's name without its suffix."""
        return archive_stem(self.path.name)

    def read_listing(self) -> Listing:
        """All files of the class folders."""
        path = os.fspath(self.path)
        check_special(self.path)
        with io_errors(self.path):
            if self.sha256:
                remedy = "get the file again, or correct --source_sha256"
                check_sha256(self.path, self.sha256, remedy=remedy)
            files, folders = _list_members(path)
        return list_tree(strip_tops(files, folders), path=path)


def archive_stem(name: str) -> str:
    """A file name without the suffix of an archive.

    >>> archive_stem("pets.tar.gz"), archive_stem("pets.v2.ZIP"), archive_stem("pets")
    ('pets', 'pets.v2', 'pets')
    """
    return re.sub(r"\.(zip|tar|tgz|tar\.gz)$", "", name, flags=re.IGNORECASE)


def check_sha256(
    path: pathlib.Path, expected: str, *, remedy: str, name: str = ""
) -> None:
    """Refuses a file of another sha256 (exit code 76).

    Args:
        path: of the file.
        expected: hexadecimal.
        remedy: for the error, what to do.
        name: for the error, what to call the file; "" takes its path.
    """
    with io_errors(path):
        found = sha256_file(path)
    if found != expected:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "wrong_sha256",
            path=name or path,
            found=f"sha256 {found}, expected {expected}",
            remedy=remedy,
        )


def _list_members(path: str) -> tuple[dict[bytes, Origin], set[bytes]]:
    kind = sniff_archive(path)
    if kind == "zip":
        return list_zip(path)
    return list_tar(path, compressed=kind == "gzip")


def sniff_archive(path: str) -> str:
    """`zip`, `tar` or `gzip`, by the first bytes.

    Raises:
        TlperfError: exit code 65, where it is none of them.
    """
    with open(path, "rb") as stream:
        start = stream.read(BLOCK)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if len(start) == BLOCK and (not any(start) or _is_header(start)):
        return "tar"
    other = [name for magic, name in _OTHERS.items() if start.startswith(magic)]
    if other:
        raise TlperfError(
            ExitCode.DATA,
            "unsupported_archive",
            path=path,
            found=f"a {other[0]} file",
            remedy="unpack it, or pack the folders again as .zip, .tar or .tar.gz",
        )
    raise TlperfError(
        ExitCode.DATA,
        "not_an_archive",
        path=path,
        found=f"it starts with {start[:12]!r}" if start else "it is empty",
        remedy="give a folder, a .zip, .tar or .tar.gz of one, or a .csv",
    )


def _is_header(block: bytes) -> bool:
    if block[257:262] == b"ustar":
        return True
    try:
        parse_header(block)
    except HeaderError:
        return False
    return True
