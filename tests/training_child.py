"""A training of the one-block backbone in a process of its own, to be killed or stopped
by a planned fault (`tlperf.core.faults`: trained, validated, checked).

    python -m tests.training_child '{"data_dir": ..., "workdir": ..., ...}'

Ends as the command line does.
"""

import json
import pathlib
import sys
from typing import Any

from tests.tiny import TINY
from tlperf.core.settings import (
    DeviceConfig,
    FeatureConfig,
    InputConfig,
    RunConfig,
    TrainConfig,
    from_plain,
)
from tlperf.dataset.store import open_dataset
from tlperf.device.setup import setup_compute
from tlperf.job.outcome import run_guarded
from tlperf.model.weights import WeightsSource
from tlperf.training.loop import train_backbone


def main(values: dict[str, Any]) -> None:
    """Trains."""
    config = RunConfig(
        workdir=values["workdir"],
        input=from_plain(InputConfig, values["input"]),
        training=from_plain(TrainConfig, values["training"]),
        features=from_plain(FeatureConfig, values.get("features", {})),
        device=from_plain(DeviceConfig, {"devices": "cpu", **values.get("device", {})}),
    )
    with open_dataset(pathlib.Path(values["data_dir"])) as dataset:
        train_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=setup_compute(config.device),
            weights=WeightsSource("none"),
        )


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(run_guarded("train", lambda: main(given)))
