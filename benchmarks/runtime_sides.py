"""The sides of `bench_runtimes.py`, timed in turn in this process.

    python -m benchmarks.runtime_sides vgg16 15 FOLDER

FOLDER has the files of `benchmarks.runtime_files`; a side whose file is not there is
left out. Writes FOLDER/sides.json: seconds by side, differences from Keras' output and
the peak of memory.
"""

import gc
import json
import math
import pathlib
import shutil
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from benchmarks.runtime_files import BATCH_SIZE, EXPORTS, further_inputs, load_model
from tlperf.core.choices import Precision, Protocol, Runtime, Xla
from tlperf.core.machine import package_versions, peak_memory_bytes
from tlperf.core.settings import DeviceConfig
from tlperf.device.setup import Compute, setup_compute
from tlperf.latency import runtimes
from tlperf.latency.cells import IMAGENET
from tlperf.latency.checks import output_difference
from tlperf.latency.protocols import PROTOCOLS, SEED, Subject, float_images
from tlperf.latency.sessions import import_openvino
from tlperf.latency.timer import Steps, drop, repeat, warm_up
from tlperf.model.facts import count_macs
from tlperf.reference.backbones import find_backbone

MOST_DIFFERENCE = 1e-3
TURN_SECS = 0.5
PRODUCT_SIDE = 2048
# What a step's multiply-adds take at the rate of a large product.
BOUND = "multiply-add bound"


class Side(NamedTuple):
    """One way to the same output.

    Attributes:
        steps: on the images.
        lead: first steps of a call that carry its set-up.
    """

    steps: Steps
    lead: int = 0


class Setup(NamedTuple):
    """What every side is made of."""

    subject: Subject
    images: np.ndarray
    compute: Compute
    folder: pathlib.Path


def ours(protocol: Protocol, runtime: Runtime = Runtime.TF) -> Callable[[Setup], Side]:
    """A protocol of `tlperf latency`."""

    def make(setup: Setup) -> Side:
        batch_size = len(setup.images)
        timed = PROTOCOLS[protocol](
            setup.subject, batch_size, setup.compute, runtime=runtime
        )
        return Side(timed.steps(timed.place(setup.images)), timed.lead)

    return make


def traced_call(setup: Setup) -> Side:
    """Keras' own call in a tf.function, as its guides write it."""
    function = tf.function(lambda x: setup.subject.model(x, training=False))
    with tf.device(setup.compute.devices[0]):
        placed = tf.constant(setup.images)
    return Side(repeat(lambda: function(placed).numpy()))


def openvino_by_hand(setup: Setup) -> Side:
    """As OpenVINO's documentation writes it: read, give it its static shape, compile,
    infer. On CPUs that have bfloat16 units its default would not be float32."""
    core = import_openvino().Core()
    model = core.read_model(str(setup.folder / EXPORTS["openvino by hand"][0]))
    model.reshape(list(setup.images.shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return Side(repeat(lambda: compiled(setup.images)[0]))


def onnxruntime_by_hand(setup: Setup) -> Side:
    """As ONNX Runtime's documentation writes it: a session, and a feed by name."""
    import onnxruntime

    path = str(setup.folder / EXPORTS["onnxruntime by hand"][0])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    values = [setup.images, *further_inputs(setup.subject.model)]
    feed = dict(zip(names, values, strict=True))
    return Side(repeat(lambda: session.run(None, feed)[0]))


SIDES: dict[str, Callable[[Setup], Side]] = {
    "keras predict": ours(Protocol.KERAS_PREDICT),
    "traced Keras call": traced_call,
    "tf": ours(Protocol.COMPILED),
    "openvino": ours(Protocol.COMPILED, Runtime.OPENVINO),
    "openvino by hand": openvino_by_hand,
    "onnxruntime": ours(Protocol.COMPILED, Runtime.ONNXRUNTIME),
    "onnxruntime by hand": onnxruntime_by_hand,
}


def product_side(compute: Compute) -> Side:
    """A product of two square matrices, which no multiply-adds are faster than."""
    product = tf.function(tf.linalg.matmul, autograph=False)
    with tf.device(compute.devices[0]):
        square = tf.ones([PRODUCT_SIDE, PRODUCT_SIDE])
    return Side(repeat(lambda: product(square, square)[:1, :1].numpy()))


def take_files(folder: pathlib.Path) -> None:
    """Gives the runtimes of tlperf the files that were exported before, where they
    would export the network now."""

    endings = {".onnx": (".onnx",), ".xml": (".xml", ".bin")}

    def take(network: keras.Model, path: pathlib.Path, *_: Any, **__: Any) -> None:
        for ending in endings[path.suffix]:
            shutil.copy(folder / f"ours{ending}", path.with_suffix(ending))

    runtimes.export_network = take


def make_sides(setup: Setup) -> dict[str, Side]:
    """All sides whose files are there."""
    return {
        name: make(setup)
        for name, make in SIDES.items()
        if name not in EXPORTS or (setup.folder / EXPORTS[name][0]).exists()
    }


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
    """Seconds of a step of each side a round: the median of its turn, which is as many
    steps as half a second holds, after one on which the threads and caches of the side
    before weigh. Each round has an order of its own."""
    generator = np.random.default_rng(SEED)
    names = list(sides)
    secs: dict[str, list[float]] = {name: [] for name in names}
    counts = {name: max(1, round(TURN_SECS / step_secs(sides[name]))) for name in names}
    for _ in range(rounds):
        for name in generator.permutation(names).tolist():
            side, count = sides[name], counts[name]
            steps = side.steps(side.lead + 1 + count, math.inf, drop)
            secs[name].append(statistics.median(steps[-count:]))
    return secs


def step_secs(side: Side) -> float:
    """Of a warm step."""
    return side.steps(2 + side.lead, math.inf, drop)[-1]


def measure_sides(backbone: str, rounds: int, folder: pathlib.Path) -> dict[str, Any]:
    """What a network's sides take."""
    compute = setup_compute(
        DeviceConfig(devices="cpu", precision=Precision.FLOAT32, xla=Xla.OFF)
    )
    spec = find_backbone(backbone)
    model = load_model(backbone, folder)
    subject = Subject(spec, IMAGENET, model, spec.native_size, spec.normalisation)
    images = float_images(BATCH_SIZE, spec.native_size, spec.normalisation, SEED)
    take_files(folder)
    sides = make_sides(Setup(subject, images, compute, folder))
    differences = check_outputs(sides, np.asarray(model(images, training=False)))
    sides[BOUND] = product_side(compute)
    for side in sides.values():
        warm_up(side.steps, least_steps=1 + side.lead)
    gc.collect()
    gc.disable()
    secs = time_sides(sides, rounds)
    macs = count_macs(model) * BATCH_SIZE
    secs[BOUND] = [one * macs / PRODUCT_SIDE**3 for one in secs[BOUND]]
    return {
        "secs": secs,
        "differences": differences,
        "process_peak_memory_bytes": peak_memory_bytes(),
        "device": compute.facts(),
        "versions": package_versions("openvino", "onnxruntime", "onnxruntime-gpu"),
    }


def main(arguments: list[str]) -> int:
    """Measures a backbone so many rounds and writes the file."""
    backbone, rounds, folder = arguments[0], int(arguments[1]), arguments[2]
    found = measure_sides(backbone, rounds, pathlib.Path(folder))
    pathlib.Path(folder, "sides.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
