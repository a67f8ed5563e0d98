"""Table 4's optimisers with every hyperparameter written out.

optimizer = build_optimizer(spec, TrainConfig(), precision="mixed_float16")
"""

import keras

from tlperf.core.choices import Optimizer, Precision
from tlperf.core.settings import TrainConfig
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


def build_optimizer(
    spec: BackboneSpec, config: TrainConfig, *, precision: str
) -> keras.optimizers.Optimizer:
    """The optimiser; wrapped in dynamic loss scaling for float16."""
    settings = optimizer_settings(spec, config)
    name = Optimizer(str(settings.pop("name")))
    optimizer = _CONSTRUCTORS[name](**settings)
    if precision == Precision.MIXED_FLOAT16:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
