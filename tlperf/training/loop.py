"""The training of one backbone, from its first epoch or from where it was stopped.

    training = train_backbone(spec, config, dataset=dataset, compute=compute,
                              weights=find_weights(spec, config.model.weights))
    training.result["epochs"]

Writes WORKDIR/BACKBONE/{history.jsonl, weights.h5, architecture.json, checkpoints/,
tensorboard/}; weights.h5 holds the best epoch: highest validation accuracy, then lowest
loss. What is trained is saved after each epoch, every `--save_every` steps, and at
SIGTERM or SIGINT.

Several processes do this at once, each step together: the chief writes weights and
checkpoints and tells the others where to go on, and a signal to one stops all of them
after the same step.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tlperf.core import faults, files
from tlperf.core.choices import FeatureCache
from tlperf.core.errors import ExitCode, TlperfError, is_out_of_memory
from tlperf.core.locks import directory_lock
from tlperf.core.progress import log
from tlperf.core.settings import RunConfig
from tlperf.core.stopping import Stop, stop_signals
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.device.trace import StepTracer
from tlperf.device.workers import PeerCheck, share_bytes
from tlperf.model.steps import Network
from tlperf.model.weights import WeightsSource
from tlperf.reference.backbones import BackboneSpec
from tlperf.training.checkpoint import Checkpoint, pack, unpack
from tlperf.training.memory import name_fitting_batch
from tlperf.training.passes import NotFinite, Sums
from tlperf.training.preprocess import check_preprocessing
from tlperf.training.record import Record
from tlperf.training.result import best, epoch_row, epoch_text, train_result
from tlperf.training.sameness import check_same, settings_of
from tlperf.training.telemetry import Telemetry
from tlperf.training.trainer import Trainer, build_trainer

# Images of a batch that a line names.
_NAMED = 20


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
            all is saved, and where another process trains it, 78 where it is to go on
            with other settings, and what `build_trainer` raises.
    """
    start = time.perf_counter()
    trainer = build_trainer(
        spec, config, dataset=dataset, compute=compute, weights=weights
    )
    with (
        directory_lock(config.backbone_path(spec.name)),
        contextlib.closing(trainer),
        _naming_fitting_batch(trainer),
        stop_signals() as stop,
    ):
        check_preprocessing(trainer, weights)
        run = _Run(trainer, weights=weights, stop=stop)
        run.begin()
        build_secs = time.perf_counter() - start
        run.go_on()
        run.record.publish_best(run.rows)
        result = train_result(trainer, run.rows, weights=weights, build_secs=build_secs)
    log(f"{spec.name}: tensorboard --logdir={run.record.folder / 'tensorboard'}")
    if service := trainer.pipeline.service_totals():
        came = f"{service['from_service']} of {service['steps']} batches came from it"
        log(f"{spec.name}: data service: {service['guarantee']}; {came}")
    return Training(result, Network(trainer.classifier.whole, trainer.predict))


@contextlib.contextmanager
def _naming_fitting_batch(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        if is_out_of_memory(error):
            raise name_fitting_batch(trainer) from error
        raise


class _Run:
    """A training on its way: what is done, and when it is saved.

    Attributes:
        record: its files.
        epoch: 0-based, the one that goes on.
        rows: of the epochs that are done.
    """

    def __init__(self, trainer: Trainer, *, weights: WeightsSource, stop: Stop):
        self._trainer, self._stop = trainer, stop
        self._settings = settings_of(trainer, weights)
        self.record = Record(
            trainer.config.backbone_path(trainer.spec.name),
            is_chief=trainer.compute.is_chief,
        )
        self.epoch = 0
        self.rows: list[dict[str, Any]] = []
        self._done: list[Sums] = []
        # Seconds of the epoch before this process, and when its part began.
        self._secs_before, self._start = 0.0, 0.0
        self._mode: FeatureCache | None = None
        self._tracer = self._build_tracer()

    def _build_tracer(self) -> StepTracer | None:
        steps = self._trainer.config.device.traced_steps
        if steps is None:
            return None
        board = self.record.folder / "tensorboard"
        log(f"traces steps {steps[0]} to {steps[1]}, for XProf in TensorBoard")
        return StepTracer(board / "train", first=steps[0], last=steps[1])

    def begin(self) -> None:
        """Goes on from the newest checkpoint, or begins anew."""
        trainer = self._trainer
        self.record.write_architecture(
            trainer.classifier.whole, trainer.classifier.frozen_names
        )
        name = trainer.spec.name
        if not trainer.config.training.resume:
            self.record.begin_anew(name)
            return
        found = self._shared(self.record.load())
        if found is None:
            log(f"{name}: nothing to go on from")
            return
        check_same(self._settings, found.state["settings"])
        self._check_epochs(found.epoch)
        trainer.assign(found.arrays)
        self.epoch, state = found.epoch, found.state
        self.rows, self.record.weights = state["rows"], state["weights"]
        self._done = [(a, b, c) for a, b, c in state["done"]]
        self._secs_before = state["secs"]
        # Features in a smaller type would give other numbers than before.
        self._mode = FeatureCache(state["feature_cache"])
        log(f"{name}: goes on in epoch {self.epoch + 1} after {found.step} steps")

    def _shared(self, found: Checkpoint | None) -> Checkpoint | None:
        """The chief's checkpoint, in every process."""
        compute = self._trainer.compute
        if compute.workers == 1:
            return found
        parts = (b"", b"") if found is None else pack(found)
        text, data = (
            share_bytes(compute.strategy, part, is_chief=compute.is_chief)
            for part in parts
        )
        return found if compute.is_chief or not text else unpack(text, data)

    def _check_epochs(self, done: int) -> None:
        epochs = self._trainer.config.training.epochs
        if done > epochs:
            raise TlperfError(
                ExitCode.CONFIG,
                "fewer_epochs",
                path=self.record.folder,
                found=f"{done} epochs are done, --epochs={epochs}",
                remedy=f"give --epochs={done} or more, or train without --resume",
            )

    def go_on(self) -> None:
        """Does the epochs that are left."""
        with Telemetry(self.record.folder) as telemetry:
            for row in self.rows:  # of the run before
                telemetry.write_epoch(row)
            if self.is_over():
                return
            peers = PeerCheck(
                workers=self._trainer.compute.workers,
                worker=self._trainer.compute.worker,
            )

            def check() -> None:
                self.check_stop()
                peers.look()

            self._trainer.frozen_part.open(self._mode, check_stop=check)
            try:
                while not self.is_over():
                    telemetry.write_epoch(self.do_epoch())
                    if self._is_alone:
                        self.check_stop()
            finally:
                if self._tracer is not None:
                    self._tracer.close()

    @property
    def _is_alone(self) -> bool:
        return self._trainer.compute.workers == 1

    def is_over(self) -> bool:
        """Whether all epochs are done, or none was better for too long."""
        config = self._trainer.config.training
        if self.epoch >= config.epochs or not self.rows or not config.early_stopping:
            return self.epoch >= config.epochs
        # The layers after the boundary have their chance after the head's epochs.
        since = max(best(self.rows)["epoch"], config.head_epochs)
        return self.epoch - since >= config.early_stopping

    def do_epoch(self) -> dict[str, Any]:
        """The epoch, or what is left of it; its row."""
        trainer, spec = self._trainer, self._trainer.spec
        settings = trainer.config.training
        self._start = time.perf_counter()
        with self._naming_images("train"):
            trained, batches = trainer.train_epoch(
                self.epoch, before=self._done, watch=self
            )
        self._done = trained.sums
        with trainer.averaged(self.epoch):
            with self._naming_images("validation"):
                validated = trainer.validate(watch=_Validating(self))
            row = epoch_row(trainer, self.epoch, trained, validated)
            row["dropped"] = batches.plan.dropped
            row["data_service"] = batches.service_counts()
            planned = trained.steps * trainer.config.input.batch_size
            row["skipped"] = planned - trained.count
            row["secs"] += self._secs_before
            row["train_pass_secs"] += self._secs_before
            self.rows.append(row)
            if row == best(self.rows):
                self.record.save_best(trainer.classifier.whole, row)
        self.record.append_steps(row["epoch"], trained.sums)
        self.epoch, self._done, self._secs_before = self.epoch + 1, [], 0.0
        self._start = time.perf_counter()
        self.save()
        self.record.let_go(self.rows)
        log(epoch_text(spec, row, settings.epochs))
        return row

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Traces the step where it is one of those."""
        if self._tracer is None:
            return contextlib.nullcontext()
        before = sum(row["steps"] for row in self.rows)
        return self._tracer.step(before + number, finish=finish)

    def wishes_to_stop(self) -> bool:
        """Whether a signal came to this process."""
        return bool(self._stop.wanted)

    def is_due(self, steps: int, *, new: int) -> bool:
        """Whether to save after so many steps of the epoch."""
        faults.hit("trained")
        every = self._trainer.config.training.save_every
        is_due = every > 0 and steps // every > (steps - new) // every
        return is_due and self._has_order()

    def _has_order(self) -> bool:
        """Whether the steps that are done are the plan's first: else a training goes on
        from the last epoch's end alone."""
        return self._trainer.config.input.deterministic

    def look(self, done: Sequence[Sums], *, is_stopping: bool) -> None:
        """Saves; ends the training where that is wanted."""
        self._done = list(done)
        self.save_and_end(is_stopping=is_stopping)

    def save_and_end(self, *, is_stopping: bool) -> None:
        """Saves where an epoch's steps can be gone on with; ends where that is
        wanted."""
        if self._has_order():
            self.save()
        if is_stopping:
            raise self._stopped()

    def check_stop(self) -> None:
        """Ends the training where a signal to this process wants that."""
        faults.hit("checked")
        if self._stop.wanted:
            raise self._stopped()

    def _stopped(self) -> TlperfError:
        return TlperfError(
            ExitCode.RETRY,
            "stopped",
            path=self.record.folder,
            found=f"{self._stop.wanted or 'a signal to another worker'} in epoch "
            f"{self.epoch + 1} after {len(self._done)} steps; "
            + ("all is saved" if self._has_order() else "whole epochs are saved"),
            remedy="run again with --resume",
        )

    def save(self) -> None:
        """Writes a checkpoint of this moment."""
        state = {
            "settings": self._settings,
            "rows": self.rows,
            "done": self._done,
            "secs": self._secs_before + time.perf_counter() - self._start,
            "weights": self.record.weights,
            "feature_cache": "on"
            if self._trainer.frozen_part.features.store
            else "off",
        }
        values = self._trainer.values()
        self.record.save(Checkpoint(self.epoch, len(self._done), values, state))

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
            self.record.folder / "not_finite.json",
            {"split": split, "epoch": self.epoch + 1, "step": error.step, "ids": ids},
        )
        listed = ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
        part = "" if self._is_alone else " in this worker's part of the batch"
        return TlperfError(
            ExitCode.DATA,
            "not_finite",
            found=f"the {split} loss of {self._trainer.spec.name} is {error.loss} in "
            f"epoch {self.epoch + 1}, step {error.step}: {listed}{part}",
            remedy="give a lower --learning_rate, or --precision=float32",
        )


class _Validating:
    """Ends validation, which changes nothing, where a signal wants that."""

    def __init__(self, run: _Run):
        self._run = run

    def wishes_to_stop(self) -> bool:
        """Whether a signal came to this process."""
        return self._run.wishes_to_stop()

    def is_due(self, steps: int, *, new: int) -> bool:
        """Validation changes nothing that is saved."""
        faults.hit("validated")
        return False

    def look(self, done: Sequence[Sums], *, is_stopping: bool) -> None:
        """Saves what was trained."""
        self._run.save_and_end(is_stopping=is_stopping)

    def around(
        self, number: int, finish: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Validation is not traced."""
        return contextlib.nullcontext()
