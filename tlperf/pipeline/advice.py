"""What to change for faster input: sentences from what was measured, no measuring.

    describe_demand(result, 3000.0)["cores"]       # how many would feed 3,000 images/s
    advise(result)                                 # ["decode bounds it: ...", ...]

`result` is the JSON of `tlperf input`.
"""

import math
from typing import Any

from tlperf.core.units import format_bytes

# Stages that share the host's cores; the device half and copies to a device go on
# beside them where the device is not the CPU.
HOST_STAGES = ("read", "decode", "batch")

# Another way is worth telling from here on; less is within the noise of short runs.
_WORTH = 1.15

_MEANING = {
    "read": "reading and checking records",
    "decode": "decoding and resizing",
    "augment": "the device half, which is part of each step (cast, normalise, augment)",
    "batch": "handing batches over",
    "transfer": "copying batches to the device",
}


def work_shares(stages: dict[str, float | None]) -> dict[str, float]:
    """Each host stage's share of the host's work on an image, from its ceiling.

    >>> work_shares({"read": 9000, "decode": 1000, "batch": None})
    {'read': 0.1, 'decode': 0.9}
    """
    costs = {
        name: 1 / rate
        for name in HOST_STAGES
        if (rate := stages.get(name)) is not None and rate > 0
    }
    total = sum(costs.values())
    return {name: round(cost / total, 3) for name, cost in costs.items()}


def describe_demand(result: dict[str, Any], demand: float) -> dict[str, Any]:
    """Whether input delivers `demand` images a second, and what would.

    Returns:
        `images_per_sec is_met cores ways`: cores as things are, taken to deliver as
        much each as those measured, and the ways that deliver it on these.
    """
    a_core = result["images_per_sec"] / result["cores"]
    return {
        "images_per_sec": demand,
        "is_met": result["images_per_sec"] >= demand,
        "cores": math.ceil(demand / a_core),
        "ways": [
            way["change"] for way in result["ways"] if way["images_per_sec"] >= demand
        ],
    }


def advise(result: dict[str, Any]) -> list[str]:
    """Sentences: what bounds the run, what would be faster, what the demand needs."""
    texts = [_bound_text(result)]
    is_cold = result["data_from"] == "disk" and result["cache"] == "none"
    if is_cold and result["can_cache_encoded"]:
        texts.append(
            "records came from the disk: --cache=encoded keeps them in memory, "
            f"{format_bytes(result['bytes_per_image'])} an image"
        )
    faster = [
        way
        for way in result["ways"]
        if way["images_per_sec"] > _WORTH * result["images_per_sec"]
    ]
    texts += [_way_text(way, result) for way in faster]
    if result["demand"] is not None:
        texts.append(_demand_text(result))
    return texts


def _bound_text(result: dict[str, Any]) -> str:
    if result["data_service"]:
        return "a data service makes the batches; the stages are this machine's"
    stage = result["bottleneck"]
    text = f"{_MEANING[stage]} bounds it: {result['stages'][stage]:,.0f} images/s alone"
    share = work_shares(result["stages"]).get(stage)
    return text if share is None else f"{text}, {share:.0%} of the host's work"


def _way_text(way: dict[str, Any], result: dict[str, Any]) -> str:
    times = way["images_per_sec"] / result["images_per_sec"]
    takes = f"{format_bytes(way['bytes_per_image'])} an image on the disk"
    if way["cache_bytes"]:
        takes = f"{format_bytes(way['cache_bytes'])} of memory"
    return (
        f"{way['change']}: {way['images_per_sec']:,.0f} images/s, {times:.1f}x; {takes}"
    )


def _demand_text(result: dict[str, Any]) -> str:
    demand = result["demand"]
    text = f"{demand['images_per_sec']:,.0f} images/s"
    if demand["is_met"]:
        return f"{text}: the host delivers them as it is"
    ways = [f"{demand['cores']} cores as it is", *demand["ways"]]
    return f"{text} need one of: {'; '.join(ways)}"
