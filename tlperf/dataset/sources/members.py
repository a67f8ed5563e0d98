"""Members of an archive, and which of them are refused.

    ledger = Ledger("pets.zip", archive_bytes=9_000)
    ledger.add(Member(b"cats/1.jpg", size=800, stored=790, origin=origin))
    files, folders = ledger.finish()       # or TlperfError 65

One unsafe member refuses the whole archive: whoever made it made the others too, and
nothing of an archive is ever written to disk, so there is no part worth saving.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.sources.listing import (
    Origin,
    OriginError,
    find_like_names,
    stamp_of,
    text_of_path,
)

FOLDER = "folder"

# A name in a zip cannot be longer than 65,535 bytes, in a tar than any number; Linux
# opens no longer path than this.
MAX_NAME_BYTES = 4096
MAX_MEMBERS = 5_000_000
# No image has so many bytes: what is larger is no member of an image archive.
MAX_MEMBER_BYTES = 4 << 30
# Photographs hardly compress (1.1 : 1); blank bitmaps and bombs (1000 : 1) do.
MAX_RATIO = 100
# What inflates to no more than this is harmless at any ratio.
SMALL_BYTES = 64 << 20
# An empty file is never an image: a few are accidents, so many an attack on memory.
MAX_EMPTY = 100_000
# Of the names of all folders: one name of 4 KiB may imply 2,000 folders of 2 KiB each.
MAX_FOLDER_BYTES = 256 << 20
# Unsafe members that one error line names.
NAMED = 3

_UNSAFE = re.compile(
    rb"\0|^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)", re.DOTALL
)
_ABSOLUTE = re.compile(rb"[/\\]|[A-Za-z]:[/\\]")


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of many items as it was when it was listed.

    Attributes:
        path: of the file.
        size: in bytes.
        mtime_ns: time of change.
        inode: of the file.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def at(cls, path: str) -> "ArchiveFile":
        """The file at `path` as it is now."""
        return cls(path, *_identity(os.stat(path)))

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read it by; OriginError where it changed since."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _identity(os.fstat(descriptor))
            if found != (self.size, self.mtime_ns, self.inode):
                name = os.path.basename(self.path)
                raise OriginError("changed", f"{name} changed after it was listed")
            yield descriptor
        finally:
            os.close(descriptor)


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """What an origin inside of a file of many items has in common.

    Attributes:
        archive: the file.
        offset: of the item in it.
    """

    archive: ArchiveFile
    offset: int

    def stamp(self) -> str:
        """What tells the file from another, and the place in it."""
        try:
            status = os.stat(self.archive.path)
        except OSError:
            return ""
        return f"{stamp_of(status)} {self.offset}"


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_at(descriptor: int, offset: int, *, size: int) -> bytes:
    """`size` bytes of a file at `offset`; OriginError where it has not so many."""
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise OriginError("damaged_member", "the file ends inside it")
    return data


def check_max_bytes(size: int, *, max_bytes: int) -> None:
    """Refuses a member before anything is read (OriginError)."""
    if size > max_bytes:
        found = f"{size} bytes, most {max_bytes} (--max_file_bytes)"
        raise OriginError("bomb:bytes", found)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive's table.

    Attributes:
        name: as the archive has it.
        kind: "" for a file, `folder`, or what else it is, e.g. `symbolic link`.
        size: bytes of the file itself.
        stored: bytes it takes in the archive, at least 0.
        origin: how to read it; None for what is no file.
    """

    name: bytes
    kind: str = ""
    size: int = 0
    stored: int = 0
    origin: Origin | None = None


def damaged(path: str, found: str) -> TlperfError:
    """The error for an archive that does not follow its format."""
    return TlperfError(
        ExitCode.DATA,
        "damaged_archive",
        path=path,
        found=found,
        remedy="get it again, or pack it again",
    )


def refused(path: str, reason: str, found: str) -> TlperfError:
    """The error for an archive that is not read for its safety."""
    return TlperfError(
        ExitCode.DATA,
        reason,
        path=path,
        found=found,
        remedy="do not unpack it; pack the image folders again from a source you trust",
    )


class Ledger:
    """The members of one archive, checked while they come.

    Args:
        path: of the archive, for errors.
        archive_bytes: its size.
    """

    def __init__(self, path: str, *, archive_bytes: int):
        self._path = path
        self._most_bytes = max(SMALL_BYTES, MAX_RATIO * archive_bytes)
        self._members = 0
        self._empty = 0
        self._bytes = 0
        self._unsafe: list[str] = []
        self._files: dict[bytes, Origin] = {}
        self._folders: set[bytes] = set()

    def count_header(self) -> None:
        """One more header; refuses too many."""
        self._members += 1
        if self._members > MAX_MEMBERS:
            found = f"more than {MAX_MEMBERS:,} members"
            raise refused(self._path, "bomb:members", found)

    def count_bytes(self, size: int) -> None:
        """So many bytes more, before they are inflated; refuses too many."""
        if size < 0:  # it would make up for others
            raise damaged(self._path, f"a member of {size:,} bytes")
        self._bytes += size
        if self._bytes > self._most_bytes:
            found = (
                f"its members inflate to {self._bytes:,} bytes and more, at most "
                f"{self._most_bytes:,} are accepted"
            )
            raise refused(self._path, "bomb:ratio", found)

    def add(self, member: Member) -> None:
        """Checks a member and keeps it; an unsafe one is kept for the error line."""
        problem = (
            find_unsafe_name(member.name)
            or (member.kind if member.kind != FOLDER else "")
            or find_unsafe_size(member)
        )
        name = b"" if problem else normal_name(member.name)
        if problem:
            self._note(member.name, problem)
        elif member.kind == FOLDER:
            self._folders.add(name)
        elif not name:
            self._note(member.name, "a file without a name")
        elif name in self._files:
            self._note(member.name, "twice in it")
        else:
            assert member.origin is not None
            self._files[name] = member.origin
            self._empty += member.size == 0
            if self._empty > MAX_EMPTY:
                found = f"more than {MAX_EMPTY:,} empty files"
                raise refused(self._path, "bomb:members", found)

    def _note(self, name: bytes, problem: str) -> None:
        text = text_of_path(name)
        shown = text if len(text) <= 80 else f"{text[:60]}...{text[-12:]}"
        self._unsafe.append(f"{shown!r} ({problem})")
        if len(self._unsafe) > NAMED:
            self._refuse_unsafe()

    def _refuse_unsafe(self) -> None:
        if self._unsafe:
            named = ", ".join(self._unsafe[:NAMED])
            more = " and more" if len(self._unsafe) > NAMED else ""
            found = f"unsafe members: {named}{more}"
            raise refused(self._path, "unsafe_archive", found)

    def finish(self) -> tuple[dict[bytes, Origin], set[bytes]]:
        """All files by normal name, and all folders, named or implied.

        Raises:
            TlperfError: exit code 65, where any member was unsafe.
        """
        folders = self._all_folders()
        for name in sorted(folders.intersection(self._files)):
            self._note(name, "both a file and a folder")
        for one, other in find_like_names(
            map(text_of_path, folders | set(self._files))
        ):
            self._note(other.encode(), f"like {one!r} but for case")
        self._refuse_unsafe()
        return self._files, folders

    def _all_folders(self) -> set[bytes]:
        """The folders named, and each above any file or folder."""
        folders: set[bytes] = set()
        size = 0
        for name in (*self._files, *self._folders):
            folder = name if name in self._folders else name.rpartition(b"/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                size += len(folder)
                folder = folder.rpartition(b"/")[0]
            if size > MAX_FOLDER_BYTES:
                found = f"folders whose names take more than {MAX_FOLDER_BYTES:,} bytes"
                raise refused(self._path, "bomb:members", found)
        return folders


def find_unsafe_name(name: bytes) -> str:
    r"""What is unsafe about a member's name, "" where nothing is.

    >>> [find_unsafe_name(n) for n in (b"a/b.jpg", b"../a", b"a/..\\b", b"C:\\a")]
    ['', 'leaves the archive', 'leaves the archive', 'absolute']
    """
    if len(name) > MAX_NAME_BYTES:
        return f"name of {len(name):,} bytes"
    if not _UNSAFE.search(name):
        return ""
    if b"\0" in name:
        return "NUL in its name"
    return "absolute" if _ABSOLUTE.match(name) else "leaves the archive"


def find_unsafe_size(member: Member) -> str:
    """What is unsafe about a member's size, "" where nothing is."""
    if member.size > MAX_MEMBER_BYTES:
        return f"{member.size:,} bytes"
    if member.size > max(SMALL_BYTES, MAX_RATIO * member.stored):
        return f"{member.size:,} bytes of {member.stored:,} stored"
    return ""


def normal_name(name: bytes) -> bytes:
    """A safe name without `.` and empty parts.

    >>> normal_name(b"./cats//1.jpg"), normal_name(b"cats/"), normal_name(b"./")
    (b'cats/1.jpg', b'cats', b'')
    """
    if name[:1] == b"." or name[-1:] in b"/." or b"//" in name or b"/./" in name:
        return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
    return name
