"""The compiled steps: preprocessing, loss, gradients, replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import TINY
from tlperf.core.batch import Batch
from tlperf.core.choices import Precision, Preprocess
from tlperf.core.settings import TrainConfig
from tlperf.device.deliver import split_batch
from tlperf.model.build import build_classifier
from tlperf.model.optimizer import build_optimizer
from tlperf.model.preprocess import normalisation_for, normalise
from tlperf.model.steps import (
    StepConfig,
    build_evaluate_step,
    build_predict_step,
    build_train_step,
    cross_entropy,
)
from tlperf.reference.backbones import BACKBONES, TF_MODE

pytestmark = pytest.mark.usefixtures("two_cpus")

MODULES = {
    "efficientnetb0": keras.applications.efficientnet,
    "inceptionv3": keras.applications.inception_v3,
    "inceptionresnetv2": keras.applications.inception_resnet_v2,
    "resnet50": keras.applications.resnet,
    "vgg16": keras.applications.vgg16,
    "xception": keras.applications.xception,
}


def pixels(count=4, side=32, seed=0):
    shape = (count, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def batch(count=4, seed=0, weight=None, classes=2):
    rng = np.random.default_rng(seed)
    return Batch(
        tf.constant(pixels(count, seed=seed)),
        tf.constant(rng.integers(0, classes, count), tf.int32),
        tf.constant(np.ones(count) if weight is None else weight, tf.float32),
        tf.range(count, dtype=tf.int64),
        tf.constant(rng.random((count, 4)), tf.float32),
    )


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_normalisation_equals_keras_preprocess_input(spec):
    image = pixels()
    ours = normalise(image, normalisation_for(spec, Preprocess.BACKBONE))
    # preprocess_input changes a float array in place, hence the copy by astype.
    keras_own = MODULES[spec.name].preprocess_input(image.astype(np.float32))
    np.testing.assert_allclose(ours, keras_own, rtol=0, atol=2e-5)


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_the_study_divides_by_255_for_every_backbone(spec):
    image = pixels()
    ours = normalise(image, normalisation_for(spec, Preprocess.PAPER))
    np.testing.assert_allclose(ours, image / np.float32(255), rtol=1e-6)


def test_normalisation_ends_in_the_compute_dtype():
    image = pixels()
    half = normalise(image, normalisation_for(BACKBONES[4], Preprocess.BACKBONE),
                     dtype="float16")  # fmt: skip
    assert half.dtype == tf.float16


def test_the_loss_is_the_cross_entropy_of_numpy():
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    label = np.array([0, 1, 2, 2, 1, 0], np.int32)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(probability[np.arange(6), label])
    np.testing.assert_allclose(
        cross_entropy(tf.constant(label), tf.constant(probability)), expected, rtol=1e-5
    )


def trainer(compute, *, precision="float32", seed=0, dropout=0.0, inference_norm=False):
    keras.utils.set_random_seed(seed)
    with compute.strategy.scope():
        built = build_classifier(TINY, image_size=32, classes=2, precision=precision)
        for layer in built.whole.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = dropout
            if isinstance(layer, keras.layers.BatchNormalization) and inference_norm:
                layer.trainable = False
        config = TrainConfig(learning_rate=3e-3)
        optimizer = build_optimizer(TINY, config, precision=precision)
        optimizer.build(built.active.trainable_variables)
    return built, optimizer


def step_for(compute, built, optimizer, batch_size):
    config = StepConfig(TF_MODE, batch_size=batch_size)
    return build_train_step(built, optimizer, config, compute=compute).step


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_moves_the_weights_as_the_whole(two_cpus, parts):
    """BatchNormalization in inference mode: each part would be a batch of its own."""
    results = []
    for accumulate in (1, parts):
        built, optimizer = trainer(two_cpus, inference_norm=True)
        config = StepConfig(TF_MODE, batch_size=8, accumulate=accumulate)
        step = build_train_step(built, optimizer, config, compute=two_cpus).step
        sums = [step(batch(8, seed=seed)) for seed in range(3)]
        results.append([float(one.loss) for one in sums])
        assert [float(one.count) for one in sums] == [8, 8, 8]
        results.append([v.numpy() for v in built.whole.weights])
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5)
    for found, wanted in zip(results[3], results[1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_class_weights_weigh_the_loss_as_keras_does(two_cpus):
    built, optimizer = trainer(two_cpus)
    twin, twin_optimizer = trainer(two_cpus)
    twin.whole.compile(twin_optimizer, keras.losses.SparseCategoricalCrossentropy())
    config = StepConfig(TF_MODE, batch_size=8, class_weights=(0.25, 3.0))
    step = build_train_step(built, optimizer, config, compute=two_cpus).step
    data = batch(8)
    sums = step(data)
    loss = twin.whole.train_on_batch(
        normalise(data.image, TF_MODE),
        data.label,
        class_weight={0: 0.25, 1: 3.0},
        return_dict=True,
    )["loss"]
    assert float(sums.loss) / 8 == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(built.whole.weights, twin.whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def test_a_step_moves_the_active_part_only(two_cpus):
    built, optimizer = trainer(two_cpus)
    before = {v.path: v.numpy() for v in built.whole.weights}
    sums = step_for(two_cpus, built, optimizer, 4)(batch())
    assert float(sums.count) == 4
    moved = {
        v.path for v in built.whole.weights if not np.array_equal(v, before[v.path])
    }
    frozen = {v.path for name in ("conv1", "conv2")
              for v in built.whole.get_layer(name).weights}  # fmt: skip
    assert not moved & frozen
    assert {v.path for v in built.active.trainable_variables} <= moved


def test_a_step_equals_keras_own_train_on_batch(two_cpus):
    """Same start, same batch, dropout 0: the same weights as Keras' trainer gives."""
    built, optimizer = trainer(two_cpus)
    twin, twin_optimizer = trainer(two_cpus)
    twin.whole.compile(twin_optimizer, keras.losses.SparseCategoricalCrossentropy())
    step = step_for(two_cpus, built, optimizer, 4)
    for seed in range(3):
        data = batch(seed=seed)
        sums = step(data)
        loss = twin.whole.train_on_batch(
            normalise(data.image, TF_MODE), data.label, return_dict=True
        )["loss"]
        # Keras reports the running mean of the epoch; compare the first.
        if seed == 0:
            assert float(sums.loss) / 4 == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(built.whole.weights, twin.whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def test_padding_counts_nowhere(two_cpus):
    built, _ = trainer(two_cpus)
    predict = build_predict_step(built.whole, compute=two_cpus, normalisation=TF_MODE)
    step = build_evaluate_step(predict, compute=two_cpus)
    padded = step(batch(weight=[1, 1, 0, 0]))
    whole = step(Batch(*(value[:2] for value in batch())))
    assert float(padded.count) == 2
    assert float(padded.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert float(padded.correct) == float(whole.correct)


def distributed(compute, data):
    """One global batch as the pipeline gives it to the replicas."""
    return data if compute.replicas == 1 else split_batch(data, compute)


def test_two_replicas_equal_one_device_over_20_steps(two_cpus, mirrored):
    losses = {}
    for compute in (two_cpus, mirrored):
        built, optimizer = trainer(compute, inference_norm=True)
        step = step_for(compute, built, optimizer, 8)
        losses[compute.replicas] = [
            float(step(distributed(compute, batch(8, seed=n % 4))).loss)
            for n in range(20)
        ]
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)
    assert losses[1][16] < losses[1][0]  # the same batch, 16 steps later


def test_replicas_predict_what_one_device_predicts(two_cpus, mirrored):
    results = []
    for compute in (two_cpus, mirrored):
        built, _ = trainer(compute)
        step = build_predict_step(built.whole, compute=compute, normalisation=TF_MODE)
        probability, _ = step(distributed(compute, batch(8)))
        parts = compute.strategy.experimental_local_results(probability)
        results.append(np.concatenate([part.numpy() for part in parts]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize(
    "precision", [Precision.MIXED_FLOAT16, Precision.MIXED_BFLOAT16]
)
def test_mixed_precision_learns_with_a_float32_loss(two_cpus, precision):
    import dataclasses

    compute = dataclasses.replace(two_cpus, precision=precision.value)
    built, optimizer = trainer(compute, precision=precision.value)
    step = step_for(compute, built, optimizer, 8)
    losses = [step(batch(8)).loss for _ in range(15)]
    assert losses[0].dtype == tf.float32
    assert np.isfinite(losses).all()
    assert float(losses[-1]) < float(losses[0])
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision is Precision.MIXED_FLOAT16)


def test_an_overflow_on_one_replica_skips_the_step_on_all(mirrored):
    """The second replica's gradient overflows; Keras alone would ask the first."""
    import dataclasses

    compute = dataclasses.replace(mirrored, precision="mixed_float16")
    built, optimizer = trainer(compute, precision="mixed_float16", inference_norm=True)
    before = [v.numpy() for v in built.whole.weights]
    scale = float(optimizer.dynamic_scale.numpy())
    step = step_for(compute, built, optimizer, 2)
    data = batch(2)
    # A weight that is not a number makes the second replica's loss none.
    poisoned = data._replace(weight=tf.constant([1.0, float("nan")]))
    step(distributed(compute, poisoned))
    for variable, old in zip(built.whole.weights, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    assert float(optimizer.dynamic_scale.numpy()) == scale / 2


def test_the_step_a_gpu_gets_by_default_is_traced_and_learns(two_cpus):
    """XLA, float16 and dynamic loss scaling in one function."""
    import dataclasses

    compute = dataclasses.replace(two_cpus, precision="mixed_float16", jit_compile=True)
    built, optimizer = trainer(compute, precision="mixed_float16")
    step = step_for(compute, built, optimizer, 8)
    losses = [float(step(batch(8)).loss) for _ in range(15)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_a_compiled_step_gives_the_same_numbers(two_cpus):
    import dataclasses

    results = []
    for jit in (False, True):
        compute = dataclasses.replace(two_cpus, jit_compile=jit)
        built, optimizer = trainer(compute)
        step = step_for(compute, built, optimizer, 4)
        results.append([float(step(batch(seed=n)).loss) for n in range(3)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)
