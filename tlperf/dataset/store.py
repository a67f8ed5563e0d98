"""Reading a data directory: examples by index, checksums checked.

with open_dataset(Path("data")) as stored:
    stored.manifest.classes                       # ('cats', 'dogs')
    train = stored.split("train")
    train.count, train.read([0, 7])[1].label
"""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np

from tlperf.core.choices import Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.directory import find_damage
from tlperf.dataset.examples import Memory, RecordView, StoredExample
from tlperf.dataset.hdf5 import Hdf5Reader
from tlperf.dataset.manifest import Manifest, ShardEntry, read_manifest
from tlperf.dataset.tfrecord import Places, TfrecordReader


class Reader(Protocol):
    """Random access to a split in one format; safe from any thread."""

    def read(self, index: int) -> StoredExample:
        """The example at `index` of the stored order."""

    def view(self, index: int, memory: Memory) -> RecordView:
        """What input needs of it; `memory` is where its image may be read to."""

    def copy_images(
        self, indexes: np.ndarray, out: np.ndarray, memory: Memory
    ) -> list[int]:
        """Images as they are stored, into `out`, uint8 [N, bytes]; gives the labels."""

    def close(self) -> None:
        """Closes the files; reading opens them again."""


_READERS: dict[Format, Any] = {
    Format.TFRECORD: TfrecordReader,
    Format.HDF5: Hdf5Reader,
}


def build_reader(
    data_dir: pathlib.Path, manifest: Manifest, shards: Sequence[ShardEntry]
) -> Reader:
    """The reader of some shards; HDF5 reads one at a time."""
    reader: Reader = _READERS[Format(manifest.format)](data_dir, shards)
    return reader


class StoredSplit:
    """The examples of one split, by index in the stored order.

    Files open at the first read, so an instance can be pickled and sent to another
    process. Reads are safe from any number of threads.

    Attributes:
        name: train, validation or test.
        count: number of examples.
    """

    def __init__(self, data_dir: pathlib.Path, manifest: Manifest, name: str):
        self._data_dir = data_dir
        self._manifest = manifest
        self.name = name
        self.count = sum(manifest.splits[name].values())
        self._reader = self._build_reader()

    def _build_reader(self) -> Reader:
        shards = self._manifest.shards_of(self.name)
        return build_reader(self._data_dir, self._manifest, shards)

    def read(self, indexes: Sequence[int] | np.ndarray) -> list[StoredExample]:
        """The examples at `indexes`, each from 0 to count - 1, in that order.

        Raises:
            IndexError: an index outside.
            TlperfError: exit code 76, naming the file and the record that is damaged.
        """
        numbers = [int(index) for index in indexes]
        if numbers and not (min(numbers) >= 0 and max(numbers) < self.count):
            raise IndexError(
                f"indexes of {self.name}: expected 0 to {self.count - 1}, "
                f"got {min(numbers)} to {max(numbers)}"
            )
        return [self._reader.read(number) for number in numbers]

    def view(self, index: int, memory: Memory) -> RecordView:
        """What input needs of one example; as `read`, for many threads at once.

        Args:
            index: 0 to count - 1, in the stored order.
            memory: gives the memory that its image may be read to.
        """
        return self._reader.view(index, memory)

    def copy_images(
        self, indexes: np.ndarray, out: np.ndarray, memory: Memory
    ) -> list[int]:
        """Reads raw pixels straight to where they are wanted.

        Args:
            indexes: int64 [N], each 0 to count - 1.
            out: uint8 [N, bytes], each row as long as a stored image.
            memory: for what is around the pixels.

        Returns:
            The labels.

        Raises:
            TlperfError: as of `read`, at the first that is damaged.
        """
        return self._reader.copy_images(indexes, out, memory)

    def find_places(self, index: np.ndarray) -> Places:
        """Where the records at `index`, int64 [N], are; of TFRecord splits."""
        if not isinstance(self._reader, TfrecordReader):
            raise TypeError(f"expected a TFRecord split, got {self._manifest.format}")
        return self._reader.find_places(index)

    def locate(self, index: int) -> tuple[str, int]:
        """The shard that holds an example, and its record there."""
        for shard in self._manifest.shards_of(self.name):
            if index < shard.count:
                return shard.file, index
            index -= shard.count
        raise IndexError(f"{self.name} has {self.count} examples")

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        self._reader.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reader = self._build_reader()


class StoredDataset:
    """A finished data directory; a context manager that closes its files.

    Attributes:
        data_dir: the directory.
        manifest: what it holds.
    """

    def __init__(self, data_dir: pathlib.Path, manifest: Manifest):
        self.data_dir = data_dir
        self.manifest = manifest
        self._splits = {
            name: StoredSplit(data_dir, manifest, name) for name in manifest.splits
        }

    def split(self, name: str) -> StoredSplit:
        """The split called train, validation or test."""
        if name not in self._splits:
            raise ValueError(f"split: expected {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        for split in self._splits.values():
            split.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_dataset(data_dir: pathlib.Path) -> StoredDataset:
    """Opens a data directory after a fast check: the manifest is the sealed one, each
    shard is there at its size, and the metadata are what was written. `verify_dataset`
    checks every byte.

    Raises:
        TlperfError: 66 no dataset there, 76 unfinished, altered or cut, 78 of another
            version.
    """
    manifest = read_manifest(data_dir)
    for file, what in find_damage(data_dir, manifest):
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_data",
            path=data_dir / file,
            found=what,
            remedy="run tlperf shard again",
        )
    return StoredDataset(data_dir, manifest)
