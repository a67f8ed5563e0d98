"""The sides of `bench_runtimes.py`, timed in turn in this process.

    python -m benchmarks.runtime_sides vgg16 15 sides.json

Writes seconds by side, differences from Keras' output, what was left out and the peak
of memory. Exporting takes the most memory of all, so the exported sides come first.
"""

import gc
import importlib.metadata
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.choices import Precision, Protocol, Runtime, Xla
from tlperf.core.errors import TlperfError
from tlperf.core.machine import peak_memory_bytes
from tlperf.core.settings import DeviceConfig
from tlperf.device.setup import Compute, setup_compute
from tlperf.latency.cells import IMAGENET
from tlperf.latency.checks import output_difference
from tlperf.latency.packages import check_installed
from tlperf.latency.protocols import PROTOCOLS, Subject, float_images
from tlperf.latency.sessions import import_onnxruntime, import_openvino
from tlperf.latency.timer import Steps, drop, repeat, warm_up
from tlperf.latency.trial import SEED
from tlperf.model.build import build_imagenet_model
from tlperf.reference.backbones import find_backbone

BATCH_SIZE = 16
MOST_DIFFERENCE = 1e-3
STATISTICS_IMAGES = 4  # a step of training takes more memory than all sides


class Side(NamedTuple):
    """One way to the same output.

    Attributes:
        steps: on the images.
        lead: first steps of a call that carry its set-up.
        folder: of its files, which are read while it runs.
    """

    steps: Steps
    lead: int = 0
    folder: tempfile.TemporaryDirectory | None = None


def ours(protocol: Protocol, runtime: Runtime = Runtime.TF) -> Callable[..., Side]:
    """A protocol of `tlperf latency`."""

    def make(subject: Subject, images: np.ndarray, compute: Compute) -> Side:
        timed = PROTOCOLS[protocol](subject, len(images), compute, runtime=runtime)
        return Side(timed.steps(timed.place(images)), timed.lead)

    return make


def traced_call(subject: Subject, images: np.ndarray, compute: Compute) -> Side:
    """Keras' own call in a tf.function, as its guides write it."""
    function = tf.function(lambda x: subject.model(x, training=False))
    with tf.device(compute.devices[0]):
        placed = tf.constant(images)
    return Side(repeat(lambda: function(placed).numpy()))


def further_inputs(subject: Subject) -> list[np.ndarray]:
    """What Keras 3.15's ONNX exporter makes inputs of beside the images: the statistics
    of Normalization layers, of which EfficientNetB0 has one."""
    return [
        np.asarray(values, np.float32)
        for layer in subject.model.layers
        if isinstance(layer, keras.layers.Normalization)
        for values in (layer.mean, layer.variance)
    ]


def openvino_by_hand(subject: Subject, images: np.ndarray, compute: Compute) -> Side:
    """As OpenVINO's documentation writes it: read, give it its static shape, compile,
    infer. On CPUs that have bfloat16 units its default would not be float32."""
    openvino = import_openvino()
    folder = tempfile.TemporaryDirectory()
    path = str(pathlib.Path(folder.name, "model.xml"))
    subject.model.export(path, format="openvino", verbose=False)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(images.shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return Side(repeat(lambda: compiled(images)[0]), folder=folder)


def onnxruntime_by_hand(subject: Subject, images: np.ndarray, compute: Compute) -> Side:
    """As ONNX Runtime's documentation writes it: a session, and a feed by name."""
    check_installed("onnxruntime", "tf2onnx")
    onnxruntime = import_onnxruntime()  # as written there, but for its telemetry
    folder = tempfile.TemporaryDirectory()
    path = str(pathlib.Path(folder.name, "model.onnx"))
    subject.model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feed = dict(zip(names, [images, *further_inputs(subject)], strict=True))
    return Side(repeat(lambda: session.run(None, feed)[0]), folder=folder)


SIDES: dict[str, Callable[..., Side]] = {
    "onnxruntime": ours(Protocol.COMPILED, Runtime.ONNXRUNTIME),
    "onnxruntime by hand": onnxruntime_by_hand,
    "openvino": ours(Protocol.COMPILED, Runtime.OPENVINO),
    "openvino by hand": openvino_by_hand,
    "tf": ours(Protocol.COMPILED),
    "traced Keras call": traced_call,
    "keras predict": ours(Protocol.KERAS_PREDICT),
}


def make_sides(
    subject: Subject, images: np.ndarray, compute: Compute
) -> tuple[dict[str, Side], list[str]]:
    """All sides that are installed, and a line for each that is not."""
    sides: dict[str, Side] = {}
    left_out = []
    for name, make in SIDES.items():
        try:
            sides[name] = make(subject, images, compute)
        except TlperfError as error:
            left_out.append(f"{name}: {error.found}; {error.remedy}")
    return sides, left_out


def take_statistics(model: keras.Model, images: np.ndarray) -> None:
    """Gives BatchNormalization the images' statistics: with those that it begins with,
    random weights give every image of EfficientNetB0 the same output."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(images, training=True)


def check_outputs(sides: dict[str, Side], reference: np.ndarray) -> dict[str, float]:
    """Largest difference of each side's output from Keras', as a share of the largest
    output; ends the program where one computes something else."""
    differences = {}
    for name, side in sides.items():
        outputs: list[np.ndarray] = []
        side.steps(1 + side.lead, math.inf, outputs.append)
        found = output_difference(outputs[-1:], reference)
        if found > MOST_DIFFERENCE:
            sys.exit(f"{name}: outputs differ by {found} from Keras'")
        differences[name] = found
    return differences


def time_sides(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Seconds of one step of each side a round; the order turns, every other round it
    is reversed, so that no side always comes after the same one."""
    names = list(sides)
    secs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number // 2 % len(names)
        order = names[first:] + names[:first]
        for name in order[:: -1 if number % 2 else 1]:
            side = sides[name]
            secs[name].append(side.steps(1 + side.lead, math.inf, drop)[-1])
    return secs


def measure_sides(backbone: str, rounds: int) -> dict[str, Any]:
    """What a network's sides take."""
    compute = setup_compute(
        DeviceConfig(devices="cpu", precision=Precision.FLOAT32, xla=Xla.OFF)
    )
    spec = find_backbone(backbone)
    model = build_imagenet_model(spec)
    subject = Subject(spec, IMAGENET, model, spec.native_size, spec.normalisation)
    images = float_images(BATCH_SIZE, spec.native_size, SEED)
    take_statistics(model, images[:STATISTICS_IMAGES])
    sides, left_out = make_sides(subject, images, compute)
    differences = check_outputs(sides, np.asarray(model(images, training=False)))
    for side in sides.values():
        warm_up(side.steps, least_steps=1 + side.lead)
    gc.collect()
    gc.disable()
    secs = time_sides(sides, rounds)
    return {
        "secs": secs,
        "differences": differences,
        "left_out": left_out,
        "process_peak_memory_bytes": peak_memory_bytes(),
        "device": compute.facts(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "openvino", "onnxruntime")
            if not any(text.startswith(name) for text in left_out)
        },
    }


def main(arguments: list[str]) -> int:
    """Measures a backbone so many rounds and writes a file."""
    backbone, rounds, out = arguments
    found = measure_sides(backbone, int(rounds))
    pathlib.Path(out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
