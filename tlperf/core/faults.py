"""Places where a test can make this program fail, one at a time and on purpose.

    hit("renamed")                           # nothing, unless TLPERF_FAULTS says so

`TLPERF_FAULTS=POINT[:N]=ACTION` acts at the Nth hit (the first) of a point, `*` for
any, counted in each process. Actions: `kill`, `stop`, `term` and `int` (that signal to
this process), the name of an errno, e.g. `ENOSPC` (raised as OSError), `print` (each
hit on stderr).
"""

import errno
import os
import signal
import sys

VARIABLE = "TLPERF_FAULTS"

_SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
}
_hits: dict[str, int] = {}


def hit(point: str) -> None:
    """Fails here where the environment asks for it.

    Raises:
        OSError: the one asked for.
        ValueError: the variable is not of the form above.
    """
    plan = os.environ.get(VARIABLE)
    if plan is None:
        return
    place, _, action = plan.partition("=")
    name, _, number = place.partition(":")
    if name not in (point, "*"):
        return
    if action == "print":
        print(f"hit {point}", file=sys.stderr, flush=True)
        return
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] == int(number or 1):
        _act(action)


def _act(action: str) -> None:
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
        return
    code = getattr(errno, action, None)
    if code is None:
        raise ValueError(f"{VARIABLE}: expected a signal or an errno, got {action!r}")
    raise OSError(code, os.strerror(code))
