"""What the frozen part makes of each image, computed once and kept on the disk.

    layout = Layout(rows=1200, shapes=(((5, 5, 1024), "float32"),))
    split = FeatureSplit(folder, "train", layout)
    split.write(rows, features, label=label, weight=weight)
    split.flush()
    split.read(index)              # [float32 [B, 5, 5, 1024]], label, weight

A row an image (and view of it), in the split's stored order. Files are mapped into
memory: those that fit stay in the page cache, and none of them is this process' own
memory. Each row has its checksum, so that a row that is damaged, or was never finished,
is made anew.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import google_crc32c
import ml_dtypes
import numpy as np

from tlperf.core import files

# A row's state, beside its features.
_ROW = np.dtype(
    [("crc", "<u4"), ("label", "<i4"), ("weight", "<f4"), ("is_done", "<u4")]
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How large the features of a split are.

    Attributes:
        rows: images times views.
        shapes: of each tensor of an image, and the name of its type.
    """

    rows: int
    shapes: tuple[tuple[tuple[int, ...], str], ...]

    @property
    def nbytes(self) -> int:
        """Of all files."""
        of_row = sum(
            math.prod(shape) * numpy_type(dtype).itemsize
            for shape, dtype in self.shapes
        )
        return self.rows * (of_row + _ROW.itemsize)


def numpy_type(name: str) -> np.dtype:
    """NumPy's type of that name; bfloat16 is an extension."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class FeatureSplit:
    """The features of one split.

    Args:
        folder: where its files are, or are made.
        name: of the split, in file names.
        layout: of the files.

    Raises:
        TlperfError: 74 where the disk cannot hold them.
    """

    def __init__(self, folder: pathlib.Path, name: str, layout: Layout):
        self._paths: list[pathlib.Path] = []
        self._tensors = [
            self._map(
                folder / f"{name}.{number}", (layout.rows, *shape), numpy_type(dtype)
            )
            for number, (shape, dtype) in enumerate(layout.shapes)
        ]
        self._rows = self._map(folder / f"{name}.rows", (layout.rows,), _ROW)

    def _map(
        self, path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        with files.io_errors(path):
            if not path.exists() or path.stat().st_size != size:
                with open(path, "wb") as stream:
                    # Zeros: no row is done. Taken from the disk now: a full disk would
                    # end a write to mapped memory by a signal.
                    os.posix_fallocate(stream.fileno(), 0, size)
            # As bytes: NumPy maps no extension types.
            mapped = np.memmap(path, np.uint8, mode="r+", shape=(size,))
        self._paths.append(path)
        return np.asarray(mapped).view(dtype).reshape(shape)

    def missing(self) -> np.ndarray:
        """Rows that are not there, or not as they were written: int64. Reads all."""
        done = np.flatnonzero(self._rows["is_done"])
        bad = [row for row in done.tolist() if self._crc(row) != self._rows[row]["crc"]]
        self._rows["is_done"][bad] = 0
        return np.flatnonzero(self._rows["is_done"] == 0)

    def _crc(self, row: int) -> int:
        state = self._rows[row]
        crc = google_crc32c.value(state["label"].tobytes() + state["weight"].tobytes())
        for tensor in self._tensors:
            crc = google_crc32c.extend(crc, tensor[row].reshape(-1).view(np.uint8))
        return int(crc)

    def write(
        self,
        rows: np.ndarray,
        features: Sequence[np.ndarray],
        *,
        label: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        """Keeps what was made.

        Args:
            rows: int64 [B].
            features: of each tensor, [B, ...].
            label: int32 [B].
            weight: float32 [B].
        """
        for tensor, values in zip(self._tensors, features, strict=True):
            tensor[rows] = values
        self._rows["label"][rows], self._rows["weight"][rows] = label, weight
        self._rows["crc"][rows] = [self._crc(row) for row in rows.tolist()]
        self._rows["is_done"][rows] = 1  # last: now they are there

    def read(self, rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Features each [B, ...], labels int32 [B], weights float32 [B]."""
        state = self._rows[rows]
        features = [np.take(tensor, rows, axis=0) for tensor in self._tensors]
        return features, state["label"].copy(), state["weight"].copy()

    def flush(self) -> None:
        """Makes what was written durable."""
        for path in self._paths:
            with files.io_errors(path):
                files.fsync_file(path)
