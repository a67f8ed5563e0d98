"""Whether a training that goes on is the one that was begun.

settings = settings_of(trainer, weights)         # kept in each checkpoint
check_same(settings, found.state["settings"])    # 78, naming what differs
"""

import json
from typing import Any

from tlperf.core import files
from tlperf.core.choices import Schedule
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.model.weights import WeightsSource
from tlperf.training.trainer import Trainer

# Settings that may differ when a training goes on: no number depends on them.
_MAY_DIFFER = {
    "input": {"ram_budget", "cache", "data_service"},
    "training": {
        "epochs",
        "resume",
        "save_every",
        "early_stopping",
        "steps_per_call",
    },
}


def settings_of(trainer: Trainer, weights: WeightsSource) -> dict[str, Any]:
    """All that a training depends on, by name."""
    config, compute = trainer.config, trainer.compute
    values = config.to_dict()
    fixed = {
        f"{section}.{name}": value
        for section, free in _MAY_DIFFER.items()
        for name, value in values[section].items()
        if name not in free
    }
    return {
        **fixed,
        "freeze": config.model.freeze,
        "weights": weights.facts(),
        "image_size": trainer.image_size,
        "records": trainer.dataset.manifest.records_digest(),
        "precision": compute.precision,
        "device": compute.kind,
        "xla": compute.jit_compile,
        "xla_update": compute.jit_update,
        "op_determinism": compute.op_determinism,
        "replicas": compute.replicas,
        "feature_dtype": config.features.feature_dtype.value,
        "feature_views": config.features.feature_views,
        "schedule_epochs": (
            None
            if config.training.schedule is Schedule.CONSTANT
            else config.training.epochs
        ),
    }


def check_same(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Raises TlperfError 78, naming what differs."""
    plain = json.loads(files.to_json(now))
    names = sorted({*plain, *before})
    differing = [
        f"{name} {before.get(name)!r} is now {plain.get(name)!r}"
        for name in names
        if plain.get(name) != before.get(name)
    ]
    if differing:
        raise TlperfError(
            ExitCode.CONFIG,
            "other_settings",
            found=f"the checkpoint was made with other settings: "
            f"{'; '.join(differing)}",
            remedy="train with the same settings, or without --resume",
        )
