"""The look at preprocessing before a training begins: told, and kept as a result row.

    check_preprocessing(trainer, weights)      # a row of stage `preprocess`

Random weights expect nothing, so there is no row for them.
"""

import time

from tlperf.core.progress import log
from tlperf.core.results import append_result
from tlperf.model.fit import Finding, build_probe, check_fit, find_advice
from tlperf.model.preprocess import normalisation_for
from tlperf.model.weights import WeightsSource
from tlperf.pipeline.sample import sample_training
from tlperf.training.trainer import Trainer


def check_preprocessing(trainer: Trainer, weights: WeightsSource) -> None:
    """Compares what the trunk's first layers see of training photos with what its
    weights expect; a severe misfit is told before anything is trained.

    Args:
        trainer: with the weights as they were loaded.
        weights: where they came from.
    """
    if weights.path is None or not trainer.compute.is_chief:
        return
    start = time.perf_counter()
    spec, config = trainer.spec, trainer.config
    image = sample_training(
        trainer.pipeline,
        count=trainer.dataset.split("train").count,
        seed=config.input.seed,
    )
    if not len(image):
        log(f"{spec.name}: no photo to look at: preprocessing is not checked")
        return
    used = normalisation_for(spec, config.input.preprocess)
    probe = build_probe(trainer.classifier.backbone)
    result = check_fit(spec, probe, image, used=used)
    result |= {"weights": weights.facts(), "image_size": trainer.image_size}
    result["warnings"] = []
    if result["finding"] == Finding.SEVERE:
        result["warnings"].append(f"{result['text']}; {find_advice(result, spec)}")
        log(f"warning: {spec.name}: {result['warnings'][0]}")
    result["secs"] = time.perf_counter() - start
    append_result(
        config.workdir,
        stage="preprocess",
        backbone=spec.name,
        result=result,
        settings=config.to_dict(),
        device=trainer.compute.facts(),
    )
