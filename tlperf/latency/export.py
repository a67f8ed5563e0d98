"""Networks as files, by Keras' own exporters.

export_network(network, path, ExportFormat.ONNX)
export_network(network, path, ExportFormat.SAVED_MODEL, decode=decode)
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import memory_limit_bytes
from tlperf.core.quiet import quiet_stderr
from tlperf.core.units import format_bytes
from tlperf.latency.description import FILES_SIGNATURE, PIXELS_SIGNATURE
from tlperf.latency.packages import check_exporter
from tlperf.latency.sessions import import_openvino, keep_first_output

_ONNX_COPIES = 45
_FLOAT32_BYTES = 4
_BASE_BYTES = 1 << 30


def export_network(
    network: keras.Model,
    path: pathlib.Path,
    kind: ExportFormat,
    *,
    batch_size: int | None = None,
    decode: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> None:
    """Writes a network of one input.

    Args:
        network: with one input and one output.
        path: of the file, with the ending of its kind; for a SavedModel a folder.
        kind: of the file.
        batch_size: of the input; None leaves it open.
        decode: image files, string [B], to the network's input, by operations of
            TensorFlow: a SavedModel gets a signature of files too; the other formats
            have none.

    Raises:
        TlperfError: 69 where the exporter is not installed, 78 where this machine has
            not the memory to write ONNX.
    """
    check_exporter(kind)
    if kind is ExportFormat.ONNX:
        _check_memory(network)
    if kind is ExportFormat.KERAS:
        network.save(path)
        return
    tensor = network.inputs[0]
    signature = keras.InputSpec(
        shape=(batch_size, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
    )
    with quiet_stderr():
        if kind is ExportFormat.OPENVINO:
            import_openvino()  # before Keras does
        if kind is ExportFormat.SAVED_MODEL:
            _export_saved_model(network, path, signature, decode)
            return
        with _constant_statistics(network):
            network.export(
                str(path), format=kind.value, verbose=False, input_signature=[signature]
            )
        if kind is ExportFormat.OPENVINO:
            keep_first_output(path)


def onnx_memory_bytes(network: keras.Model) -> int:
    """About what writing a network as ONNX takes: tf2onnx 1.17 took 45 times the
    weights of ResNet50 and 41 times those of InceptionResNetV2. For VGG16 with its 1000
    classes the rule says 24 GiB: there the system killed the process when it held 23.
    """
    return _ONNX_COPIES * _FLOAT32_BYTES * network.count_params() + _BASE_BYTES


def _check_memory(network: keras.Model) -> None:
    needed, there = onnx_memory_bytes(network), memory_limit_bytes()
    if needed > there:
        raise TlperfError(
            ExitCode.CONFIG,
            "onnx_memory",
            found=f"{network.name} as ONNX takes about {format_bytes(needed)} of "
            f"memory, there are {format_bytes(there)}",
            remedy="choose another runtime or format, or a machine with more memory",
        )


@contextlib.contextmanager
def _constant_statistics(network: keras.Model) -> Iterator[None]:
    """Shows a trace the statistics of Normalization layers as constants.

    Keras 3.15 holds them as tensors, which a graph captures as it captures variables;
    but they are none, so the converters take them for further inputs of the network.
    """
    layers = [
        layer
        for layer in _all_layers(network)
        if isinstance(layer, keras.layers.Normalization)
    ]
    before = [(layer.mean, layer.variance) for layer in layers]
    for layer in layers:
        layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, before, strict=True):
            layer.mean, layer.variance = mean, variance


def _all_layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Those of networks inside of it too."""
    for layer in network.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)


def _export_saved_model(
    network: keras.Model,
    path: pathlib.Path,
    signature: keras.InputSpec,
    decode: Callable[[tf.Tensor], tf.Tensor] | None,
) -> None:
    """As `network.export` does, which takes no second signature, and tracks the network
    itself too: then Keras 3.15 writes each weight twice (keras issue 23553)."""

    def serve(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    archive = keras.export.ExportArchive()
    archive.add_endpoint(PIXELS_SIGNATURE, serve, [signature])
    if decode is not None:
        archive.add_endpoint(
            FILES_SIGNATURE,
            lambda files: serve(decode(files)),
            [tf.TensorSpec([None], tf.string, name="files")],
        )
    archive.write_out(str(path), verbose=False)
