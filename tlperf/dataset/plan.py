"""The shard plan: which records go to which file, as a pure function of the records.

    plan_shards("pets", {"train": sizes, ...}, shard_bytes=2**26, ...)
    # [ShardPlan(file='pets-train.tfrecord-00000-of-00002', split='train', ...), ...]

Nothing here knows the number of workers: the plan is the same for any.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from tlperf.core.choices import Encoding, Format
from tlperf.dataset.splits import SPLITS

# Framing, keys and the small features around a payload, and its lines in the sidecars.
RECORD_OVERHEAD_BYTES = 350
# Measured on photographs at quality 90, 4:2:0: 0.45 at 96 pixels, 0.29 at 299.
JPEG_BYTES_PER_PIXEL = 0.35


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """One file to write.

    Attributes:
        file: its name.
        split: its split.
        start: index in the split's stored order of its first record.
        stop: index after its last.
        forecast_bytes: what it will take on disk, sidecars included.
    """

    file: str
    split: str
    start: int
    stop: int
    forecast_bytes: int


def even_split(total: int, parts: int) -> list[int]:
    """`total` in `parts` sizes that differ by at most one, larger first.

    >>> even_split(10, 4), even_split(4, 4)
    ([3, 3, 2, 2], [1, 1, 1, 1])
    """
    size, larger = divmod(total, parts)
    return [size + (i < larger) for i in range(parts)]


def shard_count(total_bytes: int, records: int, *, shard_bytes: int) -> int:
    """Shards for so many bytes: about `shard_bytes` each, one to one a record."""
    return max(1, min(records, round(total_bytes / shard_bytes)))


def shard_file(name: str, split: str, *, index: int, count: int) -> str:
    """TFRecord file name in tfds' form.

    >>> shard_file("pets", "train", index=0, count=8)
    'pets-train.tfrecord-00000-of-00008'
    """
    return f"{name}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def is_shard_file(file: str, *, name: str) -> bool:
    """Whether a file of the dataset `name` holds records, or stands beside one that
    does.

    >>> is_shard_file("pets-test.tfrecord-00000-of-00002.idx", name="pets")
    True
    >>> is_shard_file("pets-best.h5", name="pets")
    False
    """
    pattern = rf"{re.escape(name)}-({'|'.join(SPLITS)})"
    pattern += r"(\.h5|\.tfrecord-\d{5,}-of-\d{5,}(\.idx|\.seals)?)"
    return re.fullmatch(pattern, file) is not None


def record_bytes(
    source_bytes: int, *, encoding: Encoding, image_size: int | None
) -> int:
    """Bytes a record will take; of jpeg a forecast, as nothing is encoded yet."""
    if encoding is Encoding.SOURCE:
        return source_bytes + RECORD_OVERHEAD_BYTES
    assert image_size is not None  # DataConfig sees to it
    pixels = image_size * image_size
    payload = (
        3 * pixels if encoding is Encoding.RAW else int(JPEG_BYTES_PER_PIXEL * pixels)
    )
    return payload + RECORD_OVERHEAD_BYTES


def plan_shards(
    name: str,
    sizes: Mapping[str, Sequence[int]],
    *,
    file_format: Format,
    shard_bytes: int,
) -> list[ShardPlan]:
    """The files of a dataset.

    Args:
        name: of the dataset.
        sizes: bytes of each record (`record_bytes`) in stored order, by split.
        shard_bytes: about how large a TFRecord file is.
        file_format: HDF5 has one file a split, TFRecord as many as `shard_count` says.
    """
    plans: list[ShardPlan] = []
    for split, records in sizes.items():
        if file_format is Format.HDF5:
            plans.append(
                ShardPlan(f"{name}-{split}.h5", split, 0, len(records), sum(records))
            )
            continue
        count = shard_count(sum(records), len(records), shard_bytes=shard_bytes)
        start = 0
        for index, size in enumerate(even_split(len(records), count)):
            file = shard_file(name, split, index=index, count=count)
            stop = start + size
            plans.append(ShardPlan(file, split, start, stop, sum(records[start:stop])))
            start = stop
    return plans
