"""L1: a bad record costs itself alone; every other image of a pass is delivered.

`--figures=full` does what the promise states: 8 shards of 1,000 records.
"""

import collections
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.images import image_bytes
from tests.passes import (
    SIDE,
    arrays,
    digests,
    load,
    make_source,
    open_loader,
    shards_of,
    store,
)
from tlperf.core.choices import Encoding, Format, ImageCheck, OnBadRecord
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import InputConfig
from tlperf.dataset.plan import RECORD_OVERHEAD_BYTES
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.order import plan_training


class Planted:
    """A data directory with one bad training record in the middle of one of 8 shards,
    and the same without.

    Attributes:
        sound, damaged: the directories.
        index: of the bad record, in stored order.
        record: of it in its shard.
        file: its shard.
        reason, code: what a pass that it ends says.
    """

    def __init__(self, folder, *, records):
        self.folder, self.records = folder, records
        self.sound, self.damaged = folder / "sound", folder / "damaged"
        self.root = make_source(folder / "source", 8 * records)
        self.shard = 3
        self.index = self.shard * records + records // 2

    def store(self, data_dir, **values):
        files = [*(self.root / "train").glob("*/*.jpg")]
        raw = values.get("encoding") is Encoding.RAW
        images = [SIDE * SIDE * 3 if raw else file.stat().st_size for file in files]
        shard_bytes = sum(size + RECORD_OVERHEAD_BYTES for size in images) // 8
        store(self.root, data_dir, shard_bytes=shard_bytes, **values)
        with open_dataset(data_dir) as dataset:
            self.file, self.record = dataset.split("train").locate(self.index)
            (example,) = dataset.split("train").read([self.index])
            self.source_file = example.filename

    def alter_a_byte(self, **values):
        """The record's checksum fails."""
        self.store(self.sound, **values)
        shutil.copytree(self.sound, self.damaged)
        shards = shards_of(self.damaged)
        assert len(shards) == 8
        lines = (self.damaged / f"{self.file}.idx").read_text().splitlines()
        assert len(lines) == self.records
        offset, size = map(int, lines[self.record].split())
        with open(shards[self.shard], "r+b") as stream:
            stream.seek(offset + size // 2)
            byte = stream.read(1)[0]
            stream.seek(offset + size // 2)
            stream.write(bytes([byte ^ 1]))
        self.code, self.reason = ExitCode.INTEGRITY, "damaged_record"
        return self

    def spoil_the_image(self, **values):
        """A sound record of what no decoder takes: stored unchecked."""
        self.store(self.sound, image_check=ImageCheck.HEADER, **values)
        data = image_bytes(0)
        at = data.index(b"\xff\xdb")  # a quantisation table becomes a comment
        path = self.root / self.source_file
        path.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
        self.store(self.damaged, image_check=ImageCheck.HEADER, **values)
        self.code, self.reason = ExitCode.DATA, "bad_record"
        return self


PLANTED = {
    "altered byte": lambda one: one.alter_a_byte(),
    "altered byte of raw pixels": lambda one: one.alter_a_byte(
        encoding=Encoding.RAW, image_size=SIDE
    ),
    "no image": lambda one: one.spoil_the_image(),
    "no image, HDF5": lambda one: one.spoil_the_image(format=Format.HDF5),
}


def lost_by_tensorflow(data_dir):
    """Training records that `ignore_errors` leaves out."""
    files = [str(path) for path in shards_of(data_dir)]
    records = tf.data.TFRecordDataset(files)
    with open_dataset(data_dir) as dataset:
        return dataset.split("train").count - sum(1 for _ in records.ignore_errors())


@pytest.mark.L1
@pytest.mark.parametrize("kind", PLANTED)
def test_one_bad_record_costs_itself_alone(
    two_cpus, kind, tmp_path, figures, record_property
):
    planted = PLANTED[kind](Planted(tmp_path, records=figures.pick(4, 1000)))
    config = InputConfig(batch_size=8, on_bad_record=OnBadRecord.SKIP)
    with (
        open_dataset(planted.sound) as dataset,
        InputPipeline(dataset, config, image_size=SIDE) as pipeline,
    ):
        count = dataset.split("train").count
        sound = arrays(pipeline.evaluation("train"))
        label = np.concatenate([batch[1] for batch in sound])
        pixels = [one for batch in sound for one in digests(batch[0])]
        assert pipeline.skipped() == []
    assert count == 8 * planted.records
    with (
        open_dataset(planted.damaged) as dataset,
        InputPipeline(dataset, config, image_size=SIDE) as pipeline,
    ):
        passes = [pipeline.training(0), pipeline.training(1)]
        for batches in (*passes, pipeline.evaluation("train")):
            assert batches.plan.dropped == 0
            read: collections.Counter[int] = collections.Counter()
            for batch in arrays(batches):
                image, labels, weight, index, _ = batch
                read.update(index[weight > 0].tolist())
                good = index != planted.index
                np.testing.assert_array_equal(weight, good)
                np.testing.assert_array_equal(labels[good], label[index[good]])
                assert not image[~good].any()
                for one, number in zip(digests(image), index, strict=True):
                    assert one == pixels[number] or number == planted.index
            # Each pass: what was read and what was skipped is all there is.
            read.update(row["index"] for row in pipeline.skipped())
            assert read == dict.fromkeys(range(count), 1)
        (skipped,) = pipeline.skipped()
        assert planted.source_file in skipped.pop("found")
        where = {"file": planted.file, "record": planted.record}
        assert skipped == {"split": "train", "index": planted.index, **where}
        check_workers(dataset, count, planted.index)
    lost = lost_by_tensorflow(planted.damaged) if "byte" in kind else 0
    told = f" (TensorFlow's ignore_errors: {lost})" if lost else ""
    record_property("figures", f"{kind}: 1 of {count} lost each pass{told}")


def check_workers(dataset, count, bad):
    """Of all workers together, the bad record is one's alone."""
    plan = plan_training(count=count, batch_size=8, seed=0, epoch=3)
    for workers in (2, 4):
        read: collections.Counter[int] = collections.Counter()
        skipped: list[int] = []
        for worker in range(workers):
            part = plan.for_worker(worker, workers=workers)
            with open_loader(dataset, on_bad_record=OnBadRecord.SKIP) as loader:
                for _, _, weight, index in load(loader, part):
                    read.update(index[weight > 0].tolist())
                skipped += loader.skipped
        assert skipped == [bad]
        assert read == dict.fromkeys({*range(count)} - {bad}, 1)


@pytest.mark.L1
@pytest.mark.parametrize("kind", PLANTED)
def test_by_default_a_bad_record_ends_the_pass_and_is_named(two_cpus, kind, tmp_path):
    planted = PLANTED[kind](Planted(tmp_path, records=3))
    with (
        open_dataset(planted.damaged) as dataset,
        InputPipeline(dataset, InputConfig(batch_size=4), image_size=SIDE) as pipeline,
    ):
        with pytest.raises(TlperfError) as caught:
            arrays(pipeline.training(0))
        assert pipeline.skipped() == []
    error, text = caught.value, str(caught.value)
    assert (error.code, error.reason) == (planted.code, planted.reason)
    assert planted.source_file in error.found
    if planted.reason == "bad_record":  # it names all of them
        assert f"at {planted.file}[{planted.record}]" in text
        assert "--on_bad_record=skip" in error.remedy
    else:
        assert (
            f"{planted.file} (shard {planted.shard}, record {planted.record})" in text
        )


@pytest.mark.L1
@pytest.mark.parametrize("policy", list(OnBadRecord))
def test_an_altered_hdf5_file_is_refused_whole(two_cpus, policy, tmp_path):
    """Its structure has no checksums: there is no telling which records are sound."""
    root = make_source(tmp_path / "source", 8)
    store(root, tmp_path / "data", format=Format.HDF5)
    path = tmp_path / "data" / "pets-train.h5"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    config = InputConfig(batch_size=4, on_bad_record=policy)
    with (
        open_dataset(tmp_path / "data") as dataset,
        InputPipeline(dataset, config, image_size=SIDE) as pipeline,
        pytest.raises(TlperfError, match=r"pets-train\.h5: .*sha256") as caught,
    ):
        arrays(pipeline.training(0))
    assert caught.value.code == ExitCode.INTEGRITY
