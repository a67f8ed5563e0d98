"""HDF5 splits: one file a split, chunked with checksums, reads by index.

    written = write_split(path, examples, classes=classes, count=1200, image_size=None)
    reader = Hdf5Reader(data_dir, manifest.shards_of("train"))
    reader.read(7)

Datasets: `encoded` uint8 [bytes] with `offset` uint64 [N + 1], or with raw `image`
uint8 [N, S, S, 3]; `label` `orientation` `height` `width` int64 [N]; `id` `class`
`sha256` text [N]. The same examples in the same order as TFRecord, without its speed.
"""

import io
import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import atomic_path, sha256_file
from tlperf.dataset.examples import (
    Memory,
    RecordError,
    RecordView,
    StoredExample,
    copy_encoded,
)
from tlperf.dataset.manifest import ShardEntry, Written

# A read takes whole chunks: small ones keep random access near the record's size.
CHUNK_BYTES = 64 * 1024
_NUMBERS = ("label", "orientation", "height", "width")
# Equal examples must give an equal file: no times inside, one version of the format.
_LIBRARY_VERSIONS = ("earliest", "v110")
# What h5py raises on damaged files, depending on where the damage is.
_HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError)
_STABLE: dict[str, Any] = {"track_times": False, "fletcher32": True}


class _Stream(io.FileIO):
    """A file that keeps the first error of writing for `check` and accepts the rest.

    HDF5's library cannot close a file whose writes fail: on a full disk the process
    ends in a segmentation fault (h5py 3.14), so the library never sees the error.
    """

    _failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self._failure is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self._failure = error
        return len(view)

    def check(self) -> None:
        """Raises the first error of writing, if there was one."""
        if self._failure is not None:
            raise self._failure


class _EncodedWriter:
    """Appends payloads to `encoded`, whole chunks at a time."""

    def __init__(self, file: h5py.File):
        self._data = file.create_dataset(
            "encoded",
            shape=(0,),
            maxshape=(None,),
            chunks=(CHUNK_BYTES,),
            dtype=np.uint8,
            **_STABLE,
        )
        self._file = file
        self._waiting = bytearray()
        self._offsets = [0]

    def append(self, encoded: bytes) -> None:
        self._waiting += encoded
        self._offsets.append(self._offsets[-1] + len(encoded))
        self._write(len(self._waiting) // CHUNK_BYTES * CHUNK_BYTES)

    def finish(self) -> None:
        self._write(len(self._waiting))
        offsets = np.array(self._offsets, dtype=np.uint64)
        self._file.create_dataset("offset", data=offsets, chunks=True, **_STABLE)

    def _write(self, count: int) -> None:
        if count:
            start = self._data.shape[0]
            self._data.resize((start + count,))
            self._data[start:] = np.frombuffer(self._waiting[:count], dtype=np.uint8)
            del self._waiting[:count]


class _PixelsWriter:
    """Puts payloads into `image`, one image a chunk."""

    def __init__(self, file: h5py.File, *, count: int, image_size: int):
        shape = (image_size, image_size, 3)
        self._data = file.create_dataset(
            "image",
            shape=(count, *shape),
            chunks=(1, *shape),
            dtype=np.uint8,
            **_STABLE,
        )
        self._next = 0

    def append(self, encoded: bytes) -> None:
        pixels = np.frombuffer(encoded, dtype=np.uint8)
        self._data[self._next] = pixels.reshape(self._data.shape[1:])
        self._next += 1

    def finish(self) -> None:
        assert self._next == self._data.shape[0], "fewer images than planned"


def write_split(
    path: pathlib.Path,
    examples: Iterable[StoredExample],
    *,
    classes: Sequence[str],
    count: int,
    image_size: int | None,
) -> Written:
    """Writes one split, durably; memory holds one example and the small columns.

    Args:
        path: of the file.
        examples: `count` of them, in stored order.
        classes: names by label.
        count: number of examples.
        image_size: side of raw pixels, or None where `encoded` are files.
    """
    columns: list[tuple[Any, ...]] = []
    with atomic_path(path) as partial:
        with (
            _Stream(partial, "w+") as stream,
            h5py.File(stream, "w", libver=_LIBRARY_VERSIONS) as file,
        ):
            payloads = (
                _EncodedWriter(file)
                if image_size is None
                else _PixelsWriter(file, count=count, image_size=image_size)
            )
            for example in examples:
                payloads.append(example.encoded)
                stream.check()
                columns.append(example[1:])
            payloads.finish()
            _write_columns(file, columns, classes)
            file.flush()
            stream.check()
        return Written(
            bytes=partial.stat().st_size, sha256=sha256_file(partial), sidecars={}
        )


def _write_columns(
    file: h5py.File, columns: Sequence[tuple[Any, ...]], classes: Sequence[str]
) -> None:
    names = StoredExample._fields[1:]
    table = dict(zip(names, zip(*columns, strict=True), strict=True))
    for name in _NUMBERS:
        values = np.array(table[name], dtype=np.int64)
        file.create_dataset(name, data=values, chunks=True, **_STABLE)
    class_names = [classes[label] for label in table["label"]]
    for name, texts in (
        ("id", table["filename"]),
        ("class", class_names),
        ("sha256", table["sha256"]),
    ):
        # Of one length each: HDF5 cannot put a checksum on strings of varying length.
        encoded = [text.encode() for text in texts]
        kind = h5py.string_dtype("utf-8", max(map(len, encoded)))
        values = np.array(encoded, dtype=kind)
        file.create_dataset(name, data=values, chunks=True, **_STABLE)


class Hdf5Reader:
    """Random access to a split; any number of threads, one at a time (h5py's lock)."""

    def __init__(self, data_dir: pathlib.Path, shards: Sequence[ShardEntry]):
        (self._shard,) = shards
        self._path = data_dir / self._shard.file
        self._file: h5py.File | None = None
        self._columns: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> StoredExample:
        """The example at `index` of the stored order, checksums checked."""
        with self._lock:
            try:
                if self._file is None:
                    self._open()
                encoded = self._read_encoded(index)
            except _HDF5_ERRORS as error:
                found = " ".join(str(error).split())
                raise self._damaged(found, index) from error
            columns = self._columns
        return StoredExample(
            encoded=encoded,
            filename=columns["id"][index].decode(),
            sha256=columns["sha256"][index].decode(),
            **{name: int(columns[name][index]) for name in _NUMBERS},
        )

    def view(self, index: int, memory: Memory) -> RecordView:
        """What input needs of the example, its image in memory of its own."""
        del memory  # HDF5 unpacks its chunks elsewhere
        one = self.read(index)
        encoded = np.frombuffer(one.encoded, np.uint8)
        return RecordView(encoded, one.label, one.orientation, one.height, one.width)

    def copy_images(
        self, indexes: np.ndarray, out: np.ndarray, memory: Memory
    ) -> list[int]:
        """Copies stored images to the rows of `out`, uint8 [N, bytes]; gives their
        labels."""
        pairs = zip(indexes.tolist(), out, strict=True)
        return [self._copy_image(index, image, memory) for index, image in pairs]

    def _copy_image(self, index: int, out: np.ndarray, memory: Memory) -> int:
        try:
            return copy_encoded(self.view(index, memory), out)
        except RecordError as error:
            raise self._damaged(str(error), index) from error

    def _open(self) -> None:
        # HDF5's own structure has no checksums, only its data have: an altered byte
        # there could exchange images silently, and its library is no safe reader of
        # altered files. So the whole file is read once before it is opened.
        if sha256_file(self._path) != self._shard.sha256:
            raise self._damaged("the file differs from the manifest (sha256)")
        # locking=False: readers on a read-only or network file system.
        file = h5py.File(self._path, "r", locking=False)
        names = (*_NUMBERS, "id", "sha256", *(() if "image" in file else ("offset",)))
        self._columns = {name: file[name][()] for name in names}
        short = [name for name in names if len(self._columns[name]) < self._shard.count]
        if short:
            raise ValueError(
                f"fewer than {self._shard.count} rows in {', '.join(short)}"
            )
        self._file = file

    def _read_encoded(self, index: int) -> bytes:
        assert self._file is not None
        if "offset" not in self._columns:
            return self._file["image"][index].tobytes()
        start, stop = (int(edge) for edge in self._columns["offset"][index : index + 2])
        return self._file["encoded"][start:stop].tobytes()

    def _damaged(self, found: str, record: int | None = None) -> TlperfError:
        return TlperfError(
            ExitCode.INTEGRITY,
            "damaged_data" if record is None else "damaged_record",
            path=self._path,
            record=record,
            found=found,
            remedy="delete that file and run tlperf shard again",
        )

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._columns = None, {}
