"""Errors a user can act on: one line each, and a documented exit code.

    raise TlperfError(ExitCode.NO_INPUT, "missing_source", path=folder,
                      found="no such folder", remedy="give --source a folder")

The command line prints `error.line("shard")` on stderr and exits with `error.code`.
"""

import enum
import os
from typing import Any


class ExitCode(enum.IntEnum):
    """Exit codes of the command line, after sysexits.h."""

    OK = 0
    USAGE = 64  # a flag or its value
    DATA = 65  # bad data
    NO_INPUT = 66  # missing input
    UNAVAILABLE = 69  # device, peer or network not there
    INTERNAL = 70  # a bug of ours
    MEMORY = 71  # out of memory
    EXISTS = 73  # the output exists and differs
    IO = 74  # input/output error, disk full included
    RETRY = 75  # lock held or preempted: running again is safe
    INTEGRITY = 76  # hash, CRC or count does not match
    CONFIG = 78  # this combination of settings is refused


def escape_text(text: str) -> str:
    r"""`text` with every unprintable character escaped, fit for a terminal line.

    >>> escape_text("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


# Of errors of other names by which TensorFlow, cuDNN, cuBLAS and onnxruntime tell that
# a GPU's memory ended (tensorflow issues 7025 and 43174); not seen on a GPU here.
_MEMORY_TEXTS = (
    "Dst tensor is not initialized",
    "No algorithm worked!",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Failed to allocate memory for requested buffer",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error says that a device's memory ended."""
    # tf.errors, without importing TensorFlow.
    return type(error).__name__ == "ResourceExhaustedError" or any(
        text in str(error) for text in _MEMORY_TEXTS
    )


class TlperfError(Exception):
    """What was found, where, and what to do about it.

    Attributes:
        code: exit code of a command that ends with this error.
        reason: short slug that names the kind of error, e.g. `missing_source`.
        path: file or folder concerned, or None.
        found: what was found, without a full stop.
        remedy: what the user can do, without a full stop.
        shard: index of the shard concerned, or None.
        record: index of the record inside the shard, or None.
        is_told: whether a child process has told it on stderr: it ends this process
            with its exit code, and no second line.
    """

    def __init__(
        self,
        code: ExitCode,
        reason: str,
        *,
        found: str,
        remedy: str,
        path: str | os.PathLike[str] | None = None,
        shard: int | None = None,
        record: int | None = None,
        is_told: bool = False,
    ):
        self.code = code
        self.reason = reason
        self.found = found
        self.remedy = remedy
        self.path = None if path is None else os.fspath(path)
        self.shard = shard
        self.record = record
        self.is_told = is_told
        super().__init__(self.text())

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments: the default would call the class with the text alone,
        # and an error raised in a worker process would break the pool instead.
        return _restore_error, (type(self), self.__dict__)

    def text(self) -> str:
        """`reason: path (shard s, record r): found; remedy`, printable, one line."""
        where = "" if self.path is None else escape_text(self.path)
        places = [
            f"{name} {value}"
            for name, value in (("shard", self.shard), ("record", self.record))
            if value is not None
        ]
        if places:
            where = f"{where} ({', '.join(places)})".lstrip()
        parts = [self.reason, *([where] if where else []), escape_text(self.found)]
        return f"{': '.join(parts)}; {escape_text(self.remedy)}"

    def line(self, command: str) -> str:
        """The error line of `tlperf COMMAND`."""
        return f"tlperf {command}: E{int(self.code)} {self.text()}"


def _restore_error(kind: type[TlperfError], values: dict[str, Any]) -> TlperfError:
    error = kind.__new__(kind)
    error.__dict__.update(values)
    Exception.__init__(error, error.text())
    return error


class SettingsError(TlperfError, ValueError):
    """A value that a setting cannot take."""

    def __init__(self, found: str, remedy: str, *, reason: str = "bad_setting"):
        super().__init__(ExitCode.USAGE, reason, found=found, remedy=remedy)
