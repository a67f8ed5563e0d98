"""A trained model, rebuilt from the table's row and the weights in its folder.

    model = load_trained(spec, folder, trained, compute=compute)

Nothing is deserialised but arrays: the network comes from the code, the weights from a
file whose hash is the one the training noted.
"""

import pathlib
from typing import Any

import keras

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.device.setup import Compute
from tlperf.model.build import build_classifier
from tlperf.model.weights import WEIGHTS_NAME, load_keras_weights
from tlperf.reference.backbones import BackboneSpec


def load_trained(
    spec: BackboneSpec,
    folder: pathlib.Path,
    trained: dict[str, Any],
    *,
    compute: Compute,
) -> keras.Model:
    """The whole model with its best weights: images [B, S, S, 3] to float32 [B, C].

    Args:
        spec: row of the backbone table.
        folder: WORKDIR/BACKBONE.
        trained: result of its `train` row.
        compute: strategy and precision.

    Raises:
        TlperfError: 66 where the weights are missing, 76 where their hash differs, 78
            where they do not fit.
    """
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
    with compute.strategy.scope():
        model = build_classifier(
            spec,
            image_size=trained["image_size"],
            classes=len(trained["classes"]),
            precision=compute.precision,
        ).whole
        load_keras_weights(model, path)
    return model
