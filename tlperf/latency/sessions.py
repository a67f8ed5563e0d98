"""Files opened in the runtimes of the extra `runtimes`; without TensorFlow.

    session = open_onnx(path)
    request = open_openvino(path)

Both report to their makers what they are used for, unless they are told not to before
they are imported: here they are.
"""

import os
import pathlib
import sys
from typing import Any

from tlperf.core.machine import usable_cores
from tlperf.latency.packages import check_installed

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TELEMETRY = "openvino_telemetry"
# onnxruntime's levels: 3 is errors.
_ERRORS_ONLY = 3


def import_onnxruntime() -> Any:
    """onnxruntime, which would send Microsoft the sessions that are opened, and keep a
    device's number in the home folder."""
    check_installed("onnxruntime")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def open_onnx(path: pathlib.Path, *, on_gpu: bool = False) -> Any:
    """An inference session with all graph optimisations, a thread a core.

    Args:
        path: of the file.
        on_gpu: on CUDA, where this onnxruntime has it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = _ERRORS_ONLY
    wanted = (_CUDA, _CPU) if on_gpu else (_CPU,)
    there = onnxruntime.get_available_providers()
    providers = [name for name in wanted if name in there]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def is_on_gpu(session: Any) -> bool:
    """Whether a session of onnxruntime computes on a GPU."""
    return _CUDA in session.get_providers()


def import_openvino() -> Any:
    """OpenVINO as it is without its telemetry package, which tells Intel of every
    conversion, and keeps a client's number in the home folder."""
    check_installed("openvino")
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    import openvino

    return openvino


def open_openvino(path: pathlib.Path) -> Any:
    """An inference request of a model compiled for latency, in float32, on the CPU."""
    openvino = import_openvino()
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return compiled.create_infer_request()
