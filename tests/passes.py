"""Sources, data directories and passes of input for tests, and what shows that two of
them are equal.

    root = make_source(tmp_path / "source", 48)
    store(root, tmp_path / "data", format=Format.HDF5)
    with open_dataset(tmp_path / "data") as dataset:
        with open_loader(dataset) as loader:
            digest_of(load(loader, plan))

Without TensorFlow: a process that needs it imports it.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tests.images import image_bytes
from tlperf.core.choices import Cache, Decode, OnBadRecord
from tlperf.core.settings import DataConfig
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import StoredDataset
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.load import Loader
from tlperf.pipeline.memory import Workbench
from tlperf.pipeline.order import BatchPlan

SIDE = 16
# Options that a test's images take in turn: what simplejpeg decodes, and what it leaves
# to Pillow.
KINDS: tuple[dict[str, Any], ...] = (
    {"subsampling": 0},
    {"subsampling": 2},
    {"progressive": True},
    {"mode": "CMYK"},
    {"kind": "PNG"},
)


def make_source(root: pathlib.Path, count: int) -> pathlib.Path:
    """`count` training images in two classes, and two a class of the other splits."""
    seed = 0
    for split, images in (("train", count), ("validation", 4), ("test", 4)):
        for label in ("cats", "dogs"):
            (root / split / label).mkdir(parents=True)
        for number in range(images):
            seed += 1
            size = (24 + seed % 17, 20 + seed % 13)
            data = image_bytes(seed, size=size, **KINDS[seed % len(KINDS)])
            label = ("cats", "dogs")[number % 2]
            (root / split / label / f"{number:05d}.jpg").write_bytes(data)
    return root


def store(root: pathlib.Path, data_dir: pathlib.Path, **values: Any) -> dict[str, Any]:
    """Writes a data directory, `pets`."""
    config = DataConfig(source=str(root), name="pets", workers=1, **values)
    return write_dataset(config, data_dir)


def shards_of(data_dir: pathlib.Path) -> list[pathlib.Path]:
    """The training shards, in order."""
    return sorted(data_dir.glob("pets-train.tfrecord-?????-of-?????"))


def digests(images: np.ndarray) -> list[bytes]:
    """A digest of each image's pixels."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def arrays(batches: Iterable[Sequence[Any]]) -> list[tuple[np.ndarray, ...]]:
    """Batches of tensors as arrays: (image, label, weight, index, draw) each."""
    return [tuple(map(np.asarray, batch)) for batch in batches]


def digest_of(batches: Iterable[Sequence[np.ndarray]]) -> str:
    """One hash of all that batches hold, types and shapes included."""
    digest = hashlib.sha256()
    for batch in batches:
        for array in batch:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def open_loader(
    dataset: StoredDataset,
    *,
    decode: Decode = Decode.EXACT,
    side: int = SIDE,
    threads: int = 2,
    memory_bytes: int = 1 << 28,
    **values: Any,
) -> Iterator[Loader]:
    """Of the training split, with threads of its own."""
    defaults: dict[str, Any] = {"cache": Cache.NONE, "on_bad_record": OnBadRecord.FAIL}
    decoder = Decoder.of(dataset.manifest, decode, image_size=side)
    bench = Workbench(threads=threads, memory_bytes=memory_bytes)
    with contextlib.closing(bench):
        yield Loader(dataset.split("train"), decoder, bench, **{**defaults, **values})


def load(loader: Loader, plan: BatchPlan) -> Iterator[tuple[np.ndarray, ...]]:
    """The batches of a plan by a loader alone: (image, label, weight, index) each."""
    rows = (plan.index, plan.weight)
    for index, weight in zip(
        *(values.reshape(-1, plan.batch_size) for values in rows), strict=True
    ):
        yield *loader(index, weight), index
