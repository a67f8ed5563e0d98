"""Packages of the extra `runtimes`, looked for without importing them.

check_installed("onnxruntime", "tf2onnx")
check_exporter(ExportFormat.ONNX); check_opener(ExportFormat.ONNX)
"""

import importlib.util

from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, TlperfError

# What writes a format besides Keras and TensorFlow, and what opens it.
_EXPORTERS = {ExportFormat.ONNX: "tf2onnx", ExportFormat.OPENVINO: "openvino"}
_OPENERS = {ExportFormat.ONNX: "onnxruntime", ExportFormat.OPENVINO: "openvino"}


def check_installed(*modules: str, otherwise: str = "") -> None:
    """Raises TlperfError 69 where one is missing.

    Args:
        modules: names to import.
        otherwise: what can be done without them, or "".
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "not_installed",
            found=f"no package {', '.join(missing)}",
            remedy="pip install 'tlperf[runtimes]'" + otherwise,
        )


def check_exporter(kind: ExportFormat, *, otherwise: str = "") -> None:
    """Raises TlperfError 69 where what writes the format is missing."""
    if kind in _EXPORTERS:
        check_installed(_EXPORTERS[kind], otherwise=otherwise)


def check_opener(kind: ExportFormat, *, otherwise: str = "") -> None:
    """Raises TlperfError 69 where the format's runtime is missing."""
    if kind in _OPENERS:
        check_installed(_OPENERS[kind], otherwise=otherwise)
