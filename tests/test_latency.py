"""The protocols on a small real network, and work that is faked and found out."""

import dataclasses
import gc
import itertools
import json
import math
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import TINY
from tlperf.core import files
from tlperf.core.choices import Precision, Protocol, Runtime, Xla
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import LatencyConfig, RunConfig
from tlperf.core.statistics import median
from tlperf.core.trials import is_memoising
from tlperf.latency import protocols, runtimes
from tlperf.latency.cells import Cell
from tlperf.latency.checks import (
    count_top1_changes,
    output_difference,
    repeat_ratios,
)
from tlperf.latency.measure import measure_cells
from tlperf.latency.probes import Probes
from tlperf.latency.protocols import PROTOCOLS
from tlperf.latency.runtimes import RUNTIMES
from tlperf.latency.subjects import Subjects
from tlperf.latency.timer import TimerPlan, drop, measure
from tlperf.latency.trial import check_work, take_trial
from tlperf.model.deploy import with_preprocessing
from tlperf.model.preprocess import normalise
from tlperf.reference.backbones import (
    CAFFE_MODE,
    PAPER_MODE,
    RAW_PIXELS,
    TF_MODE,
    TORCH_MODE,
)

pytestmark = pytest.mark.usefixtures("two_cpus")

PLAN = TimerPlan(warmup_steps=2, batches=4, repetitions=2)
INFERENCE = [one for one in Protocol if one is not Protocol.TRAIN_STEP]


def make_cell(protocol=Protocol.COMPILED, **changes):
    cell = Cell(
        "tiny",
        "finetuned" if protocol is Protocol.TRAIN_STEP else "imagenet",
        protocol,
        Runtime.TF,
        2,
        Precision.FLOAT32,
        Xla.OFF,
        True,
    )
    return dataclasses.replace(cell, **changes)


@pytest.fixture(scope="module")
def subjects(two_cpus):
    return Subjects(TINY, RunConfig(workdir="w"), compute=two_cpus, trained=None)


@pytest.fixture(scope="module")
def subject(subjects):
    return subjects.find(make_cell())


def trial_of(subjects, compute, cell):
    return take_trial(
        cell, subjects.find(cell), PLAN, compute=compute, probes=Probes(compute)
    )


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_sample_is_a_step_and_samples_sum_to_no_more_than_the_wall(
    two_cpus, subjects, protocol
):
    timed = PROTOCOLS[protocol](subjects.find(make_cell(protocol)), 2, two_cpus)
    steps = timed.steps(timed.place(timed.make_images(0)))
    assert len(steps(1, math.inf, drop)) == 1
    assert len(steps(2, math.inf, drop)) == 2  # predict first joins two results here
    before = timed.traces()
    shares = []
    for _ in range(3):  # a busy machine may stop between the last step and the end
        start = time.perf_counter()
        samples = steps(7, math.inf, drop)
        wall = time.perf_counter() - start
        assert len(samples) == 7
        assert 0 < sum(samples) <= wall
        shares.append(sum(samples) / wall)
    # The callback's marks leave out only what follows the last result.
    assert max(shares) > 0.5
    assert timed.traces() == before == 1


@pytest.mark.parametrize("protocol", INFERENCE)
def test_the_clock_stops_only_when_the_result_is_there(two_cpus, subject, protocol):
    """With asynchronous execution a call returns at once, as on a GPU; a step that
    sleeps inside the model shows only where its result is waited for."""

    def slow(x):
        time.sleep(0.05)
        return x

    layer = tf.keras.layers.Lambda(
        lambda x: tf.ensure_shape(
            tf.numpy_function(slow, [x], tf.float32), [None, 32, 32, 3]
        ),
        output_shape=(32, 32, 3),
    )
    inputs = tf.keras.Input((32, 32, 3))
    sleeper = dataclasses.replace(subject, model=tf.keras.Model(inputs, layer(inputs)))
    timed = PROTOCOLS[protocol](sleeper, 2, two_cpus)
    steps = timed.steps(timed.place(timed.make_images(0)))
    steps(1, math.inf, drop)
    tf.config.experimental.set_synchronous_execution(False)
    try:
        assert min(steps(4, math.inf, drop)) >= 0.05
    finally:
        tf.config.experimental.set_synchronous_execution(True)


def test_keras_predict_stops_at_its_seconds(two_cpus, subject):
    timed = PROTOCOLS[Protocol.KERAS_PREDICT](subject, 2, two_cpus)
    steps = timed.steps(timed.place(timed.make_images(0)))
    steps(1, math.inf, drop)
    assert len(steps(500, 1e-6, drop)) == 1


@pytest.mark.B1
@pytest.mark.parametrize("protocol", INFERENCE)
def test_timed_steps_give_what_untimed_ones_give(two_cpus, subjects, protocol):
    checks = trial_of(subjects, two_cpus, make_cell(protocol))["checks"]
    assert checks["outputs"] >= 1
    assert checks["difference"] < 1e-5
    assert checks["top1_changes"] == 0
    assert len(checks["repeat_ratios"]) == 5


@pytest.mark.parametrize(("batch_size", "calls"), [(1, 2), (2, 1), (3, 1)])
def test_variety_is_that_of_other_images(two_cpus, subject, batch_size, calls):
    """Those of the batch; a single image has none beside it."""
    timed = PROTOCOLS[Protocol.COMPILED](subject, batch_size, two_cpus)
    reference, asked = timed.reference, []
    assert reference is not None

    def count(images):
        asked.append(images)
        return reference(images)

    images = timed.make_images(0)
    placed, output = timed.place(images), reference(images)
    counting = dataclasses.replace(timed, reference=count)
    checks = check_work(counting, placed, [output], tolerance=1e-3)
    assert checks is not None
    assert len(asked) == calls
    assert checks["difference"] == 0
    assert checks["variety"] > checks["tolerance"]
    # A network that answers all alike.
    alike = dataclasses.replace(timed, reference=lambda images: 0 * output + 0.001)
    checks = check_work(alike, placed, [0 * output + 0.001], tolerance=1e-3)
    assert checks is not None
    assert checks["variety"] == 0


def plant(monkeypatch, change):
    """A `tf` runtime whose calls are changed."""

    def load(network, shape, compute):
        loaded = runtimes.load_tf(network, shape, compute)
        return dataclasses.replace(loaded, run=change(loaded.run))

    monkeypatch.setitem(RUNTIMES, Runtime.TF, load)


@pytest.mark.B1
def test_a_network_that_returns_nothing_is_caught(two_cpus, subjects, monkeypatch):
    plant(monkeypatch, lambda run: lambda placed: np.zeros_like(run(placed)))
    trial = trial_of(subjects, two_cpus, make_cell())
    assert trial["checks"]["difference"] == pytest.approx(1.0)


@pytest.mark.B1
@pytest.mark.parametrize(
    "change",
    [
        lambda run: lambda placed: np.nan * run(placed),
        lambda run: lambda placed: run(placed)[:1],
    ],
)
def test_a_network_that_gives_no_numbers_is_caught(
    two_cpus, subjects, monkeypatch, change
):
    """And told in JSON, which knows no infinity."""
    plant(monkeypatch, change)
    trial = trial_of(subjects, two_cpus, make_cell())
    files.to_json(trial)
    assert trial["checks"]["difference"] is None
    assert trial["checks"]["top1_changes"] > 0


@pytest.mark.B1
def test_an_output_of_another_batch_is_caught(two_cpus, subjects, monkeypatch):
    """An output that is right in kind and wrong in order."""
    plant(monkeypatch, lambda run: lambda placed: run(placed)[::-1])
    trial = trial_of(subjects, two_cpus, make_cell())
    assert trial["checks"]["difference"] > trial["checks"]["tolerance"]


def remember(run):
    """Answers by heart what it has been asked before."""
    known = {}

    def recall(placed):
        key = np.asarray(placed).tobytes()
        if key not in known:
            time.sleep(0.01)  # work that is worth remembering
            known[key] = run(placed)
        return known[key]

    return recall


@pytest.mark.B2
@pytest.mark.parametrize("protocol", [Protocol.COMPILED, Protocol.TRANSFER])
def test_a_network_that_remembers_its_images_is_caught(
    two_cpus, subjects, monkeypatch, protocol
):
    plant(monkeypatch, remember)
    trial = trial_of(subjects, two_cpus, make_cell(protocol))
    assert is_memoising(trial["checks"]["repeat_ratios"])


@pytest.mark.B2
def test_keras_predict_is_given_new_images_for_each_step(two_cpus, subject):
    """Else what it sees twice in a call would pass for new."""
    seen = []

    def note(x):
        seen.append(float(x.sum()))
        return x

    inputs = tf.keras.Input((32, 32, 3))
    layer = tf.keras.layers.Lambda(
        lambda x: tf.ensure_shape(
            tf.numpy_function(note, [x], tf.float32), [None, 32, 32, 3]
        ),
        output_shape=(32, 32, 3),
    )
    noting = dataclasses.replace(subject, model=tf.keras.Model(inputs, layer(inputs)))
    timed = PROTOCOLS[Protocol.KERAS_PREDICT](noting, 2, two_cpus)
    placed = timed.place(timed.make_images(0))
    repeat_ratios(timed, placed, pairs=3)
    # 2 steps on the same, then 2 on new ones, in turn.
    assert len(seen) == 12
    assert len(set(seen)) == 1 + 6


@pytest.mark.B5
@pytest.mark.parametrize("protocol", [Protocol.KERAS_PREDICT, Protocol.TRAIN_STEP])
def test_nothing_is_compiled_while_steps_are_timed(two_cpus, subjects, protocol):
    """Under the two that could: the others call a graph that is traced for good."""
    timed = PROTOCOLS[protocol](subjects.find(make_cell(protocol)), 2, two_cpus)
    counts = []
    plan = TimerPlan(warmup_steps=2, batches=100, repetitions=10)
    steps = timed.steps(timed.place(timed.make_images(0)))
    timing = measure(
        steps,
        plan,
        keep=lambda output: counts.append(timed.traces()),
        on_warm=lambda: counts.append(timed.traces()),
    )
    assert len(timing.samples_secs) == 1000
    assert len(counts) == 1001
    assert len(set(counts)) == 1


@pytest.mark.B5
def test_a_retrace_between_samples_is_counted(two_cpus, subjects, monkeypatch):
    """A Python number for an argument: TensorFlow traces anew for each."""
    numbers = itertools.count()

    def load(network, shape, compute):
        loaded = runtimes.load_tf(network, shape, compute)
        function = tf.function(lambda x, number: network(x, training=False) + number)
        return dataclasses.replace(
            loaded,
            run=lambda placed: function(placed, next(numbers)).numpy(),
            traces=function.experimental_get_tracing_count,
        )

    monkeypatch.setitem(RUNTIMES, Runtime.TF, load)
    trial = trial_of(subjects, two_cpus, make_cell())
    assert trial["retraces"] == len(trial["samples_secs"])


def test_trace_first_step_and_samples_stand_apart(two_cpus, subjects):
    trial = trial_of(subjects, two_cpus, make_cell())
    typical = median(trial["samples_secs"])
    assert trial["prepare_secs"]["trace"] > 0
    assert trial["first_step_secs"] > typical
    assert len(trial["samples_secs"]) == PLAN.batches * PLAN.repetitions
    assert trial["process_peak_memory_bytes"] > 10**8
    assert trial["matmul_tflops_per_sec"] > 0.001
    assert trial["copy_gbytes_per_sec"] > 0.1


@pytest.mark.parametrize(
    "normalisation", [RAW_PIXELS, TF_MODE, CAFFE_MODE, TORCH_MODE, PAPER_MODE]
)
def test_preprocessing_inside_is_the_device_half(two_cpus, normalisation):
    inputs = tf.keras.Input((32, 32, 3))
    same = tf.keras.Model(inputs, tf.keras.layers.Identity()(inputs))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = with_preprocessing(same, normalisation)(images)
    expected = normalise(tf.constant(images), normalisation)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("normalisation", [CAFFE_MODE, RAW_PIXELS, TF_MODE])
def test_every_protocol_gives_a_network_the_same_images(
    two_cpus, subjects, normalisation
):
    """Pixels or preprocessed: the weights are chosen so that it tells these apart."""
    outputs = []
    for protocol in set(Protocol) - {Protocol.TRAIN_STEP}:
        subject = subjects.find(make_cell(protocol))
        subject = dataclasses.replace(subject, normalisation=normalisation)
        timed = PROTOCOLS[protocol](subject, 2, two_cpus)
        assert timed.reference is not None
        outputs.append(timed.reference(timed.make_images(3)))
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-4, atol=1e-6)


def test_the_graph_is_the_networks_and_its_weights_are_constants(two_cpus, subject):
    loaded = RUNTIMES[Runtime.TF](subject.model, (2, 32, 32, 3), two_cpus)
    images = protocols.float_images(2, 32, subject.normalisation, seed=3)
    expected = subject.model(images, training=False)
    np.testing.assert_allclose(loaded.run(images), expected, rtol=1e-5, atol=1e-7)
    kernel = subject.model.get_layer("conv1").kernel
    before = loaded.run(loaded.place(images))
    kernel.assign(kernel + 1.0)
    try:
        np.testing.assert_array_equal(loaded.run(loaded.place(images)), before)
    finally:
        kernel.assign(kernel - 1.0)


def test_what_was_loaded_leaves_no_kernels_behind(two_cpus):
    """Though the network, which is loaded for each cell, remembers its calls."""
    # Channels as no other test has.
    inputs = tf.keras.Input((8, 8, 52))
    x = tf.keras.layers.MaxPooling2D()(tf.keras.layers.Conv2D(68, 3)(inputs))
    network = tf.keras.Model(inputs, x)
    images = np.ones((2, 8, 8, 52), np.float32)

    def count_kernels():
        gc.collect()
        tensors = [one for one in gc.get_objects() if isinstance(one, tf.Tensor)]
        return sum(one.shape == (36, 52, 68) for one in tensors)

    loaded = RUNTIMES[Runtime.TF](network, images.shape, two_cpus)
    assert loaded.winograd == 1
    assert loaded.run(images).shape == (2, 3, 3, 68)
    assert count_kernels() > 0
    del loaded
    assert count_kernels() == 0


@pytest.mark.parametrize(
    ("output", "difference"),
    [
        # All classes alike: the whole logit is missing.
        ([[0.5, 0.5]], 1.0),
        ([[0.25, 0.75]], 0.0),
        # The other way round.
        ([[0.75, 0.25]], 2.0),
        ([[0.0, 0.0]], 1.0),
        ([[0.25, float("nan")]], math.inf),
        ([[0.25]], math.inf),
    ],
)
def test_differences_are_shares_of_the_largest_logit(output, difference):
    reference = np.array([[0.25, 0.75]])
    found = output_difference([np.array(output)], reference)
    assert found == pytest.approx(difference)


def test_a_reference_that_is_no_number_hides_nothing():
    reference = np.array([[0.25, float("nan")]])
    assert output_difference([np.array([[0.25, 0.75]])], reference) == math.inf


def test_outputs_of_another_shape_are_all_changed():
    reference = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2]])
    found = count_top1_changes([reference[:1]], reference, tolerance=0)
    assert found == 2


def test_another_class_counts_but_not_where_the_reference_hardly_prefers_one():
    reference = np.array([[0.5, 0.3, 0.2], [0.3334, 0.3333, 0.3333]])
    swapped = np.array([[0.3, 0.5, 0.2], [0.3333, 0.3334, 0.3333]])
    assert count_top1_changes([reference], reference, tolerance=1e-3) == 0
    assert count_top1_changes([swapped, swapped], reference, tolerance=1e-3) == 2


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_other_precisions_are_what_they_say(two_cpus, precision):
    compute = dataclasses.replace(two_cpus, precision=precision)
    subjects = Subjects(TINY, RunConfig(workdir="w"), compute=compute, trained=None)
    cell = make_cell(precision=Precision(precision))
    trial = trial_of(subjects, compute, cell)
    assert trial["device"]["precision"] == precision
    assert trial["checks"]["difference"] <= trial["checks"]["tolerance"]
    compute_dtype = subjects.find(cell).model.get_layer("conv1").compute_dtype
    assert compute_dtype == precision.removeprefix("mixed_")


def test_cells_are_measured_in_this_process_as_a_first_look(two_cpus, subjects):
    config = LatencyConfig(
        batch_size=2, batches=5, repetitions=4, processes=1, min_secs=0.0
    )
    cells = [make_cell(protocol) for protocol in Protocol]
    rows = measure_cells(cells, config, subjects=subjects, compute=two_cpus)
    assert [row["protocol"] for row in rows] == [
        protocol.value for protocol in Protocol
    ]
    assert {row["samples"] for row in rows} == {20}
    assert not any(row["valid"] for row in rows)
    for row in rows:
        assert any("no interval: 1 process" in reason for reason in row["invalid"])


def test_a_step_of_training_moves_the_weights(two_cpus):
    subjects = Subjects(TINY, RunConfig(workdir="w"), compute=two_cpus, trained=None)
    subject = subjects.find(make_cell(Protocol.TRAIN_STEP))
    assert subject.classifier is not None
    before = [v.numpy().copy() for v in subject.classifier.active.trainable_variables]
    timed = PROTOCOLS[Protocol.TRAIN_STEP](subject, 2, two_cpus)
    timed.steps(timed.place(timed.make_images(0)))(2, math.inf, drop)
    after = [v.numpy() for v in subject.classifier.active.trainable_variables]
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    assert timed.reference is None


def test_replicas_share_the_images_of_a_step_of_training(mirrored):
    subjects = Subjects(TINY, RunConfig(workdir="w"), compute=mirrored, trained=None)
    subject = subjects.find(make_cell(Protocol.TRAIN_STEP))
    timed = PROTOCOLS[Protocol.TRAIN_STEP](subject, 6, mirrored)
    images = timed.make_images(0)
    placed = timed.place(images)
    parts = mirrored.strategy.experimental_local_results(placed.image)
    assert [part.device[-5:] for part in parts] == ["CPU:0", "CPU:1"]
    np.testing.assert_array_equal(np.concatenate(parts), images)
    timed.steps(placed)(1, math.inf, drop)
    with pytest.raises(TlperfError, match="--latency_batch_size=5 cannot be") as caught:
        PROTOCOLS[Protocol.TRAIN_STEP](subject, 5, mirrored)
    assert caught.value.code is ExitCode.CONFIG


@pytest.mark.parametrize("protocol", [Protocol.KERAS_PREDICT, Protocol.COMPILED])
def test_traced_steps_are_steps_to_xprof(two_cpus, subjects, tmp_path, protocol):
    """Read by XProf's own reader where it is installed (extra profile)."""
    cell = make_cell(protocol)
    take_trial(
        cell,
        subjects.find(cell),
        PLAN,
        compute=two_cpus,
        probes=Probes(two_cpus),
        traced=(tmp_path, 3, 5),
    )
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"step_num" in trace.read_bytes()
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data")
    found, _ = convert.xspace_to_tool_data([str(trace)], "trace_viewer", {})
    text = found if isinstance(found, str) else found.decode()
    events = json.loads(text)["traceEvents"]
    steps = [
        one["args"] for one in events if one.get("name", "").startswith("inference")
    ]
    numbers = {int(one["step_num"]) for one in steps if "step_num" in one}
    assert numbers == {3, 4, 5}
