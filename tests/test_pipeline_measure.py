"""`tlperf input`: ceilings, planted faults named, ways measured, advice, picture."""

import time
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf

from tests.images import make_folder
from tlperf.core.choices import Augment, Cache, Decode, Encoding
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import DataConfig, InputConfig
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import StoredSplit, open_dataset
from tlperf.model.preprocess import build_device_half
from tlperf.pipeline.advice import advise, describe_demand, work_shares
from tlperf.pipeline.ceilings import Target
from tlperf.pipeline.chart import check_plot, draw_input
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.measure import cache_state, measure_input
from tlperf.reference.backbones import PAPER_MODE
from tlperf.reporting.terminal import render_input

SIDE = 32


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A data directory an encoding, of the same 470 small images."""
    folder = tmp_path_factory.mktemp("input")
    source = make_folder(folder / "files", {"a": 235, "b": 235})

    def directory(encoding):
        data_dir = folder / encoding
        if not data_dir.exists():
            config = DataConfig(
                source=str(source), encoding=encoding, image_size=SIDE, workers=1
            )
            write_dataset(config, data_dir)
        return data_dir

    return directory


def measure(data_dir, compute, *, demand=None, secs=0.4, half=None, **settings):
    half = half or build_device_half(
        compute, normalisation=PAPER_MODE, augmentation=Augment.FLIP
    )
    with open_dataset(data_dir) as dataset:
        return measure_input(
            dataset,
            InputConfig(batch_size=16, **settings),
            Target(SIDE, compute, half),
            secs=secs,
            demand=demand,
        )


def test_every_stage_has_a_ceiling_and_the_lowest_bounds_the_whole(two_cpus, stored):
    result = measure(stored(Encoding.SOURCE), two_cpus, demand=1e9)
    stages = result["stages"]
    assert set(stages) == {"read", "decode", "augment", "batch", "transfer"}
    assert all(rate > 0 for rate in stages.values())
    assert result["bottleneck"] == min(stages, key=lambda name: stages[name])
    assert result["images_per_sec"] > 0
    assert result["batches"] >= 1
    assert result["data_from"] == "page cache"
    # Every way was measured on images of these data.
    ways = {way["change"]: way for way in result["ways"]}
    assert list(ways) == [
        "--decode=fast",
        "--cache=decoded",
        f"shard --encoding=jpeg --image_size={SIDE}",
        f"shard --encoding=raw --image_size={SIDE}",
    ]
    raw = ways[f"shard --encoding=raw --image_size={SIDE}"]
    assert 3 * SIDE**2 < raw["bytes_per_image"] < 3 * SIDE**2 + 400
    assert ways["--cache=decoded"]["cache_bytes"] == 376 * 3 * SIDE**2
    assert result["demand"]["ways"] == []
    text = render_input(result)
    assert all(change in text for change in ways)


@pytest.mark.parametrize("planted", ["read", "decode", "augment"])
def test_a_planted_slow_stage_is_named(two_cpus, stored, monkeypatch, planted):
    def slowed(work):
        def slow(*args, **kwargs):
            time.sleep(0.005)
            return work(*args, **kwargs)

        return slow

    half = None
    if planted == "read":
        monkeypatch.setattr(StoredSplit, "view", slowed(StoredSplit.view))
    elif planted == "decode":
        monkeypatch.setattr(Decoder, "decode_into", slowed(Decoder.decode_into))
    else:

        def half(image, draw):
            rows = tf.cast(tf.reshape(image, [-1, 3 * SIDE]), tf.float32)
            heavy = tf.matmul(tf.tile(rows, [8, 1]), rows, transpose_b=True)
            for _ in range(8):
                heavy = tf.tanh(heavy + draw[0, 0])
            return tf.reshape(heavy, [1, 1, *heavy.shape])

    source = stored(Encoding.SOURCE)
    result = measure(source, two_cpus, secs=0.8, half=half, decode=Decode.FAST)
    assert result["bottleneck"] == planted
    assert result["advice"][0].endswith("of the host's work") == (planted != "augment")
    if planted != "augment":  # 5 ms an image on a thread a core
        assert result["images_per_sec"] < 200 * result["cores"]


@pytest.mark.parametrize(
    ("encoding", "cache", "without"),
    [
        (Encoding.SOURCE, Cache.NONE, set()),
        (Encoding.SOURCE, Cache.ENCODED, {"read"}),
        (Encoding.SOURCE, Cache.DECODED, {"read", "decode"}),
        (Encoding.RAW, Cache.NONE, {"decode"}),
    ],
)
def test_stages_that_later_epochs_go_without_have_no_ceiling(
    two_cpus, stored, encoding, cache, without
):
    result = measure(stored(encoding), two_cpus, secs=0.2, cache=cache)
    assert {name for name, rate in result["stages"].items() if rate is None} == without
    if encoding is Encoding.RAW:
        assert result["ways"] == []  # stored as it is wanted
    if cache is Cache.DECODED:
        assert "--cache=decoded" not in {way["change"] for way in result["ways"]}


def test_a_few_images_tell_nothing_of_other_ways(two_cpus, photos_dir):
    assert measure(photos_dir, two_cpus, secs=0.2)["ways"] == []


@pytest.mark.B4
@pytest.mark.parametrize(
    ("cache", "data_bytes", "disk_share", "state"),
    [
        (Cache.NONE, 49, 1.0, "warm"),  # less than five times the memory
        (Cache.NONE, 50, 1.0, "cold"),
        (Cache.NONE, 50, 0.9, "cold"),
        (Cache.NONE, 50, 0.89, "warm"),  # who knows what was read before
        (Cache.NONE, 50, 0.0, "warm"),
        (Cache.ENCODED, 50, 1.0, "in-memory"),
        (Cache.DECODED, 1, 0.0, "in-memory"),
    ],
)
def test_a_rate_is_cold_only_where_something_shows_it(
    cache, data_bytes, disk_share, state
):
    found = cache_state(cache, data_bytes=data_bytes, memory=10, disk_share=disk_share)
    assert found == state


@pytest.mark.B4
@pytest.mark.parametrize(
    ("memory", "cache", "state"),
    [
        (1 << 40, Cache.NONE, "warm"),
        (1, Cache.NONE, "warm"),  # it may be cold, and the system tells that it is not
        (1, Cache.DECODED, "in-memory"),
    ],
)
def test_a_measured_rate_says_what_it_is_one_of(
    two_cpus, stored, monkeypatch, record_property, memory, cache, state
):
    monkeypatch.setattr("tlperf.pipeline.measure.memory_bytes", lambda: memory)
    measure(stored(Encoding.SOURCE), two_cpus, secs=0.1)  # read, if never before
    result = measure(stored(Encoding.SOURCE), two_cpus, secs=0.1, cache=cache)
    assert result["state"] == state
    said = {"warm": "warm from the page cache, ", "in-memory": "in-memory, "}
    assert f"cache {cache}, {said[state]}" in render_input(result)
    record_property("figures", f"{result['bytes_from_disk']} bytes read: {state}")


MEASURED = {
    "images_per_sec": 800.0,
    "stages": {
        "read": 9000.0,
        "decode": 1000.0,
        "augment": 4000.0,
        "batch": None,
        "transfer": 20000.0,
    },
    "bottleneck": "decode",
    "cores": 2,
    "bytes_per_image": 45_000.0,
    "data_from": "page cache",
    "cache": "none",
    "can_cache_encoded": True,
    "encoding": "source",
    "batch_size": 32,
    "image_size": 224,
    "data_service": None,
    "demand": None,
    "ways": [
        {
            "change": "--decode=fast",
            "images_per_sec": 820.0,  # within the noise
            "bytes_per_image": 45_000.0,
            "cache_bytes": 0,
        },
        {
            "change": "--cache=decoded",
            "images_per_sec": 8000.0,
            "bytes_per_image": 45_000.0,
            "cache_bytes": 3 << 20,
        },
    ],
}


def test_advice_tells_the_bound_and_the_ways_that_are_worth_it():
    assert advise(MEASURED) == [
        "decoding and resizing bounds it: 1,000 images/s alone, 90% of the host's work",
        "--cache=decoded: 8,000 images/s, 10.0x; 3.0 MiB of memory",
    ]


def test_stages_here_do_not_bound_what_others_make():
    advice = advise({**MEASURED, "data_service": {"missed": 0}, "ways": []})
    assert advice == ["a data service makes the batches; the stages are this machine's"]


def test_a_slow_disk_is_told():
    no_room = {"data_from": "disk", "can_cache_encoded": False}
    assert advise({**MEASURED, **no_room}) == advise(MEASURED)
    advice = advise({**MEASURED, "data_from": "disk"})
    expected = "records came from the disk: --cache=encoded keeps them in memory"
    assert advice[1].startswith(expected)
    assert advice[1].endswith("43.9 KiB an image")


@pytest.mark.parametrize(
    ("demand", "is_met", "cores", "ways", "said"),
    [
        (800.0, True, 2, 2, "800 images/s: the host delivers them as it is"),
        (801.0, False, 3, 2, "need one of: 3 cores as it is; --decode=fast"),
        (1200.0, False, 3, 1, "need one of: 3 cores as it is; --cache=decoded"),
        (9000.0, False, 23, 0, "9,000 images/s need one of: 23 cores as it is"),
    ],
)
def test_a_demand_is_answered_in_cores_and_ways(demand, is_met, cores, ways, said):
    described = describe_demand(MEASURED, demand)
    assert (described["is_met"], described["cores"]) == (is_met, cores)
    assert len(described["ways"]) == ways
    assert said in advise({**MEASURED, "demand": described})[-1]


def test_shares_of_the_hosts_work_leave_out_what_was_not_measured():
    assert work_shares({"read": None, "decode": None, "batch": 5.0}) == {"batch": 1.0}
    assert work_shares({}) == {}


def test_the_picture_holds_every_rate(tmp_path):
    described = describe_demand(MEASURED, 3000.0)
    path = tmp_path / "input.svg"
    draw_input({**MEASURED, "demand": described}, path)
    texts = {
        "".join(element.itertext()).strip()
        for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    }
    rates = {"800", "9,000", "1,000", "4,000", "20,000", "820", "8,000"}
    names = {"as it is", "decode alone", "--cache=decoded", "demand"}
    assert rates | names <= texts
    assert "batch alone" not in texts  # not measured, not drawn
    draw_input(MEASURED, tmp_path / "input.png")
    assert (tmp_path / "input.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_no_kind_is_refused_before_anything_is_measured(tmp_path):
    check_plot(tmp_path / "a.svg")
    with pytest.raises(TlperfError, match=r"give a name in \.svg or \.png") as caught:
        check_plot(tmp_path / "a.jpg")
    assert caught.value.code == ExitCode.USAGE


def test_joined_epochs_are_the_epochs_one_after_the_other(two_cpus, stored):
    from tlperf.pipeline.input import InputPipeline

    with (
        open_dataset(stored(Encoding.RAW)) as dataset,
        InputPipeline(dataset, InputConfig(batch_size=16), image_size=SIDE) as pipeline,
    ):
        joined = [np.asarray(one.index) for one in pipeline.training(3, epochs=2)]
        single = [
            np.asarray(one.index)
            for epoch in (3, 4)
            for one in pipeline.training(epoch)
        ]
    np.testing.assert_array_equal(joined, single)
