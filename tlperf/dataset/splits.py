"""Which image goes to which split: pure formulas of (seed, ids), no stream of numbers.

    assign_splits({"cats": cat_ids, "dogs": dog_ids}, shares=(60, 20, 20),
                  mode=SplitMode.STRATIFIED, seed=0)      # {"cats/1.jpg": "train", ...}

An id's place depends on the hash of (seed, id) among its class, so neither the order of
the arguments nor of a listing matters.
"""

import collections
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from tlperf.core.choices import SplitMode
from tlperf.core.errors import ExitCode, TlperfError

SPLITS = ("train", "validation", "test")


def seeded_order(ids: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """`ids` in an order that is a formula of (purpose, seed, id)."""

    def key(text: str) -> bytes:
        return hashlib.sha256(f"{purpose}\0{seed}\0{text}".encode()).digest()

    return sorted(ids, key=key)


def apportion(total: int, weights: Sequence[int], *, minimum: int = 0) -> list[int]:
    """`total` dealt by `weights`, by largest remainder; ties go to the earlier part.

    Args:
        total: what to deal, at least 0.
        weights: not negative, one positive.
        minimum: what each part gets at least, where `total` is enough for that.

    >>> apportion(1000, (60, 20, 20)), apportion(7, (60, 20, 20))
    ([600, 200, 200], [4, 2, 1])
    >>> apportion(3, (60, 20, 20)), apportion(3, (60, 20, 20), minimum=1)
    ([2, 1, 0], [1, 1, 1])
    """
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i)
    )
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    while min(parts) < minimum and total >= minimum * len(parts):
        parts[parts.index(min(parts))] += 1
        parts[parts.index(max(parts))] -= 1
    return parts


def deal_evenly(total: int, capacities: Sequence[int]) -> list[int]:
    """`total` dealt as evenly as the capacities allow; a remainder goes to the earlier.

    >>> deal_evenly(10, (100, 100, 2)), deal_evenly(9, (3, 3))
    ([4, 4, 2], [3, 3])
    """
    parts = [0] * len(capacities)
    # Smallest first: what it cannot take is dealt among the others.
    order = sorted(range(len(capacities)), key=lambda i: (capacities[i], -i))
    for rank, i in enumerate(order):
        parts[i] = min(capacities[i], total // (len(order) - rank))
        total -= parts[i]
    return parts


def assign_splits(
    ids: Mapping[str, Sequence[str]],
    *,
    shares: tuple[int, int, int],
    mode: SplitMode,
    seed: int,
    groups: Mapping[str, str | None] | None = None,
) -> dict[str, str]:
    """The split of each id.

    Args:
        ids: the ids of each class.
        shares: percentages of train, validation and test.
        mode: by the same shares in each class, or over all ids at once.
        seed: any number; equal seeds give equal splits.
        groups: by id, what never goes to two splits; an id that is not in it, or whose
            group is None, is a group of its own. With groups the shares are kept as
            close as whole groups allow; without, exactly.
    """
    minimum = 1  # a class of three images is in each split
    if mode is SplitMode.RANDOM:
        ids, minimum = {"": [text for group in ids.values() for text in group]}, 0
    targets = {
        name: apportion(len(members), shares, minimum=minimum)
        for name, members in ids.items()
    }
    if groups and any(group is not None for group in groups.values()):
        return _assign_groups(ids, targets=targets, seed=seed, groups=groups)
    splits: dict[str, str] = {}
    for name, members in ids.items():
        ordered = iter(seeded_order(members, seed=seed, purpose="split"))
        for split, count in zip(SPLITS, targets[name], strict=True):
            splits.update((next(ordered), split) for _ in range(count))
    return splits


def _assign_groups(
    ids: Mapping[str, Sequence[str]],
    *,
    targets: Mapping[str, Sequence[int]],
    seed: int,
    groups: Mapping[str, str | None],
) -> dict[str, str]:
    """Whole groups, largest first, each to the split that lacks most of its share."""
    class_of = {text: name for name, members in ids.items() for text in members}
    members_of: dict[str, list[str]] = {}
    for text in class_of:
        group = groups.get(text)
        # The mark keeps an id apart from a group of the same name.
        key = f"id {text}" if group is None else f"group {group}"
        members_of.setdefault(key, []).append(text)
    ordered = seeded_order(members_of, seed=seed, purpose="split")
    ordered.sort(key=lambda key: -len(members_of[key]))  # stable: ties stay hashed
    lacking = {name: list(target) for name, target in targets.items()}
    splits: dict[str, str] = {}
    for key in ordered:
        counts = collections.Counter(class_of[text] for text in members_of[key])
        needs = [
            _need(part, counts=counts, lacking=lacking, targets=targets)
            for part in range(len(SPLITS))
        ]
        part = needs.index(max(needs))
        for name, count in counts.items():
            lacking[name][part] -= count
        splits.update((text, SPLITS[part]) for text in members_of[key])
    return splits


def _need(
    part: int,
    *,
    counts: Mapping[str, int],
    lacking: Mapping[str, Sequence[int]],
    targets: Mapping[str, Sequence[int]],
) -> tuple[float, int]:
    """How much a split lacks of the classes of a group, relative and absolute."""
    # A class weighs by the group's images of it; fsum does not depend on the order.
    relative = math.fsum(
        count * lacking[name][part] / max(1, targets[name][part])
        for name, count in counts.items()
    )
    return relative, sum(lacking[name][part] for name in counts)


def join_groups(
    groups: Mapping[str, str | None], digests: Mapping[str, str]
) -> dict[str, str | None]:
    """The group of each id, those groups made one that hold the same bytes.

    Args:
        groups: by id, None where it has none.
        digests: the sha256 of each file by id.

    >>> digests = {"1": "x", "2": "x", "3": "y", "4": "y", "5": "z"}
    >>> join_groups({"1": "b", "2": "a", "3": "b", "4": None, "5": None}, digests)
    {'1': 'a', '2': 'a', '3': 'a', '4': 'a', '5': None}
    """
    above: dict[str, str] = {}

    def root(group: str) -> str:
        while above.get(group, group) != group:
            group = above[group]
        return group

    holder: dict[str, str] = {}  # a group that holds these bytes
    for text, group in groups.items():
        if group is not None:
            other = holder.setdefault(digests[text], group)
            least, most = sorted((root(group), root(other)))
            above[most] = least
    found = {text: group or holder.get(digests[text]) for text, group in groups.items()}
    return {text: group and root(group) for text, group in found.items()}


def check_leaks(
    split_of: Mapping[str, str],
    *,
    groups: Mapping[str, str | None],
    digests: Mapping[str, str],
) -> None:
    """Refuses one group, or the same bytes, in two splits (exit code 65).

    Args:
        split_of: the split of each id, as the source gives it.
        groups: the group of an id, None or absent where it has none.
        digests: the sha256 of each file by id, "" or absent where it is not known.
    """
    for what, keys in (("group {!r}", groups), ("the same bytes", digests)):
        first: dict[str, str] = {}
        for text in sorted(split_of):
            key = keys.get(text)
            if not key:
                continue
            kept = first.setdefault(key, text)
            if split_of[kept] != split_of[text]:
                raise TlperfError(
                    ExitCode.DATA,
                    "leak",
                    path=text,
                    found=f"{what.format(key)} in {split_of[text]} as {kept} in "
                    f"{split_of[kept]}",
                    remedy="keep it in one split, or give --nokeep_splits",
                )


def check_splits(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuses counts {split: {class: images}} with a zero in them (exit code 65)."""
    for split, classes in counts.items():
        for class_name, count in classes.items():
            if count == 0:
                raise TlperfError(
                    ExitCode.DATA,
                    "empty_split",
                    found=f"split {split} has no image of class {class_name!r}",
                    remedy="give more images of that class, or other --split shares",
                )


def choose_within_limit(
    ids: Mapping[tuple[str, str], Sequence[str]], *, limit: int, seed: int
) -> set[str]:
    """The ids that `--limit` keeps: evenly over classes, then by size over splits.

    Groups play no part: a limit may keep some images of a group and leave others, and
    those that are kept still go to one split.

    Args:
        ids: the ids of each (class, split given by the source or "").
        limit: at most this many; at least one for each key of `ids`.
        seed: equal seeds keep equal ids.

    Raises:
        TlperfError: exit code 65, where the limit is smaller than that.
    """
    if limit < len(ids):
        raise TlperfError(
            ExitCode.DATA,
            "limit_too_small",
            found=f"--limit={limit} is no image for some class or given split",
            remedy=f"give --limit at least {len(ids)}",
        )
    classes = sorted({class_name for class_name, _ in ids})
    keys = {name: sorted(key for key in ids if key[0] == name) for name in classes}
    sizes = {name: [len(ids[key]) for key in keys[name]] for name in classes}
    quotas = deal_evenly(limit, [sum(sizes[name]) for name in classes])
    kept: set[str] = set()
    for class_name, quota in zip(classes, quotas, strict=True):
        parts = apportion(quota, sizes[class_name], minimum=1)
        for key, count in zip(keys[class_name], parts, strict=True):
            kept.update(seeded_order(ids[key], seed=seed, purpose="limit")[:count])
    return kept
