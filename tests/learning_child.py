"""Losses of a backbone's first steps, in a process whose devices and threads are its
own.

    python -m tests.learning_child '{"backbone": "xception", "steps": 50, ...}'

Prints a JSON list: the loss of each step.
"""

import contextlib
import itertools
import json
import pathlib
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.tiny import take_statistics
from tlperf.core.settings import (
    DeviceConfig,
    FeatureConfig,
    InputConfig,
    RunConfig,
    TrainConfig,
    from_plain,
)
from tlperf.dataset.store import open_dataset
from tlperf.device.setup import setup_compute
from tlperf.model.weights import WeightsSource
from tlperf.reference.backbones import find_backbone
from tlperf.training.trainer import build_trainer


def first_losses(values: dict[str, Any]) -> list[float]:
    """Trains and gives each step's loss."""
    tf.config.threading.set_intra_op_parallelism_threads(values.get("threads", 0))
    config = RunConfig(
        workdir=values["workdir"],
        input=from_plain(InputConfig, values["input"]),
        training=from_plain(TrainConfig, values.get("training", {})),
        features=from_plain(FeatureConfig, values["features"]),
        device=from_plain(DeviceConfig, {"devices": "cpu", **values.get("device", {})}),
    )
    losses: list[float] = []
    with open_dataset(pathlib.Path(values["data_dir"])) as dataset:
        trainer = build_trainer(
            find_backbone(values["backbone"]),
            config,
            dataset=dataset,
            compute=setup_compute(config.device),
            weights=WeightsSource("none"),
        )
        with contextlib.closing(trainer):
            if not values.get("dropout", True):
                for layer in trainer.classifier.active.layers:
                    if isinstance(layer, keras.layers.Dropout):
                        layer.rate = 0.0  # before the step is traced
            take_statistics(trainer, next(iter(trainer.batches(0))))
            if values.get("nudged"):
                for variable in trainer.classifier.active.trainable_variables:
                    variable.assign(np.nextafter(variable.numpy(), np.float32(1)))
            trainer.frozen_part.open()
            for epoch in itertools.count():
                result, _ = trainer.train_epoch(epoch)
                losses += [loss / count for loss, _, count in result.sums]
                if len(losses) >= values["steps"]:
                    return losses[: values["steps"]]
    raise AssertionError("there is always another epoch")


if __name__ == "__main__":
    print(json.dumps(first_losses(json.loads(sys.argv[1]))))
