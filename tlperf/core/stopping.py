"""SIGTERM, SIGINT and SIGHUP as a wish to stop soon, seen between two steps.

    with stop_signals() as stop:
        for batch in batches:
            ...
            if stop.wanted: save()

A second SIGINT ends the process as it always did; other signals are sent twice where a
whole group is told, and say nothing new.
"""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclasses.dataclass
class Stop:
    """Whether to stop.

    Attributes:
        wanted: name of the signal that asked for it; "" where none did.
    """

    wanted: str = ""


@contextlib.contextmanager
def stop_signals(
    on_signal: Callable[[int], None] = lambda number: None,
) -> Iterator[Stop]:
    """Notes the first signal; outside of the main thread, where Python takes none,
    nothing.

    Args:
        on_signal: called with each signal's number, in the main thread.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: Any) -> None:
        if stop.wanted and number == signal.SIGINT:
            restore()
            signal.raise_signal(number)
        stop.wanted = stop.wanted or signal.Signals(number).name
        on_signal(number)

    # One that is ignored, by nohup or a shell, stays so.
    heard = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, note) for one in heard}

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    try:
        yield stop
    finally:
        restore()
