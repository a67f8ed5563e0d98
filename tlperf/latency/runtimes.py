"""What computes a timed step: one function a runtime, one table that picks.

    loaded = RUNTIMES[Runtime.TF](network, (32, 224, 224, 3), compute)
    placed = loaded.place(images)
    loaded.run(placed)                  # a NumPy array

A network has one input and one output. Under `tf` it is a graph whose weights are
constants, so that TensorFlow folds BatchNormalization into the convolutions, on CPUs
with convolutions that multiply less; the other runtimes load what Keras' own exporters
write.
"""

import concurrent.futures
import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.choices import ExportFormat, Runtime
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.device.setup import Compute
from tlperf.latency.description import ENDINGS
from tlperf.latency.export import export_network
from tlperf.latency.sessions import (
    Cuda,
    import_onnxruntime,
    import_openvino,
    open_onnx,
    open_openvino,
)
from tlperf.model.frozen import apply_constant
from tlperf.model.inference import count_winograd, release_constants, rewrite

# Of a batch, side by side in one graph, on CPUs: while the last thread of an operation
# of one ends, the other's go on. 2 to 9 % faster for 16 images on two cores.
_PARTS = 2
# Of one request to OpenVINO or onnxruntime on a CPU, with as many side by side as there
# are cores: what lies between two layers stays in a core's cache. For 16 images on two
# cores EfficientNetB0 takes a fifth less time in OpenVINO and a seventh in onnxruntime,
# the others 0 to 7 % and 2 to 4 %; VGG16, whose weights each request reads, 5 % more.
_REQUEST_IMAGES = 2
_MOST_WEIGHTS_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network in a runtime.

    Attributes:
        place: a batch [B, S, S, 3] to the device, waited for.
        run: what was placed, or a batch in the host's memory, to the output there.
        traces: how often the network was traced or compiled so far.
        prepare_secs: what it took by name: export, trace, load.
        version: of the runtime.
        winograd: convolutions that take a quarter of the products.
    """

    place: Callable[[np.ndarray], Any]
    run: Callable[[Any], np.ndarray]
    traces: Callable[[], int]
    prepare_secs: dict[str, float]
    version: str
    winograd: int = 0


def load_tf(network: keras.Model, shape: Sequence[int], compute: Compute) -> Loaded:
    """A graph of its own, on the first device."""
    device, traces = compute.devices[0], 0
    start = time.perf_counter()
    if not compute.jit_compile:
        network = rewrite(network, cpu=compute.kind == "CPU")

    def forward(x: tf.Tensor) -> tf.Tensor:
        nonlocal traces
        traces += 1
        if compute.jit_compile:  # XLA folds by itself
            return network(x, training=False)
        parts = _PARTS if compute.kind == "CPU" and shape[0] % _PARTS == 0 else 1
        return tf.concat(apply_constant(network, *tf.split(x, parts)), axis=0)

    function = tf.function(
        forward,
        jit_compile=compute.jit_compile,
        autograph=False,
        reduce_retracing=False,
    )
    with tf.device(device):
        spec = tf.TensorSpec(shape, network.inputs[0].dtype)
        graph = function.get_concrete_function(spec)
    release_constants(network)
    trace_secs = time.perf_counter() - start

    def place(images: np.ndarray) -> tf.Tensor:
        with tf.device(device):
            placed = tf.constant(images)
            placed[:1, :1, :1].numpy()  # it is there
        return placed

    def run(placed: Any) -> np.ndarray:
        with tf.device(device):
            return graph(tf.convert_to_tensor(placed)).numpy()

    return Loaded(
        place,
        run,
        lambda: traces,
        {"trace": trace_secs},
        tf.__version__,
        count_winograd(network),
    )


def load_onnxruntime(
    network: keras.Model, shape: Sequence[int], compute: Compute
) -> Loaded:
    """Runs of an inference session on the first device."""
    onnxruntime = import_onnxruntime()
    cuda, count, streams = _find_cuda(compute), 1, 1
    if cuda is None:
        count, streams = split_requests(network, shape[0], usable_cores())
    session, prepare_secs = _export_and_load(
        network,
        ExportFormat.ONNX,
        (shape[0] // count, *shape[1:]),
        functools.partial(open_onnx, cuda=cuda, streams=streams),
    )
    (name,) = [one.name for one in session.get_inputs()]
    where = ("cpu", 0) if cuda is None else ("cuda", cuda.number)
    threads = concurrent.futures.ThreadPoolExecutor(streams)

    def place(images: np.ndarray) -> list[Any]:
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        return [make(part, *where) for part in np.split(images, count)]

    def compute_part(part: Any) -> np.ndarray:
        (output,) = session.run_with_ort_values(None, {name: part})
        return output.numpy()

    def run(placed: Any) -> np.ndarray:
        if isinstance(placed, np.ndarray):
            placed = place(placed)
        if count == 1:
            return compute_part(placed[0])
        return np.concatenate([*threads.map(compute_part, placed)])

    version = onnxruntime.__version__
    return Loaded(place, run, lambda: 1, prepare_secs, version)


def _find_cuda(compute: Compute) -> Cuda | None:
    """The first device as CUDA numbers it: TensorFlow numbers those it may use."""
    if compute.kind == "CPU":
        return None
    device, *_ = tf.config.get_visible_devices("GPU")
    number = int(device.name.rpartition(":")[2])
    return Cuda(number, tf.config.experimental.tensor_float_32_execution_enabled())


def load_openvino(
    network: keras.Model, shape: Sequence[int], compute: Compute
) -> Loaded:
    """Requests of a compiled model, on the CPU.

    Raises:
        TlperfError: 78 where a GPU is to be timed.
    """
    if compute.kind != "CPU":
        raise TlperfError(
            ExitCode.CONFIG,
            "openvino_device",
            found=f"OpenVINO computes on the CPU, and {compute.texts[0]} is in use",
            remedy="add --devices=cpu",
        )
    openvino = import_openvino()
    count, streams = split_requests(network, shape[0], usable_cores())
    model, prepare_secs = _export_and_load(
        network,
        ExportFormat.OPENVINO,
        (shape[0] // count, *shape[1:]),
        functools.partial(open_openvino, streams=streams),
    )
    requests = [model.create_infer_request() for _ in range(count)]

    def place(images: np.ndarray) -> list[Any]:
        parts = np.split(images, count)
        return [openvino.Tensor(part, shared_memory=True) for part in parts]

    def run(placed: Any) -> np.ndarray:
        if isinstance(placed, np.ndarray):
            placed = place(placed)
        for request, part in zip(requests, placed, strict=True):
            request.start_async({0: part}, share_inputs=True)
        for request in requests:
            request.wait()
        return np.concatenate([one.get_output_tensor(0).data for one in requests])

    version = openvino.get_version()
    return Loaded(place, run, lambda: 1, prepare_secs, version)


def split_requests(
    network: keras.Model, batch_size: int, cores: int
) -> tuple[int, int]:
    """Equal requests of a batch, and how many of them are computed side by side: as
    many as there are cores at most, the same number each time."""
    is_large = 4 * network.count_params() > _MOST_WEIGHTS_BYTES
    if is_large or batch_size % _REQUEST_IMAGES:
        return 1, 1
    count = batch_size // _REQUEST_IMAGES
    streams = max(n for n in range(1, min(count, cores) + 1) if count % n == 0)
    return (count, streams) if streams > 1 else (1, 1)


def _export_and_load(
    network: keras.Model,
    kind: ExportFormat,
    shape: Sequence[int],
    load: Callable[[pathlib.Path], Any],
) -> tuple[Any, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "network").with_suffix(ENDINGS[kind])
        start = time.perf_counter()
        export_network(network, path, kind, batch_size=shape[0])
        exported = time.perf_counter()
        loaded = load(path)
        secs = {"export": exported - start, "load": time.perf_counter() - exported}
    return loaded, secs


RUNTIMES: dict[Runtime, Callable[..., Loaded]] = {
    Runtime.TF: load_tf,
    Runtime.ONNXRUNTIME: load_onnxruntime,
    Runtime.OPENVINO: load_openvino,
}
