"""Ways to train: the head first, averaged weights, several steps a call, and what is
said where a batch does not fit."""

import contextlib
import dataclasses
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import RANDOM, TINY, WITHOUT_DROPOUT, run_config, tiny_net, train_tiny
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.settings import TrainConfig
from tlperf.training.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("two_cpus")


@contextlib.contextmanager
def built(photos, compute, workdir, **values):
    trainer = build_trainer(
        TINY,
        run_config(workdir, **values),
        dataset=photos,
        compute=compute,
        weights=RANDOM,
    )
    with contextlib.closing(trainer):
        yield trainer


def losses(training):
    return [row["loss"] for row in training.result["epochs"]]


def test_first_the_head_then_all(two_cpus, photos, tmp_path):
    both = train_tiny(
        photos,
        two_cpus,
        tmp_path / "both",
        epochs=3,
        head_epochs=2,
        head_learning_rate=0.02,
    )
    head = train_tiny(
        photos,
        two_cpus,
        tmp_path / "head",
        model={"freeze": "all"},
        epochs=2,
        learning_rate=0.02,
    )
    # The head is trained as behind a trunk that is frozen whole.
    assert losses(both)[:2] == pytest.approx(losses(head), rel=1e-5)
    rates = [row["learning_rate"] for row in both.result["epochs"]]
    assert rates == pytest.approx([0.02, 0.02, 0.01])
    norm = both.network.model.get_layer("norm")
    assert np.any(norm.gamma.numpy() != 1)  # in the last epoch
    assert np.all(head.network.model.get_layer("norm").gamma.numpy() == 1)
    assert both.result["trainable_params"] == head.result["trainable_params"] + 16


@pytest.mark.parametrize("name", ["two_cpus", "mirrored"])
def test_validation_takes_the_moving_averages(name, request, photos, tmp_path):
    compute, momentum = request.getfixturevalue(name), 0.75
    with built(photos, compute, tmp_path, ema=momentum) as trainer:
        step, active = trainer.phase(0).train.step, trainer.classifier.active
        averages: list[np.ndarray] = []
        for batch in trainer.batches(0).distribute(compute):
            step(batch)
            now = [one.numpy() for one in active.trainable_variables]
            averages = (
                [
                    momentum * old + (1 - momentum) * new
                    for old, new in zip(averages, now, strict=True)
                ]
                if averages
                else now
            )
        before = trainer.values()
        with trainer.averaged(0):
            for one, wanted in zip(active.trainable_variables, averages, strict=True):
                np.testing.assert_allclose(one.numpy(), wanted, rtol=1e-5, atol=1e-7)
            # A checkpoint made now holds what is trained.
            for one, wanted in zip(trainer.values(), before, strict=True):
                np.testing.assert_array_equal(one, wanted)
        for one, wanted in zip(trainer.values(), before, strict=True):
            np.testing.assert_array_equal(one, wanted)


def test_the_best_weights_are_the_averages(two_cpus, photos, tmp_path):
    """Of one epoch; the network goes on with what is trained."""
    apart = {}
    for ema in (0.0, 0.9999):
        workdir = tmp_path / str(ema)
        training = train_tiny(photos, two_cpus, workdir, epochs=1, ema=ema)
        with h5py.File(workdir / "tiny" / "weights.h5") as stored:
            kernel = stored["layers/dense/vars/0"][()]
        last = training.network.model.get_layer("head_softmax").kernel.numpy()
        apart[ema] = float(np.abs(kernel - last).max())
    assert apart[0.0] == 0
    assert apart[0.9999] > 0.001


def test_averages_learn_as_slowly_as_they_forget(two_cpus, photos, tmp_path):
    found = {
        ema: train_tiny(
            photos, two_cpus, tmp_path / str(ema), epochs=4, ema=ema, learning_rate=0.1
        )
        for ema in (0.0, 0.9999)
    }
    assert losses(found[0.0]) == pytest.approx(losses(found[0.9999]), rel=1e-5)
    ends = [training.result["epochs"] for training in found.values()]
    moved = [abs(rows[-1]["val_loss"] - rows[0]["val_loss"]) for rows in ends]
    assert moved[1] < 0.2 * moved[0]


def test_the_layers_after_the_boundary_have_their_chance(two_cpus, photos, tmp_path):
    """A head that does not get better does not end the training before them."""
    result = train_tiny(
        photos,
        two_cpus,
        tmp_path,
        epochs=8,
        head_epochs=4,
        head_learning_rate=1e-12,
        learning_rate=1e-12,
        early_stopping=2,
    ).result
    assert len(result["epochs"]) >= 6


def test_a_head_alone_has_no_phase_before(two_cpus, photos, tmp_path):
    with pytest.raises(TlperfError, match="the head is all that is trained") as caught:
        train_tiny(
            photos, two_cpus, tmp_path, model={"freeze": "all"}, head_epochs=1, epochs=2
        )
    assert caught.value.code == ExitCode.CONFIG


def test_a_trace_goes_on_with_its_training(two_cpus, photos, tmp_path):
    device = {"profile_steps": "2:5"}
    board = tmp_path / "tiny" / "tensorboard" / "train" / "plugins" / "profile"
    train_tiny(photos, two_cpus, tmp_path, epochs=1, device=device)
    assert len([*board.glob("*/*.xplane.pb")]) == 1  # steps 2 and 3
    shutil.rmtree(board)
    train_tiny(photos, two_cpus, tmp_path, epochs=3, device=device, resume=True)
    assert len([*board.glob("*/*.xplane.pb")]) == 1  # steps 4 and 5


@pytest.mark.parametrize("name", ["two_cpus", "mirrored"])
def test_several_steps_a_call_are_the_same_steps(name, request, photos, tmp_path):
    compute = request.getfixturevalue(name)
    found = [
        losses(train_tiny(photos, compute, tmp_path / str(count), steps_per_call=count))
        for count in (1, 2, 5)
    ]
    # 3 steps an epoch: the first alone, then two in one call, or one by one.
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"head_epochs": 3, "epochs": 3}, "fewer than --epochs"),
        ({"ema": 1.0}, "0 to below 1"),
        ({"steps_per_call": 0}, "1 or more"),
        ({"head_epochs": 1, "head_learning_rate": 0.0}, "a positive number"),
        ({"head_learning_rate": 0.1}, "--head_epochs with it"),
    ],
)
def test_settings_that_make_no_sense(values, text):
    with pytest.raises(SettingsError, match=text):
        TrainConfig(**values)


@keras.saving.register_keras_serializable(package="tests")
class Hungry(keras.layers.Layer):
    """Takes a petabyte, which no machine can name, to train with more than 4 images."""

    def call(self, x, training=False):
        """Gives what it is given."""
        if not training:
            return x
        count = tf.where(tf.shape(x)[0] > 4, tf.constant(1 << 48, tf.int64), 1)
        return x + 0.0 * tf.reduce_sum(tf.random.uniform(count[None]))


def hungry_net(**how):
    """The one-block network with it at its end."""
    plain = tiny_net(**{**how, "include_top": False})
    return keras.Model(plain.input, Hungry(name="hungry")(plain.output))


@pytest.mark.T8
@pytest.mark.parametrize("features", ["on", "off"])
def test_where_a_batch_does_not_fit_one_that_does_is_named(
    features, two_cpus, photos, tmp_path
):
    """TensorFlow's own refusal to allocate."""
    spec = dataclasses.replace(
        WITHOUT_DROPOUT, constructor="tests.test_training_ways:hungry_net"
    )
    with pytest.raises(TlperfError) as caught:
        train_tiny(
            photos,
            two_cpus,
            tmp_path,
            spec=spec,
            features={"feature_cache": features},
        )
    error = caught.value
    assert (error.code, error.reason) == (ExitCode.MEMORY, "out_of_memory")
    assert "8 images of 32 x 32 pixels do not fit with Tiny into" in error.found
    assert error.remedy == (
        "--accumulate=2 takes the same batch in parts of 4, which fit; or give "
        "--batch_size=4"
    )
    # It does.
    assert losses(train_tiny(photos, two_cpus, tmp_path, spec=spec, accumulate=2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dst tensor is not initialized.", TlperfError),  # a batch on its way to a GPU
        ("something else", tf.errors.InternalError),
    ],
)
def test_memory_that_ends_by_another_name_is_memory(
    text, expected, two_cpus, photos, tmp_path, monkeypatch
):
    def fail(run):
        raise tf.errors.InternalError(None, None, text)

    monkeypatch.setattr("tlperf.training.loop._Run.go_on", fail)
    with pytest.raises(expected) as caught:
        train_tiny(photos, two_cpus, tmp_path)
    if expected is TlperfError:
        assert caught.value.code == ExitCode.MEMORY
        assert "--accumulate=2 takes the same batch" in caught.value.remedy
