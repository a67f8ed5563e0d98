"""A training of the one-block backbone in a process of its own, to be killed or stopped
by a planned fault (`tlperf.core.faults`: trained, validated, checked).

    python -m tests.training_child '{"data_dir": ..., "workdir": ..., ...}'

With TF_CONFIG it is one of several workers. Ends as the command line does.
"""

import json
import sys
from typing import Any

from tests.tiny import TINY, WITHOUT_DROPOUT
from tlperf.core.settings import (
    DeviceConfig,
    FeatureConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    from_plain,
)
from tlperf.job.outcome import run_guarded
from tlperf.job.workers import as_worker, training_cluster


def main(values: dict[str, Any]) -> None:
    """Trains."""
    config = RunConfig(
        workdir=values["workdir"],
        data_dir=values["data_dir"],
        model=ModelConfig(weights="none"),
        input=from_plain(InputConfig, values["input"]),
        training=from_plain(TrainConfig, values["training"]),
        features=from_plain(FeatureConfig, values.get("features", {})),
        device=from_plain(DeviceConfig, {"devices": "cpu", **values.get("device", {})}),
    )
    spec = TINY if values.get("dropout", True) else WITHOUT_DROPOUT
    cluster = training_cluster(config)
    from tlperf.job.stages import StageRunner

    StageRunner(as_worker(config, cluster), cluster=cluster).run("train", spec)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(run_guarded("train", lambda: main(given)))
