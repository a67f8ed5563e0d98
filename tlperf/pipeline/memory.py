"""Memory that input uses again: fresh pages cost more than what is written to them.

    scratch = Scratch(16 << 20)
    scratch.record(45_000)                       # uint8 [45000], the same at each call
    arena = Recycler((32, 224, 224, 3))
    image = arena.take()                         # used again when nobody holds it
    with ByteBudget(1 << 29).held(3 * 4000 * 3000): ...
    bench = Workbench(threads=2, memory_bytes=1 << 29)

On the machines this was measured on, first touching the 4.8 MB of a batch takes as long
as decoding two photos.
"""

import concurrent.futures
import contextlib
import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes

# Of the memory this process may use, what input takes where nothing is said.
_RAM_SHARE = 4
# Where TensorFlow takes an array for a tensor without copying it (EIGEN_MAX_ALIGN).
_ALIGNMENT = 64
# What a thread keeps between images: a photo of three megapixels; of a small budget, at
# most an eighth by all threads.
_MOST_KEPT_BYTES = 16 << 20
_KEPT_SHARE = 8
# Threads of tf.data that load without the pool's, where nothing is decoded.
_CALLERS = 2
# How much more is kept than was asked for, so that images of like sizes do not each
# ask anew.
_GROWTH = 1.25


def budget_bytes(ram_budget: int) -> int:
    """Memory that input may take: `--ram_budget`, or a part of what there is where it
    is 0."""
    return ram_budget or memory_limit_bytes() // _RAM_SHARE


class Scratch(threading.local):
    """Memory of the calling thread, apart for each; what it gave a thread last is
    overwritten by what it gives it next.

    Args:
        kept_bytes: a thread's memory of all names together; what is larger is made for
            the call, so that rare images do not hold memory for ever.
    """

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._kept: dict[str, np.ndarray] = {}

    def record(self, size: int) -> np.ndarray:
        """For a stored record: uint8 [size]."""
        return self.array("record", (size,))

    def array(
        self, name: str, shape: tuple[int, ...], dtype: type = np.uint8
    ) -> np.ndarray:
        """An array with whatever is in it; names do not share memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            self._kept.pop(name, None)
            kept = np.empty(int(size * _GROWTH), np.uint8)
            if kept.size + sum(map(len, self._kept.values())) <= self._kept_bytes:
                self._kept[name] = kept
        return kept[:size].view(dtype).reshape(shape)


class Recycler:
    """Arrays of one shape, uint8, that TensorFlow makes tensors of without a copy; each
    is used again when neither tensors nor arrays hold it; safe from any thread.

    Args:
        shape: of each array.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free: deque[np.ndarray] = deque()

    def take(self) -> np.ndarray:
        """An array with whatever is in it."""
        try:
            block = self._free.pop()  # the last one: it may still be in the cache
        except IndexError:
            block = np.empty(math.prod(self._shape) + _ALIGNMENT, np.uint8)
        return np.asarray(_Lease(block, self._shape, self._free))


class _Lease:
    """What an array and its views hold on to; gives the block back when they end.

    NumPy takes its memory through `__array_interface__`, so the block itself, which
    views would hold instead, is no array's base.
    """

    def __init__(
        self, block: np.ndarray, shape: tuple[int, ...], free: deque[np.ndarray]
    ):
        self._block, self._free = block, free
        start = -block.ctypes.data % _ALIGNMENT
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": shape,
            "typestr": "|u1",
            "data": (block.ctypes.data + start, False),
        }

    def __del__(self) -> None:
        self._free.append(self._block)


class ByteBudget:
    """Lets threads go on while what they hold together stays within a budget.

    Args:
        total: bytes.
    """

    def __init__(self, total: int):
        self._total = total
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Waits for `size` bytes of the budget and gives them back at the end.

        Raises:
            TlperfError: exit code 71, where the whole budget is less.
        """
        if size > self._total:
            raise TlperfError(
                ExitCode.MEMORY,
                "ram_budget",
                found=f"an image takes {size} bytes to decode, {self._total} are there",
                remedy="raise --ram_budget, or shard with --encoding=jpeg",
            )
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class Workbench:
    """Threads that read and decode, and their memory; the loaders of a pipeline share
    one, so that what they take together is known.

    Args:
        threads: that read and decode.
        memory_bytes: for images being decoded, with what is kept between them.

    Attributes:
        threads: as given.
        pool: the threads.
        scratch: their memory that is used again.
        budget: for what is decoded at once.
    """

    def __init__(self, *, threads: int, memory_bytes: int):
        cv2.setNumThreads(1)  # each: these threads share the cores already
        kept_bytes = min(_MOST_KEPT_BYTES, memory_bytes // (_KEPT_SHARE * threads))
        self.threads = threads
        self.pool = concurrent.futures.ThreadPoolExecutor(threads, "tlperf-input")
        self.scratch = Scratch(kept_bytes)
        kept_by_all = kept_bytes * (threads + _CALLERS)
        self.budget = ByteBudget(memory_bytes - kept_by_all)
        self._arenas: dict[tuple[int, ...], Recycler] = {}

    def arena(self, shape: tuple[int, ...]) -> Recycler:
        """Where batches of images come from."""
        return self._arenas.setdefault(shape, Recycler(shape))

    def close(self) -> None:
        """Ends the threads."""
        self.pool.shutdown(cancel_futures=True)
