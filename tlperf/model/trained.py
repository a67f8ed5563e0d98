"""A trained model, rebuilt from the table's row and the weights in its folder.

    network = load_trained(spec, folder, trained, compute=compute)
    network.predict(batch)
    build_classify(network)(images)           # NumPy to NumPy

Nothing is deserialised but arrays: the network comes from the code, the weights from a
file whose hash is the one the training noted.
"""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tlperf.core import files
from tlperf.core.batch import Batch
from tlperf.core.choices import Preprocess
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.recipe import Classify
from tlperf.device.setup import Compute
from tlperf.model.build import build_classifier
from tlperf.model.preprocess import normalisation_for
from tlperf.model.steps import Network, build_predict_step
from tlperf.model.weights import WEIGHTS_NAME, load_keras_weights
from tlperf.reference.backbones import BackboneSpec


def load_trained(
    spec: BackboneSpec,
    folder: pathlib.Path,
    trained: dict[str, Any],
    *,
    compute: Compute,
) -> Network:
    """The whole network with its best weights.

    Args:
        spec: row of the backbone table.
        folder: WORKDIR/BACKBONE.
        trained: result of its `train` row.
        compute: strategy, precision and XLA policy.

    Raises:
        TlperfError: 66 where the weights are missing, 76 where their hash differs, 78
            where they do not fit.
    """
    check_weights(spec, folder, trained)  # before seconds of building
    with compute.strategy.scope():
        model = build_classifier(
            spec,
            image_size=trained["image_size"],
            classes=len(trained["classes"]),
            precision=compute.precision,
        ).whole
    predict = build_predict_step(
        model,
        compute=compute,
        normalisation=normalisation_for(spec, Preprocess(trained["preprocess"])),
    )
    load_keras_weights(model, folder / WEIGHTS_NAME)
    return Network(model, predict)


def check_weights(
    spec: BackboneSpec, folder: pathlib.Path, trained: dict[str, Any]
) -> None:
    """Raises TlperfError 66 where weights are missing, 76 where others are there."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise TlperfError(
            ExitCode.NO_INPUT,
            "not_trained",
            path=path,
            found="no such file",
            remedy=f"run tlperf train --backbones={spec.name}",
        )
    found = files.sha256_file(path)
    if found != trained["weights_sha256"]:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "weights_hash",
            path=path,
            found=f"sha256 {found[:12]}..., the training noted "
            f"{trained['weights_sha256'][:12]}...",
            remedy=f"run tlperf train --backbones={spec.name} again",
        )


def build_classify(network: Network) -> Classify:
    """The inference step of one device on pixels in the host's memory.

    Returns:
        A function of images uint8 [B, S, S, 3], RGB, to probabilities float32 [B, C]:
        those that evaluation has of the same pixels.
    """

    def classify(images: np.ndarray) -> np.ndarray:
        count = len(images)
        batch = Batch(
            image=tf.convert_to_tensor(images),
            label=tf.zeros([count], tf.int32),  # of the loss, which nobody reads
            weight=tf.ones([count]),
            index=tf.range(count, dtype=tf.int64),
            draw=tf.zeros([count, 4]),
        )
        probability, _ = network.predict(batch)
        return probability.numpy()

    return classify
