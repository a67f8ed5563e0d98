"""Folders that processes lock, alone or shared; a lock dies with its owner (flock).

with directory_lock(workdir): ...            # one writer, or exit code 75

lock = FolderLock.take(entry, alone=True) or FolderLock.take(entry, alone=False)
lock.share()                                 # from now on others may read
lock.let_go()
"""

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Self

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import io_errors

# The file in a folder that is locked, and what its owner writes into it.
LOCK = ".lock"
_OWNER_BYTES = 200
_OWNER_START = b"pid "


class FolderLock:
    """A lock of a folder, alone or shared, until it is let go of."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: pathlib.Path, *, alone: bool) -> Self | None:
        """The lock of the folder that is there now, made where there is none; None
        where another has it."""
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        path = folder / LOCK
        while True:
            with io_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return cls(descriptor)
            os.close(descriptor)  # it was removed meanwhile

    def is_alone(self) -> bool:
        """Whether it is this process' alone, or is now."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            return False
        return True

    def share(self) -> None:
        """From now on others may read."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def let_go(self) -> None:
        """Ends it."""
        os.close(self._descriptor)

    @contextlib.contextmanager
    def naming_owner(self) -> Iterator[None]:
        """Tells others, in the locked file, who holds it."""
        former = os.pread(self._descriptor, _OWNER_BYTES, 0)
        if former and not former.startswith(_OWNER_START):
            yield  # a file of somebody else's serves as well, and is left as it is
            return
        owner = f"{os.getpid()} on {socket.gethostname()} since {int(time.time())}"
        text = _OWNER_START + owner.ljust(_OWNER_BYTES).encode()
        os.pwrite(self._descriptor, text, 0)
        try:
            yield
        finally:
            # An owner that ends in order leaves no trace of itself.
            os.ftruncate(self._descriptor, 0)


@contextlib.contextmanager
def directory_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds `folder` for one writer.

    Raises:
        TlperfError: exit code 75, naming the owner, where another process holds it.
    """
    target = pathlib.Path(folder)
    lock = FolderLock.take(target, alone=True)
    if lock is None:
        raise TlperfError(
            ExitCode.RETRY,
            "locked",
            path=target,
            found=f"another process writes here ({_read_owner(target)})",
            remedy="wait for it to end and run again",
        )
    try:
        with lock.naming_owner():
            yield
    finally:
        lock.let_go()


def _read_owner(folder: pathlib.Path) -> str:
    with contextlib.suppress(OSError), open(folder / LOCK, "rb") as stream:
        text = stream.read(_OWNER_BYTES).decode(errors="replace").strip()
        return text or "unknown owner"
    return "unknown owner"
