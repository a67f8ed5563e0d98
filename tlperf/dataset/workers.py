"""Worker processes, which need no TensorFlow; none where one worker is asked for.

with Workers(config.workers) as workers:
    for result in workers.map(function, tasks):     # in the order of tasks
        ...
"""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Self, TypeVar

from tlperf.core.errors import ExitCode, TlperfError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """A pool that starts when it is first used.

    Args:
        count: processes; 0 takes one a core this process may use. With one process or
            one task the work is done in this process.
    """

    def __init__(self, count: int):
        self.count = count or len(os.sched_getaffinity(0))
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Results in the order of `tasks`; function and tasks have to be picklable.

        Raises:
            TlperfError: exit code 75, where a worker process died.
        """
        if self.count == 1 or len(tasks) <= 1:
            yield from map(function, tasks)
            return
        if self._pool is None:
            # A fork would copy this process' threads' locks in any state.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.count, mp_context=context
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
