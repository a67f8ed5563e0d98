"""Training with the frozen part computed once, beside Keras' own `fit`, interleaved.

    pytest benchmarks/bench_train.py --benchmark-only --source=FOLDER --weights=DIR \\
        --backbones=all --image-size=150 --epochs=3 -s

Keras' side is written as the study did: arrays in memory, preprocessed once, `compile`
and `fit`, frozen layers computed again each epoch; same split, weights, batch and
optimiser. An epoch of each in turn; the first of either, which traces, is not counted.
Medians make the time of 10 and of 30 epochs with validation; tlperf's include computing
the frozen part of each image, decoding it and writing the features.

The bound of tlperf's side is measured in the same run: the frozen function alone on
images in memory, the active step and the validation step alone on features in memory;
what is above it is shown for each part. `--freeze=all` trains the head alone; a second
head finds the features of the first, and checks them.
`train.md` in the working directory has it all.
"""

import collections
import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlperf.core.choices import Augment, FeatureCache, Precision, Preprocess
from tlperf.core.settings import (
    DataConfig,
    DeviceConfig,
    FeatureConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
)
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.device.setup import setup_compute
from tlperf.model.build import build_classifier
from tlperf.model.optimizer import build_optimizer
from tlperf.model.preprocess import normalisation_for, normalise
from tlperf.model.weights import find_weights
from tlperf.pipeline.input import InputPipeline
from tlperf.training.trainer import build_trainer

BATCH_SIZE = 32
# Of a part that is timed alone, after each epoch.
ALONE_STEPS = 3
ROWS: dict[str, dict[str, dict[str, float]]] = {}


@pytest.fixture(scope="session")
def compute():
    """The device that `--devices=auto` chooses, in float32 as Keras' side."""
    return setup_compute(DeviceConfig(precision=Precision.FLOAT32))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, request):
    """Shards of `--source`."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(DataConfig(source=request.config.getoption("--source")), folder)
    with open_dataset(folder) as stored:
        yield stored


@pytest.fixture
def config(tmp_path, request):
    return RunConfig(
        workdir=str(tmp_path),
        input=InputConfig(
            image_size=request.config.getoption("--image-size"), batch_size=BATCH_SIZE
        ),
        features=FeatureConfig(feature_cache=FeatureCache.ON),
    )


def read_arrays(dataset, spec, config, split):
    """A split as Keras users hold it: float32 [N, S, S, 3], preprocessed; int32 [N]."""
    size = config.input.image_size
    normalisation = normalisation_for(spec, Preprocess.BACKBONE)
    images, labels = [], []
    with InputPipeline(dataset, config.input, image_size=size) as pipeline:
        for batch in pipeline.evaluation(split):
            counts = batch.weight.numpy() > 0
            images.append(normalise(batch.image, normalisation).numpy()[counts])
            labels.append(batch.label.numpy()[counts])
    return np.concatenate(images), np.concatenate(labels)


class KerasSide:
    """The network trained by `fit`."""

    def __init__(self, spec, config, dataset, weights):
        # No strategy: Keras' fit as a user calls it on one device.
        keras.utils.set_random_seed(config.training.seed)
        self.model = build_classifier(
            spec,
            image_size=config.input.image_size,
            classes=len(dataset.manifest.classes),
            freeze=config.model.freeze,
            load_weights=weights.load,
        ).whole
        self.model.compile(
            build_optimizer(spec, config.training, precision="float32"),
            keras.losses.SparseCategoricalCrossentropy(),
            metrics=["accuracy"],
        )
        self.train = read_arrays(dataset, spec, config, "train")
        self.validation = read_arrays(dataset, spec, config, "validation")

    def epoch(self):
        """One epoch with validation, as `fit` runs it."""
        self.model.fit(
            *self.train,
            batch_size=BATCH_SIZE,
            validation_data=self.validation,
            epochs=1,
            verbose=0,
        )


class TlperfSide:
    """The network trained by tlperf's loop on features."""

    def __init__(self, spec, config, dataset, compute, weights):
        self.trainer = build_trainer(
            spec, config, dataset=dataset, compute=compute, weights=weights
        )
        self.model = self.trainer.classifier.whole
        self.fill_secs = timed(self.trainer.frozen_part.open)
        self.epochs = 0
        self.alone: dict[str, list[float]] = collections.defaultdict(list)
        self.actions: dict[str, Callable[[], object]] = {}

    def epoch(self):
        """One epoch with validation."""
        self.trainer.train_epoch(self.epochs)
        self.trainer.validate()
        self.epochs += 1

    def sample_alone(self):
        """Times the parts alone: the frozen function, the active step, validation."""
        trainer = self.trainer
        if not self.alone:
            with InputPipeline(
                trainer.dataset, trainer.config.input, image_size=trainer.image_size
            ) as pipeline:
                images = next(iter(pipeline.evaluation("train")))
            extract = trainer.frozen_part.extractor(Augment.NONE)
            features = next(iter(trainer.batches(0)))
            train, validate = trainer.phase(0).train.step, trainer.evaluate_step
            self.actions = {
                "frozen": lambda: extract(images),
                "train": lambda: train(features).loss.numpy(),
                "validate": lambda: validate(features).loss.numpy(),
            }
        for name, action in self.actions.items():
            if name not in self.alone:
                action()  # traced
            self.alone[name] += [timed(action) for _ in range(ALONE_STEPS)]

    def bounds(self):
        """Seconds that the parts alone take: the frozen part of each image, and an
        epoch of the active part's steps."""
        dataset = self.trainer.dataset
        counts = [dataset.split(name).count for name in ("train", "validation")]
        train_steps = counts[0] // BATCH_SIZE
        val_steps = -(-counts[1] // BATCH_SIZE)
        secs = {name: statistics.median(taken) for name, taken in self.alone.items()}
        return {
            "frozen_secs": secs["frozen"] * sum(counts) / BATCH_SIZE,
            "steps_secs": train_steps * secs["train"] + val_steps * secs["validate"],
        }

    def second_head_secs(self):
        """What it takes to find and check the features that are there."""
        self.trainer.close()
        return timed(self.trainer.frozen_part.open)


def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(sides, epochs):
    """Median seconds of an epoch of each side, in turn."""
    secs: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 + epochs):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            took = timed(sides[name].epoch)
            if number:
                secs[name].append(took)
        sides["tlperf"].sample_alone()
    return {name: statistics.median(values) for name, values in secs.items()}


@pytest.mark.benchmark(group="train")
@pytest.mark.parametrize("freeze", ["paper", "all"])
def test_train_beside_keras_fit(
    benchmark, spec, freeze, compute, dataset, config, request
):
    weights = find_weights(spec, request.config.getoption("--weights"))
    config = dataclasses.replace(config, model=ModelConfig(freeze=freeze))
    tf.keras.backend.clear_session()
    ours = TlperfSide(spec, config, dataset, compute, weights)
    theirs = KerasSide(spec, config, dataset, weights)
    epochs = request.config.getoption("--epochs")
    secs = measure({"fit": theirs, "tlperf": ours}, epochs)
    row = {
        "fit_epoch_secs": secs["fit"],
        "epoch_secs": secs["tlperf"],
        "fill_secs": ours.fill_secs,
        "feature_bytes": ours.trainer.frozen_part.features.plan.nbytes,
        **ours.bounds(),
        "open_secs": ours.second_head_secs(),
    }
    for count in (10, 30):
        fit, epochs_secs = count * row["fit_epoch_secs"], count * row["epoch_secs"]
        total = row["fill_secs"] + epochs_secs
        bound = row["frozen_secs"] + count * row["steps_secs"]
        row[f"ratio_{count}"] = fit / total
        row[f"of_bound_{count}"] = bound / total
    row["second_head_ratio"] = (
        10 * secs["fit"] / (row["open_secs"] + 10 * secs["tlperf"])
    )
    ROWS.setdefault(freeze, {})[spec.name] = row
    benchmark.extra_info.update(row, device=compute.facts())
    write_table()
    benchmark.pedantic(ours.epoch, rounds=1)
    ours.trainer.close()


SEEDS = 5


@pytest.mark.benchmark(group="accuracy")
def test_accuracy_beside_five_seeds_of_keras_fit(
    benchmark, spec, compute, dataset, config, request
):
    """Test accuracy after `--epochs` epochs, paper boundary, counted from predictions.

    Ours is to lie within the spread of Keras'. Both have their last epoch's weights.
    """
    weights = find_weights(spec, request.config.getoption("--weights"))
    epochs = request.config.getoption("--epochs")
    images, labels = read_arrays(dataset, spec, config, "test")
    found: dict[str, list[float]] = {"fit": [], "tlperf": []}
    for seed in range(SEEDS):
        training = dataclasses.replace(config.training, seed=seed)
        seeded = dataclasses.replace(config, training=training)
        ours = TlperfSide(spec, seeded, dataset, compute, weights)
        theirs = KerasSide(spec, seeded, dataset, weights)
        for name, side in (("fit", theirs), ("tlperf", ours)):
            for _ in range(epochs):
                side.epoch()
            predicted = side.model.predict(images, BATCH_SIZE, verbose=0).argmax(-1)
            found[name].append(float((predicted == labels).mean()))
        ours.trainer.close()
        tf.keras.backend.clear_session()
    print(f"\n{spec.name}, {epochs} epochs, {len(labels)} test photos: {found}")
    benchmark.extra_info.update(found)
    benchmark.pedantic(lambda: None, rounds=1)
    mean = statistics.mean(found["tlperf"])
    assert min(found["fit"]) <= mean <= max(found["fit"])


def write_table():
    """train.md: a row a backbone and boundary, and geometric means."""
    columns = ["fit_epoch_secs", "fill_secs", "frozen_secs", "epoch_secs", "steps_secs"]
    columns += ["ratio_10", "of_bound_10", "ratio_30", "of_bound_30"]
    columns += ["open_secs", "second_head_ratio", "feature_bytes"]
    lines = []
    for freeze, rows in ROWS.items():
        lines += [f"--freeze={freeze}", "", f"| backbone | {' | '.join(columns)} |"]
        lines.append("|---" * (1 + len(columns)) + "|")
        for name, row in rows.items():
            cells = " | ".join(f"{row[column]:,.3g}" for column in columns)
            lines.append(f"| {name} | {cells} |")
        means = " | ".join(
            f"{statistics.geometric_mean(row[column] for row in rows.values()):,.3g}"
            for column in columns
        )
        lines += [f"| geometric mean | {means} |", ""]
    text = "\n".join(lines)
    pathlib.Path("train.md").write_text(text)
    print("\n" + text, file=sys.stderr)
