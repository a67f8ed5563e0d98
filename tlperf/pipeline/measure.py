"""How fast the input pipeline is alone, where its time goes, what would be faster.

    target = Target(224, compute, device_half)
    measure_input(dataset, config, target, secs=3.0, demand=1200.0)

The lowest of the stages' ceilings is what bounds the whole. Whether bytes came from the
disk or from the page cache is read from the system, not assumed; a rate says whether it
is `cold`, `warm` or `in-memory`.
"""

import dataclasses
import math
import pathlib
from typing import Any

from tlperf.core.choices import Cache
from tlperf.core.errors import SettingsError
from tlperf.core.machine import memory_bytes, usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.deliver import check_batch_size
from tlperf.pipeline.advice import advise, describe_demand
from tlperf.pipeline.budget import cache_bytes
from tlperf.pipeline.ceilings import Target, measure_ceilings
from tlperf.pipeline.rates import measure_whole, stored_bytes
from tlperf.pipeline.ways import fits_memory, measure_ways

# Of the bytes that were delivered; less is what the process itself reads.
_DISK_SHARE = 0.1
# A rate of the disk: nearly all came from it, and the page cache could not have held
# the data (MLPerf Storage asks for five times the memory).
_COLD_SHARE = 0.9
_COLD_MEMORIES = 5


def measure_input(
    dataset: StoredDataset,
    config: InputConfig,
    target: Target,
    *,
    secs: float = 3.0,
    demand: float | None = None,
) -> dict[str, Any]:
    """The JSON of `input`.

    Args:
        dataset: the data directory.
        config: batch size, decoding, cache.
        target: the size of images, where they go; its device half is timed as the
            stage `augment`.
        secs: how long the whole is timed; each stage and way a quarter of it.
        demand: images a second that a step would take, if that is known.

    Returns:
        `images_per_sec state batches seconds stages bottleneck cores ways demand
        advice` and how it was measured.

    Raises:
        SettingsError: seconds or demand that cannot be.
        TlperfError: as of a pass; 78 where replicas cannot share a batch evenly.
    """
    _check_positive("secs", secs)
    if demand is not None:
        _check_positive("demand", demand)
    check_batch_size(config.batch_size, target.compute.replicas)
    image_size, compute = target.image_size, target.compute
    # The rate of the whole is taken last: by then the data are where they will be.
    stages = measure_ceilings(dataset, config, target, secs=secs / 4)
    disk_bytes = _bytes_from_disk()
    whole = measure_whole(
        dataset, config, image_size=image_size, compute=compute, secs=secs
    )
    from_disk = _bytes_from_disk() - disk_bytes
    image_bytes = stored_bytes(dataset)
    disk_share = from_disk / (whole.images * image_bytes)
    ways = measure_ways(
        dataset, config, image_size=image_size, compute=compute, secs=secs / 4
    )
    result = {
        "images_per_sec": whole.images_per_sec,
        "state": cache_state(
            config.cache,
            data_bytes=sum(one.bytes for one in dataset.manifest.shards_of("train")),
            memory=memory_bytes(),
            disk_share=disk_share,
        ),
        "batches": whole.images // config.batch_size,
        "seconds": whole.secs,
        "stages": stages,
        "bottleneck": _slowest(stages),
        "cores": usable_cores(),
        "bytes_per_image": image_bytes,
        "cache_bytes": cache_bytes(
            dataset, Cache.DECODED, image_bytes=3 * image_size**2
        ),
        "batch_size": config.batch_size,
        "image_size": image_size,
        "encoding": dataset.manifest.encoding,
        "decode": config.decode.value,
        "cache": config.cache.value,
        "can_cache_encoded": fits_memory(
            dataset,
            dataclasses.replace(config, cache=Cache.ENCODED),
            image_size=image_size,
        ),
        "data_from": "disk" if disk_share > _DISK_SHARE else "page cache",
        "bytes_from_disk": from_disk,
        "device": compute.text,
        "data_service": whole.data_service,
        "ways": [dataclasses.asdict(way) for way in ways],
    }
    result["demand"] = None if demand is None else describe_demand(result, demand)
    return {**result, "advice": advise(result)}


def _slowest(stages: dict[str, float | None]) -> str:
    known = {name: rate for name, rate in stages.items() if rate is not None}
    return min(known, key=lambda name: known[name])


def cache_state(
    cache: Cache, *, data_bytes: int, memory: int, disk_share: float
) -> str:
    """What a rate is one of: `in-memory` of the cache that input keeps itself, `cold`
    of the disk, `warm` of the page cache, as far as nothing shows that it is cold.

    Args:
        cache: that input keeps.
        data_bytes: of the records that are read.
        memory: bytes of the machine.
        disk_share: bytes that came from the disk by those that were delivered.
    """
    if cache is not Cache.NONE:
        return "in-memory"
    is_too_large = data_bytes >= _COLD_MEMORIES * memory
    return "cold" if is_too_large and disk_share >= _COLD_SHARE else "warm"


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(f"{name} is {value}", "give a positive number")


def _bytes_from_disk() -> int:
    """Bytes this process has read from storage so far (proc(5), /proc/PID/io)."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])
