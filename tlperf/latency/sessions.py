"""Files opened in the runtimes of the extra `runtimes`; without TensorFlow.

    session = open_onnx(path)
    request = open_openvino(path).create_infer_request()

Both report to their makers what they are used for, unless they are told not to before
they are imported: here they are.
"""

import os
import pathlib
import sys
from typing import Any, NamedTuple

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.latency.packages import check_installed

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TELEMETRY = "openvino_telemetry"
# onnxruntime's levels: 3 is errors.
_ERRORS_ONLY = 3


class Cuda(NamedTuple):
    """A GPU for onnxruntime.

    Attributes:
        number: CUDA's.
        tf32: whether float32 products may take TensorFloat-32.
    """

    number: int
    tf32: bool


def import_onnxruntime() -> Any:
    """onnxruntime, which would send Microsoft the sessions that are opened, and keep a
    device's number in the home folder."""
    check_installed("onnxruntime")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def open_onnx(path: pathlib.Path, *, cuda: Cuda | None = None, streams: int = 1) -> Any:
    """An inference session with all graph optimisations.

    Args:
        path: of the file.
        cuda: the GPU that computes; None for the CPU.
        streams: threads that run it side by side.

    Raises:
        TlperfError: 69 where onnxruntime cannot use the GPU; it would take the CPU.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    # Each thread that runs it computes too; beside them the session has one less than
    # this, for all of its runs together.
    options.intra_op_num_threads = max(1, usable_cores() - streams + 1)
    options.log_severity_level = _ERRORS_ONLY
    if cuda is None:
        return onnxruntime.InferenceSession(str(path), options, providers=[_CPU])
    if _CUDA not in onnxruntime.get_available_providers():
        raise _no_cuda("it was built without CUDA")
    device = (_CUDA, {"device_id": cuda.number, "use_tf32": int(cuda.tf32)})
    session = onnxruntime.InferenceSession(str(path), options, providers=[device, _CPU])
    if _CUDA not in session.get_providers():
        raise _no_cuda("it could not load CUDA's libraries")
    return session


def _no_cuda(why: str) -> TlperfError:
    return TlperfError(
        ExitCode.UNAVAILABLE,
        "onnxruntime_without_cuda",
        found=f"onnxruntime cannot use this GPU: {why}",
        remedy="install onnxruntime-gpu in its place, or add --devices=cpu",
    )


def import_openvino() -> Any:
    """OpenVINO as it is without its telemetry package, which tells Intel of every
    conversion, and keeps a client's number in the home folder."""
    check_installed("openvino")
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    import openvino

    return openvino


def open_openvino(path: pathlib.Path, *, streams: int = 1) -> Any:
    """A model compiled for the CPU, in float32.

    Args:
        path: of its `.xml`.
        streams: requests that are computed side by side; one request takes all cores
            otherwise.
    """
    openvino = import_openvino()
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if streams > 1:
        settings["NUM_STREAMS"] = str(streams)
    return core.compile_model(core.read_model(path), "CPU", settings)


def keep_first_output(path: pathlib.Path) -> None:
    """Writes a model of OpenVINO's again without outputs that the network has not.

    Keras 3.15 hands the converter a traced function, which takes each operation that
    nothing reads for an output: of a function with a gradient of its own, as swish is,
    there are some. All 49 of EfficientNetB0 would be computed apart and kept, which
    takes 2.5 times the network's time.
    """
    openvino = import_openvino()
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # of a file that is written again
    model = core.read_model(path)
    results = model.get_results()
    if len(results) > 1:
        alone = openvino.Model(results[:1], model.get_parameters(), path.stem)
        openvino.save_model(alone, path, compress_to_fp16=False)
