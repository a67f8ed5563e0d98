"""The networks that a process times, each built once.

    subjects = Subjects(spec, config, compute=compute, trained=None)
    subjects.find(cell)
    build_imagenet_subject(spec, "float32")

Table 1 describes the 1000-class network with its top at its native size; the fine-tuned
network is another one and gets rows of its own.
"""

from typing import Any

from tlperf.core.choices import Preprocess, Protocol
from tlperf.core.settings import RunConfig
from tlperf.device.setup import Compute
from tlperf.latency.cells import FINETUNED, IMAGENET, Cell
from tlperf.latency.protocols import SEED, Subject, float_images
from tlperf.model.build import build_classifier, build_imagenet_model, dtype_policy
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import Network
from tlperf.model.trained import load_trained
from tlperf.model.variety import spread_outputs
from tlperf.reference.backbones import BackboneSpec

# Of a training that is timed where none was made: the study's.
_CLASSES = 2
_SPREAD_IMAGES = 4


def build_imagenet_subject(spec: BackboneSpec, precision: str) -> Subject:
    """The 1000-class network at its native size, with random weights that tell images
    apart: time does not depend on the weights' values, what can be checked does.

    Args:
        spec: row of the backbone table.
        precision: Keras dtype policy.
    """
    with dtype_policy(precision):
        model = build_imagenet_model(spec)
    # As each protocol gives it: images of another scale it would not tell apart.
    images = float_images(_SPREAD_IMAGES, spec.native_size, spec.normalisation, SEED)
    spread_outputs(model, images)
    return Subject(spec, IMAGENET, model, spec.native_size, spec.normalisation)


class Subjects:
    """Networks of one backbone under one precision.

    Args:
        spec: row of the backbone table.
        config: where a training's weights are, and its freeze boundary.
        compute: strategy and precision.
        trained: result of the `train` row, or None where there is none.
        network: of that training, where it is loaded already.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        config: RunConfig,
        *,
        compute: Compute,
        trained: dict[str, Any] | None,
        network: Network | None = None,
    ):
        self._spec, self._config, self._compute = spec, config, compute
        self._trained, self._network = trained, network
        self._subjects: dict[str, Subject] = {}

    def find(self, cell: Cell) -> Subject:
        """The network of a cell."""
        is_training = cell.protocol is Protocol.TRAIN_STEP
        key = "training" if is_training else cell.kind
        if key not in self._subjects:
            makers = {
                "training": self._build_training,
                IMAGENET: self._build_imagenet,
                FINETUNED: self._load_finetuned,
            }
            self._subjects[key] = makers[key]()
        return self._subjects[key]

    def _build_imagenet(self) -> Subject:
        return build_imagenet_subject(self._spec, self._compute.precision)

    def _load_finetuned(self) -> Subject:
        spec, trained = self._spec, self._trained
        if trained is None:
            raise ValueError(f"expected a training of {spec.name}, there is none")
        if self._network is None:
            folder = self._config.backbone_path(spec.name)
            self._network = load_trained(spec, folder, trained, compute=self._compute)
        return Subject(
            spec,
            FINETUNED,
            self._network.model,
            trained["image_size"],
            normalisation_for(spec, Preprocess(trained["preprocess"])),
            weights_sha256=trained["weights_sha256"],
        )

    def _build_training(self) -> Subject:
        """With random weights: time does not depend on their values."""
        spec, config, trained = self._spec, self._config, self._trained or {}
        image_size = trained.get("image_size") or config.input.image_size
        image_size = image_size or spec.native_size
        with self._compute.strategy.scope():
            classifier = build_classifier(
                spec,
                image_size=image_size,
                classes=len(trained.get("classes", ())) or _CLASSES,
                freeze=config.model.freeze,
                precision=self._compute.precision,
            )
        normalisation = normalisation_for(spec, config.input.preprocess)
        return Subject(
            spec, FINETUNED, classifier.whole, image_size, normalisation, classifier
        )
