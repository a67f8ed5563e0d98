"""L2, L3, L5: input has one order, from any step, for any parallelism and any number of
workers.

`--figures=full` does what the promises state: all 200 break points, 500 batches, 16
numbers of shards.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tlperf.pipeline.input
from tests.passes import (
    SIDE,
    arrays,
    digest_of,
    load,
    make_source,
    open_loader,
    store,
)
from tlperf.core.choices import Decode, Encoding, Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.plan import RECORD_OVERHEAD_BYTES
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.order import plan_training

BATCH = 4


@pytest.fixture(scope="module")
def steps(figures):
    """Of an epoch."""
    return figures.pick(30, 200)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, steps):
    """By format, a data directory of `steps` training batches."""
    folder = tmp_path_factory.mktemp("input")
    root = make_source(folder / "source", steps * BATCH)
    for file_format in Format:
        store(root, folder / file_format, format=file_format, shard_bytes=100_000)
    return {file_format: folder / file_format for file_format in Format}


@pytest.mark.L2
@given(
    count=st.integers(8, 400),
    batch_size=st.integers(1, 8),
    epoch=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=50)
def test_what_is_left_of_an_epoch_is_a_formula(count, batch_size, epoch, data):
    plan = plan_training(count=count, batch_size=batch_size, seed=5, epoch=epoch)
    step = data.draw(st.integers(0, plan.steps))
    rest = plan.from_step(step)
    assert rest.steps == plan.steps - step
    np.testing.assert_array_equal(rest.index, plan.index[step * batch_size :])
    np.testing.assert_array_equal(rest.draw, plan.draw[step * batch_size :])


@pytest.mark.L2
@pytest.mark.parametrize("file_format", list(Format))
def test_every_break_point_goes_on_with_the_same_batches(
    two_cpus, stored, steps, file_format, figures, record_property
):
    """A pass is left after so many batches; another, opened anew, goes on with nothing
    but (seed, epoch, step)."""
    config = InputConfig(batch_size=BATCH, seed=2)

    def batches(step, *, until=steps):
        with (
            open_dataset(stored[file_format]) as dataset,
            InputPipeline(dataset, config, image_size=SIDE) as pipeline,
        ):
            rest = pipeline.training(1, step=step)
            yield from arrays(itertools.islice(rest, until - step))

    whole = [digest_of([batch]) for batch in batches(0)]
    assert len({*whole}) == steps
    points = range(0, steps + 1, figures.pick(10, 1))
    for step in points:
        parts = itertools.chain(batches(0, until=step), batches(step, until=steps + 1))
        assert [digest_of([batch]) for batch in parts] == whole, step
    kept = f"{file_format}: {len(points)} break points of {steps} steps"
    record_property("figures", f"{kept}: same batches, 0 lost, 0 repeated")


@pytest.mark.L2
def test_every_break_point_for_every_worker(stored, steps, figures, record_property):
    plan = plan_training(count=steps * BATCH, batch_size=BATCH, seed=2, epoch=1)
    points = range(0, steps + 1, figures.pick(10, 1))
    cases = 0
    for workers in (1, 2, 4):
        for worker in range(workers):
            part = plan.for_worker(worker, workers=workers)

            def batches(step, part=part):
                with (
                    open_dataset(stored[Format.TFRECORD]) as dataset,
                    open_loader(dataset) as loader,
                ):
                    rest = load(loader, part.from_step(step))
                    return [digest_of([one]) for one in rest]

            whole = batches(0)
            for step in points:
                assert batches(step) == whole[step:]
                cases += 1
            resumed = plan.from_step(7).for_worker(worker, workers=workers)
            np.testing.assert_array_equal(resumed.index, part.from_step(7).index)
    record_property(
        "figures", f"workers 1, 2, 4: {cases} break points, 0 lost, 0 repeated"
    )


def epochs(batches_of, count):
    """The first `count` batches of epoch after epoch."""
    endless = itertools.chain.from_iterable(map(batches_of, itertools.count()))
    return itertools.islice(endless, count)


@pytest.mark.L3
@pytest.mark.parametrize("mode", list(Decode))
def test_no_number_of_threads_shows(
    two_cpus, stored, steps, mode, figures, record_property, monkeypatch
):
    """Batches are made by a loader's threads, so these are the parallel calls: 1, 2,
    16 and, for AUTOTUNE, as many as there are cores, which is what InputPipeline takes.
    It loads batches at once on top of that, by a map of tf.data: there 1, 2 and 16."""
    batches = figures.pick(20, 500)
    config = InputConfig(batch_size=8, seed=3, decode=mode)
    hashes, cases = set(), 0

    def plan(epoch):
        return plan_training(count=steps * BATCH, batch_size=8, seed=3, epoch=epoch)

    def by_loader(loader):
        return epochs(lambda epoch: load(loader, plan(epoch)), batches)

    def by_pipeline(pipeline):
        passes = epochs(lambda epoch: arrays(pipeline.training(epoch)), batches)
        return (batch[:4] for batch in passes)

    for data_dir in stored.values():
        with open_dataset(data_dir) as dataset:
            for threads in (1, 2, 16, usable_cores()):
                for _ in range(figures.pick(1, 3)):
                    with open_loader(dataset, decode=mode, threads=threads) as loader:
                        hashes.add(digest_of(by_loader(loader)))
                    cases += 1
            for at_once in figures.pick((16,), (1, 2, 16)):
                monkeypatch.setattr(tlperf.pipeline.input, "BATCHES_AT_ONCE", at_once)
                with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
                    hashes.add(digest_of(by_pipeline(pipeline)))
                cases += 1
    assert len(hashes) == 1
    record_property(
        "figures", f"{mode}: {cases} runs of {batches} batches, 2 formats: 1 hash"
    )


@pytest.mark.L3
def test_order_free_batches_are_the_same_ones(
    two_cpus, stored, figures, record_property, monkeypatch
):
    ordered, runs = InputConfig(batch_size=8), figures.pick(1, 5)
    free = dataclasses.replace(ordered, deterministic=False)
    passes = []
    with open_dataset(stored[Format.TFRECORD]) as dataset:
        for config in (ordered, *[free] * runs):
            for at_once in (1, 2, 16):
                monkeypatch.setattr(tlperf.pipeline.input, "BATCHES_AT_ONCE", at_once)
                with InputPipeline(dataset, config, image_size=SIDE) as pipeline:
                    batches = arrays(pipeline.training(0))
                passes.append(sorted(digest_of([batch]) for batch in batches))
    assert all(other == passes[0] for other in passes)
    record_property("figures", f"order-free: {3 * runs} passes of the ordered batches")


@pytest.fixture(scope="module")
def raw_source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("raw"), 48)


# Bytes of 48 records of 8 x 8 raw pixels.
RAW_BYTES = 48 * (8 * 8 * 3 + RECORD_OVERHEAD_BYTES)
ONE_HDF5_FILE = 0


@pytest.mark.L5
def test_each_image_is_one_workers_and_steps_are_equal(
    raw_source, tmp_path, figures, record_property
):
    """Workers share batches, not files: 1 shard feeds 8 of them."""
    batch_size, cases, refused = 24, 0, 0
    plan = plan_training(count=48, batch_size=batch_size, seed=0, epoch=1)
    files = (ONE_HDF5_FILE, *figures.pick((1, 5, 16), range(1, 17)))
    for shards in files:
        data_dir = tmp_path / f"of{shards}"
        store(
            raw_source,
            data_dir,
            encoding=Encoding.RAW,
            image_size=8,
            format=Format.TFRECORD if shards else Format.HDF5,
            shard_bytes=RAW_BYTES // max(1, shards),
        )
        with open_dataset(data_dir) as dataset:
            assert len(dataset.manifest.shards_of("train")) == max(1, shards)
            stored = [one.encoded for one in dataset.split("train").read(range(48))]
        assert len({*stored}) == 48
        for workers in range(1, 9):
            cases += 1
            if batch_size % workers:
                refused += 1
                with pytest.raises(TlperfError, match="cannot be split over") as caught:
                    plan.for_worker(0, workers=workers)
                assert caught.value.code == ExitCode.CONFIG
                continue
            parts = [
                read_part(data_dir, plan.for_worker(worker, workers=workers))
                for worker in range(workers)
            ]
            assert {len(part) for part in parts} == {plan.steps}
            # A step of all workers is the step of one: so each image comes once.
            for step, together in enumerate(zip(*parts, strict=True)):
                images = [image for part in together for image in part]
                index = plan.index.reshape(plan.steps, -1)[step]
                assert images == [stored[number] for number in index]
    record_property(
        "figures",
        f"{cases} of workers 1-8 x files: each id once, equal steps; {refused} of them "
        "exit 78",
    )


def read_part(data_dir, plan):
    """The pixels of each step of a worker, which opens the data itself."""
    with (
        open_dataset(data_dir) as dataset,
        open_loader(dataset, side=8, threads=1) as loader,
    ):
        return [[one.tobytes() for one in batch[0]] for batch in load(loader, plan)]


@pytest.mark.L5
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
def test_workers_share_each_batch_whatever_is_left_out(workers):
    for count in (37, 64, 200):
        plan = plan_training(count=count, batch_size=24, seed=0, epoch=1)
        parts = [plan.for_worker(i, workers=workers) for i in range(workers)]
        assert {part.steps for part in parts} == {plan.steps}
        assert {part.batch_size for part in parts} == {24 // workers}
        together = [part.index.reshape(plan.steps, -1) for part in parts]
        np.testing.assert_array_equal(
            np.concatenate(together, axis=1).reshape(-1), plan.index
        )
