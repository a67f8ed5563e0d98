"""How fast the whole pipeline delivers, and how fast anything does.

rate_of(groups, secs=1.0).images_per_sec
measure_whole(dataset, config, image_size=224, compute=compute, secs=3.0)
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Generator
from typing import Any

from tlperf.core.choices import Cache
from tlperf.core.progress import progress_bar
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.pipeline.input import InputPipeline

# Epochs are joined to passes of so many images: how long a start takes is not how fast
# input is.
_PASS_IMAGES = 1 << 15


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast something went.

    Attributes:
        images_per_sec: over the seconds timed.
        images: that came in them.
        secs: seconds.
        data_service: what a data service gave of it; None where there is none.
    """

    images_per_sec: float
    images: int
    secs: float
    data_service: dict[str, Any] | None = None


def rate_of(groups: Generator[int], *, secs: float) -> Rate:
    """How fast groups come; the first one, which is the start, is not timed.

    Args:
        groups: yields how many images have just come; it is closed, so that nothing of
            it goes on beside what is measured next.
        secs: stop after so many.
    """
    with contextlib.closing(groups):
        next(groups)
        start, images = time.perf_counter(), 0
        for count in groups:
            images += count
            if time.perf_counter() - start >= secs:
                break
        elapsed = time.perf_counter() - start
    return Rate(images / elapsed, images, elapsed)


def measure_whole(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    secs: float,
) -> Rate:
    """Training batches on their devices, epoch after epoch; with a cache, from the
    second epoch on."""
    with InputPipeline(dataset, config, image_size=image_size) as pipeline:
        rate = rate_of(_batches(pipeline, dataset, config, compute), secs=secs)
        return dataclasses.replace(rate, data_service=pipeline.service_totals())


def _batches(
    pipeline: InputPipeline,
    dataset: StoredDataset,
    config: InputConfig,
    compute: Compute,
) -> Generator[int]:
    count = dataset.split("train").count
    if config.cache is not Cache.NONE:
        with progress_bar(total=count, unit="img", title="fill the cache") as bar:
            for _ in pipeline.training(0):
                bar.update(config.batch_size)
    epochs = max(1, _PASS_IMAGES // count)
    for epoch in itertools.count(1, epochs):
        for _ in pipeline.training(epoch, epochs=epochs).distribute(compute):
            yield config.batch_size


def stored_bytes(dataset: StoredDataset) -> float:
    """Mean size of a record of the training split."""
    shards = dataset.manifest.shards_of("train")
    return sum(shard.bytes for shard in shards) / sum(shard.count for shard in shards)
