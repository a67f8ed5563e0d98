"""Choosing what computes, once per process and before TensorFlow touches a device.

compute = setup_compute(DeviceConfig(devices="auto"))
compute = setup_compute(config, cluster=cluster)     # with other processes
with compute.strategy.scope(): ...
compute.facts()   # what a result row says about the device
"""

import dataclasses
import os
import pathlib
from typing import Any

import tensorflow as tf

from tlperf.core.choices import Precision, Strategy, Xla
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.load import ORDER_VARIABLE, PCI_ORDER
from tlperf.core.machine import (
    cpu_name,
    has_tf32,
    least_capability,
    usable_cores,
)
from tlperf.core.progress import log
from tlperf.core.quiet import quiet_stderr
from tlperf.core.settings import DeviceConfig
from tlperf.device.cluster import Cluster
from tlperf.device.workers import join_strategy

# There where the driver is loaded.
_NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia")
# First compute capability with float16 matrix units (NVIDIA, Volta).
_TENSOR_CORE_CAPABILITY = (7, 0)


@dataclasses.dataclass(frozen=True)
class Compute:
    """What computes in this process.

    Attributes:
        strategy: a tf.distribute strategy; one replica a device.
        devices: logical device names such as `GPU:0`, one a replica of this process.
        precision: Keras dtype policy name of the backbone.
        jit_compile: whether steps are compiled by XLA.
        jit_update: whether the optimiser's update alone is, in steps that are not.
        kind: `GPU` or `CPU`.
        texts: each device in words, for people.
        workers: processes that train together, each with as many devices.
        worker: which of them this is, from 0.
        op_determinism: whether TensorFlow takes deterministic operations only.
    """

    strategy: tf.distribute.Strategy
    devices: tuple[str, ...]
    precision: str
    jit_compile: bool
    kind: str
    texts: tuple[str, ...]
    jit_update: bool = False
    workers: int = 1
    worker: int = 0
    op_determinism: bool = False

    @property
    def replicas(self) -> int:
        """Replicas in the strategy; each global batch is split evenly over them."""
        return len(self.devices) * self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes checkpoints and weights."""
        return self.worker == 0

    @property
    def text(self) -> str:
        """All devices in words."""
        kinds = ", ".join(dict.fromkeys(self.texts))
        own = len(self.devices)
        text = kinds if own == 1 else f"{own} x {kinds}"
        return text if self.workers == 1 else f"{self.workers} workers with {text}"

    def peak_memory_bytes(self) -> list[int] | None:
        """Most that was allocated on each device so far; None on CPUs, where TensorFlow
        does not count."""
        if self.kind == "CPU":
            return None
        info = tf.config.experimental.get_memory_info
        return [int(info(device)["peak"]) for device in self.devices]

    def reset_peak_memory(self) -> None:
        """Counts the most that is allocated on each GPU from here."""
        for device in self.devices if self.kind == "GPU" else ():
            tf.config.experimental.reset_memory_stats(device)

    def facts(self) -> dict[str, Any]:
        """What a result row says about the device."""
        return {
            "kind": self.kind,
            "devices": list(self.devices),
            "text": self.text,
            "precision": self.precision,
            "xla": self.jit_compile,
            "xla_update": self.jit_update,
            "strategy": type(self.strategy).__name__,
            "replicas": self.replicas,
            "workers": self.workers,
            "onednn": self.kind == "CPU" and _onednn_is_on(),
            "op_determinism": self.op_determinism,
            "tf32": _takes_tf32(self.kind),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        }


def device_facts(config: DeviceConfig) -> dict[str, Any]:
    """What workers that train together must have alike; starts no device."""
    gpus = _visible_gpus(config)
    return {
        "kind": "GPU" if gpus else "CPU",
        "devices": max(1, len(gpus)),
        "precision": _resolve_precision(config.precision, gpus),
    }


def setup_compute(config: DeviceConfig, *, cluster: Cluster | None = None) -> Compute:
    """Chooses devices, strategy, precision and XLA.

    Memory growth is turned on for every visible GPU, so that two processes can share
    one.

    Args:
        config: what is asked for.
        cluster: the workers to train with, which have met; None for this process alone.

    Raises:
        TlperfError: 69 where the devices asked for are not there or workers do not
            answer, 78 where a combination is refused: XLA under several replicas,
            logical GPUs, logical devices in several processes.
    """
    gpus = _visible_gpus(config)
    if gpus:
        kind, devices = "GPU", tuple(f"GPU:{i}" for i in range(len(gpus)))
    else:
        logical = config.logical_devices
        _check_logical(logical, cluster)
        kind, devices = "CPU", _cpu_devices(logical)
    if config.strategy is Strategy.ONE:
        devices = devices[:1]
    workers = 1 if cluster is None else len(cluster.addresses)
    jit_compile = resolve_xla(
        config.xla,
        kind=kind,
        replicas=len(devices) * workers,
        is_mirrored=config.strategy is Strategy.MIRRORED,
        op_determinism=config.op_determinism,
    )
    tf.config.experimental.enable_tensor_float_32_execution(config.tf32)
    if config.op_determinism:
        tf.config.experimental.enable_op_determinism()
    if cluster is None:
        strategy = _strategy(config.strategy, devices)
    else:
        timeout = config.startup_timeout
        strategy = join_strategy(cluster, gpus=len(gpus), startup_timeout=timeout)
    replicas = strategy.num_replicas_in_sync
    if replicas != len(devices) * workers:
        raise AssertionError(f"{replicas} replicas of {workers} x {devices}")
    is_one_cpu = kind == "CPU" and len(devices) * workers == 1
    return Compute(
        strategy=strategy,
        devices=devices,
        precision=_resolve_precision(config.precision, gpus),
        jit_compile=jit_compile,
        # One pass over memory instead of a dozen.
        jit_update=is_one_cpu
        and not (jit_compile or config.op_determinism)
        and config.xla is Xla.AUTO,
        kind=kind,
        texts=_device_texts(gpus, devices),
        workers=workers,
        worker=0 if cluster is None else cluster.worker,
        op_determinism=config.op_determinism,
    )


def _check_logical(logical: int, cluster: Cluster | None) -> None:
    if logical > 1 and cluster is not None:
        raise TlperfError(
            ExitCode.CONFIG,
            "logical_devices",
            found=f"--logical_devices={logical}, and TF_CONFIG names workers",
            remedy="start more workers, or unset TF_CONFIG",
        )


def _visible_gpus(config: DeviceConfig) -> list[tf.config.PhysicalDevice]:
    """The GPUs to use; the others are hidden, those used grow their memory."""
    # `gpu:1` is what nvidia-smi calls 1: CUDA itself puts the fastest first.
    os.environ.setdefault(ORDER_VARIABLE, PCI_ORDER)
    # Looking for CUDA on a machine without it logs an error that is none.
    with quiet_stderr():
        physical = tf.config.list_physical_devices("GPU")
    if not physical and config.devices != "cpu" and _NVIDIA_DRIVER.exists():
        log(
            "warning: this machine has an NVIDIA driver, but TensorFlow sees no GPU: "
            "install tlperf[gpu]; --verbose shows what TensorFlow says"
        )
    if config.devices == "cpu" or (config.devices == "auto" and not physical):
        wanted: list[tf.config.PhysicalDevice] = []
    else:
        if not physical:
            raise TlperfError(
                ExitCode.UNAVAILABLE,
                "no_gpu",
                found=f"--devices={config.devices}, but TensorFlow sees no GPU",
                remedy="install tlperf[gpu] and a driver, or use --devices=cpu",
            )
        chosen = config.gpu_numbers
        if chosen and max(chosen) >= len(physical):
            raise TlperfError(
                ExitCode.UNAVAILABLE,
                "no_gpu",
                found=f"--devices={config.devices}, but the last GPU is gpu:"
                f"{len(physical) - 1}",
                remedy="name GPUs that are there",
            )
        wanted = [physical[i] for i in chosen] if chosen else physical
    if wanted and config.logical_devices:
        raise TlperfError(
            ExitCode.CONFIG,
            "logical_devices",
            found="--logical_devices splits a CPU, but GPUs are in use",
            remedy="add --devices=cpu",
        )
    tf.config.set_visible_devices(wanted, "GPU")
    for gpu in wanted:
        tf.config.experimental.set_memory_growth(gpu, True)
    return wanted


def _cpu_devices(logical: int) -> tuple[str, ...]:
    if logical > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        pieces = [tf.config.LogicalDeviceConfiguration()] * logical
        try:
            tf.config.set_logical_device_configuration(cpu, pieces)
        except RuntimeError:
            # The context is up (a test process): fine where it is split enough.
            if len(tf.config.list_logical_devices("CPU")) < logical:
                raise
    return tuple(f"CPU:{i}" for i in range(max(logical, 1)))


def _strategy(kind: Strategy, devices: tuple[str, ...]) -> tf.distribute.Strategy:
    if len(devices) == 1 and kind is not Strategy.MIRRORED:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(list(devices))


def _resolve_precision(
    precision: Precision, gpus: list[tf.config.PhysicalDevice]
) -> str:
    if precision is not Precision.AUTO:
        return precision.value
    if least_capability(_details(gpus)) >= _TENSOR_CORE_CAPABILITY:
        return Precision.MIXED_FLOAT16.value
    return Precision.FLOAT32.value


def _details(gpus: list[tf.config.PhysicalDevice]) -> list[dict[str, Any]]:
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _takes_tf32(kind: str) -> bool:
    """Whether float32 products take TensorFloat-32."""
    return (
        kind == "GPU"
        and tf.config.experimental.tensor_float_32_execution_enabled()
        and has_tf32(_details(tf.config.get_visible_devices("GPU")))
    )


def resolve_xla(
    xla: Xla,
    *,
    kind: str,
    replicas: int,
    is_mirrored: bool = False,
    op_determinism: bool = False,
) -> bool:
    """Whether steps are compiled by XLA.

    `auto` is on for one GPU only. On CPUs XLA made depthwise models (Xception,
    EfficientNetB0) 6-10 times slower, so `auto` leaves it off there.

    Raises:
        TlperfError: 78 for `on` under MirroredStrategy, of one replica too: a compiled
            step cannot hold its merge_call (tensorflow issue 56423, keras issue 21366);
            and with deterministic operations: XLA has none for the gradient of max
            pooling (tensorflow issue 69417).
    """
    against = "--strategy=mirrored" if is_mirrored else ""
    against = f"{replicas} replicas" if replicas > 1 else against
    if op_determinism:
        against = against or "--op_determinism"
    if xla is Xla.ON and against:
        raise TlperfError(
            ExitCode.CONFIG,
            "xla_refused",
            found=f"--xla=on with {against}",
            remedy="use --xla=off, or one device without --strategy=mirrored and "
            "--op_determinism",
        )
    if xla is Xla.AUTO:
        return kind == "GPU" and not against
    return xla is Xla.ON


def _onednn_is_on() -> bool:
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def _device_texts(
    gpus: list[tf.config.PhysicalDevice], devices: tuple[str, ...]
) -> tuple[str, ...]:
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        names = [detail.get("device_name", "GPU") for detail in details]
        return tuple(names[: len(devices)])
    whole = f"CPU {cpu_name()}, {usable_cores()} cores"
    part = f"logical device on {whole}"
    return (part,) * len(devices) if len(devices) > 1 else (whole,)
