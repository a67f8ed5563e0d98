"""A one-block backbone and its training, so that tests of the loop take seconds."""

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np

from tlperf.core.settings import (
    DeviceConfig,
    FeatureConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    from_plain,
)
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.model.weights import WeightsSource
from tlperf.reference.backbones import (
    TF_MODE,
    VGG16,
    BackboneSpec,
    HeadKind,
    HeadLayer,
)


def tiny_net(*, weights=None, include_top=True, input_shape=None, classes=1000):
    """Two convolutions and a normalisation, built as `keras.applications` builds."""
    assert weights is None
    inputs = keras.Input(input_shape or (32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv1")(inputs)
    skip = keras.layers.Conv2D(8, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(name="norm")(skip)
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.Add(name="add")([x, skip])
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(classes, activation="softmax", name="top")(x)
    return keras.Model(inputs, x, name="tiny")


TINY = dataclasses.replace(
    VGG16,
    name="tiny",
    title="Tiny",
    constructor="tests.tiny:tiny_net",
    native_size=32,
    min_size=8,
    normalisation=TF_MODE,
    first_active="norm",
    head=(HeadLayer(HeadKind.GLOBAL_AVERAGE_POOLING), HeadLayer(HeadKind.DROPOUT, 0.2)),
    imagenet=None,
)
# Replicas' losses are those of one device: no mask is drawn.
WITHOUT_DROPOUT = dataclasses.replace(TINY, head=TINY.head[:1])
assert isinstance(TINY, BackboneSpec)

RANDOM = WeightsSource("none")


def run_config(
    workdir: str | pathlib.Path,
    *,
    inputs: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    **training: Any,
) -> RunConfig:
    """Three epochs of batches of 8 images of 32 pixels, but for what is given."""
    return RunConfig(
        workdir=str(workdir),
        input=from_plain(
            InputConfig, {"image_size": 32, "batch_size": 8, **(inputs or {})}
        ),
        model=from_plain(ModelConfig, model or {}),
        training=from_plain(
            TrainConfig, {"epochs": 3, "learning_rate": 0.01, **training}
        ),
        features=from_plain(FeatureConfig, features or {}),
        device=from_plain(DeviceConfig, device or {}),
    )


def train_tiny(
    dataset: StoredDataset,
    compute: Compute,
    workdir: str | pathlib.Path,
    *,
    spec: BackboneSpec = TINY,
    **values: Any,
) -> Any:
    """A training of the one-block backbone; `values` are of `run_config`."""
    from tlperf.training.loop import train_backbone

    return train_backbone(
        spec,
        run_config(workdir, **values),
        dataset=dataset,
        compute=compute,
        weights=RANDOM,
    )


def train_and_evaluate(
    spec: BackboneSpec,
    data_dir: pathlib.Path,
    workdir: pathlib.Path,
    *,
    compute: Compute,
    **values: Any,
) -> tuple[RunConfig, dict[str, Any]]:
    """A workdir as `train` and `evaluate` leave it, but for its results.jsonl: its
    settings, and the result of the training; `values` are of `run_config`."""
    from tlperf.dataset.store import open_dataset
    from tlperf.evaluation.evaluate import evaluate_backbone
    from tlperf.model.trained import load_trained

    config = dataclasses.replace(
        run_config(workdir, **values), data_dir=str(data_dir), backbones=spec.name
    )
    with open_dataset(data_dir) as dataset:
        training = train_tiny(dataset, compute, workdir, spec=spec, **values)
        network = load_trained(
            spec, config.backbone_path(spec.name), training.result, compute=compute
        )
        evaluate_backbone(
            spec,
            config,
            dataset=dataset,
            compute=compute,
            network=network,
            trained=training.result,
        )
    return config, training.result


def take_statistics(trainer: Any, batch: Any) -> None:
    """Gives BatchNormalization the batch's statistics, as trained weights have those of
    their images."""
    from tlperf.model import variety
    from tlperf.model.preprocess import normalise

    dtype = keras.dtype_policies.get(trainer.compute.precision).compute_dtype
    image = normalise(batch.image, trainer._normalisation, dtype=dtype)
    variety.take_statistics(trainer.classifier.whole, image)


def normal_values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32, of a normal distribution."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a share of the largest expected number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
