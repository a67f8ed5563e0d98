"""A child process: the stages of one backbone.

    python -m tlperf.job.child SETTINGS.json xception train,evaluate,latency run

A fresh process a backbone: layer names, memory peaks and compiled functions of one
never reach the next, and a crash ends only its own. Results go to the workdir; the exit
code and the error line are those of the command that is named last.
"""

import pathlib
import sys

from tlperf.core import files
from tlperf.core.quiet import quiet_stderr
from tlperf.core.settings import RunConfig
from tlperf.job.outcome import run_guarded
from tlperf.job.workers import training_cluster
from tlperf.reference.backbones import find_backbone


def run_stages(settings_path: str, backbone: str, stages: str) -> None:
    """Runs a comma list of stages in order; the first error ends it."""
    with quiet_stderr():
        from tlperf.job.stages import StageRunner

    config = RunConfig.from_dict(files.read_json(pathlib.Path(settings_path)))
    # Other stages are one process' work.
    cluster = training_cluster(config) if stages == "train" else None
    runner = StageRunner(config, cluster=cluster)
    for stage in stages.split(","):
        runner.run(stage, find_backbone(backbone))


def main(arguments: list[str]) -> int:
    """Runs the child; `arguments` are SETTINGS, BACKBONE, STAGES and COMMAND."""
    settings_path, backbone, stages, command = arguments
    return run_guarded(command, lambda: run_stages(settings_path, backbone, stages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
