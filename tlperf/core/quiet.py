"""Keeps a library's start-up chatter off stderr, and gives it back if it fails.

with quiet_stderr():
    import tensorflow
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# Set to see everything: tracebacks, and what libraries print.
VERBOSE_VARIABLE = "TLPERF_VERBOSE"


def is_verbose() -> bool:
    """Whether --verbose was given, here or to the parent process."""
    return bool(os.environ.get(VERBOSE_VARIABLE))


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what the body writes to file descriptor 2; shows it on an exception.

    TensorFlow's C++ code logs there before its own log level can be set.
    """
    if is_verbose():
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
