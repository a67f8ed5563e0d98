"""What input holds in memory, and what is left of its budget to decode with.

left = plan_memory(dataset, config, image_size=150)
cache_bytes(dataset, Cache.DECODED, image_bytes=3 * 150 * 150)
"""

from tlperf.core.choices import Cache
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.pipeline import service
from tlperf.pipeline.memory import budget_bytes

# Batches loaded at once: the threads go on with the next one where the last images of
# one are slow.
BATCHES_AT_ONCE = 2
# Batches ready ahead of the step: one being copied, one waiting.
PREFETCH_BATCHES = 2
# With the one placed ahead and the one that the step has.
_HELD_HERE = BATCHES_AT_ONCE + PREFETCH_BATCHES + 2


def plan_memory(dataset: StoredDataset, config: InputConfig, *, image_size: int) -> int:
    """Bytes left for images being decoded, when batches and cache have theirs.

    Raises:
        TlperfError: exit code 71, where nothing is left.
    """
    budget = budget_bytes(config.ram_budget)
    image_bytes = 3 * image_size * image_size
    held = _HELD_HERE + (service.BATCHES_HELD if config.data_service else 0)
    batches = held * config.batch_size * image_bytes
    cached = cache_bytes(dataset, config.cache, image_bytes=image_bytes)
    left = budget - batches - cached
    if left <= 0:
        raise TlperfError(
            ExitCode.MEMORY,
            "ram_budget",
            found=f"batches take {batches} bytes, --cache={config.cache} {cached}; "
            f"input may have {budget}",
            remedy="give a smaller --batch_size, another --cache or more --ram_budget",
        )
    return left


def cache_bytes(dataset: StoredDataset, cache: Cache, *, image_bytes: int) -> int:
    """Memory that the cache of training and validation takes when it is full."""
    splits = ("train", "validation")
    if cache is Cache.DECODED:
        return sum(dataset.split(name).count for name in splits) * image_bytes
    if cache is Cache.ENCODED:
        return sum(
            shard.bytes for name in splits for shard in dataset.manifest.shards_of(name)
        )
    return 0
