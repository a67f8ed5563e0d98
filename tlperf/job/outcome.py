"""From an exception to one error line and a documented exit code.

return run_guarded("shard", lambda: do_it())
"""

import sys
import traceback
from collections.abc import Callable

from tlperf.core.errors import ExitCode, TlperfError, is_out_of_memory
from tlperf.core.quiet import is_verbose

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_guarded(command: str, action: Callable[[], object]) -> int:
    """Runs `action`; its error becomes one line on stderr, unless a child process has
    told it. Returns the exit code."""
    try:
        action()
    except TlperfError as error:
        return _report(command, error)
    except KeyboardInterrupt:
        print(f"tlperf {command}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except MemoryError:
        return _report(command, _out_of_memory("Python could not allocate"))
    except Exception as error:
        return _report(command, _foreign(error))
    return ExitCode.OK


def _report(command: str, error: TlperfError) -> int:
    if is_verbose():
        traceback.print_exc()
    if not error.is_told:
        print(error.line(command), file=sys.stderr, flush=True)
    return int(error.code)


def _foreign(error: Exception) -> TlperfError:
    """An exception that no room named: out of memory, the system, or a bug of ours."""
    name = type(error).__name__
    found = (str(error).strip().splitlines() or [name])[0]
    if is_out_of_memory(error):
        return _out_of_memory(found)
    if isinstance(error, OSError):
        return TlperfError(
            ExitCode.IO,
            "io_error",
            path=error.filename,
            found=error.strerror or found,
            remedy="check the path, its permissions and the free space",
        )
    return TlperfError(
        ExitCode.INTERNAL,
        "internal_error",
        found=f"{name}: {found}",
        remedy="please report this with the output of --verbose",
    )


def _out_of_memory(found: str) -> TlperfError:
    return TlperfError(
        ExitCode.MEMORY,
        "out_of_memory",
        found=found,
        remedy="give a smaller batch (--batch_size, for latency --latency_batch_size) "
        "or --image_size",
    )
