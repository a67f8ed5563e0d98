"""Indexes to the arrays of a batch: read, decode, resize, on threads of its own.

    bench = Workbench(threads=2, memory_bytes=1 << 29)
    loader = Loader(split, decoder, bench, cache=Cache.NONE,
                    on_bad_record=OnBadRecord.FAIL)
    image, label, weight = loader(index, weight)

Reading, checking, decoding and resizing let go of Python's lock, so threads share the
cores; images are decoded into the batch's memory, which TensorFlow takes as it is.
Every image's pixels are a function of its record alone: no number of threads shows.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from tlperf.core.choices import Cache, OnBadRecord
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.examples import Memory, RecordError, RecordView
from tlperf.dataset.store import StoredSplit
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.memory import Workbench

# Fills the pixels of images, uint8 [N, S, S, 3], and gives their labels.
LoadMany = Callable[[np.ndarray, np.ndarray], Sequence[int]]
# Fills an image's pixels, uint8 [S, S, 3], and gives its label.
Load = Callable[[int, np.ndarray], int]

# Parts of a batch a thread: more hide that some images take longer than others.
_PARTS_A_THREAD = 2
# Images that an error line names.
_NAMED = 20
# How long the bad images of a split are looked for, and how many are looked at at once.
_NAMING_SECS, _NAMED_AT_ONCE = 10.0, 256


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A record that was left out of a pass.

    Attributes:
        index: in the split's stored order.
        file: the shard.
        record: in the shard.
        found: what is wrong with it, and its source file.
    """

    index: int
    file: str
    record: int
    found: str


class Loader:
    """Makes batches of one split; safe from any number of threads.

    Args:
        split: whose records.
        decoder: how they become pixels.
        bench: threads and memory.
        cache: what is kept in memory.
        on_bad_record: fail, or skip and count.

    Attributes:
        skipped: records left out so far, by index.
    """

    def __init__(
        self,
        split: StoredSplit,
        decoder: Decoder,
        bench: Workbench,
        *,
        cache: Cache,
        on_bad_record: OnBadRecord,
    ):
        self._split = split
        self._decoder = decoder
        self._on_bad_record = on_bad_record
        self._bench = bench
        self._view: Callable[[int, Memory], RecordView] = split.view
        self._load: Load = self._decode
        if cache is Cache.ENCODED:
            self._view = RecordCache(split.view)
        elif cache is Cache.DECODED:
            side = decoder.image_size
            self._load = PixelCache(self._decode, (split.count, side, side, 3))
        # Where nothing is decoded, Python's part of an image is what counts.
        self._copy: LoadMany | None = None
        if cache is Cache.NONE and decoder.is_copying():
            self._copy = self._copy_stored
        self._is_closed = False
        self._failures: dict[str, TlperfError] = {}
        self.skipped: dict[int, Skipped] = {}

    def __call__(
        self, index: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A batch.

        Args:
            index: int64 [B], in the split's stored order.
            weight: float32 [B]; where it is 0 the image is padding.

        Returns:
            Images uint8 [B, S, S, 3], labels int32 [B], weights float32 [B]; a record
            that is skipped is black and weighs 0.

        Raises:
            TlperfError: 65 or 76 at a bad record, 71 where an image needs more memory
                than there is for decoding.
        """
        if self._is_closed:
            raise RuntimeError("the input pipeline is closed")
        side = self._decoder.image_size
        image = self._bench.arena((len(index), side, side, 3)).take()
        label = np.zeros(len(index), np.int32)
        weight = weight.copy()

        def fill(rows: slice) -> None:
            if self._copy is not None:
                with contextlib.suppress(TlperfError):  # one by one tells which
                    label[rows] = self._copy(index[rows], image[rows])
                    return
            for row in range(len(index))[rows]:
                number = int(index[row])
                try:
                    label[row] = self._load(number, image[row])
                except TlperfError as error:
                    self._skip(number, error)
                    image[row], weight[row] = 0, 0

        try:
            self._on_threads(fill, len(index))
        except TlperfError as error:
            self._failures.setdefault(str(error), self._name_all(error))
            raise
        return image, label, weight

    def _on_threads(self, fill: Callable[[slice], None], count: int) -> None:
        # Threads that only copy wait for Python's lock more than they work.
        parts = 1 if self.is_copying() else self._bench.threads * _PARTS_A_THREAD
        if parts == 1:
            fill(slice(0, count))
            return
        edges = np.linspace(0, count, min(count, parts) + 1).astype(int).tolist()
        started = [
            self._bench.pool.submit(fill, slice(*part))
            for part in itertools.pairwise(edges)
        ]
        for one in started:
            one.result()

    def failure_in(self, text: str) -> TlperfError | None:
        """What ended a batch, of which TensorFlow tells in words; None where it was
        none of ours."""
        found = (named for said, named in self._failures.items() if said in text)
        return next(found, None)

    def is_copying(self) -> bool:
        """Whether pixels are at hand as they are wanted: nothing is decoded."""
        if isinstance(self._load, PixelCache):
            return self._load.is_full()
        return self._decoder.is_copying()

    def _copy_stored(self, numbers: np.ndarray, out: np.ndarray) -> list[int]:
        flat = out.reshape(len(out), -1)
        return self._split.copy_images(numbers, flat, self._bench.scratch.record)

    def _decode(self, number: int, out: np.ndarray) -> int:
        view = self._view(number, self._bench.scratch.record)
        with self._bench.budget.held(self._decoder.scratch_bytes(view)):
            try:
                self._decoder.decode_into(view, out, self._bench.scratch)
            except RecordError as error:
                raise name_record(self._split, number, error) from error
        return view.label

    def _skip(self, number: int, error: TlperfError) -> None:
        if not is_left_out(error, self._on_bad_record):
            raise error
        file, record = self._split.locate(number)
        self.skipped[number] = Skipped(number, file, record, error.found)

    def _name_all(self, error: TlperfError) -> TlperfError:
        """The error, or one that names every image of the split that cannot be decoded,
        or as many as are found in a while: who mends one wants to know of the others.
        """
        if error.reason != "bad_record":
            return error
        for known in self._failures.values():
            if known.reason == error.reason:
                return known
        side = self._decoder.image_size

        def name(one: TlperfError) -> str:
            return f"{one.found} at {one.path}[{one.record}]"

        def name_bad(number: int) -> str:
            try:
                self._decode(number, np.empty((side, side, 3), np.uint8))
            except TlperfError as other:
                return name(other)
            return ""

        count, seen, until = self._split.count, 0, time.monotonic() + _NAMING_SECS
        bad: list[str] = []
        while seen < count and time.monotonic() < until:
            group = range(seen, min(seen + _NAMED_AT_ONCE, count))
            bad += filter(None, self._bench.pool.map(name_bad, group))
            seen = group.stop
        if name(error) not in bad:  # it is further on
            bad.append(name(error))
        listed = ", ".join(bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
        least = "" if seen == count else "at least "
        return TlperfError(
            error.code,
            error.reason,
            path=self._split.name,
            found=f"{least}{len(bad)} of {count} images cannot be used: {listed}",
            remedy=error.remedy,
        )

    def close(self) -> None:
        """Lets go of the cache; what is still asked for fails at once."""
        self._is_closed = True
        self._view, self._load = self._split.view, self._decode


def is_left_out(error: TlperfError, on_bad_record: OnBadRecord) -> bool:
    """Whether a pass goes on without the record that an error names."""
    return on_bad_record is OnBadRecord.SKIP and error.record is not None


def name_record(split: StoredSplit, number: int, error: RecordError) -> TlperfError:
    """What says which record, of which source file, cannot be decoded."""
    file, record = split.locate(number)
    (example,) = split.read([number])
    return TlperfError(
        ExitCode.DATA,
        "bad_record",
        path=file,
        record=record,
        found=f"{example.filename}: {error}",
        remedy="mend or remove it and shard again with --image_check=decode, or give "
        "--on_bad_record=skip",
    )


class RecordCache:
    """Keeps what `view` gives: a record is read and checked once."""

    def __init__(self, view: Callable[[int, Memory], RecordView]):
        self._fetch = view
        self._kept: dict[int, RecordView] = {}

    def __call__(self, number: int, memory: Memory) -> RecordView:
        """The record's view, in memory of its own."""
        kept = self._kept.get(number)
        if kept is None:
            fetched = self._fetch(number, memory)
            kept = fetched._replace(encoded=fetched.encoded.copy())
            self._kept[number] = kept
        return kept


class PixelCache:
    """Keeps the pixels that `load` makes.

    Args:
        load: fills an image's pixels and gives its label.
        shape: of all pixels, [N, S, S, 3].
    """

    def __init__(self, load: Load, shape: tuple[int, int, int, int]):
        self._load = load
        self._pixels = np.empty(shape, np.uint8)  # taken page by page, as it is filled
        self._labels: dict[int, int] = {}

    def __call__(self, number: int, out: np.ndarray) -> int:
        """Fills `out`, uint8 [S, S, 3], and gives the label."""
        label = self._labels.get(number)
        if label is not None:
            out[...] = self._pixels[number]
            return label
        label = self._load(number, out)
        self._pixels[number] = out
        self._labels[number] = label  # last: now it may be read
        return label

    def is_full(self) -> bool:
        """Whether all pixels are there."""
        return len(self._labels) == len(self._pixels)
