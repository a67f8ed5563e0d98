"""Worker processes, which need no TensorFlow; none where one worker is asked for.

with Workers(config.workers) as workers:
    for result in workers.map(function, tasks):     # in the order of tasks
        ...
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Self, TypeVar

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """A pool that starts when it is first used.

    Args:
        count: processes; 0 takes one a core this process may use. With one process or
            one task the work is done in this process.
    """

    def __init__(self, count: int):
        self.count = count or usable_cores()
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        in_child: bool = False,
    ) -> Iterator[Result]:
        """Results in the order of `tasks`; function and tasks have to be picklable.

        Args:
            function: what to do.
            tasks: what to do it with.
            in_child: whether it may crash, so that this process must not run it.

        Raises:
            TlperfError: exit code 75, where a worker process died.
        """
        if not in_child and (self.count == 1 or len(tasks) <= 1):
            yield from map(function, tasks)
            return
        if self._pool is None:
            # A fork would copy this process' threads' locks in any state.
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
            )
        try:
            yield from self._pool.map(function, tasks)
        except BrokenProcessPool as error:
            raise TlperfError(
                ExitCode.RETRY,
                "worker_died",
                found=f"a worker process ended abruptly ({error})",
                remedy="check free memory and run again",
            ) from error


def _begin_worker() -> None:
    # Ctrl-C reaches the whole group: the parent decides, its workers end their shard.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are spawned"
    thread = threading.Thread(
        target=_end_with, args=(parent.sentinel,), name="parent-watch", daemon=True
    )
    thread.start()


def _end_with(sentinel: int) -> None:
    """Ends this process with its parent.

    A pool's worker whose parent was killed waits for tasks for ever, or goes on writing
    into a directory whose lock is free again.
    """
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
