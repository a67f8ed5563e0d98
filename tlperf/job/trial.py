"""A child process: one trial of one cell of `tlperf latency`.

    python -m tlperf.job.trial SETTINGS.json CELL.json TRIAL.json PROCESS

A fresh process a trial: caches, memory layout and what was compiled before are no
other's, and its peak of memory is this cell's. Writes TRIAL.json last, and first, once
it has its devices, how many replicas share a step: beside it, as `replicas`.
"""

import pathlib
import sys
from collections.abc import Callable

from tlperf.core import files
from tlperf.core.choices import Strategy
from tlperf.core.load import read_gpu_busy
from tlperf.core.quiet import quiet_stderr
from tlperf.core.results import latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.job.outcome import run_guarded
from tlperf.latency.cells import Cell
from tlperf.reference.backbones import find_backbone

REPLICAS_NAME = "replicas"


def measure_cell(
    config: RunConfig, cell: Cell, process: int, *, tell_replicas: Callable[[int], None]
) -> dict[str, object]:
    """The trial; the first process also traces steps, where that is asked for.

    Args:
        config: of all.
        cell: what to time.
        process: number of this one.
        tell_replicas: called before anything is measured.
    """
    with quiet_stderr():
        from tlperf.device.setup import setup_compute
        from tlperf.latency.measure import process_plan
        from tlperf.latency.probes import Probes
        from tlperf.latency.subjects import Subjects
        from tlperf.latency.trial import take_trial

    device = cell.device_config(config.device)
    gpus = device.gpu_numbers
    if device.strategy is Strategy.ONE:
        gpus = gpus[:1] or (0,)
    gpu_busy = None if device.devices == "cpu" else read_gpu_busy(gpus)
    spec = find_backbone(cell.backbone)
    row = latest(read_results(config.workdir), "train").get(spec.name)
    compute = setup_compute(device)
    tell_replicas(compute.replicas)
    subjects = Subjects(
        spec, config, compute=compute, trained=row["result"] if row else None
    )
    board = config.backbone_path(spec.name) / "tensorboard" / "latency"
    steps = config.device.traced_steps if process == 0 else None
    return take_trial(
        cell,
        subjects.find(cell),
        process_plan(config.latency),
        compute=compute,
        probes=Probes(compute),
        process=process,
        gpu_busy=gpu_busy if compute.kind == "GPU" else None,
        traced=None if steps is None else (board, *steps),
    )


def main(arguments: list[str]) -> int:
    """Runs the child; `arguments` are SETTINGS, CELL, TRIAL and PROCESS."""
    settings, cell, out = map(pathlib.Path, arguments[:3])

    def run() -> None:
        config = RunConfig.from_dict(files.read_json(settings))
        wanted = Cell.from_dict(files.read_json(cell))
        trial = measure_cell(
            config,
            wanted,
            int(arguments[3]),
            tell_replicas=lambda count: files.write_json(
                out.with_name(REPLICAS_NAME), count
            ),
        )
        files.write_json(out, trial)

    return run_guarded("latency", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
