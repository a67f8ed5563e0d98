"""The training loop of one backbone.

    training = train_backbone(spec, config, dataset=dataset, compute=compute,
                              weights=find_weights(spec, config.model.weights))
    training.result["epochs"]

Writes WORKDIR/BACKBONE/{history.jsonl, weights.h5, architecture.json, tensorboard/};
weights.h5 holds the best epoch: highest validation accuracy, then lowest loss.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import keras

from tlperf.core import files
from tlperf.core.batch import Batch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log, progress_bar
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_secs
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier, build_classifier, check_classes
from tlperf.model.facts import describe_architecture
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import (
    Network,
    StepSums,
    build_evaluate_step,
    build_predict_step,
    build_train_step,
)
from tlperf.model.weights import WEIGHTS_NAME, WeightsSource, save_keras_weights
from tlperf.pipeline.input import (
    Batches,
    check_batch_size,
    evaluation_batches,
    training_batches,
)
from tlperf.reference.backbones import BackboneSpec, Normalisation
from tlperf.training.optimizer import build_optimizer, optimizer_settings
from tlperf.training.telemetry import Telemetry

# Above this share of an epoch spent waiting for input, the result says so.
_INPUT_WAIT_WARNING = 0.10

Item = TypeVar("Item")


@dataclasses.dataclass
class Waits:
    """Iterates and adds up the seconds spent waiting for the next item."""

    clock: Callable[[], float] = time.perf_counter
    secs: float = 0.0

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items."""
        iterator = iter(items)
        while True:
            start = self.clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.secs += self.clock() - start
            yield item


@dataclasses.dataclass(frozen=True)
class PassResult:
    """One pass over a split.

    Attributes:
        loss: mean over the images that count.
        accuracy: share of them classified right.
        count: images that counted.
        steps: batches.
        secs: wall time of the pass.
        first_step_secs: of the first step, tracing and compiling included.
        input_wait_secs: waiting for batches, the first one's left out.
    """

    loss: float
    accuracy: float
    count: int
    steps: int
    secs: float
    first_step_secs: float
    input_wait_secs: float

    @property
    def steady_secs(self) -> float:
        """Wall time without the first step."""
        return self.secs - self.first_step_secs

    @property
    def steps_per_sec(self) -> float:
        """Steps a second after the first; of the first where it is the only one."""
        if self.steps == 1:
            return 1 / self.secs
        return (self.steps - 1) / self.steady_secs


def run_pass(
    step: Callable[[Batch], StepSums], batches: Batches, *, compute: Compute, title: str
) -> PassResult:
    """Runs a step over all batches of a pass; reads the device once, at the end.

    Sums stay on the device while steps are queued, so the host never waits between two
    steps. They are float32 sums of at most a batch each and are added up in float64.
    """
    waits, sums = Waits(), []
    start = time.perf_counter()
    first_step_secs = first_wait_secs = 0.0
    batch_size = batches.plan.batch_size
    with progress_bar(
        total=batches.plan.steps * batch_size, unit="img", title=title
    ) as bar:
        for batch in waits.over(batches.distribute(compute)):
            sums.append(step(batch))
            if len(sums) == 1:
                float(sums[0].loss)  # blocks, so that the first step is timed whole
                first_step_secs = time.perf_counter() - start
                first_wait_secs = waits.secs
            bar.update(batch_size)
        loss, correct, count = (
            math.fsum(float(value) for value in column)
            for column in zip(*sums, strict=True)
        )
    return PassResult(
        loss=loss / count,
        accuracy=correct / count,
        count=int(count),
        steps=len(sums),
        secs=time.perf_counter() - start,
        first_step_secs=first_step_secs,
        input_wait_secs=waits.secs - first_wait_secs,
    )


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What the epochs of one training share; steps are traced at their first batch."""

    spec: BackboneSpec
    config: RunConfig
    dataset: StoredDataset
    compute: Compute
    classifier: Classifier
    optimizer: keras.optimizers.Optimizer
    image_size: int

    @property
    def _normalisation(self) -> Normalisation:
        return normalisation_for(self.spec, self.config.input.preprocess)

    @functools.cached_property
    def train_step(self) -> Callable[[Batch], StepSums]:
        """The compiled train step."""
        return build_train_step(
            self.classifier,
            self.optimizer,
            compute=self.compute,
            normalisation=self._normalisation,
            batch_size=self.config.input.batch_size,
        )

    @functools.cached_property
    def predict(self) -> Callable[[Batch], tuple[Any, Any]]:
        """The compiled inference step."""
        return build_predict_step(
            self.classifier.whole,
            compute=self.compute,
            normalisation=self._normalisation,
        )

    @functools.cached_property
    def evaluate_step(self) -> Callable[[Batch], StepSums]:
        """The sums of the inference step."""
        return build_evaluate_step(self.predict, compute=self.compute)

    def train_epoch(self, epoch: int) -> tuple[PassResult, int]:
        """One epoch (0-based): its result and how many images were left out."""
        batches = training_batches(
            self.dataset, self.config.input, image_size=self.image_size, epoch=epoch
        )
        title = f"{self.spec.name} epoch {epoch + 1}/{self.config.training.epochs}"
        result = run_pass(self.train_step, batches, compute=self.compute, title=title)
        return result, batches.plan.dropped

    def validate(self, split: str = "validation") -> PassResult:
        """One pass over a split without training."""
        batches = evaluation_batches(
            self.dataset, self.config.input, split=split, image_size=self.image_size
        )
        title = f"{self.spec.name} {split}"
        return run_pass(self.evaluate_step, batches, compute=self.compute, title=title)


def backbone_folder(config: RunConfig, spec: BackboneSpec) -> pathlib.Path:
    """Where a backbone's results go."""
    return pathlib.Path(config.workdir) / spec.name


def build_trainer(
    spec: BackboneSpec,
    config: RunConfig,
    *,
    dataset: StoredDataset,
    compute: Compute,
    weights: WeightsSource,
) -> Trainer:
    """Builds model and optimiser in the strategy's scope, seeded.

    Raises:
        TlperfError: batch, image size, classes, freeze boundary or weights do not fit.
    """
    check_batch_size(config.input.batch_size, compute.replicas)
    classes = len(dataset.manifest.classes)
    check_classes(classes)
    # Before any layer is built: building draws head weights and dropout seeds.
    keras.utils.set_random_seed(config.training.seed)
    image_size = config.input.image_size or spec.native_size
    with compute.strategy.scope():
        classifier = build_classifier(
            spec,
            image_size=image_size,
            classes=classes,
            freeze=config.model.freeze,
            precision=compute.precision,
            load_weights=weights.load,
        )
        optimizer = build_optimizer(spec, config.training, precision=compute.precision)
        # Keras 3.15 cannot create slots while tracing under a strategy (keras 23085).
        optimizer.build(classifier.active.trainable_variables)
    return Trainer(spec, config, dataset, compute, classifier, optimizer, image_size)


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        result: the JSON of `train` for this backbone.
        network: the network as the last epoch left it; the best is in weights.h5.
    """

    result: dict[str, Any]
    network: Network


def train_backbone(
    spec: BackboneSpec,
    config: RunConfig,
    *,
    dataset: StoredDataset,
    compute: Compute,
    weights: WeightsSource,
) -> Training:
    """Trains one backbone and writes its folder.

    Raises:
        TlperfError: 65 where the loss is no longer finite, and what `build_trainer`
            raises.
    """
    start = time.perf_counter()
    trainer = build_trainer(
        spec, config, dataset=dataset, compute=compute, weights=weights
    )
    build_secs = time.perf_counter() - start
    folder = backbone_folder(config, spec)
    files.write_json(
        folder / "architecture.json",
        describe_architecture(
            trainer.classifier.whole, trainer.classifier.frozen_names
        ),
    )
    rows: list[dict[str, Any]] = []
    with Telemetry(folder) as telemetry:
        for epoch in range(config.training.epochs):
            trained, dropped = trainer.train_epoch(epoch)
            _check_finite(spec, trained, epoch)
            row = _epoch_row(trainer, epoch, trained, trainer.validate())
            row["dropped"] = dropped
            if row == max([*rows, row], key=_quality):
                save_keras_weights(trainer.classifier.whole, folder / WEIGHTS_NAME)
            rows.append(row)
            telemetry.write_epoch(row)
            log(_epoch_text(spec, row, config.training.epochs))
    result = _train_result(trainer, rows, weights, folder, build_secs)
    return Training(result, Network(trainer.classifier.whole, trainer.predict))


def _check_finite(spec: BackboneSpec, result: PassResult, epoch: int) -> None:
    if not math.isfinite(result.loss):
        raise TlperfError(
            ExitCode.DATA,
            "not_finite",
            found=f"the loss of {spec.name} is {result.loss} in epoch {epoch + 1}",
            remedy="give a lower --learning_rate, or --precision=float32",
        )


def _quality(row: dict[str, Any]) -> tuple[float, float, int]:
    """Higher is better; of equals the earlier epoch."""
    return row["val_accuracy"], -row["val_loss"], -row["epoch"]


def _epoch_row(
    trainer: Trainer, epoch: int, trained: PassResult, validated: PassResult
) -> dict[str, Any]:
    steps_per_sec = trained.steps_per_sec
    steady_secs = trained.steady_secs or trained.secs
    return {
        "epoch": epoch + 1,
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "val_loss": validated.loss,
        "val_accuracy": validated.accuracy,
        "secs": trained.secs + validated.secs,
        "train_secs": trained.secs,
        "first_step_secs": trained.first_step_secs,
        "steps": trained.steps,
        "steps_per_sec": steps_per_sec,
        "images_per_sec": steps_per_sec * trainer.config.input.batch_size,
        "input_wait_fraction": trained.input_wait_secs / steady_secs,
        "learning_rate": optimizer_settings(trainer.spec, trainer.config.training)[
            "learning_rate"
        ],
    }


def _epoch_text(spec: BackboneSpec, row: dict[str, Any], epochs: int) -> str:
    return (
        f"{spec.name}: epoch {row['epoch']}/{epochs} in {format_secs(row['secs'])}, "
        f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"validation {row['val_loss']:.4f}, {row['val_accuracy']:.4f}, "
        f"{row['images_per_sec']:.1f} images/s"
    )


def _train_result(
    trainer: Trainer,
    rows: list[dict[str, Any]],
    weights: WeightsSource,
    folder: pathlib.Path,
    build_secs: float,
) -> dict[str, Any]:
    config, classifier = trainer.config, trainer.classifier
    # Rates after the first step of each epoch; weighted by the seconds they took.
    steady = [max(row["train_secs"] - row["first_step_secs"], 0.0) for row in rows]
    total = math.fsum(steady) or math.fsum(row["train_secs"] for row in rows)
    steps = sum(max(row["steps"] - 1, 1) for row in rows)
    waited = math.fsum(
        row["input_wait_fraction"] * secs
        for row, secs in zip(rows, steady, strict=True)
    )
    wait_fraction = waited / total
    return {
        "backbone": trainer.spec.name,
        "classes": list(trainer.dataset.manifest.classes),
        "epochs": rows,
        "train_secs": math.fsum(row["secs"] for row in rows),
        "build_secs": build_secs,
        "steps_per_sec": steps / total,
        "images_per_sec": steps / total * config.input.batch_size,
        "input_wait_fraction": wait_fraction,
        "feature_cache": "off",
        "precision": trainer.compute.precision,
        "xla": trainer.compute.jit_compile,
        "strategy": type(trainer.compute.strategy).__name__,
        "replicas": trainer.compute.replicas,
        "image_size": trainer.image_size,
        "batch_size": config.input.batch_size,
        "preprocess": config.input.preprocess.value,
        "weights": weights.facts(),
        "weights_sha256": files.sha256_file(folder / WEIGHTS_NAME),
        "data_digest": trainer.dataset.manifest.digest,
        "freeze": config.model.freeze,
        "optimizer": optimizer_settings(trainer.spec, config.training),
        "best_epoch": max(rows, key=_quality)["epoch"],
        "layers": len(classifier.backbone.layers),
        "frozen_layers": len(classifier.frozen_names),
        "active_layers": len(classifier.active_names),
        "first_active": (*classifier.active_names, None)[0],
        "head": list(classifier.head_text),
        "params": classifier.whole.count_params(),
        "trainable_params": sum(
            math.prod(variable.shape)
            for variable in classifier.whole.trainable_variables
        ),
        "warnings": _warnings(trainer, rows, wait_fraction),
    }


def _warnings(
    trainer: Trainer, rows: list[dict[str, Any]], wait_fraction: float
) -> list[str]:
    found = []
    if wait_fraction > _INPUT_WAIT_WARNING:
        found.append(
            f"{wait_fraction:.0%} of the training waited for input: see tlperf input"
        )
    if rows[0]["dropped"]:
        found.append(
            f"{rows[0]['dropped']} images an epoch were left out, others each epoch: "
            f"the batch of {trainer.config.input.batch_size} does not divide the split"
        )
    return found
