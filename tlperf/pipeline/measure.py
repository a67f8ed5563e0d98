"""How fast the input pipeline is alone, where its time goes, what would be faster.

    measure_input(dataset, config, image_size=224, compute=compute,
                  device_half=half, secs=3.0, demand=1200.0)

The lowest of the stages' ceilings is what bounds the whole. Whether bytes came from the
disk or from the page cache is read from the system, not assumed.
"""

import dataclasses
import pathlib
from typing import Any

from tlperf.core.choices import Cache
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.pipeline.advice import advise, describe_demand
from tlperf.pipeline.ceilings import DeviceHalf, measure_ceilings
from tlperf.pipeline.input import cache_bytes
from tlperf.pipeline.rates import measure_whole, stored_bytes
from tlperf.pipeline.ways import measure_ways

# Of the bytes that were delivered; less is what the process itself reads.
_DISK_SHARE = 0.1


def measure_input(
    dataset: StoredDataset,
    config: InputConfig,
    *,
    image_size: int,
    compute: Compute,
    device_half: DeviceHalf,
    secs: float = 3.0,
    demand: float | None = None,
) -> dict[str, Any]:
    """The JSON of `input`.

    Args:
        dataset: the data directory.
        config: batch size, decoding, cache.
        image_size: side in pixels.
        compute: where batches go.
        device_half: traced into the steps; timed as the stage `augment`.
        secs: how long the whole is timed; each stage and way a quarter of it.
        demand: images a second that a step would take, if that is known.

    Returns:
        `images_per_sec batches seconds stages bottleneck cores ways demand advice` and
        how it was measured.
    """
    # The rate of the whole is taken last: by then the data are where they will be.
    stages = measure_ceilings(
        dataset,
        config,
        image_size=image_size,
        compute=compute,
        device_half=device_half,
        secs=secs / 4,
    )
    disk_bytes = _bytes_from_disk()
    whole = measure_whole(
        dataset, config, image_size=image_size, compute=compute, secs=secs
    )
    from_disk = _bytes_from_disk() - disk_bytes
    image_bytes = stored_bytes(dataset)
    disk_share = from_disk / (whole.images * image_bytes)
    known = {name: rate for name, rate in stages.items() if rate is not None}
    ways = measure_ways(
        dataset, config, image_size=image_size, compute=compute, secs=secs / 4
    )
    result = {
        "images_per_sec": whole.images_per_sec,
        "batches": whole.images // config.batch_size,
        "seconds": whole.secs,
        "stages": stages,
        "bottleneck": min(known, key=lambda name: known[name]),
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
        "data_from": "disk" if disk_share > _DISK_SHARE else "page cache",
        "bytes_from_disk": from_disk,
        "device": compute.text,
        "data_service": whole.data_service,
        "ways": [dataclasses.asdict(way) for way in ways],
    }
    result["demand"] = None if demand is None else describe_demand(result, demand)
    return {**result, "advice": advise(result)}


def _bytes_from_disk() -> int:
    """Bytes this process has read from storage so far (proc(5), /proc/PID/io)."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])
