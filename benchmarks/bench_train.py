"""An epoch of tlperf beside an epoch of Keras' own `fit`, interleaved.

    pytest benchmarks/bench_train.py --benchmark-only --source=FOLDER --weights=DIR \\
        --backbones=xception,vgg16 --image-size=150 --epochs=3

Keras' side is written as the study did: arrays in memory, preprocessed once, `compile`
and `fit`; same split, weights, batch and optimiser. Each side trains its own model, one
epoch in turn, so a machine that drifts drifts for both. `extra_info` has the seconds of
every epoch, the ratio of medians (Keras / tlperf: above 1 tlperf is faster) and both
test accuracies.
"""

import time

import keras
import numpy as np
import pytest

from tlperf.core.choices import Precision, Preprocess
from tlperf.core.settings import DataConfig, DeviceConfig, InputConfig, RunConfig
from tlperf.core.statistics import median
from tlperf.core.units import ratio
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.device.setup import setup_compute
from tlperf.model.build import build_classifier
from tlperf.model.preprocess import normalisation_for, normalise
from tlperf.model.weights import find_weights
from tlperf.pipeline.input import InputPipeline
from tlperf.training.loop import build_trainer
from tlperf.training.optimizer import build_optimizer

BATCH_SIZE = 32


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
    )


def read_arrays(dataset, spec, config, split):
    """A split as Keras users hold it: float32 [N, S, S, 3], preprocessed; int32 [N]."""
    size = config.input.image_size
    batches = InputPipeline(dataset, config.input, image_size=size).evaluation(split)
    normalisation = normalisation_for(spec, Preprocess.BACKBONE)
    images, labels = [], []
    for batch in batches:
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
            load_weights=weights.load,
        ).whole
        self.model.compile(
            build_optimizer(spec, config.training, precision="float32"),
            keras.losses.SparseCategoricalCrossentropy(),
            metrics=["accuracy"],
        )
        self.train = read_arrays(dataset, spec, config, "train")
        self.validation = read_arrays(dataset, spec, config, "validation")
        self.test = read_arrays(dataset, spec, config, "test")

    def epoch(self):
        """One epoch with validation, as `fit` runs it."""
        self.model.fit(
            *self.train,
            batch_size=BATCH_SIZE,
            validation_data=self.validation,
            epochs=1,
            verbose=0,
        )

    def accuracy(self):
        """On the test split, from predictions."""
        images, labels = self.test
        predicted = self.model.predict(images, batch_size=BATCH_SIZE, verbose=0)
        return float(np.mean(np.argmax(predicted, -1) == labels))


class TlperfSide:
    """The network trained by tlperf's loop."""

    def __init__(self, spec, config, dataset, compute, weights):
        self.trainer = build_trainer(
            spec, config, dataset=dataset, compute=compute, weights=weights
        )
        self.epochs = 0

    def epoch(self):
        """One epoch with validation, decoding included."""
        self.trainer.train_epoch(self.epochs)
        self.trainer.validate()
        self.epochs += 1

    def accuracy(self):
        """On the test split."""
        return self.trainer.validate("test").accuracy


def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.benchmark(group="train-epoch")
def test_epoch_beside_keras_fit(benchmark, spec, compute, dataset, config, request):
    weights = find_weights(spec, request.config.getoption("--weights"))
    ours = TlperfSide(spec, config, dataset, compute, weights)
    theirs = KerasSide(spec, config, dataset, weights)
    epochs = request.config.getoption("--epochs")
    fit_secs: list[float] = []
    our_secs: list[float] = []

    def one_of_each():
        # In turn first and second: what one leaves in the caches, the other leaves too.
        turns: list = [(fit_secs, theirs), (our_secs, ours)]
        for secs, side in turns if len(our_secs) % 2 == 0 else reversed(turns):
            secs.append(timed(side.epoch))

    benchmark.pedantic(one_of_each, rounds=epochs, iterations=1)
    benchmark.extra_info.update(
        backbone=spec.name,
        epochs=epochs,
        keras_fit_secs=fit_secs,
        tlperf_secs=our_secs,
        keras_over_tlperf=ratio(median(fit_secs), median(our_secs)),
        keras_test_accuracy=theirs.accuracy(),
        tlperf_test_accuracy=ours.accuracy(),
        device=compute.facts(),
    )
    assert len(our_secs) == epochs
