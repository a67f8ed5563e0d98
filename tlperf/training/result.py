"""What a training tells: a row an epoch, a line for people, the result.

row = epoch_row(trainer, 0, trained, validated)
best(rows)["epoch"]; epoch_text(spec, row, 10)
train_result(trainer, rows, weights=weights, build_secs=2.0)
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from tlperf.core import files
from tlperf.core.units import format_secs
from tlperf.model.blocks import describe_blocks
from tlperf.model.optimizer import optimizer_settings
from tlperf.model.weights import WEIGHTS_NAME, WeightsSource
from tlperf.pipeline.service import format_missed
from tlperf.reference.backbones import BackboneSpec
from tlperf.training.passes import PassResult
from tlperf.training.trainer import Trainer

# Above this share of an epoch spent waiting for input, the result says so.
_INPUT_WAIT_WARNING = 0.10
# Skipped records that a warning names.
_NAMED = 20


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of the best epoch: highest validation accuracy, then lowest loss."""
    return max(rows, key=_quality)


def _quality(row: dict[str, Any]) -> tuple[float, float, int]:
    """Higher is better; of equals the earlier epoch."""
    return row["val_accuracy"], -row["val_loss"], -row["epoch"]


def epoch_row(
    trainer: Trainer, epoch: int, trained: PassResult, validated: PassResult
) -> dict[str, Any]:
    """The row of an epoch, which is 0-based here and from 1 in the row."""
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
        "learning_rate": float(
            keras.ops.convert_to_numpy(trainer.phase(epoch).optimizer.learning_rate)
        ),
    }


def epoch_text(spec: BackboneSpec, row: dict[str, Any], epochs: int) -> str:
    """A line for people."""
    return (
        f"{spec.name}: epoch {row['epoch']}/{epochs} in {format_secs(row['secs'])}, "
        f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"validation {row['val_loss']:.4f}, {row['val_accuracy']:.4f}, "
        f"{row['images_per_sec']:.1f} images/s, "
        f"{row['input_wait_fraction']:.1%} of the time waiting for input"
    )


def train_result(
    trainer: Trainer,
    rows: list[dict[str, Any]],
    *,
    weights: WeightsSource,
    build_secs: float,
) -> dict[str, Any]:
    """The JSON of `train` for this backbone; weights.h5 is there."""
    config = trainer.config
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
        "feature_cache": "on" if trainer.frozen_part.features.store else "off",
        "features": trainer.frozen_part.features.to_dict(),
        "precision": trainer.compute.precision,
        "xla": trainer.compute.jit_compile,
        "strategy": type(trainer.compute.strategy).__name__,
        "replicas": trainer.compute.replicas,
        "workers": trainer.compute.workers,
        "device_peak_memory_bytes": trainer.compute.peak_memory_bytes(),
        "image_size": trainer.image_size,
        "batch_size": config.input.batch_size,
        "preprocess": config.input.preprocess.value,
        "decode": config.input.decode.value,
        # With the image size: how files became pixels (`tlperf.core.recipe`).
        "exif": trainer.dataset.manifest.exif,
        "encoding": trainer.dataset.manifest.encoding,
        "stored_size": trainer.dataset.manifest.image_size,
        "augment": config.input.augment.value,
        "cache": config.input.cache.value,
        "data_service": trainer.pipeline.service_totals(),
        "skipped": trainer.pipeline.skipped(),
        "weights": weights.facts(),
        "weights_sha256": (
            files.sha256_file(folder / WEIGHTS_NAME)
            if trainer.compute.is_chief
            else None  # the chief has them
        ),
        "data_digest": trainer.dataset.manifest.digest,
        "optimizer": optimizer_settings(trainer.spec, config.training),
        "best_epoch": best(rows)["epoch"],
        **_network_facts(trainer),
        "warnings": _warnings(trainer, rows, wait_fraction),
    }


def _network_facts(trainer: Trainer) -> dict[str, Any]:
    """Its layers, which of them learn, and the drawing's blocks."""
    classifier = trainer.classifier
    return {
        "freeze": _boundary(trainer.spec, trainer.config.model.freeze),
        "defaults": trainer.spec.defaults,
        "layers": len(classifier.backbone.layers),
        "frozen_layers": len(classifier.frozen_names),
        "active_layers": len(classifier.active_names),
        "first_active": (*classifier.active_names, None)[0],
        "head": list(classifier.head_text),
        "architecture": describe_blocks(classifier),
        "params": classifier.whole.count_params(),
        "trainable_params": sum(
            math.prod(variable.shape)
            for layer in trainer.phases[-1].layers
            for variable in layer.trainable_variables
        ),
    }


def _boundary(spec: BackboneSpec, freeze: str) -> str:
    """`freeze` as it was meant: only the study's backbones have Table 2's boundary."""
    return "all" if freeze == "paper" and spec.first_active is None else freeze


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
