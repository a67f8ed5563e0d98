"""The loop on a one-block backbone: rows, files, best weights, replicas, Table 4."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import RANDOM, TINY, run_config
from tlperf.core import files
from tlperf.core.choices import BatchNorm, Schedule
from tlperf.core.errors import SettingsError, TlperfError
from tlperf.core.settings import DeviceConfig, InputConfig, TrainConfig
from tlperf.dataset.store import open_dataset
from tlperf.model.optimizer import (
    WarmUpAndDecay,
    build_optimizer,
    optimizer_settings,
)
from tlperf.model.steps import build_evaluate_step
from tlperf.model.trained import load_trained
from tlperf.pipeline.input import InputPipeline
from tlperf.reference.backbones import BACKBONES
from tlperf.training.loop import train_backbone
from tlperf.training.passes import Waits, run_pass
from tlperf.training.trainer import find_class_weights

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def trained(two_cpus, photos_dir, tmp_path_factory):
    """A finished training: its config, result and folder."""
    config = run_config(tmp_path_factory.mktemp("work"))
    with open_dataset(photos_dir) as dataset:
        result = train_backbone(
            TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
        ).result
    return config, result, files.pathlib.Path(config.workdir) / "tiny"


def test_the_loss_falls_and_every_epoch_is_a_row(trained):
    _, result, folder = trained
    assert [row["epoch"] for row in result["epochs"]] == [1, 2, 3]
    assert result["epochs"][-1]["loss"] < result["epochs"][0]["loss"]
    assert files.read_json_lines(folder / "history.jsonl") == result["epochs"]
    for row in result["epochs"]:
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["input_wait_fraction"] <= 1
        assert row["secs"] >= row["train_pass_secs"] > row["first_step_secs"] > 0
        assert row["steps"] == 3


def test_the_result_is_json_with_the_contracts_keys(trained):
    _, result, _ = trained
    keys = {"backbone", "epochs", "train_secs", "steps_per_sec", "images_per_sec"}
    keys |= {"input_wait_fraction", "feature_cache", "precision", "xla"}
    keys |= {"strategy", "replicas"}
    assert keys <= set(json.loads(files.to_json(result)))
    assert (result["frozen_layers"], result["active_layers"]) == (3, 3)
    assert result["first_active"] == "norm"


def test_the_best_epochs_weights_are_kept(trained, two_cpus):
    _, result, folder = trained
    rows = result["epochs"]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert files.sha256_file(folder / "weights.h5") == result["weights_sha256"]
    network = load_trained(TINY, folder, result, compute=two_cpus)
    assert network.model.count_params() == result["params"]


def test_the_file_holds_the_best_epoch_and_not_the_last(two_cpus, photos_dir, tmp_path):
    """A rate this high makes a later epoch worse; its loss shows in the file."""
    config = run_config(tmp_path, epochs=5, learning_rate=0.05)
    with open_dataset(photos_dir) as dataset:
        training = train_backbone(
            TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
        )
        rows = training.result["epochs"]
        best = rows[training.result["best_epoch"] - 1]
        assert best is not rows[-1]
        network = load_trained(
            TINY, tmp_path / "tiny", training.result, compute=two_cpus
        )
        step = build_evaluate_step(network.predict, compute=two_cpus)
        batches = InputPipeline(dataset, config.input, image_size=32).evaluation(
            "validation"
        )
        again = run_pass(step, batches, compute=two_cpus, title="again")
    assert again.loss == pytest.approx(best["val_loss"], rel=1e-5)
    assert again.accuracy == best["val_accuracy"]


def test_an_epoch_of_one_step_takes_its_rate_from_that_step(
    two_cpus, photos_dir, tmp_path
):
    config = dataclasses.replace(
        run_config(tmp_path, epochs=1),
        input=InputConfig(image_size=32, batch_size=24),
    )
    with open_dataset(photos_dir) as dataset:
        result = train_backbone(
            TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
        ).result
    (row,) = result["epochs"]
    assert row["steps"] == row["timed_steps"] == 1
    assert row["steps_per_sec"] == pytest.approx(1 / row["train_pass_secs"])
    assert 0 <= result["input_wait_fraction"] < 1


def test_a_training_that_fails_leaves_the_one_before_it_whole(
    two_cpus, photos_dir, tmp_path
):
    with open_dataset(photos_dir) as dataset:
        first = train_backbone(
            TINY,
            run_config(tmp_path),
            dataset=dataset,
            compute=two_cpus,
            weights=RANDOM,
        ).result
        with pytest.raises(TlperfError):
            train_backbone(
                TINY,
                run_config(tmp_path, learning_rate=1e30),
                dataset=dataset,
                compute=two_cpus,
                weights=RANDOM,
            )
    load_trained(TINY, tmp_path / "tiny", first, compute=two_cpus)


def test_other_weights_than_the_trained_ones_are_refused(trained, two_cpus, tmp_path):
    _, result, folder = trained
    data = bytearray((folder / "weights.h5").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.h5").write_bytes(bytes(data))
    with pytest.raises(TlperfError, match="the training noted") as caught:
        load_trained(TINY, tmp_path, result, compute=two_cpus)
    assert caught.value.code == 76


def read_scalars(folder):
    """Scalars by tag and step, read from the event files without TensorBoard."""
    found = {}
    for path in folder.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                number = float(tf.make_ndarray(value.tensor))
                found[value.tag, event.step] = (plugin, number)
    return found


def test_tensorboard_gets_keras_names(trained):
    _, result, folder = trained
    board = folder / "tensorboard"
    train, validation = (read_scalars(board / name) for name in ("train", "validation"))
    for row in result["epochs"]:
        step = row["epoch"] - 1
        for tag, key in (("epoch_loss", "loss"), ("epoch_accuracy", "accuracy")):
            assert train[tag, step] == ("scalars", pytest.approx(row[key], rel=1e-6))
            assert validation[tag, step][1] == pytest.approx(row[f"val_{key}"])
    assert ("examples/sec", 0) in train
    assert ("epoch_learning_rate", 0) in train


def test_the_same_seed_gives_the_same_curve(two_cpus, photos_dir, tmp_path):
    losses = []
    for name in ("a", "b"):
        with open_dataset(photos_dir) as dataset:
            result = train_backbone(
                TINY,
                run_config(tmp_path / name, epochs=2),
                dataset=dataset,
                compute=two_cpus,
                weights=RANDOM,
            ).result
        losses.append([row["loss"] for row in result["epochs"]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_two_replicas_train_to_the_same_loss(mirrored, two_cpus, photos_dir, tmp_path):
    """Through the whole way: shards, pipeline, loop. The only BatchNormalization is
    frozen and dropout is 0, since replicas keep statistics and masks of their own."""
    spec = dataclasses.replace(TINY, first_active="relu", head=TINY.head[:1])
    losses = {}
    for compute in (two_cpus, mirrored):
        with open_dataset(photos_dir) as dataset:
            result = train_backbone(
                spec,
                run_config(tmp_path / str(compute.replicas), epochs=7),
                dataset=dataset,
                compute=compute,
                weights=RANDOM,
            ).result
        rows = result["epochs"]  # 7 epochs of 3 steps
        losses[compute.replicas] = [(row["loss"], row["val_loss"]) for row in rows]
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_what_to_do(
    two_cpus, photos_dir, tmp_path
):
    config = run_config(tmp_path, learning_rate=1e30)
    with open_dataset(photos_dir) as dataset:
        with pytest.raises(TlperfError, match="lower --learning_rate") as caught:
            train_backbone(
                TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
            )
    assert caught.value.code == 65


@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_the_optimiser_is_table_4s_with_nothing_left_to_defaults(spec):
    optimizer = build_optimizer(spec, TrainConfig(), precision="float32")
    settings = optimizer_settings(spec, TrainConfig())
    stated = optimizer.get_config()
    assert settings.pop("name") == spec.optimizer
    for name, value in settings.items():
        assert stated[name] == pytest.approx(value)
    assert stated["learning_rate"] == pytest.approx(5e-5)
    # Whatever else the optimiser has is off.
    assert not any(
        stated[name]
        for name in (
            "weight_decay",
            "clipnorm",
            "use_ema",
            "gradient_accumulation_steps",
        )
    )


def test_float16_gets_dynamic_loss_scaling():
    optimizer = build_optimizer(TINY, TrainConfig(), precision="mixed_float16")
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def test_waiting_is_what_the_iterator_takes():
    ticks = iter([0.0, 2.0, 10.0, 11.0, 20.0, 20.5])
    waits = Waits(clock=lambda: next(ticks))
    assert list(waits.over("ab")) == ["a", "b"]
    assert waits.secs == 2.0 + 1.0  # the end is no batch


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "expected"),
    [
        (Schedule.CONSTANT, 0, [1.0, 1.0, 1.0, 1.0, 1.0]),
        (Schedule.CONSTANT, 4, [0.25, 0.5, 1.0, 1.0, 1.0]),
        (Schedule.COSINE, 0, [1.0, 0.9755, 0.7939, 0.5, 0.0]),
        (Schedule.COSINE, 4, [0.25, 0.5, 1.0, 0.75, 0.0]),
    ],
)
def test_learning_rates(schedule, warmup_steps, expected):
    """Of steps 0, 1, 3, 5 and 10 of 10."""
    rate = WarmUpAndDecay(
        0.1, schedule=schedule, warmup_steps=warmup_steps, total_steps=10
    )
    if schedule is Schedule.COSINE and warmup_steps:
        expected = [*expected[:3], 0.5 * (1 + np.cos(np.pi / 6)), 0.0]
    found = [float(rate(step)) / 0.1 for step in (0, 1, 3, 5, 10)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_rate_of_a_schedule_is_used_and_told(two_cpus, photos_dir, tmp_path):
    config = run_config(tmp_path, schedule="cosine", warmup_steps=2)
    with open_dataset(photos_dir) as dataset:
        result = train_backbone(
            TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
        ).result
    rates = [row["learning_rate"] for row in result["epochs"]]
    assert rates[0] > rates[1] > rates[2] == pytest.approx(0.0, abs=1e-9)


def test_training_ends_where_no_epoch_is_better(two_cpus, photos_dir, tmp_path):
    config = run_config(tmp_path, epochs=30, learning_rate=1e-12, early_stopping=2)
    with open_dataset(photos_dir) as dataset:
        result = train_backbone(
            TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
        ).result
    assert len(result["epochs"]) == result["best_epoch"] + 2
    assert len(result["epochs"]) < 30


def test_batch_normalization_as_it_came(two_cpus, photos_dir, tmp_path):
    moved = {}
    for mode in BatchNorm:
        config = run_config(tmp_path / mode, epochs=1, batch_norm=mode)
        with open_dataset(photos_dir) as dataset:
            network = train_backbone(
                TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM
            ).network
        norm = network.model.get_layer("norm")
        moved[mode] = [bool(np.any(v.numpy() != w)) for v, w in zip(
            norm.weights, (1.0, 0.0, 0.0, 1.0), strict=True)]  # fmt: skip
    assert moved == {
        BatchNorm.UPDATE: [True] * 4,
        BatchNorm.INFERENCE: [False] * 4,
    }


def test_parts_that_do_not_share_a_batch_are_refused(two_cpus, photos_dir, tmp_path):
    config = run_config(tmp_path, accumulate=3)
    with open_dataset(photos_dir) as dataset, pytest.raises(TlperfError) as caught:
        train_backbone(TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM)
    assert caught.value.reason == "indivisible_batch"
    assert "--accumulate=3 cannot share a replica's 8 images" in caught.value.found


def test_balanced_classes_weigh_the_same_in_all(photos_dir, tmp_path):
    config = run_config(tmp_path, class_weights="balanced")
    with open_dataset(photos_dir) as dataset:
        counts = dataset.manifest.splits["train"]
        weights = find_class_weights(config, dataset)
        assert weights is not None
        weighed = [
            counts[name] * weight
            for name, weight in zip(dataset.manifest.classes, weights, strict=True)
        ]
    assert weighed == pytest.approx([sum(counts.values()) / 2] * 2)


def test_traced_steps_are_steps_to_xprof(two_cpus, photos_dir, tmp_path, capsys):
    """Read by XProf's own reader where it is installed (extra profile)."""
    config = run_config(tmp_path, epochs=2, device={"profile_steps": "2:4"})
    with open_dataset(photos_dir) as dataset:
        train_backbone(TINY, config, dataset=dataset, compute=two_cpus, weights=RANDOM)
    board = tmp_path / "tiny" / "tensorboard"
    assert f"tensorboard --logdir={board}" in capsys.readouterr().err
    (trace,) = board.glob("train/plugins/profile/*/*.xplane.pb")
    data = trace.read_bytes()
    assert b"step_num" in data
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data")
    found, _ = convert.xspace_to_tool_data([str(trace)], "trace_viewer", {})
    text = found if isinstance(found, str) else found.decode()
    events = json.loads(text)["traceEvents"]
    steps = [one["args"] for one in events if one.get("name", "").startswith("train")]
    assert sorted({int(one["step_num"]) for one in steps if "step_num" in one}) == [
        *(2, 3, 4)
    ]


@pytest.mark.parametrize("text", ["3", "0:2", "4:2", "a:b", "1:2:3"])
def test_steps_to_trace_of_another_form_are_refused(text):
    with pytest.raises(SettingsError, match="give FIRST:LAST"):
        DeviceConfig(profile_steps=text)
