"""What fits, after the devices' memory was exceeded.

except tf.errors.ResourceExhaustedError as error:
    raise name_fitting_batch(trainer) from error
"""

import tensorflow as tf

from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.units import format_bytes
from tlperf.device.setup import Compute
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import StepConfig, build_train_step
from tlperf.pipeline.deliver import place_batch
from tlperf.pipeline.order import DRAWS
from tlperf.training.trainer import Trainer


def name_fitting_batch(trainer: Trainer) -> TlperfError:
    """Tries steps of half as many images until one fits; the network is of no further
    use then.

    Returns:
        Exit code 71, with the largest of them.
    """
    config, compute = trainer.config, trainer.compute
    size, side = config.input.batch_size, trainer.image_size
    fits = _find_fitting(trainer) if compute.workers == 1 else None
    if fits is None:
        remedy = "give a smaller --batch_size or --image_size"
    else:
        remedy = (
            f"--accumulate={config.training.accumulate * size // fits} takes the same "
            f"batch in parts of {fits}, which fit; or give --batch_size={fits}"
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


def _find_fitting(trainer: Trainer) -> int | None:
    size, replicas = trainer.config.input.batch_size, trainer.compute.replicas
    while size % (2 * replicas) == 0:
        size //= 2
        try:
            _try_step(trainer, size)
        except tf.errors.ResourceExhaustedError:
            continue
        return size
    return None


def _try_step(trainer: Trainer, size: int) -> None:
    config, side = trainer.config, trainer.image_size
    phase = trainer.phases[-1]
    train = build_train_step(
        trainer.classifier,
        phase.optimizer,
        StepConfig(
            normalisation_for(trainer.spec, config.input.preprocess),
            batch_size=size,
            augmentation=config.input.augment,
        ),
        compute=trainer.compute,
    )
    label, weight = tf.zeros([size], tf.int32), tf.zeros([size])
    index = tf.zeros([size], tf.int64)
    store, frozen = trainer.frozen_part.features.store, trainer.classifier.frozen
    if store is None or frozen is None:
        image = tf.zeros([size, side, side, 3], tf.uint8)
        images = Batch(image, label, weight, index, tf.zeros([size, DRAWS]))
        sums = train.step(place_batch(images, trainer.compute))
    else:
        features = tuple(
            tf.zeros([size, *x.shape[1:]], x.dtype) for x in frozen.outputs
        )
        batch = FeatureBatch(features, label, weight, index)
        sums = train.step(place_batch(batch, trainer.compute))
    float(sums.loss)
