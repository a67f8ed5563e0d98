"""The training of one backbone, from its first epoch or from where it was stopped.

    training = train_backbone(spec, config, dataset=dataset, compute=compute,
                              weights=find_weights(spec, config.model.weights))
    training.result["epochs"]

Writes WORKDIR/BACKBONE/{history.jsonl, weights.h5, architecture.json, checkpoints/,
tensorboard/}; weights.h5 holds the best epoch: highest validation accuracy, then lowest
loss. What is trained is saved after each epoch, every `--save_every` steps, and at
SIGTERM or SIGINT.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from tlperf.core import faults, files
from tlperf.core.choices import Schedule
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log
from tlperf.core.settings import RunConfig
from tlperf.core.stopping import Stop, stop_signals
from tlperf.core.units import format_secs
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.device.trace import StepTracer
from tlperf.model.facts import describe_architecture
from tlperf.model.steps import Network
from tlperf.model.weights import WEIGHTS_NAME, WeightsSource, save_keras_weights
from tlperf.pipeline.service import format_missed
from tlperf.reference.backbones import BackboneSpec
from tlperf.training.checkpoint import Checkpoint, Checkpoints
from tlperf.training.optimizer import optimizer_settings
from tlperf.training.passes import NotFinite, PassResult, Sums
from tlperf.training.telemetry import Telemetry
from tlperf.training.trainer import Trainer, build_trainer

# Above this share of an epoch spent waiting for input, the result says so.
_INPUT_WAIT_WARNING = 0.10
# Skipped records, and images of a batch, that a line names.
_NAMED = 20
# Settings of a training that may differ when it goes on.
_MAY_DIFFER = {"epochs", "resume", "save_every", "early_stopping"}


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
        TlperfError: 65 where the loss is no longer finite, 75 after a signal, when
            all is saved, 78 where it is to go on with other settings, and what
            `build_trainer` raises.
    """
    start = time.perf_counter()
    trainer = build_trainer(
        spec, config, dataset=dataset, compute=compute, weights=weights
    )
    with trainer.pipeline, stop_signals() as stop:
        run = _Run(trainer, weights=weights, stop=stop)
        run.begin()
        build_secs = time.perf_counter() - start
        trainer.open_features(check_stop=run.check_stop)
        with Telemetry(run.folder) as telemetry:
            for row in run.rows:  # of the run before
                telemetry.write_epoch(row)
            while not run.is_over():
                telemetry.write_epoch(run.do_epoch())
    if service := trainer.pipeline.service_totals():
        told = f"{service['guarantee']}; {format_missed(service)}"
        log(f"{spec.name}: data service: {told}")
    run.publish_best()
    result = _train_result(trainer, run.rows, weights=weights, build_secs=build_secs)
    return Training(result, Network(trainer.classifier.whole, trainer.predict))


class _Run:
    """A training on its way: what is done, and how it is saved.

    Attributes:
        folder: WORKDIR/BACKBONE.
        epoch: 0-based, the one that goes on.
        rows: of the epochs that are done.
    """

    def __init__(self, trainer: Trainer, *, weights: WeightsSource, stop: Stop):
        self._trainer, self._stop = trainer, stop
        self._settings = _settings_of(trainer, weights)
        self.folder = trainer.config.backbone_path(trainer.spec.name)
        self._checkpoints = Checkpoints(self.folder / "checkpoints")
        self.epoch = 0
        self.rows: list[dict[str, Any]] = []
        self._done: list[Sums] = []
        self._tracer = self._build_tracer()

    def _build_tracer(self) -> StepTracer | None:
        steps = self._trainer.config.device.traced_steps
        if steps is None:
            return None
        board = self.folder / "tensorboard"
        log(f"traces steps {steps[0]} to {steps[1]}: tensorboard --logdir={board}")
        return StepTracer(board / "train", first=steps[0], last=steps[1])

    def begin(self) -> None:
        """Goes on from the newest checkpoint, or begins anew."""
        trainer = self._trainer
        files.write_json(
            self.folder / "architecture.json",
            describe_architecture(
                trainer.classifier.whole, trainer.classifier.frozen_names
            ),
        )
        name = trainer.spec.name
        if not trainer.config.training.resume:
            if self._checkpoints.names():
                log(f"{name}: begins anew; --resume would have gone on")
            self._checkpoints.clear()
            return
        self._checkpoints.tidy()
        found = self._checkpoints.load()
        if found is None:
            log(f"{name}: nothing to go on from")
            return
        _check_same(self._settings, found.state["settings"])
        trainer.assign(found.arrays)
        self.epoch = found.epoch
        self.rows = found.state["rows"]
        self._done = [(a, b, c) for a, b, c in found.state["done"]]
        log(f"{name}: goes on in epoch {self.epoch + 1} after {found.step} steps")

    def is_over(self) -> bool:
        """Whether all epochs are done, or none was better for too long."""
        config = self._trainer.config.training
        if self.epoch >= config.epochs or not self.rows or not config.early_stopping:
            return self.epoch >= config.epochs
        return self.epoch - _best(self.rows)["epoch"] >= config.early_stopping

    def do_epoch(self) -> dict[str, Any]:
        """The epoch, or what is left of it; its row."""
        trainer, spec = self._trainer, self._trainer.spec
        with self._naming_images("train"):
            trained, batches = trainer.train_epoch(
                self.epoch, before=self._done, watch=self
            )
        self._done = trained.sums
        with self._naming_images("validation"):
            validated = trainer.validate(watch=_Validating(self))
        row = _epoch_row(trainer, self.epoch, trained, validated)
        row["dropped"] = batches.plan.dropped
        row["data_service"] = batches.service_counts()
        row["skipped"] = trained.planned - trained.count
        self.rows.append(row)
        if row == _best(self.rows):
            save_keras_weights(trainer.classifier.whole, self._best_path(row))
        self._append_steps(trained.sums)
        self.epoch, self._done = self.epoch + 1, []
        self._save()
        # The checkpoint before this one may need the best before.
        self._keep_weights([_best(self.rows), _best(self.rows[:-1] or self.rows)])
        log(_epoch_text(spec, row, trainer.config.training.epochs))
        if not self.is_over():
            self.check_stop()
        return row

    def _append_steps(self, sums: Sequence[Sums]) -> None:
        """steps.jsonl: the mean loss of each step, a line an epoch."""
        path = self.folder / "steps.jsonl"
        known = [
            one for one in files.read_json_lines(path) if one["epoch"] <= self.epoch
        ]
        losses = [loss / max(count, 1.0) for loss, _, count in sums]
        lines = [*known, {"epoch": self.epoch + 1, "losses": losses}]
        files.write_text(path, "".join(f"{files.to_json(one)}\n" for one in lines))

    def check_stop(self) -> None:
        """Ends the training where a signal wants that."""
        faults.hit("checked")
        if self._stop.wanted:
            raise self._stopped()

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Traces the step where it is one of those."""
        if self._tracer is None:
            return contextlib.nullcontext()
        before = sum(row["steps"] for row in self.rows)
        return self._tracer.step(before + number, finish=finish)

    def is_due(self, steps: int) -> bool:
        """Whether to save after so many steps of the epoch."""
        faults.hit("trained")
        every = self._trainer.config.training.save_every
        return bool(self._stop.wanted) or (every > 0 and steps % every == 0)

    def look(self, done: Sequence[Sums]) -> None:
        """Saves; ends the training where that is wanted."""
        self._done = list(done)
        self._save()
        self.check_stop()

    def _stopped(self) -> TlperfError:
        return TlperfError(
            ExitCode.RETRY,
            "stopped",
            path=self.folder,
            found=f"{self._stop.wanted} in epoch {self.epoch + 1} after "
            f"{len(self._done)} steps; all is saved",
            remedy="run again with --resume",
        )

    def _save(self) -> None:
        state = {"settings": self._settings, "rows": self.rows, "done": self._done}
        values = self._trainer.values()
        self._checkpoints.save(Checkpoint(self.epoch, len(self._done), values, state))

    def _best_path(self, row: dict[str, Any]) -> pathlib.Path:
        return self._checkpoints.folder / f"weights-{row['epoch']:05d}.h5"

    def _keep_weights(self, rows: Sequence[dict[str, Any]]) -> None:
        kept = {self._best_path(row) for row in rows}
        for path in {*self._checkpoints.folder.glob("weights-*.h5")} - kept:
            path.unlink()

    def publish_best(self) -> None:
        """weights.h5 is the best epoch's file, under another name: a training that
        failed before this leaves the one before it whole."""
        with files.atomic_path(self.folder / WEIGHTS_NAME) as partial:
            os.link(self._best_path(_best(self.rows)), partial)

    @contextlib.contextmanager
    def _naming_images(self, split: str) -> Iterator[None]:
        try:
            yield
        except NotFinite as error:
            raise self._not_finite(error, split) from error

    def _not_finite(self, error: NotFinite, split: str) -> TlperfError:
        stored = self._trainer.dataset.split(split)
        ids = [one.filename for one in stored.read(error.index)]
        files.write_json(
            self.folder / "not_finite.json",
            {"split": split, "epoch": self.epoch + 1, "step": error.step, "ids": ids},
        )
        listed = ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
        return TlperfError(
            ExitCode.DATA,
            "not_finite",
            found=f"the {split} loss of {self._trainer.spec.name} is {error.loss} in "
            f"epoch {self.epoch + 1}, step {error.step}: {listed}",
            remedy="give a lower --learning_rate, or --precision=float32",
        )


class _Validating:
    """Ends validation, which changes nothing, where a signal wants that."""

    def __init__(self, run: _Run):
        self._run = run

    def is_due(self, steps: int) -> bool:
        """Whether a signal came."""
        faults.hit("validated")
        return bool(self._run._stop.wanted)

    def look(self, done: Sequence[Sums]) -> None:
        """Saves what was trained."""
        self._run.look(self._run._done)

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Validation is not traced."""
        return contextlib.nullcontext()


def _settings_of(trainer: Trainer, weights: WeightsSource) -> dict[str, Any]:
    """All that a training depends on, by name."""
    config, compute = trainer.config, trainer.compute
    values = config.to_dict()
    training = {
        name: value
        for name, value in values["training"].items()
        if name not in _MAY_DIFFER
    }
    return {
        **values["input"],
        **training,
        "freeze": config.model.freeze,
        "weights": weights.facts(),
        "image_size": trainer.image_size,
        "records": trainer.dataset.manifest.records_digest(),
        "precision": compute.precision,
        "xla": compute.jit_compile,
        "replicas": compute.replicas,
        "feature_dtype": config.features.feature_dtype.value,
        "feature_views": config.features.feature_views,
        "schedule_epochs": (
            None
            if config.training.schedule is Schedule.CONSTANT
            else config.training.epochs
        ),
    }


def _check_same(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Raises TlperfError 78, naming what differs."""
    plain = json.loads(files.to_json(now))
    names = sorted({*plain, *before})
    differing = [
        f"{name} {before.get(name)!r} is now {plain.get(name)!r}"
        for name in names
        if plain.get(name) != before.get(name)
    ]
    if differing:
        raise TlperfError(
            ExitCode.CONFIG,
            "other_settings",
            found=f"the checkpoint was made with other settings: "
            f"{'; '.join(differing)}",
            remedy="train with the same settings, or without --resume",
        )


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=_quality)


def _quality(row: dict[str, Any]) -> tuple[float, float, int]:
    """Higher is better; of equals the earlier epoch."""
    return row["val_accuracy"], -row["val_loss"], -row["epoch"]


def _epoch_row(
    trainer: Trainer, epoch: int, trained: PassResult, validated: PassResult
) -> dict[str, Any]:
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
            keras.ops.convert_to_numpy(trainer.optimizer.learning_rate)
        ),
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
        "feature_cache": "on" if trainer.features.store else "off",
        "features": trainer.features.to_dict(),
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
        "best_epoch": _best(rows)["epoch"],
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
