"""Latency: the timer with a clock of our own, the protocols on a real small model."""

import itertools
import json
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import TINY
from tlperf.core import files
from tlperf.core.choices import Protocol
from tlperf.core.settings import LatencyConfig, RunConfig
from tlperf.latency.measure import Subject, latency_row, measure_backbone
from tlperf.latency.protocols import PROTOCOLS
from tlperf.latency.timer import Timing, measure, repeat
from tlperf.model.build import build_imagenet_model
from tlperf.reference.backbones import VGG16

pytestmark = pytest.mark.usefixtures("two_cpus")


def fake_steps(durations):
    """A step that takes the given times by a clock that only it advances."""
    now, times = [0.0], iter(durations)

    def step():
        now[0] += next(times)

    return repeat(step, clock=lambda: now[0])


def test_first_call_and_warm_up_stay_out_of_the_samples():
    config = LatencyConfig(batches=2, repetitions=2, warmup_steps=2)
    timing = measure(fake_steps([9.0, 5.0, 4.0, 1.0, 2.0, 3.0, 2.0]), config)
    assert timing == Timing(9.0, 2, (1.0, 2.0, 3.0, 2.0))


@pytest.mark.parametrize(
    ("limit_secs", "samples"),
    [(0.0, 300), (1000.0, 300), (4.5, 5), (5.0, 5), (0.1, 1), (31.0, 31)],
)
def test_a_row_stops_at_its_count_or_its_seconds(limit_secs, samples):
    config = LatencyConfig(latency_secs=limit_secs)
    timing = measure(fake_steps(itertools.repeat(1.0)), config)
    assert len(timing.samples_secs) == samples


@pytest.fixture(scope="module")
def model(two_cpus):
    return build_imagenet_model(TINY)


def images(count=2):
    return np.random.default_rng(0).normal(size=(count, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_sample_is_a_step_and_samples_sum_to_no_more_than_the_wall(
    two_cpus, model, protocol
):
    steps, traces = PROTOCOLS[protocol](model, images(), two_cpus)
    assert len(steps(1, float("inf"))) == 1
    assert len(steps(2, float("inf"))) == 2  # predict first joins two results here
    start = time.perf_counter()
    samples = steps(7, float("inf"))
    wall = time.perf_counter() - start
    assert len(samples) == 7
    assert 0 < sum(samples) <= wall
    # The callback's marks leave out only what follows the last result.
    assert sum(samples) > 0.5 * wall
    assert traces() == 1


def test_keras_predict_stops_at_its_seconds(two_cpus, model):
    steps, _ = PROTOCOLS[Protocol.KERAS_PREDICT](model, images(), two_cpus)
    steps(1, float("inf"))
    assert len(steps(500, 1e-6)) == 1


@pytest.mark.parametrize("protocol", list(Protocol))
def test_the_clock_stops_only_when_the_result_is_there(two_cpus, protocol):
    """With asynchronous execution a call returns at once, as on a GPU; a step that
    sleeps inside the model shows only where its result is waited for."""

    def slow(x):
        time.sleep(0.05)
        return x

    inputs = tf.keras.Input((32, 32, 3))
    layer = tf.keras.layers.Lambda(
        lambda x: tf.ensure_shape(
            tf.numpy_function(slow, [x], tf.float32), [None, 32, 32, 3]
        ),
        output_shape=(32, 32, 3),
    )
    sleeper = tf.keras.Model(inputs, layer(inputs))
    steps, _ = PROTOCOLS[protocol](sleeper, images(), two_cpus)
    steps(1, float("inf"))
    tf.config.experimental.set_synchronous_execution(False)
    try:
        assert min(steps(4, float("inf"))) >= 0.05
    finally:
        tf.config.experimental.set_synchronous_execution(True)


def make_row(two_cpus, model, samples, *, batch_size=32, kind="imagenet", traces=1):
    return latency_row(
        Subject(VGG16, kind, model, 224),
        Timing(1.0, 3, tuple(samples), traces),
        protocol=Protocol.COMPILED,
        config=LatencyConfig(batch_size=batch_size),
        compute=two_cpus,
    )


def test_a_row_keeps_every_sample_and_the_contracts_keys(two_cpus, model):
    row = make_row(two_cpus, model, [0.002] * 300)
    keys = {"backbone", "protocol", "runtime", "batch_size", "image_size", "precision"}
    keys |= {"xla", "device", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"}
    keys |= {"min_ms", "samples", "requested_samples", "first_call_secs", "size_mib"}
    keys |= {"images_per_sec", "gflop_per_step", "tflops_per_sec", "params", "depth"}
    keys |= {"published", "valid", "warnings", "model"}
    assert keys <= set(json.loads(files.to_json(row)))
    assert row["samples_secs"] == [0.002] * 300
    assert row["p99_ms"] == pytest.approx(2.0)
    assert row["images_per_sec"] == pytest.approx(16_000)
    assert (row["valid"], row["warnings"]) == (True, [])
    assert row["published"]["ms"] == 4.2


@pytest.mark.parametrize(
    ("samples", "changes", "valid", "warning"),
    [
        ([0.1] * 9, {}, False, "fewer than 10 samples"),
        ([0.1] * 100, {}, True, "100 of 300 samples"),
        ([0.1] * 300, {"traces": 2}, False, "traced 2 times"),
        ([0.3] * 75 + [0.1] * 225, {}, True, "warm-up too short"),
        ([0.1] * 300, {"batch_size": 1}, True, "published figure states batch 32"),
    ],
)
def test_a_row_says_what_limits_it(two_cpus, model, samples, changes, valid, warning):
    row = make_row(two_cpus, model, samples, **changes)
    assert row["valid"] is valid
    assert any(warning in text for text in row["warnings"])


def test_the_fine_tuned_network_has_no_published_figure(two_cpus, model):
    row = make_row(two_cpus, model, [0.1] * 300, kind="finetuned", batch_size=1)
    assert row["published"] is None
    assert row["warnings"] == []


def test_a_backbone_is_measured_and_written(two_cpus, tmp_path):
    config = RunConfig(
        workdir=str(tmp_path),
        latency=LatencyConfig(batch_size=2, batches=3, repetitions=4),
    )
    rows = measure_backbone(TINY, config, compute=two_cpus, tuned=None)
    assert [row["protocol"] for row in rows] == ["keras_predict", "compiled"]
    assert [row["samples"] for row in rows] == [12, 12]
    assert files.read_json(tmp_path / "tiny" / "latency.json") == {"runs": rows}
    assert all(row["published"] is None for row in rows)
