"""Weights, and whether the preprocessing is what they expect.

check_weights(patient)          # files and hashes; loads them where TensorFlow works
check_preprocessing(patient)    # the look that a training begins with
"""

import numpy as np

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.quiet import quiet_stderr
from tlperf.dataset.manifest import COMPLETE
from tlperf.doctor.findings import Check, Level, Patient
from tlperf.model.weights import WeightsSource, find_weights
from tlperf.reference.backbones import BackboneSpec, parse_backbones

_LEVELS = {"fits": Level.OK, "mild": Level.WARN, "severe": Level.BAD}


def check_weights(patient: Patient) -> Check:
    """Whether each backbone's file is there, is Keras' own where it says so, and fits
    the network."""
    specs = parse_backbones(patient.config.backbones)
    return Check.joined([_check_weights_of(spec, patient) for spec in specs])


def _check_weights_of(spec: BackboneSpec, patient: Patient) -> Check:
    try:
        source = find_weights(spec, patient.config.model.weights, download=False)
        if source.path is not None and not patient.is_bad("tensorflow"):
            _load(spec, patient, source)
    except TlperfError as error:
        if error.code != ExitCode.UNAVAILABLE:
            return Check.of_error(error)
        advice = "a run will download them; else give --weights=none, DIR or FILE"
        return Check.warn(f"{spec.name}: Keras' file is not downloaded yet", advice)
    if source.path is None:
        return Check.ok(f"{spec.name}: none, random")
    known = "Keras' published hash" if source.kind == "imagenet" else "not Keras' file"
    if spec.imagenet is not None and not spec.imagenet.file_hash:
        known = "Keras states no hash"
    digest = (source.sha256 or "")[:12]
    return Check.ok(f"{spec.name}: {source.path.name}, {known}, sha256 {digest}")


def _load(spec: BackboneSpec, patient: Patient, source: WeightsSource) -> None:
    """Loads the weights into a trunk and keeps its first layers.

    Raises:
        TlperfError: 78 where they do not fit.
    """
    with quiet_stderr():
        from tlperf.model.build import build_backbone
        from tlperf.model.fit import build_probe

    side = patient.config.input.image_size or spec.native_size
    backbone = build_backbone(spec, image_size=side)
    source.load(backbone)
    patient.probes[spec.name] = build_probe(backbone)


def check_preprocessing(patient: Patient) -> Check:
    """Each backbone's first layers on training photos (see `tlperf.model.fit`)."""
    if not patient.probes:
        return Check.ok("no pretrained weights to look at")
    if patient.is_bad("data"):
        return Check.warn("not looked at: the data are damaged", "mend the data first")
    if not (patient.config.data_path / COMPLETE).exists():
        return Check.ok("no photos to look at yet")
    specs = parse_backbones(patient.config.backbones)
    return Check.joined(
        [_check_fit(spec, patient) for spec in specs if spec.name in patient.probes]
    )


def _check_fit(spec: BackboneSpec, patient: Patient) -> Check:
    from tlperf.model.fit import check_fit, find_advice
    from tlperf.model.preprocess import normalisation_for

    config = patient.config
    used = normalisation_for(spec, config.input.preprocess)
    image = _sample(spec, patient)
    if not len(image):
        return Check.ok(f"{spec.name}: no training photo to look at")
    report = check_fit(spec, patient.probes[spec.name], image, used=used)
    level = _LEVELS[report["finding"]]
    advice = "" if level is Level.OK else find_advice(report, spec)
    return Check(level, report["text"], advice)


def _sample(spec: BackboneSpec, patient: Patient) -> np.ndarray:
    from tlperf.dataset.store import open_dataset
    from tlperf.pipeline.input import InputPipeline
    from tlperf.pipeline.sample import sample_training

    config = patient.config
    side = config.input.image_size or spec.native_size
    with (
        open_dataset(config.data_path) as dataset,
        InputPipeline(dataset, config.input, image_size=side) as pipeline,
    ):
        count = dataset.split("train").count
        return sample_training(pipeline, count=count, seed=config.input.seed)
