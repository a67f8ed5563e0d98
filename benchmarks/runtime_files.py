"""The network of `bench_runtimes.py` as files, each made in a process of its own.

    python -m benchmarks.runtime_files weights vgg16 FOLDER
    python -m benchmarks.runtime_files "openvino by hand" vgg16 FOLDER

An export to ONNX takes about 45 times the weights (tf2onnx 1.17), and not all of it is
given back. All processes have the weights of the first.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tlperf.core.choices import ExportFormat, Precision
from tlperf.core.machine import usable_cores
from tlperf.latency.export import export_network
from tlperf.latency.protocols import SEED, float_images
from tlperf.latency.runtimes import split_requests
from tlperf.latency.sessions import import_openvino
from tlperf.latency.subjects import build_imagenet_subject
from tlperf.model.build import build_imagenet_model
from tlperf.reference.backbones import find_backbone

BATCH_SIZE = 16
WEIGHTS = "model.weights.h5"


def _export_ours(kind: ExportFormat) -> Callable[[keras.Model, pathlib.Path], None]:
    """As the runtimes of tlperf do."""

    def export(model: keras.Model, path: pathlib.Path) -> None:
        requests, _ = split_requests(model, BATCH_SIZE, usable_cores())
        export_network(model, path, kind, batch_size=BATCH_SIZE // requests)

    return export


def _export_onnx(model: keras.Model, path: pathlib.Path) -> None:
    """As Keras' documentation writes it."""
    model.export(str(path), format="onnx", verbose=False)


def _export_openvino(model: keras.Model, path: pathlib.Path) -> None:
    """As Keras' documentation writes it."""
    import_openvino()  # without its telemetry
    model.export(str(path), format="openvino", verbose=False)


# By side: what its file is called, who writes it, what it needs.
Export = tuple[str, Callable[[keras.Model, pathlib.Path], None], Sequence[str]]
EXPORTS: dict[str, Export] = {
    "onnxruntime": (
        "ours.onnx",
        _export_ours(ExportFormat.ONNX),
        ("onnxruntime", "tf2onnx"),
    ),
    "onnxruntime by hand": ("hand.onnx", _export_onnx, ("onnxruntime", "tf2onnx")),
    "openvino": ("ours.xml", _export_ours(ExportFormat.OPENVINO), ("openvino",)),
    "openvino by hand": ("hand.xml", _export_openvino, ("openvino",)),
}


def load_model(backbone: str, folder: pathlib.Path) -> keras.Model:
    """The 1000-class network with the weights that are there."""
    spec = find_backbone(backbone)
    model = build_imagenet_model(spec)
    model.load_weights(folder / WEIGHTS)
    # Keras exports by hand what was called before.
    model(float_images(1, spec.native_size, spec.normalisation, SEED), training=False)
    return model


def save_weights(backbone: str, folder: pathlib.Path) -> None:
    """Random weights that tell images apart."""
    keras.utils.set_random_seed(SEED)
    subject = build_imagenet_subject(find_backbone(backbone), Precision.FLOAT32.value)
    subject.model.save_weights(folder / WEIGHTS)


def further_inputs(model: keras.Model) -> list[np.ndarray]:
    """What Keras 3.15's ONNX exporter makes inputs of beside the images: the statistics
    of Normalization layers, of which EfficientNetB0 has one."""
    return [
        np.asarray(values, np.float32)
        for layer in model.layers
        if isinstance(layer, keras.layers.Normalization)
        for values in (layer.mean, layer.variance)
    ]


def main(arguments: list[str]) -> int:
    """Makes one of the files."""
    what, backbone, folder = arguments[0], arguments[1], pathlib.Path(arguments[2])
    if what == "weights":
        save_weights(backbone, folder)
        return 0
    name, export, _ = EXPORTS[what]
    export(load_model(backbone, folder), folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
