"""tlperf: labelled images to fine-tuned, evaluated and timed Keras backbones.

    import tlperf
    if __name__ == "__main__":  # sharding starts worker processes
        tlperf.run(tlperf.RunConfig(workdir="w", backbones="xception"))

Names are resolved when first used, so `import tlperf` imports no TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module and attribute.
_EXPORTS = {
    "RunConfig": ("tlperf.core.settings", "RunConfig"),
    "DataConfig": ("tlperf.core.settings", "DataConfig"),
    "InputConfig": ("tlperf.core.settings", "InputConfig"),
    "ModelConfig": ("tlperf.core.settings", "ModelConfig"),
    "TrainConfig": ("tlperf.core.settings", "TrainConfig"),
    "DeviceConfig": ("tlperf.core.settings", "DeviceConfig"),
    "LatencyConfig": ("tlperf.core.settings", "LatencyConfig"),
    "TlperfError": ("tlperf.core.errors", "TlperfError"),
    "run": ("tlperf.job.run", "run_job"),
    "shard": ("tlperf.dataset.shard", "write_dataset"),
    "open_dataset": ("tlperf.dataset.store", "open_dataset"),
    "verify": ("tlperf.dataset.verify", "verify_dataset"),
    "inspect": ("tlperf.dataset.inspect", "inspect_dataset"),
    "train": ("tlperf.training.loop", "train_backbone"),
    "evaluate": ("tlperf.evaluation.evaluate", "evaluate_backbone"),
    # Not `latency`: that is the room, once it is imported.
    "measure_latency": ("tlperf.job.run", "latency_job"),
    "predict": ("tlperf.job.predict", "predict_job"),
    "export": ("tlperf.job.deploy", "export_job"),
    "report": ("tlperf.reporting.report", "write_report"),
    "compare": ("tlperf.reporting.comparison", "compare_workdirs"),
    "setup_compute": ("tlperf.device.setup", "setup_compute"),
    "find_backbone": ("tlperf.reference.backbones", "find_backbone"),
    "load_trained": ("tlperf.model.trained", "load_trained"),
    "find_weights": ("tlperf.model.weights", "find_weights"),
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tlperf' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
