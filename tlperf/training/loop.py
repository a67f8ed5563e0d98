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
import time
from collections.abc import Callable
from typing import Any

import keras

from tlperf.core import files
from tlperf.core.batch import Batch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_secs
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier, build_classifier
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
from tlperf.pipeline.deliver import check_batch_size
from tlperf.pipeline.input import Batches, InputPipeline
from tlperf.pipeline.service import format_missed
from tlperf.reference.backbones import BackboneSpec, Normalisation
from tlperf.training.optimizer import build_optimizer, optimizer_settings
from tlperf.training.passes import PassResult, run_pass
from tlperf.training.telemetry import Telemetry

# The weights of a training that is not over; no reader takes them for finished ones.
_UNFINISHED = f"unfinished-{WEIGHTS_NAME}"
# Above this share of an epoch spent waiting for input, the result says so.
_INPUT_WAIT_WARNING = 0.10
# Skipped records that a warning names.
_NAMED = 20


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
    pipeline: InputPipeline

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
            augmentation=self.config.input.augment,
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

    def train_epoch(self, epoch: int) -> tuple[PassResult, Batches]:
        """One epoch (0-based): its result and its batches, which tell where they came
        from."""
        batches = self.pipeline.training(epoch)
        title = f"{self.spec.name} epoch {epoch + 1}/{self.config.training.epochs}"
        result = run_pass(self.train_step, batches, compute=self.compute, title=title)
        return result, batches

    def validate(self, split: str = "validation") -> PassResult:
        """One pass over a split without training."""
        batches = self.pipeline.evaluation(split)
        title = f"{self.spec.name} {split}"
        return run_pass(self.evaluate_step, batches, compute=self.compute, title=title)


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
    pipeline = InputPipeline(dataset, config.input, image_size=image_size)
    return Trainer(
        spec, config, dataset, compute, classifier, optimizer, image_size, pipeline
    )


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
    folder = config.backbone_path(spec.name)
    files.write_json(
        folder / "architecture.json",
        describe_architecture(
            trainer.classifier.whole, trainer.classifier.frozen_names
        ),
    )
    rows: list[dict[str, Any]] = []
    with trainer.pipeline, Telemetry(folder) as telemetry:
        for epoch in range(config.training.epochs):
            trained, batches = trainer.train_epoch(epoch)
            validated = trainer.validate()
            _check_finite(spec, epoch, trained, validated)
            row = _epoch_row(trainer, epoch, trained, validated)
            row["dropped"] = batches.plan.dropped
            row["data_service"] = batches.service_counts()
            row["skipped"] = trained.planned - trained.count
            if row == max([*rows, row], key=_quality):
                save_keras_weights(trainer.classifier.whole, folder / _UNFINISHED)
            rows.append(row)
            telemetry.write_epoch(row)
            log(_epoch_text(spec, row, config.training.epochs))
    if service := trainer.pipeline.service_totals():
        told = f"{service['guarantee']}; {format_missed(service)}"
        log(f"{spec.name}: data service: {told}")
    # A training that failed before this leaves the one before it whole.
    (folder / _UNFINISHED).rename(folder / WEIGHTS_NAME)
    files.fsync_directory(folder)
    result = _train_result(trainer, rows, weights=weights, build_secs=build_secs)
    return Training(result, Network(trainer.classifier.whole, trainer.predict))


def _check_finite(
    spec: BackboneSpec, epoch: int, trained: PassResult, validated: PassResult
) -> None:
    for kind, result in (("training", trained), ("validation", validated)):
        if not math.isfinite(result.loss):
            raise TlperfError(
                ExitCode.DATA,
                "not_finite",
                found=f"the {kind} loss of {spec.name} is {result.loss} in epoch "
                f"{epoch + 1}",
                remedy="give a lower --learning_rate, or --precision=float32",
            )


def _quality(row: dict[str, Any]) -> tuple[float, float, int]:
    """Higher is better; of equals the earlier epoch."""
    return row["val_accuracy"], -row["val_loss"], -row["epoch"]


def _epoch_row(
    trainer: Trainer, epoch: int, trained: PassResult, validated: PassResult
) -> dict[str, Any]:
    settings = optimizer_settings(trainer.spec, trainer.config.training)
    steps_per_sec = trained.timed_steps / trained.timed_secs
    return {
        "epoch": epoch + 1,
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "val_loss": validated.loss,
        "val_accuracy": validated.accuracy,
        "secs": trained.secs + validated.secs,
        "train_pass_secs": trained.secs,
        "first_step_secs": trained.first_step_secs,
        "steps": trained.steps,
        "timed_steps": trained.timed_steps,
        "timed_secs": trained.timed_secs,
        "timed_wait_secs": trained.timed_wait_secs,
        "steps_per_sec": steps_per_sec,
        "images_per_sec": steps_per_sec * trainer.config.input.batch_size,
        "input_wait_fraction": trained.timed_wait_secs / trained.timed_secs,
        "learning_rate": settings["learning_rate"],
    }


def _epoch_text(spec: BackboneSpec, row: dict[str, Any], epochs: int) -> str:
    return (
        f"{spec.name}: epoch {row['epoch']}/{epochs} in {format_secs(row['secs'])}, "
        f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"validation {row['val_loss']:.4f}, {row['val_accuracy']:.4f}, "
        f"{row['images_per_sec']:.1f} images/s, "
        f"{row['input_wait_fraction']:.1%} of the time waiting for input"
    )


def _train_result(
    trainer: Trainer,
    rows: list[dict[str, Any]],
    *,
    weights: WeightsSource,
    build_secs: float,
) -> dict[str, Any]:
    config, classifier = trainer.config, trainer.classifier
    folder = config.backbone_path(trainer.spec.name)
    timed_secs = math.fsum(row["timed_secs"] for row in rows)
    steps_per_sec = sum(row["timed_steps"] for row in rows) / timed_secs
    wait_fraction = math.fsum(row["timed_wait_secs"] for row in rows) / timed_secs
    return {
        "backbone": trainer.spec.name,
        "classes": list(trainer.dataset.manifest.classes),
        "epochs": rows,
        "train_secs": math.fsum(row["secs"] for row in rows),
        "build_secs": build_secs,
        "steps_per_sec": steps_per_sec,
        "images_per_sec": steps_per_sec * config.input.batch_size,
        "input_wait_fraction": wait_fraction,
        "feature_cache": "off",
        "precision": trainer.compute.precision,
        "xla": trainer.compute.jit_compile,
        "strategy": type(trainer.compute.strategy).__name__,
        "replicas": trainer.compute.replicas,
        "image_size": trainer.image_size,
        "batch_size": config.input.batch_size,
        "preprocess": config.input.preprocess.value,
        "decode": config.input.decode.value,
        "augment": config.input.augment.value,
        "cache": config.input.cache.value,
        "data_service": trainer.pipeline.service_totals(),
        "skipped": trainer.pipeline.skipped(),
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
    skipped = trainer.pipeline.skipped()
    if skipped:
        named = ", ".join(f"{one['file']}[{one['record']}]" for one in skipped[:_NAMED])
        found.append(f"{len(skipped)} records were skipped: {named}")
    service = trainer.pipeline.service_totals()
    if service and service["missed"]:
        found.append(format_missed(service))
    if rows[0]["dropped"]:
        found.append(
            f"{rows[0]['dropped']} images an epoch were left out, others each epoch: "
            f"the batch of {trainer.config.input.batch_size} does not divide the split"
        )
    return found
