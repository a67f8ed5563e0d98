"""Pairs of images that look alike: perceptual hashes, each compared with each.

    hasher = load_hasher(distance=6)              # TlperfError without the library
    hashed = [HashedImage("cats/1.jpg", "train", "cats", hasher(image)), ...]
    report_near_duplicates(hashed, distance=6)["across_splits"]

A hash has 64 bits: which of the 64 lowest frequencies of the image, 32 x 32 pixels of
luma, lie above their median. Half of them do, so two hashes of photos differ by an even
number of bits.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.progress import progress_bar

HASH_BITS = 64
MOST_EXAMPLES = 20
# Pairs compared at once: 0.5 MiB of differences, which stay in a core's cache.
_BLOCK = (16, 4096)

Hasher = Callable[[Image.Image], int]


class HashedImage(NamedTuple):
    """One image.

    Attributes:
        id: as in `StoredExample.filename`.
        split: train, validation or test.
        class_name: its class.
        hash: its perceptual hash, 0 to 2**64 - 1.
    """

    id: str
    split: str
    class_name: str
    hash: int


class PairBlock(NamedTuple):
    """Some pairs; three arrays of one length.

    Attributes:
        first, second: int64, positions of the hashes; first < second.
        bits: uint8, in how many bits they differ, 0 to 64.
    """

    first: np.ndarray
    second: np.ndarray
    bits: np.ndarray


def load_hasher(*, distance: int) -> Hasher:
    """The function from an image to its hash, after a check of the request.

    Raises:
        SettingsError: `distance` is not 0 to 64 bits.
        TlperfError: exit code 69, where the library is not installed.
    """
    if not 0 <= distance <= HASH_BITS:
        raise SettingsError(
            f"near_duplicates is {distance}",
            f"give 0 to {HASH_BITS} differing bits; 6 finds copies of other sizes",
        )
    try:
        import imagehash
        from numpy import bitwise_count  # noqa: F401 - NumPy 2, unlike the core
    except ImportError as error:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "missing_library",
            found=f"near duplicates need the library imagehash ({error})",
            remedy="pip install 'tlperf[dedup]'",
        ) from error

    def hash_image(image: Image.Image) -> int:
        bits = imagehash.phash(image).hash
        return int.from_bytes(np.packbits(bits).tobytes(), "big")

    return hash_image


def search_pairs(
    hashes: np.ndarray,
    *,
    distance: int,
    advance: Callable[[int], object] = lambda rows: None,
    block: tuple[int, int] = _BLOCK,
) -> Iterator[PairBlock]:
    """All pairs that differ in at most `distance` bits, none left out.

    Block by block, so memory does not grow with the number of pairs, which is the
    square of the images where all look alike.

    Args:
        hashes: uint64 [N].
        distance: bits, 0 to 64.
        advance: told how many more hashes have been compared with all later ones.
        block: how many hashes are compared at once with how many.
    """
    height, width = block
    for row in range(0, len(hashes), height):
        rows = hashes[row : row + height, None]
        for column in range(row, len(hashes), width):
            differing = np.bitwise_count(rows ^ hashes[column : column + width])
            first, second = np.nonzero(differing <= distance)
            # Squares on the diagonal hold each pair twice, and a hash with itself.
            once = first + row < second + column
            first, second = first[once], second[once]
            if len(first):
                bits = differing[first, second]
                yield PairBlock(first + row, second + column, bits)
        advance(len(rows))


def report_near_duplicates(
    images: Sequence[HashedImage], *, distance: int
) -> dict[str, Any]:
    """Counts of the pairs that differ in at most `distance` bits, 0 to 64, and the
    nearest of them.

    Returns:
        `distance pairs images across_splits across_classes examples`; `images` are
        those in at least one pair, `examples` the first 20 pairs by bits, then ids, as
        {a, b, split_a, split_b, class_a, class_b, bits}.
    """
    # By id, so that the order of positions is the order of ids.
    ordered = sorted(images)
    count = len(ordered)
    hashes = np.array([image.hash for image in ordered], dtype=np.uint64)
    splits = _number([image.split for image in ordered])
    labels = _number([image.class_name for image in ordered])
    in_pair = np.zeros(count, dtype=bool)
    pairs = across_splits = across_classes = 0
    nearest = np.empty(0, dtype=np.int64)
    with progress_bar(total=count, unit="img", title="comparing hashes") as bar:
        for block in search_pairs(hashes, distance=distance, advance=bar.update):
            first, second = block.first, block.second
            pairs += len(first)
            across_splits += int(np.count_nonzero(splits[first] != splits[second]))
            across_classes += int(np.count_nonzero(labels[first] != labels[second]))
            in_pair[first] = in_pair[second] = True
            # One number that sorts as (bits, first, second) does.
            keys = (block.bits.astype(np.int64) * count + first) * count + second
            nearest = _smallest(np.concatenate([nearest, keys]))
    return {
        "distance": distance,
        "pairs": pairs,
        "images": int(np.count_nonzero(in_pair)),
        "across_splits": across_splits,
        "across_classes": across_classes,
        "examples": [_describe_pair(ordered, int(key)) for key in nearest],
    }


def _number(words: Sequence[str]) -> np.ndarray:
    """int32 [N]: equal numbers for equal words."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return np.array([numbers[word] for word in words], dtype=np.int32)


def _smallest(keys: np.ndarray) -> np.ndarray:
    if len(keys) > MOST_EXAMPLES:
        keys = np.partition(keys, MOST_EXAMPLES)[:MOST_EXAMPLES]
    return np.sort(keys)


def _describe_pair(ordered: Sequence[HashedImage], key: int) -> dict[str, Any]:
    rest, second = divmod(key, len(ordered))
    bits, first = divmod(rest, len(ordered))
    a, b = ordered[first], ordered[second]
    return {
        "a": a.id,
        "b": b.id,
        "split_a": a.split,
        "split_b": b.split,
        "class_a": a.class_name,
        "class_b": b.class_name,
        "bits": bits,
    }
