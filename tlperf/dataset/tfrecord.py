"""TFRecord shards: written with an index and seals beside each, read by index.

    written = write_shard(path, examples, classes=("cats", "dogs"))
    reader = TfrecordReader(data_dir, manifest.shards_of("train"))
    reader.read(7)                          # one read, checksums checked

Two files beside a shard, whose names make tfds pass them over, hold a line a record:
the index in DALI's form, `offset size` with the framing (`tlperf.dataset.framing`); and
the seals, `checksum id`, where the checksum is the one that ends the record. The
manifest seals both. So a whole record of some other shard, which TFRecord's own
checksums call sound, is told from the one that belongs there at no more cost, and a
damaged record is named by its source file.
"""

import bisect
import contextlib
import hashlib
import itertools
import os
import pathlib
import resource
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import (
    SyncedWriter,
    atomic_path,
    io_errors,
    sha256_bytes,
    write_text,
)
from tlperf.dataset.examples import (
    Memory,
    RecordError,
    RecordLayout,
    RecordView,
    StoredExample,
    copy_encoded,
    layout_of,
    parse_example,
    serialize_example,
)
from tlperf.dataset.framing import (
    FOOTER_BYTES,
    FRAMING_BYTES,
    HEADER_BYTES,
    INDEX_SUFFIX,
    SEALS_SUFFIX,
    format_index,
    format_seals,
    frame,
    masked_crc,
    parse_index,
    parse_length,
    parse_seals,
    seal_of,
    unmask,
)
from tlperf.dataset.manifest import ShardEntry, Written

# Files that a process has open beside shards, and those of other splits.
_OTHER_FILES = 512


def write_shard(
    path: pathlib.Path, examples: Iterable[StoredExample], *, classes: Sequence[str]
) -> Written:
    """Writes one shard with its index and seals, durably; memory holds one example."""
    digest, sizes, seals, ids = hashlib.sha256(), [], [], []
    with atomic_path(path) as partial, SyncedWriter(partial) as stream:
        for example in examples:
            payload = serialize_example(example, class_name=classes[example.label])
            record = frame(payload)
            stream.write(record)
            digest.update(record)
            sizes.append(len(record))
            seals.append(seal_of(record))
            ids.append(example.filename)
    sidecars = {}
    for suffix, text in (
        (INDEX_SUFFIX, format_index(sizes)),
        (SEALS_SUFFIX, format_seals(seals, ids)),
    ):
        sidecar = path.with_name(path.name + suffix)
        write_text(sidecar, text)
        sidecars[sidecar.name] = sha256_bytes(text.encode())
    return Written(bytes=sum(sizes), sha256=digest.hexdigest(), sidecars=sidecars)


class _Place(NamedTuple):
    """Where a record is, and where in it is what input needs.

    Attributes:
        descriptor: of its open file.
        offset, size: in the file, framing included; size is 0 until the file is open.
        seal: the checksum that it must have.
        layout: all 0 until it was viewed; its checksum says that it is the record of
            the time before.
    """

    descriptor: int
    offset: int
    size: int
    seal: int
    layout: RecordLayout

    @classmethod
    def of(cls, row: Sequence[int]) -> "_Place":
        """The place in a row of a reader's table."""
        descriptor, offset, size, seal, *layout = row
        return cls(descriptor, offset, size, seal, RecordLayout(*layout))


class Places(NamedTuple):
    """Where records are and what they must be, for readers in other processes.

    Attributes:
        shard: int64 [N], in the order of the split's shards.
        offset, size: int64 [N], in the file, framing included.
        crc: int64 [N], CRC-32C that the payload must have.
    """

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc: np.ndarray


# Columns of a place and of its layout.
_LAYOUT = _Place._fields.index("layout")
_COLUMNS = _LAYOUT + len(RecordLayout._fields)


def read_record(place: _Place, pieces: tuple[np.ndarray, ...]) -> None:
    """Reads a record, framing included, and checks it; safe from any thread.

    Args:
        place: where it is.
        pieces: where it is read to, uint8 [bytes] each; framing is not split.

    Raises:
        RecordError: the file ends before, the length or a checksum is wrong, or the
            record is not the one that was written there.
    """
    found = os.preadv(place.descriptor, [piece.data for piece in pieces], place.offset)
    if found != place.size:
        raise RecordError(f"record cut: {found} of {place.size} bytes are there")
    length = place.size - FRAMING_BYTES
    if parse_length(pieces[0][:HEADER_BYTES].tobytes()) != length:
        raise RecordError(f"another length than the {length} bytes of its place")
    own = seal_of(pieces[-1])
    inner = list(pieces)
    inner[0] = inner[0][HEADER_BYTES:]
    inner[-1] = inner[-1][:-FOOTER_BYTES]
    if own != masked_crc(*inner):
        raise RecordError("checksum of the payload does not match")
    if own != place.seal:
        raise RecordError("a sound record, but another than was written here")


class TfrecordReader:
    """Random access to the records of a split; safe from any number of threads."""

    def __init__(self, data_dir: pathlib.Path, shards: Sequence[ShardEntry]):
        self._data_dir = data_dir
        self._shards = tuple(shards)
        # Shard s holds the indexes from _starts[s] to _starts[s + 1].
        self._starts = list(
            itertools.accumulate((shard.count for shard in shards), initial=0)
        )
        # Places by index, a row each: those of a batch are looked up together.
        self._places = np.zeros((self._starts[-1], _COLUMNS), np.int64)
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> StoredExample:
        """The example at `index` of the stored order, checksums checked."""
        with self._naming_damage(index):
            payload = _read_payload(self._place(index), fresh_memory)
            return parse_example(payload.tobytes())

    def view(self, index: int, memory: Memory) -> RecordView:
        """What input needs of it, its image in what `memory` gives."""
        with self._naming_damage(index):
            place = self._place(index)
            payload = _read_payload(place, memory)
            layout = place.layout
            if not any(layout):
                layout = layout_of(payload.data)
                self._places[index, _LAYOUT:] = layout
            start, stop, *numbers = layout
            return RecordView(payload[start:stop], *numbers)

    def copy_images(
        self, indexes: np.ndarray, out: np.ndarray, memory: Memory
    ) -> list[int]:
        """Reads images as they are stored, each to its row of `out`, uint8 [N, bytes];
        gives their labels."""
        return [
            self._copy_image(_Place.of(row), index, image, memory)
            for row, index, image in zip(
                self._places[indexes].tolist(), indexes.tolist(), out, strict=True
            )
        ]

    def _copy_image(
        self, place: _Place, index: int, out: np.ndarray, memory: Memory
    ) -> int:
        start, stop, label, *_ = place.layout
        with self._naming_damage(index):
            if stop - start != len(out):  # not known yet, or not raw pixels
                return copy_encoded(self.view(index, memory), out)
            split = HEADER_BYTES + start
            around = memory(place.size - len(out))
            read_record(place, (around[:split], out, around[split:]))
        return label

    def _place(self, index: int) -> _Place:
        place = _Place.of(self._places[index].tolist())
        if not place.size:
            self._open(self._shard_of(index))
            place = _Place.of(self._places[index].tolist())
        return place

    def find_places(self, index: np.ndarray) -> Places:
        """Where the records at `index`, int64 [N], are; reads no record."""
        shard = np.searchsorted(self._starts, index, side="right") - 1
        for position in np.unique(shard).tolist():
            self._open(position)
        _, offset, size, seal = self._places[index, :_LAYOUT].T
        return Places(shard, offset, size, unmask(seal))

    @contextlib.contextmanager
    def _naming_damage(self, index: int) -> Iterator[None]:
        try:
            yield
        except RecordError as error:
            raise self._damaged_record(index, error) from error
        except OSError:  # the record may be sound: it is not to be skipped
            file = self._shards[self._shard_of(index)].file
            with io_errors(self._data_dir / file):
                raise

    def _shard_of(self, index: int) -> int:
        return bisect.bisect_right(self._starts, index) - 1

    def _open(self, position: int) -> None:
        with self._lock:
            if position in self._descriptors:
                return
            _allow_files(len(self._shards))
            shard = self._shards[position]
            table = parse_index(self._sidecar(position, INDEX_SUFFIX))
            seals, _ = parse_seals(self._sidecar(position, SEALS_SUFFIX))
            if not len(table) == len(seals) == shard.count:
                raise self._damaged(position, "index or seals of other records")
            path = self._data_dir / shard.file
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors[position] = descriptor
            rows = self._places[self._starts[position] : self._starts[position + 1]]
            rows[:, 0], rows[:, 1], rows[:, 3] = descriptor, table[:, 0], seals
            rows[:, 2] = table[:, 1]  # last: now they may be read

    def _sidecar(self, position: int, suffix: str) -> bytes:
        """The bytes of a file beside the shard, which are the ones that were sealed."""
        shard = self._shards[position]
        name = shard.file + suffix
        try:
            text = (self._data_dir / name).read_bytes()
        except FileNotFoundError as error:
            raise self._damaged(position, f"its {suffix} is not there") from error
        if sha256_bytes(text) != shard.sidecars.get(name):
            raise self._damaged(position, f"its {suffix} differs from the manifest")
        return text

    def _damaged_record(self, index: int, error: Exception) -> TlperfError:
        position = self._shard_of(index)
        record = index - self._starts[position]
        return self._damaged(position, str(error), record=record)

    def _damaged(
        self, position: int, found: str, *, record: int | None = None
    ) -> TlperfError:
        file = self._shards[position].file
        if record is not None:
            _, ids = parse_seals(self._sidecar(position, SEALS_SUFFIX))
            found = f"{found} (source file {ids[record]})"
        return TlperfError(
            ExitCode.INTEGRITY,
            "damaged_record" if record is not None else "damaged_data",
            path=self._data_dir / file,
            shard=position,
            record=record,
            found=found,
            remedy="delete that file and run tlperf shard again",
        )

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        with self._lock:
            self._places[:] = 0
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()


def _allow_files(count: int) -> None:
    """Lets this process have so many files open beside others, as far as it may: each
    shard stays open as long as its reader."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def fresh_memory(size: int) -> np.ndarray:
    """Memory of its own for a record: uint8 [size]."""
    return np.empty(size, np.uint8)


def _read_payload(place: _Place, memory: Memory) -> np.ndarray:
    record = memory(place.size)
    read_record(place, (record,))
    return record[HEADER_BYTES:-FOOTER_BYTES]
