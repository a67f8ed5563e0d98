"""One training's model, optimisers, steps and input, and its state as arrays.

trainer = build_trainer(spec, config, dataset=dataset, compute=compute, weights=w)
trainer.frozen_part.open()                     # the frozen part, once an image
trainer.train_epoch(0); trainer.validate()
arrays = trainer.values(); trainer.assign(arrays)
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tlperf.core import faults
from tlperf.core.choices import Augment, BatchNorm, ClassWeights
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import RunConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.deliver import check_batch_size
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier, build_classifier
from tlperf.model.frozen import Encode, build_encoder
from tlperf.model.optimizer import build_optimizer
from tlperf.model.preprocess import normalisation_for
from tlperf.model.replicas import separate_dropout
from tlperf.model.steps import (
    StepConfig,
    SumStep,
    TrainSteps,
    build_evaluate_step,
    build_predict_step,
    build_train_step,
)
from tlperf.model.weights import WeightsSource
from tlperf.pipeline.input import Batches, InputPipeline
from tlperf.reference.backbones import BackboneSpec, Normalisation
from tlperf.training.feature_cache import FeatureBatches
from tlperf.training.frozen_part import FrozenPart
from tlperf.training.passes import PassResult, Sums, Watch, run_pass


@dataclasses.dataclass
class Phase:
    """Epochs that train the same variables.

    Attributes:
        layers: the layers that these epochs train.
        optimizer: of their variables.
        build: makes the train steps; called when its layers are the trainable ones.
    """

    layers: list[keras.layers.Layer]
    optimizer: keras.optimizers.Optimizer
    build: Callable[[keras.optimizers.Optimizer], TrainSteps]

    @functools.cached_property
    def train(self) -> TrainSteps:
        """The compiled train steps, traced at their first batch."""
        return self.build(self.optimizer)


@dataclasses.dataclass
class Trainer:
    """What the epochs of one training share.

    Attributes:
        phases: the head alone, where `head_epochs` asks for it; then all that the
            boundary leaves to be trained.
        encoders: the frozen part of training and of validation, one function where
            nothing is augmented; none where nothing is frozen.
    """

    spec: BackboneSpec
    config: RunConfig
    dataset: StoredDataset
    compute: Compute
    classifier: Classifier
    phases: list[Phase]
    image_size: int
    pipeline: InputPipeline
    frozen_part: FrozenPart
    encoders: dict[Augment, Encode]
    # Trained values of variables that hold their moving averages just now.
    _trained: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def _normalisation(self) -> Normalisation:
        return normalisation_for(self.spec, self.config.input.preprocess)

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch (0-based); its layers are the trainable ones now."""
        is_head_alone = epoch < self.config.training.head_epochs
        phase = self.phases[0] if is_head_alone else self.phases[-1]
        set_trainable(self.classifier.active, phase.layers)
        return phase

    @functools.cached_property
    def predict(self) -> Callable[[Any], tuple[Any, Any]]:
        """The compiled inference step."""
        return build_predict_step(
            self.classifier.whole,
            compute=self.compute,
            normalisation=self._normalisation,
            active=self.classifier.active,
        )

    @functools.cached_property
    def evaluate_step(self) -> SumStep:
        """The sums of the inference step."""
        return build_evaluate_step(
            self.predict, compute=self.compute, encode=self.encoders.get(Augment.NONE)
        )

    def batches(self, epoch: int, *, step: int = 0) -> Batches | FeatureBatches:
        """An epoch (0-based) from `step` on, of images or of their features."""
        store = self.frozen_part.features.store
        if store is None:
            return self.pipeline.training(epoch, step=step)
        plan = self.pipeline.training_plan(epoch)
        return store.training(plan.from_step(step), epoch=epoch)

    def train_epoch(
        self, epoch: int, *, before: Sequence[Sums] = (), watch: Watch | None = None
    ) -> tuple[PassResult, Batches | FeatureBatches]:
        """One epoch (0-based), or what is left of it: its result and its batches,
        which tell where they came from.

        Args:
            epoch: 0-based.
            before: what its steps gave that are done.
            watch: looks on.
        """
        phase = self.phase(epoch)
        batches = self.batches(epoch, step=len(before))
        result = run_pass(
            phase.train.step,
            batches,
            compute=self.compute,
            title=f"{self.spec.name} epoch {epoch + 1}/{self.config.training.epochs}",
            steps=phase.train.steps,
            # A trace shows single steps.
            per_call=1
            if self.config.device.profile_steps
            else self.config.training.steps_per_call,
            before=before,
            watch=watch,
        )
        return result, batches

    def validate(
        self, split: str = "validation", *, watch: Watch | None = None
    ) -> PassResult:
        """One pass over a split without training."""
        return run_pass(
            self.evaluate_step,
            self._evaluation(split),
            compute=self.compute,
            title=f"{self.spec.name} {split}",
            watch=watch,
        )

    def _evaluation(self, split: str) -> Batches | FeatureBatches:
        store = self.frozen_part.features.store
        if store is None or split != "validation":
            return self.pipeline.evaluation(split)
        return store.validation(self.pipeline.evaluation_plan(split))

    @contextlib.contextmanager
    def averaged(self, epoch: int) -> Iterator[None]:
        """The network with the moving averages of the epoch's weights, where `ema` asks
        for them and there are any; `values` still gives what is trained."""
        phase = self.phase(epoch)
        if not self.config.training.ema or not _count_updates(phase.optimizer):
            yield
            return
        variables = [one for layer in phase.layers for one in layer.trainable_variables]
        self._trained = {id(one): _array(one) for one in variables}
        phase.optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            for one in variables:
                one.assign(self._trained[id(one)])
            self._trained = {}

    def close(self) -> None:
        """Ends the threads of input, and lets go of the features."""
        self.pipeline.close()
        self.frozen_part.close()

    @property
    def _variables(self) -> list[Any]:
        """What training changes: weights, statistics, seeds of dropout; slots of the
        optimisers, their step counts and loss scales."""
        optimizers = [one for phase in self.phases for one in phase.optimizer.variables]
        return [*self.classifier.active.variables, *optimizers]

    def values(self) -> list[np.ndarray]:
        """All that training changes, as arrays."""
        return [self._trained.get(id(one), _array(one)) for one in self._variables]

    def assign(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes what `values` gave in another process.

        Raises:
            TlperfError: 78 where it is of another network or optimiser.
        """
        variables = self._variables
        shapes = [tuple(one.shape) for one in variables]
        if shapes != [array.shape for array in arrays]:
            raise TlperfError(
                ExitCode.CONFIG,
                "checkpoint_mismatch",
                found="the checkpoint holds variables of other shapes",
                remedy="train with the settings it was made with, or without --resume",
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        separate_dropout(self.classifier.active, self.compute)


def _count_updates(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps that moved the weights; those that overflowed in float16 did not."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return int(inner.iterations.numpy())


def _array(variable: Any) -> np.ndarray:
    values: np.ndarray = keras.ops.convert_to_numpy(variable.value)
    return values


def set_trainable(active: keras.Model, layers: Sequence[keras.layers.Layer]) -> None:
    """Makes `layers` the trainable ones of the active part."""
    trainable = {id(layer) for layer in layers}
    for layer in active.layers:
        layer.trainable = id(layer) in trainable


def _check_parts(config: RunConfig, compute: Compute) -> None:
    own, parts = config.input.batch_size // compute.replicas, config.training.accumulate
    if own % parts:
        raise TlperfError(
            ExitCode.CONFIG,
            "indivisible_batch",
            found=f"--accumulate={parts} cannot share a replica's {own} images evenly",
            remedy="give a --batch_size that is a multiple of both",
        )


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
    _check_parts(config, compute)
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
        faults.hit("built")
        encoders = _build_encoders(spec, config, compute, classifier)
        phases = _build_phases(spec, config, dataset, compute, classifier, encoders)
    separate_dropout(classifier.active, compute)
    pipeline = InputPipeline(
        dataset,
        config.input,
        image_size=image_size,
        worker=compute.worker,
        workers=compute.workers,
    )
    frozen_part = FrozenPart(
        spec, config, dataset, compute, classifier, image_size, pipeline
    )
    return Trainer(
        spec,
        config,
        dataset,
        compute,
        classifier,
        phases,
        image_size,
        pipeline,
        frozen_part,
        encoders,
    )


def _build_encoders(
    spec: BackboneSpec, config: RunConfig, compute: Compute, classifier: Classifier
) -> dict[Augment, Encode]:
    if classifier.frozen is None:
        return {}
    return {
        kind: build_encoder(
            classifier,
            compute=compute,
            normalisation=normalisation_for(spec, config.input.preprocess),
            augmentation=kind,
            parts=config.training.accumulate,
        )
        for kind in {config.input.augment, Augment.NONE}
    }


def _build_phases(
    spec: BackboneSpec,
    config: RunConfig,
    dataset: StoredDataset,
    compute: Compute,
    classifier: Classifier,
    encoders: dict[Augment, Encode],
) -> list[Phase]:
    """The phases; the last one's layers are the trainable ones then."""
    settings, names = config.training, set(classifier.active_names)
    active = [
        layer
        for layer in classifier.active.layers
        if settings.batch_norm is BatchNorm.UPDATE
        or not isinstance(layer, keras.layers.BatchNormalization)
    ]
    head = [layer for layer in active if layer.name not in names]
    if settings.head_epochs and not any(layer.name in names for layer in active):
        raise TlperfError(
            ExitCode.CONFIG,
            "no_head_phase",
            found=f"--head_epochs={settings.head_epochs}, but the head is all that is "
            "trained",
            remedy="give --head_epochs=0, or a --freeze that leaves layers to train",
        )
    step_config = StepConfig(
        normalisation_for(spec, config.input.preprocess),
        batch_size=config.input.batch_size,
        augmentation=config.input.augment,
        accumulate=settings.accumulate,
        class_weights=find_class_weights(config, dataset),
    )
    # Head and all: epochs, and the learning rate that is not the settings'.
    wanted: list[tuple[int, float | None, list[keras.layers.Layer]]]
    wanted = [(settings.epochs - settings.head_epochs, None, active)]
    if settings.head_epochs:
        wanted.insert(0, (settings.head_epochs, settings.head_learning_rate, head))
    phases = []
    steps = dataset.split("train").count // config.input.batch_size
    for epochs, rate, layers in wanted:
        set_trainable(classifier.active, layers)
        optimizer = build_optimizer(
            spec,
            settings,
            precision=compute.precision,
            total_steps=steps * epochs,
            learning_rate=rate,
        )
        # Keras 3.15 cannot create slots while tracing under a strategy (keras 23085).
        optimizer.build(classifier.active.trainable_variables)
        build = functools.partial(
            build_train_step,
            classifier,
            config=step_config,
            compute=compute,
            encode=encoders.get(config.input.augment),
        )
        phases.append(Phase(layers, optimizer, build))
    return phases


def find_class_weights(
    config: RunConfig, dataset: StoredDataset
) -> tuple[float, ...] | None:
    """What an image of each class counts in the loss; None where all count the same."""
    if config.training.class_weights is ClassWeights.NONE:
        return None
    counts, classes = dataset.manifest.splits["train"], dataset.manifest.classes
    images = sum(counts.values())
    # A class without training images has no loss to weigh.
    return tuple(
        images / (len(classes) * max(1, counts.get(name, 0))) for name in classes
    )
