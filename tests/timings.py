"""Trials and rows of `tlperf latency` that are made up."""

from typing import Any

from tlperf.core.choices import Precision, Protocol, Runtime, Xla
from tlperf.core.settings import LatencyConfig
from tlperf.latency.cells import Cell
from tlperf.latency.rows import build_row

GFLOP = 2 * 15.47 * 32  # of a VGG16 step


def make_cell(**changes):
    """A step of the 1000-class VGG16."""
    values = {
        "backbone": "vgg16",
        "kind": "imagenet",
        "protocol": Protocol.COMPILED,
        "runtime": Runtime.TF,
        "batch_size": 32,
        "precision": Precision.FLOAT32,
        "xla": Xla.AUTO,
        "tf32": True,
    }
    return Cell(**{**values, **changes})


def make_trial(samples=(0.1,) * 60, *, checks=None, load=None, **changes):
    """A process' measurement of it, good but for what is changed."""
    facts = {"kind": "CPU", "precision": "float32", "xla": False, "tf32": False}
    good: dict[str, Any] = {
        "outputs": 6,
        "difference": 1e-6,
        "tolerance": 1e-3,
        "variety": 0.5,
        "top1_changes": 0,
    }
    good["repeat_ratios"] = [1.0, 0.99, 1.01, 1.0, 0.98]
    return {
        "process": 0,
        "seed": 0,
        "samples_secs": list(samples),
        "first_step_secs": 2.1,
        "warmup_steps": 6,
        "steady": True,
        "prepare_secs": {"trace": 1.0},
        "runtime_version": "2.21.0",
        "winograd_convolutions": 0,
        "weights_sha256": None,
        "measured_secs": 9.0,
        "traces": 1,
        "retraces": 0,
        "load": {
            "others_cores": 0.0,
            "stolen_cores": 0.0,
            "gpu_busy": None,
            **(load or {}),
        },
        "machine": {"cpu": "a CPU", "gpu_driver": None},
        "process_peak_memory_bytes": 10**9,
        "device_peak_memory_bytes": None,
        "device": {**facts, "text": "two CPUs"},
        "device_text": "a CPU",
        "code": {"version": "0.1.0", "commit": None, "changed": None},
        "checks": {**good, **(checks or {})},
        "image_size": 224,
        "gflop_per_step": GFLOP,
        "gbytes_per_step": 4.0,
        "params": 138_357_544,
        "depth": 16,
        "size_mib": 527.8,
        "matmul_tflops_per_sec": 20.0,
        "copy_gbytes_per_sec": 100.0,
        **changes,
    }


def make_row(*trials, cell=None, **config):
    """The row of these trials, by default of five good ones."""
    cell = cell or make_cell()
    return build_row(cell, trials or [make_trial()] * 5, LatencyConfig(**config))
