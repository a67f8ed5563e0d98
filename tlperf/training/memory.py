"""What fits, after the devices' memory was exceeded.

raise name_fitting_batch(trainer) from error    # of an error that is_out_of_memory
"""

from typing import Any

import tensorflow as tf

from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.units import format_bytes
from tlperf.device.deliver import place_batch
from tlperf.device.setup import Compute
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import StepConfig, build_train_step
from tlperf.pipeline.order import DRAWS
from tlperf.training.trainer import Trainer


def name_fitting_batch(trainer: Trainer) -> TlperfError:
    """Takes the batch in twice as many parts until one fits; the network is of no
    further use then.

    Returns:
        Exit code 71, with the largest part that fits.
    """
    config, compute = trainer.config, trainer.compute
    size, side = config.input.batch_size, trainer.image_size
    # Other processes would have to try the same at the same time.
    parts = _find_parts(trainer) if compute.workers == 1 else None
    if parts is None:
        remedy = "give a smaller --batch_size or --image_size"
    else:
        fits = size // parts
        remedy = (
            f"--accumulate={parts} takes the same batch in parts of {fits}, which fit; "
            f"or give --batch_size={fits}"
        )
    return TlperfError(
        ExitCode.MEMORY,
        "out_of_memory",
        found=f"{size} images of {side} x {side} pixels do not fit with "
        f"{trainer.spec.title} into {_memory_text(compute)} of {compute.text}",
        remedy=remedy,
    )


def _memory_text(compute: Compute) -> str:
    peaks = compute.peak_memory_bytes()
    if peaks is None:
        return format_bytes(memory_limit_bytes())
    return f"the memory ({format_bytes(max(peaks))} were in use)"


def _find_parts(trainer: Trainer) -> int | None:
    own = trainer.config.input.batch_size // trainer.compute.replicas
    parts = trainer.config.training.accumulate
    while own % (2 * parts) == 0:
        parts *= 2
        try:
            _try_step(trainer, parts)
        except tf.errors.OpError:  # of collectives that broke off, too
            continue
        return parts
    return None


def _try_step(trainer: Trainer, parts: int) -> None:
    """A step of all layers that are trained at last, on black images."""
    config, side = trainer.config, trainer.image_size
    size, phase = config.input.batch_size, trainer.phase(config.training.epochs)
    train = build_train_step(
        trainer.classifier,
        phase.optimizer,
        StepConfig(
            normalisation_for(trainer.spec, config.input.preprocess),
            batch_size=size,
            augmentation=config.input.augment,
            accumulate=parts,
        ),
        compute=trainer.compute,
    )
    store, frozen = trainer.frozen_part.features.store, trainer.classifier.frozen
    with tf.device("CPU:0"):  # not the whole of it on the first GPU, which is full
        label, weight = tf.zeros([size], tf.int32), tf.zeros([size])
        index = tf.zeros([size], tf.int64)
        if store is None or frozen is None:
            image = tf.zeros([size, side, side, 3], tf.uint8)
            images = Batch(image, label, weight, index, tf.zeros([size, DRAWS]))
            batch: Any = place_batch(images, trainer.compute)
        else:
            values = [tf.zeros([size, *x.shape[1:]], x.dtype) for x in frozen.outputs]
            features = FeatureBatch(tuple(values), label, weight, index)
            batch = place_batch(features, trainer.compute)
    float(train.step(batch).loss)
