"""Table 4's optimisers with every hyperparameter written out, learning rates, overflow.

optimizer = build_optimizer(spec, TrainConfig(), precision="mixed_float16",
                            total_steps=370)
"""

import math
from typing import Any

import keras
import tensorflow as tf

from tlperf.core.choices import Optimizer, Precision, Schedule
from tlperf.core.settings import TrainConfig
from tlperf.device.setup import Compute
from tlperf.reference.backbones import BackboneSpec

# Keras 3.15's defaults, written out because defaults changed between versions
# (Adagrad's learning rate and accumulator did).
_HYPERPARAMETERS = {
    Optimizer.ADAM: {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False},
    Optimizer.ADAGRAD: {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
}
_CONSTRUCTORS = {
    Optimizer.ADAM: keras.optimizers.Adam,
    Optimizer.ADAGRAD: keras.optimizers.Adagrad,
}


def optimizer_settings(
    spec: BackboneSpec, config: TrainConfig
) -> dict[str, str | float | bool]:
    """Name and every hyperparameter; the backbone's row fills in what is not given."""
    kind = config.optimizer or spec.optimizer
    return {
        "name": kind.value,
        "learning_rate": config.learning_rate or spec.learning_rate,
        **_HYPERPARAMETERS[kind],
    }


class WarmUpAndDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises over `warmup_steps`, then stays or falls to 0 at the last step.

    A function of the optimiser's step count alone, so it goes on where a checkpoint
    goes on.

    Args:
        rate: the highest.
        schedule: what it does after the warm-up.
        warmup_steps: step i of them, from 0, takes (i + 1) / warmup_steps of it.
        total_steps: of the training.
    """

    def __init__(
        self, rate: float, *, schedule: Schedule, warmup_steps: int, total_steps: int
    ):
        self._rate, self._schedule = rate, schedule
        self._warmup_steps, self._total_steps = warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        """The rate of a step, from 0."""
        at = keras.ops.cast(step, "float32")
        rate = self._rate * keras.ops.minimum(
            1.0, (at + 1) / max(1, self._warmup_steps)
        )
        if self._schedule is Schedule.CONSTANT:
            return rate
        falling = max(1, self._total_steps - self._warmup_steps)
        share = keras.ops.clip((at - self._warmup_steps) / falling, 0.0, 1.0)
        return rate * 0.5 * (1 + keras.ops.cos(math.pi * share))

    def get_config(self) -> dict[str, Any]:
        """As Keras asks."""
        return {
            "rate": self._rate,
            "schedule": self._schedule.value,
            "warmup_steps": self._warmup_steps,
            "total_steps": self._total_steps,
        }


def build_optimizer(
    spec: BackboneSpec,
    config: TrainConfig,
    *,
    precision: str,
    total_steps: int = 0,
    learning_rate: float | None = None,
) -> keras.optimizers.Optimizer:
    """The optimiser; wrapped in dynamic loss scaling for float16.

    Args:
        spec: row of the backbone table.
        config: what is not its own.
        precision: dtype policy.
        total_steps: that it trains, for a schedule.
        learning_rate: where it is not the settings'.
    """
    settings: dict[str, Any] = optimizer_settings(spec, config)
    settings["learning_rate"] = learning_rate or settings["learning_rate"]
    if config.ema:
        settings.update(use_ema=True, ema_momentum=config.ema)
    name = Optimizer(str(settings.pop("name")))
    if config.schedule is not Schedule.CONSTANT or config.warmup_steps:
        settings["learning_rate"] = WarmUpAndDecay(
            settings["learning_rate"],
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            total_steps=total_steps,
        )
    optimizer = _CONSTRUCTORS[name](**settings)
    if precision == Precision.MIXED_FLOAT16:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def agree_on_overflow(
    gradients: list[tf.Tensor],
    optimizer: keras.optimizers.Optimizer,
    compute: Compute,
) -> list[tf.Tensor]:
    """Under loss scaling, one replica's overflow makes every replica skip the step.

    Keras 3.15's LossScaleOptimizer takes the first replica's word for all, before the
    gradients are summed: an overflow elsewhere would reach the weights.
    """
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if compute.replicas == 1 or not is_scaled:
        return gradients
    finite = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
    )
    context = tf.distribute.get_replica_context()
    bad = context.all_reduce("SUM", 1.0 - tf.cast(finite, tf.float32))
    return [
        tf.where(bad > 0, tf.constant(float("nan"), gradient.dtype), gradient)
        for gradient in gradients
    ]
