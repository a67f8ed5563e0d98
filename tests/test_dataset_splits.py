"""Splits and the shard plan: pure functions, no files."""

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
    check_splits,
    choose_within_limit,
    deal_evenly,
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
