"""Splits and the shard plan: pure functions, no files."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlperf.core.choices import Encoding, Format, SplitMode
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.plan import (
    RECORD_OVERHEAD_BYTES,
    even_split,
    plan_shards,
    record_bytes,
    shard_count,
)
from tlperf.dataset.splits import (
    SPLITS,
    apportion,
    assign_splits,
    check_leaks,
    check_splits,
    choose_within_limit,
    deal_evenly,
    join_groups,
    seeded_order,
)

IDS = {"cats": [f"cats/{i}" for i in range(1000)]}
IDS["dogs"] = [f"dogs/{i}" for i in range(1000)]

shares = st.tuples(st.integers(1, 98), st.integers(1, 98)).filter(
    lambda pair: sum(pair) < 100
)

SHARD_BYTES = 2**20


def count(splits, prefix=""):
    members = [split for text, split in splits.items() if text.startswith(prefix)]
    return tuple(members.count(split) for split in SPLITS)


def test_two_thousand_stratified_are_exact():
    splits = assign_splits(IDS, shares=(60, 20, 20), mode=SplitMode.STRATIFIED, seed=0)
    assert count(splits) == (1200, 400, 400)
    assert count(splits, "cats") == count(splits, "dogs") == (600, 200, 200)


def test_random_is_exact_over_all_only():
    splits = assign_splits(IDS, shares=(60, 20, 20), mode=SplitMode.RANDOM, seed=0)
    assert count(splits) == (1200, 400, 400)
    assert count(splits, "cats") != (600, 200, 200)


@given(
    sizes=st.lists(st.integers(3, 40), min_size=1, max_size=4),
    pair=shares,
    seed=st.integers(0, 9),
    mode=st.sampled_from(SplitMode),
)
def test_every_id_is_dealt_once_and_order_does_not_matter(sizes, pair, seed, mode):
    parts = (*pair, 100 - sum(pair))
    ids = {f"c{i}": [f"c{i}/{j}" for j in range(n)] for i, n in enumerate(sizes)}
    splits = assign_splits(ids, shares=parts, mode=mode, seed=seed)
    assert sorted(splits) == sorted(text for group in ids.values() for text in group)
    shuffled = {name: group[::-1] for name, group in reversed(ids.items())}
    assert splits == assign_splits(shuffled, shares=parts, mode=mode, seed=seed)
    if mode is SplitMode.STRATIFIED:
        for name, size in zip(ids, sizes, strict=True):
            for share, got in zip(parts, count(splits, f"{name}/"), strict=True):
                assert got >= 1
                # The quota, but for rounding and the least of one.
                assert abs(got - size * share / 100) < 2


# Stored datasets were dealt like this: a change would deal them anew.
STORED = {
    SplitMode.STRATIFIED: "5f18831f3db8a647",
    SplitMode.RANDOM: "f7a164376bd95921",
}


@pytest.mark.parametrize("mode", SplitMode)
@pytest.mark.parametrize("groups", [None, {}, {"cats/1": None}])
def test_without_groups_splits_are_as_they_always_were(mode, groups):
    splits = assign_splits(IDS, shares=(60, 20, 20), mode=mode, seed=7, groups=groups)
    text = json.dumps(splits, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest().startswith(STORED[mode])


grouped = st.lists(
    st.tuples(st.sampled_from("ab"), st.none() | st.integers(0, 7)),
    min_size=6,
    max_size=60,
)


@given(
    rows=grouped, pair=shares, seed=st.integers(0, 9), mode=st.sampled_from(SplitMode)
)
def test_groups_stay_whole_and_order_does_not_matter(rows, pair, seed, mode):
    parts = (*pair, 100 - sum(pair))
    ids: dict[str, list[str]] = {"a": [], "b": []}
    groups: dict[str, str | None] = {}
    for index, (name, group) in enumerate(rows):
        ids[name].append(f"{name}{index}")
        groups[f"{name}{index}"] = None if group is None else f"g{group}"
    splits = assign_splits(ids, shares=parts, mode=mode, seed=seed, groups=groups)
    assert sorted(splits) == sorted(groups)
    check_leaks(splits, groups=groups, digests={})
    shuffled = {name: members[::-1] for name, members in reversed(ids.items())}
    again = dict(sorted(groups.items(), reverse=True))
    assert splits == assign_splits(
        shuffled, shares=parts, mode=mode, seed=seed, groups=again
    )


@given(
    sizes=st.lists(st.integers(1, 9), min_size=12, max_size=60),
    single=st.integers(0, 40),
    seed=st.integers(0, 9),
    mode=st.sampled_from(SplitMode),
)
def test_groups_keep_the_shares_within_a_group(sizes, single, seed, mode):
    ids = [f"g{i}/{j}" for i, size in enumerate(sizes) for j in range(size)]
    groups: dict[str, str | None] = {text: text.partition("/")[0] for text in ids}
    ids += [f"s{i}" for i in range(single)]
    splits = assign_splits(
        {"cats": ids}, shares=(60, 20, 20), mode=mode, seed=seed, groups=groups
    )
    for share, got in zip((60, 20, 20), count(splits), strict=True):
        assert got > 0
        # A split takes no more once it has its share, so it is over by less than the
        # group that filled it, and the others lack no more than that together.
        assert got - len(ids) * share / 100 < max(sizes) + 1
        assert len(ids) * share / 100 - got < 2 * max(sizes) + 2


def test_groups_of_one_are_exact_and_are_no_class():
    ids = {"cats": [f"c{i}" for i in range(10)], "dogs": [f"d{i}" for i in range(20)]}
    groups: dict[str, str | None] = {
        text: text for members in ids.values() for text in members
    }
    splits = assign_splits(
        ids, shares=(60, 20, 20), mode=SplitMode.STRATIFIED, seed=0, groups=groups
    )
    assert (count(splits, "c"), count(splits, "d")) == ((6, 2, 2), (12, 4, 4))


def test_a_group_over_classes_weighs_in_each():
    # Ten owners, each with two cats and one dog.
    ids = {
        "cats": [f"c{owner}{i}" for owner in range(10) for i in range(2)],
        "dogs": [f"d{owner}" for owner in range(10)],
    }
    groups: dict[str, str | None] = {
        text: text[1] for members in ids.values() for text in members
    }
    splits = assign_splits(
        ids, shares=(60, 20, 20), mode=SplitMode.STRATIFIED, seed=3, groups=groups
    )
    assert (count(splits, "c"), count(splits, "d")) == ((12, 4, 4), (6, 2, 2))


@given(
    st.lists(
        st.tuples(st.sampled_from([None, *"abcd"]), st.sampled_from("uvwxyz")),
        min_size=1,
        max_size=12,
    ),
    st.randoms(),
)
def test_files_of_a_group_or_of_equal_bytes_are_of_one_group(rows, random):
    groups = {str(i): group for i, (group, _) in enumerate(rows)}
    digests = {str(i): digest for i, (_, digest) in enumerate(rows)}
    joined = join_groups(groups, digests)
    for keys in (groups, digests):
        for one, key in keys.items():
            alike = [text for text, other in keys.items() if key and other == key]
            assert len({joined[text] for text in alike}) <= 1, one
    # A file without a group, whose bytes no group has, stays alone; no group is new.
    assert set(joined.values()) <= set(groups.values())
    shuffled = list(groups)
    random.shuffle(shuffled)
    assert join_groups({text: groups[text] for text in shuffled}, digests) == joined


LEAKS: list[tuple[dict[str, str], dict[str, str | None], dict[str, str], str]] = [
    # splits, groups, digests, the line ("": none)
    ({"a": "train", "b": "train"}, {"a": "g", "b": "g"}, {"a": "1", "b": "1"}, ""),
    ({"a": "train", "b": "test"}, {"a": None, "b": None}, {"a": "", "b": ""}, ""),
    ({"a": "train", "b": "test"}, {}, {}, ""),
    (
        {"b": "test", "a": "train"},
        {"a": "g", "b": "g"},
        {},
        "leak: b: group 'g' in test as a in train; keep it in one split, or give "
        "--nokeep_splits",
    ),
    (
        {"c": "validation", "b": "test", "a": "test"},
        {"a": "g", "b": "g"},
        {"a": "1", "b": "2", "c": "1"},
        "leak: c: the same bytes in validation as a in test; keep it in one split, or "
        "give --nokeep_splits",
    ),
]


@pytest.mark.parametrize(("split_of", "groups", "digests", "text"), LEAKS)
def test_leaks(split_of, groups, digests, text):
    if not text:
        check_leaks(split_of, groups=groups, digests=digests)
        return
    with pytest.raises(TlperfError) as caught:
        check_leaks(split_of, groups=groups, digests=digests)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text() == text


def test_seeds_differ():
    def first_train(seed):
        splits = assign_splits(
            IDS, shares=(60, 20, 20), mode=SplitMode.STRATIFIED, seed=seed
        )
        return {text for text, split in splits.items() if split == "train"}

    assert first_train(0) != first_train(1)
    ids = IDS["cats"]
    orders = [seeded_order(ids, seed=0, purpose=name) for name in ("split", "order")]
    assert orders[0] != orders[1]
    assert seeded_order(ids[::-1], seed=0, purpose="order") == orders[1]


@given(
    total=st.integers(0, 500),
    weights=st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any),
    minimum=st.integers(0, 2),
)
def test_apportion_is_within_one_of_the_quota(total, weights, minimum):
    parts = apportion(total, weights, minimum=minimum)
    assert sum(parts) == total
    if total >= minimum * len(weights):
        assert min(parts) >= minimum
    if minimum == 0:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - total * weight / sum(weights)) < 1


@given(
    total=st.integers(0, 200),
    capacities=st.lists(st.integers(0, 40), min_size=1, max_size=6),
)
def test_dealing_evenly(total, capacities):
    parts = deal_evenly(total, capacities)
    assert sum(parts) == min(total, sum(capacities))
    assert all(0 <= part <= most for part, most in zip(parts, capacities, strict=True))
    free = [part for part, most in zip(parts, capacities, strict=True) if part < most]
    if free:  # who could take more has at most one less than anybody
        assert min(free) >= max(parts) - 1


def test_a_split_without_a_class_is_refused():
    check_splits({"train": {"cats": 1, "dogs": 2}})
    with pytest.raises(TlperfError) as caught:
        check_splits({"train": {"cats": 1}, "test": {"cats": 0}})
    assert caught.value.code == ExitCode.DATA
    assert caught.value.text().startswith(
        "empty_split: split test has no image of class 'cats'; give more images"
    )


@given(
    sizes=st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from(SPLITS)),
        st.integers(1, 12),
        min_size=1,
    ),
    extra=st.integers(0, 60),
)
def test_a_limit_keeps_something_of_everything(sizes, extra):
    ids = {key: [f"{key}{i}" for i in range(n)] for key, n in sizes.items()}
    limit = len(ids) + extra
    try:
        kept = choose_within_limit(ids, limit=limit, seed=0)
    except TlperfError as error:  # never for lack of room
        pytest.fail(error.text())
    total = sum(sizes.values())
    assert len(kept) == min(limit, total)
    classes = {name for name, _ in ids}
    assert {name for name, _ in ids for text in kept if text[2] == name} == classes


@given(total=st.integers(0, 300), parts=st.integers(1, 40))
def test_even_split_differs_by_at_most_one(total, parts):
    sizes = even_split(total, parts)
    assert (sum(sizes), len(sizes)) == (total, parts)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("total_bytes", "records", "expected"),
    [
        (0, 1, 1),
        (SHARD_BYTES, 10, 1),
        (2 * SHARD_BYTES, 10, 2),
        (int(2.6 * SHARD_BYTES), 10, 3),
        (100 * SHARD_BYTES, 7, 7),  # at most one a record
    ],
)
def test_shard_count(total_bytes, records, expected):
    count = shard_count(total_bytes, records, shard_bytes=SHARD_BYTES)
    assert count == expected


def test_plan_names_files_and_covers_each_record_once():
    sizes = {"train": [SHARD_BYTES // 2] * 5, "test": [10]}
    plans = plan_shards(
        "pets", sizes, file_format=Format.TFRECORD, shard_bytes=SHARD_BYTES
    )
    assert [(p.file, p.start, p.stop) for p in plans] == [
        ("pets-train.tfrecord-00000-of-00002", 0, 3),
        ("pets-train.tfrecord-00001-of-00002", 3, 5),
        ("pets-test.tfrecord-00000-of-00001", 0, 1),
    ]
    plans = plan_shards("pets", sizes, file_format=Format.HDF5, shard_bytes=SHARD_BYTES)
    assert [(p.file, p.split, p.stop) for p in plans] == [
        ("pets-train.h5", "train", 5),
        ("pets-test.h5", "test", 1),
    ]


def test_record_bytes():
    overhead = RECORD_OVERHEAD_BYTES
    assert record_bytes(99, encoding=Encoding.SOURCE, image_size=None) == 99 + overhead
    assert record_bytes(99, encoding=Encoding.RAW, image_size=10) == 300 + overhead
    assert record_bytes(99, encoding=Encoding.JPEG, image_size=100) == 3500 + overhead
