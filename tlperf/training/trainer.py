"""One training's model, optimiser, steps and input, and its state as arrays.

trainer = build_trainer(spec, config, dataset=dataset, compute=compute, weights=w)
trainer.open_features()                        # the frozen part, once an image
trainer.train_epoch(0); trainer.validate()
arrays = trainer.values(); trainer.assign(arrays)
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.choices import (
    Augment,
    BatchNorm,
    ClassWeights,
    FeatureCache,
    FeatureDtype,
)
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_bytes, format_secs
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier, build_classifier
from tlperf.model.frozen import build_extractor
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import (
    StepConfig,
    StepSums,
    build_evaluate_step,
    build_predict_step,
    build_train_step,
)
from tlperf.model.weights import WeightsSource
from tlperf.pipeline.deliver import check_batch_size
from tlperf.pipeline.input import Batches, InputPipeline
from tlperf.reference.backbones import BackboneSpec, Normalisation
from tlperf.training.feature_cache import (
    SPLITS,
    Extract,
    FeatureBatches,
    FeaturePlan,
    FeatureStore,
    count_views,
    entry_name,
    find_room,
    make_room,
    plan_features,
)
from tlperf.training.features import Layout
from tlperf.training.optimizer import build_optimizer
from tlperf.training.passes import PassResult, Sums, Watch, run_pass


@dataclasses.dataclass
class Features:
    """What became of the feature cache.

    Attributes:
        plan: whether features are kept, and why.
        store: they; None where they are not.
        computed: images computed in this process.
        secs: that took.
    """

    plan: FeaturePlan
    store: FeatureStore | None = None
    computed: int = 0
    secs: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the result."""
        return {
            "why": self.plan.why,
            "bytes": self.plan.nbytes if self.store else 0,
            "views": self.plan.views,
            "entry": self.store.folder.name if self.store else None,
            "computed_images": self.computed,
            "secs": self.secs,
        }


@dataclasses.dataclass
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
    features: Features = dataclasses.field(
        default_factory=lambda: Features(FeaturePlan(False, "not asked for yet"))
    )

    @property
    def _normalisation(self) -> Normalisation:
        return normalisation_for(self.spec, self.config.input.preprocess)

    @functools.cached_property
    def train_step(self) -> Callable[[Any], StepSums]:
        """The compiled train step."""
        config = StepConfig(
            self._normalisation,
            batch_size=self.config.input.batch_size,
            augmentation=self.config.input.augment,
            accumulate=self.config.training.accumulate,
            class_weights=self._class_weights(),
        )
        return build_train_step(
            self.classifier, self.optimizer, config, compute=self.compute
        )

    def _class_weights(self) -> tuple[float, ...] | None:
        if self.config.training.class_weights is ClassWeights.NONE:
            return None
        counts = self.dataset.manifest.splits["train"]
        classes = self.dataset.manifest.classes
        images = sum(counts.values())
        # A class without training images has no loss to weigh.
        return tuple(
            images / (len(classes) * max(1, counts.get(name, 0))) for name in classes
        )

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
    def evaluate_step(self) -> Callable[[Any], StepSums]:
        """The sums of the inference step."""
        return build_evaluate_step(self.predict, compute=self.compute)

    def batches(self, epoch: int, *, step: int = 0) -> Batches | FeatureBatches:
        """An epoch (0-based) from `step` on, of images or of their features."""
        store = self.features.store
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
        batches = self.batches(epoch, step=len(before))
        title = f"{self.spec.name} epoch {epoch + 1}/{self.config.training.epochs}"
        result = run_pass(
            self.train_step,
            batches,
            compute=self.compute,
            title=title,
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
        store = self.features.store
        if store is None or split != "validation":
            return self.pipeline.evaluation(split)
        return store.validation(self.pipeline.evaluation_plan(split))

    def close(self) -> None:
        """Ends the threads of input, and lets go of the features."""
        self.pipeline.close()
        if self.features.store is not None:
            self.features.store.close()

    @property
    def _variables(self) -> list[Any]:
        """What training changes: weights, statistics, seeds of dropout, slots of the
        optimiser, its step count and loss scale."""
        return [*self.classifier.active.variables, *self.optimizer.variables]

    def values(self) -> list[np.ndarray]:
        """All that training changes, as arrays."""
        return [keras.ops.convert_to_numpy(one.value) for one in self._variables]

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

    def open_features(
        self,
        mode: FeatureCache | None = None,
        *,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Decides on the feature cache, and computes what is missing of it.

        Args:
            mode: of a training that goes on; None takes the configured one.
            check_stop: raises where that is to end.
        """
        if mode is not None:
            wanted = dataclasses.replace(self.config.features, feature_cache=mode)
            self.config = dataclasses.replace(self.config, features=wanted)
        if self.config.features.feature_cache is FeatureCache.OFF:
            self.features = Features(FeaturePlan(False, "--feature_cache=off"))
            return
        start, frozen = time.perf_counter(), self.classifier.frozen
        layouts = self._layouts()
        nbytes = sum(layout.nbytes for layout in layouts.values())
        folder, settings = self.config.features_path, self.config.features
        facts = self._feature_facts(layouts) if frozen else {"backbone": ""}
        name = entry_name(facts)
        room = find_room(folder, settings.feature_budget)
        plan = plan_features(
            self.config,
            has_frozen=frozen is not None,
            nbytes=nbytes,
            is_there=(folder / name).exists(),
            room=room,
        )
        self.features = Features(plan)
        if not plan.is_on:
            log(f"{self.spec.name}: no feature cache: {plan.why}")
            return
        make_room(folder, nbytes, room=room, keep=name)
        store = FeatureStore.open(folder, facts, layouts, views=plan.views)
        self.features = Features(plan, store)  # `close` lets go of it
        computed = store.fill(
            self.pipeline,
            self._extractors(),
            batch_size=self.config.input.batch_size,
            seed=self.config.input.seed,
            title=f"{self.spec.name} frozen part",
            check_stop=check_stop,
        )
        secs = time.perf_counter() - start
        self.features = Features(plan, store, computed, secs)
        log(
            f"{self.spec.name}: frozen part of {computed} images in "
            f"{format_secs(secs)}; features take {format_bytes(nbytes)}"
        )

    def _layouts(self) -> dict[str, Layout]:
        frozen = self.classifier.frozen
        tensors = [] if frozen is None else keras.tree.flatten(frozen.outputs)
        wanted = self.config.features.feature_dtype
        shapes = tuple(
            (
                tuple(x.shape[1:]),
                x.dtype if wanted is FeatureDtype.COMPUTED else wanted.value,
            )
            for x in tensors
        )
        views = {"train": max(1, count_views(self.config))}
        return {
            name: Layout(self.dataset.split(name).count * views.get(name, 1), shapes)
            for name in SPLITS
        }

    def _extractors(self) -> dict[str, Extract]:
        """By split; one for both where nothing is augmented: its constants and what
        TensorFlow makes of them take most of a GiB."""
        augmented = {"train": self.config.input.augment, "validation": Augment.NONE}
        built = {kind: self._extractor(kind) for kind in {*augmented.values()}}
        return {name: built[kind] for name, kind in augmented.items()}

    def _extractor(self, augmentation: Augment) -> Extract:
        wanted = self.config.features.feature_dtype
        return build_extractor(
            self.classifier,
            compute=self.compute,
            normalisation=self._normalisation,
            augmentation=augmentation,
            dtype=None if wanted is FeatureDtype.COMPUTED else wanted.value,
        )

    def _feature_facts(self, layouts: dict[str, Layout]) -> dict[str, Any]:
        """All that the features depend on."""
        inputs, frozen = self.config.input, self.classifier.frozen
        assert frozen is not None
        digest = hashlib.sha256()
        for variable in frozen.variables:
            digest.update(keras.ops.convert_to_numpy(variable.value).tobytes())
        augmented = {
            "augment": inputs.augment.value,
            "seed": inputs.seed,
            "views": count_views(self.config),
        }
        return {
            "version": 1,
            "backbone": self.spec.name,
            "frozen_sha256": digest.hexdigest(),
            # By number: names that Keras makes up depend on what was built before.
            "layers": len(frozen.layers),
            "layouts": {
                name: dataclasses.asdict(layout) for name, layout in layouts.items()
            },
            "image_size": self.image_size,
            "normalisation": dataclasses.asdict(self._normalisation),
            "decode": inputs.decode.value,
            "records": self.dataset.manifest.records_digest(),
            "precision": self.compute.precision,
            "xla": self.compute.jit_compile,
            # Another version may round otherwise.
            "tensorflow": tf.__version__,
            "augmented": None if inputs.augment is Augment.NONE else augmented,
        }


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
        if config.training.batch_norm is BatchNorm.INFERENCE:
            for layer in classifier.active.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        steps = dataset.split("train").count // config.input.batch_size
        optimizer = build_optimizer(
            spec,
            config.training,
            precision=compute.precision,
            total_steps=steps * config.training.epochs,
        )
        # Keras 3.15 cannot create slots while tracing under a strategy (keras 23085).
        optimizer.build(classifier.active.trainable_variables)
    pipeline = InputPipeline(dataset, config.input, image_size=image_size)
    return Trainer(
        spec, config, dataset, compute, classifier, optimizer, image_size, pipeline
    )
