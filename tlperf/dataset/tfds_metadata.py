"""What makes `tfds.builder_from_directory(DATA_DIR)` read the shards; by tfds' own API.

    write_tfds_metadata(data_dir, facts)     # dataset_info.json, features.json, labels

tfds imports TensorFlow only where it reads: describing the files here needs none.
"""

import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from tlperf.core.files import write_bytes
from tlperf.dataset import examples

_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class TfdsFacts:
    """What tfds has to know.

    Attributes:
        name: of the dataset.
        classes: names by label.
        shard_files: names of all shards.
        shard_lengths: records of each shard, by split.
        split_bytes: bytes of all shards, by split.
        raw_size: side of raw pixels, or None where images are encoded files.
    """

    name: str
    classes: tuple[str, ...]
    shard_files: tuple[str, ...]
    shard_lengths: dict[str, tuple[int, ...]]
    split_bytes: dict[str, int]
    raw_size: int | None


def write_tfds_metadata(data_dir: pathlib.Path, facts: TfdsFacts) -> list[str]:
    """Writes the metadata durably and returns the names of its files."""
    import tensorflow_datasets as tfds  # half a second that HDF5 does not need

    features = tfds.features
    number = features.Scalar(np.int64)
    if facts.raw_size is None:
        image = features.Image(shape=(None, None, 3))
    else:
        shape = (facts.raw_size, facts.raw_size, 3)
        image = features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    template = tfds.core.ShardedFileTemplate(
        data_dir=data_dir, dataset_name=facts.name, filetype_suffix="tfrecord"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=facts.split_bytes[split],
            filename_template=template,
        )
        for split, lengths in facts.shard_lengths.items()
    ]
    described = features.FeaturesDict(
        {
            examples.ENCODED: image,
            examples.LABEL: features.ClassLabel(names=list(facts.classes)),
            examples.CLASS_TEXT: features.Text(),
            examples.FILENAME: features.Text(),
            examples.HEIGHT: number,
            examples.WIDTH: number,
            examples.SHA256: features.Text(),
            examples.ORIENTATION: number,
        }
    )
    # tfds writes neither atomically nor durably, so it writes elsewhere. Of the shards
    # it looks at the names alone: empty files stand for them.
    with tempfile.TemporaryDirectory() as folder:
        staging = pathlib.Path(folder)
        for name in facts.shard_files:
            (staging / name).touch()
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=described,
            split_infos=splits,
            version=_VERSION,
            check_data=False,  # it would read the first record through TensorFlow
        )
        written = sorted(set(os.listdir(folder)) - set(facts.shard_files))
        for name in written:
            write_bytes(data_dir / name, (staging / name).read_bytes())
    return written
