"""Exported files, opened: pixels in, probabilities out, each in its own runtime.

    classify = open_exported(path, ExportFormat.ONNX)
    classify(images)          # uint8 [B, S, S, 3] to float32 [B, C]

A .keras file and a SavedModel are programs: opening one runs what its maker wants, so
who opens one for a user asks `check_trust` first. ONNX and OpenVINO files are not; they
need no TensorFlow either.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.recipe import Classify
from tlperf.latency.description import PIXELS_SIGNATURE
from tlperf.latency.packages import check_opener
from tlperf.latency.sessions import open_onnx, open_openvino

# Of an error of a library that is told.
_MOST_LETTERS = 300
# Formats that can hold code, and how.
_PROGRAMS = {
    ExportFormat.KERAS: "a .keras file can name any layer and hold its code",
    ExportFormat.SAVED_MODEL: "a SavedModel is a TensorFlow program, which may read "
    "and write files",
}


def check_trust(path: pathlib.Path, kind: ExportFormat, *, is_trusted: bool) -> None:
    """Refuses a file that could run code, unless the user trusts it (exit code 78)."""
    if kind in _PROGRAMS and not is_trusted:
        raise TlperfError(
            ExitCode.CONFIG,
            "untrusted_model",
            path=path,
            found=f"{_PROGRAMS[kind]}: opening it can run code; its .json comes from "
            "where it does, so hashes do not tell",
            remedy="give --trust_model if you trust who made it, or an .onnx or .xml",
        )


def open_exported(path: pathlib.Path, kind: ExportFormat) -> Classify:
    """The network in a file.

    Args:
        path: of the file; what may run code in it will (see `check_trust`).
        kind: its format.

    Raises:
        TlperfError: 65 where the runtime cannot open it, 69 where there is none.
    """
    check_opener(kind)
    try:
        return _OPENERS[kind](path)
    except (MemoryError, TlperfError):
        raise
    except Exception as error:  # each runtime has kinds of its own
        raise TlperfError(
            ExitCode.DATA,
            "bad_model",
            path=path,
            found=f"cannot be opened ({first_line(error)})",
            remedy="run tlperf export again",
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says first, no longer than a line should be."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def _open_keras(path: pathlib.Path) -> Classify:
    import keras
    import tensorflow as tf

    # Trusted or not, layers with code of their own stay shut: no export has any.
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    function = tf.function(
        lambda images: network(images, training=False), autograph=False
    )
    # Traced once, for any number of images.
    tensor = network.inputs[0]
    forward = function.get_concrete_function(tf.TensorSpec(tensor.shape, tensor.dtype))
    return lambda images: forward(tf.convert_to_tensor(images)).numpy()


def _open_saved_model(path: pathlib.Path) -> Classify:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def classify(images: np.ndarray) -> np.ndarray:
        # By way of `loaded`: a signature alone does not keep its variables alive.
        signature = loaded.signatures[PIXELS_SIGNATURE]
        (probability,) = signature(images=tf.convert_to_tensor(images)).values()
        return probability.numpy()

    return classify


def _open_onnx(path: pathlib.Path) -> Classify:
    session = open_onnx(path)
    (name,) = [one.name for one in session.get_inputs()]

    def classify(images: np.ndarray) -> np.ndarray:
        (probability,) = session.run(None, {name: images})
        return probability

    return classify


def _open_openvino(path: pathlib.Path) -> Classify:
    request = open_openvino(path).create_infer_request()

    def classify(images: np.ndarray) -> np.ndarray:
        request.infer({0: images}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return classify


_OPENERS: dict[ExportFormat, Callable[[pathlib.Path], Classify]] = {
    ExportFormat.KERAS: _open_keras,
    ExportFormat.SAVED_MODEL: _open_saved_model,
    ExportFormat.ONNX: _open_onnx,
    ExportFormat.OPENVINO: _open_openvino,
}
