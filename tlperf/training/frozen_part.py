"""The frozen part of one training: whether its features are kept, and computing them.

part = FrozenPart(spec, config, dataset, compute, classifier, image_size, pipeline)
part.open()
part.features.store            # None where each step computes the frozen part
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tlperf.core.choices import Augment, FeatureCache, FeatureDtype
from tlperf.core.progress import log
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_bytes, format_secs
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.device.workers import agree
from tlperf.model.build import Classifier
from tlperf.model.frozen import build_extractor
from tlperf.model.preprocess import normalisation_for
from tlperf.pipeline.input import InputPipeline
from tlperf.reference.backbones import BackboneSpec
from tlperf.training.feature_cache import (
    SPLITS,
    Extract,
    FeaturePlan,
    FeatureStore,
    count_views,
    entry_name,
    find_room,
    make_room,
    plan_features,
)
from tlperf.training.features import Layout


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
class FrozenPart:
    """The frozen part of a network over one data directory.

    Where several processes train together, each computes all images for itself: every
    one of them sees every image in time, and keeps its own features.
    """

    spec: BackboneSpec
    config: RunConfig
    dataset: StoredDataset
    compute: Compute
    classifier: Classifier
    image_size: int
    pipeline: InputPipeline
    features: Features = dataclasses.field(
        default_factory=lambda: Features(FeaturePlan(False, "not asked for yet"))
    )

    def open(
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
        start = time.perf_counter()
        layouts = self._layouts()
        plan, facts = self._plan(layouts)
        self.features = Features(plan)
        if not plan.is_on:
            log(f"{self.spec.name}: no feature cache: {plan.why}")
            return
        folder, name = self.config.features_path, entry_name(facts)
        make_room(folder, plan.nbytes, room=self._room(), keep=name)
        store = FeatureStore.open(folder, facts, layouts, views=plan.views)
        self.features = Features(plan, store)  # `close` lets go of it
        computed = store.fill(
            self.pipeline,
            self._extractors(),
            batch_size=self.pipeline.batch_size,
            seed=self.config.input.seed,
            title=f"{self.spec.name} frozen part",
            check_stop=check_stop,
        )
        secs = time.perf_counter() - start
        self.features = Features(plan, store, computed, secs)
        log(
            f"{self.spec.name}: frozen part of {computed} images in "
            f"{format_secs(secs)}; features take {format_bytes(plan.nbytes)}"
        )

    def close(self) -> None:
        """Lets go of the features."""
        if self.features.store is not None:
            self.features.store.close()

    def _room(self) -> int:
        """Of this process; several workers may share a disk."""
        budget = self.config.features.feature_budget
        room = find_room(self.config.features_path, budget)
        return room if budget else room // self.compute.workers

    def _plan(self, layouts: dict[str, Layout]) -> tuple[FeaturePlan, dict[str, Any]]:
        """Whether features are kept, and what they depend on where that was asked."""
        facts: dict[str, Any] = {}

        def is_there() -> bool:
            facts.update(self._facts(layouts))
            return (self.config.features_path / entry_name(facts)).exists()

        plan = plan_features(
            self.config,
            has_frozen=self.classifier.frozen is not None,
            nbytes=sum(layout.nbytes for layout in layouts.values()),
            room=self._room,
            is_there=is_there,
            workers=self.compute.workers,
        )
        if self.compute.workers > 1 and not agree(
            self.compute.strategy, plan.is_on, workers=self.compute.workers
        ):
            why = "another worker has none" if plan.is_on else plan.why
            return FeaturePlan(False, why), facts
        return plan, facts

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
        built = {kind: self.extractor(kind) for kind in {*augmented.values()}}
        return {name: built[kind] for name, kind in augmented.items()}

    def extractor(self, augmentation: Augment) -> Extract:
        """The frozen part as a function."""
        wanted = self.config.features.feature_dtype
        return build_extractor(
            self.classifier,
            compute=self.compute,
            normalisation=normalisation_for(self.spec, self.config.input.preprocess),
            augmentation=augmentation,
            dtype=None if wanted is FeatureDtype.COMPUTED else wanted.value,
        )

    def _facts(self, layouts: dict[str, Layout]) -> dict[str, Any]:
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
        normalisation = normalisation_for(self.spec, inputs.preprocess)
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
            "normalisation": dataclasses.asdict(normalisation),
            "decode": inputs.decode.value,
            "records": self.dataset.manifest.records_digest(),
            # Another device, precision or version may round otherwise.
            "device": self.compute.kind,
            "precision": self.compute.precision,
            "xla": self.compute.jit_compile,
            "tensorflow": tf.__version__,
            "augmented": None if inputs.augment is Augment.NONE else augmented,
        }
