"""The main job: shard if needed, then train, evaluate and time each backbone, report.

result = run_job(RunConfig(workdir="w", preset=Preset.QUICK, ...))
"""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from tlperf.core.progress import log
from tlperf.core.results import append_result, latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.dataset.album import ALBUM_FOLDER, write_album
from tlperf.dataset.manifest import COMPLETE, read_manifest
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.job.sweep import BACKBONE_STAGES, run_sweep, write_settings
from tlperf.job.timing import time_backbones
from tlperf.job.workers import as_worker, refuse_workers, training_cluster
from tlperf.model.weights import find_weights
from tlperf.pipeline.endpoint import check_service
from tlperf.reference.backbones import check_image_size, parse_backbones
from tlperf.reporting import terminal
from tlperf.reporting.latency_plots import write_latency_plots
from tlperf.reporting.latency_terminal import render_latency
from tlperf.reporting.report import write_report


def shard_job(config: RunConfig) -> dict[str, Any]:
    """Shards the source into the data directory; a row goes to the workdir."""
    result = write_dataset(config.data, config.data_path)
    write_settings(config)  # not where the data were refused
    append_result(
        config.workdir,
        stage="shard",
        backbone=None,
        result=result,
        settings=config.to_dict(),
    )
    _write_album(config)
    return result


def _write_album(config: RunConfig) -> None:
    """WORKDIR/examples: what the report shows of the data."""
    folder = pathlib.Path(config.workdir) / ALBUM_FOLDER
    with open_dataset(config.data_path) as dataset:
        write_album(dataset, folder)


def check_inputs(config: RunConfig) -> None:
    """Stops before any work where a backbone, its image size, weights or the data
    service are missing."""
    if config.input.data_service:
        check_service(config.input, file_format=_format_of(config))
    for spec in parse_backbones(config.backbones):
        check_image_size(spec, config.input.image_size or spec.native_size)
        find_weights(spec, config.model.weights)


def _format_of(config: RunConfig) -> str:
    """The container of the data as they will be."""
    if config.reuse_data or (config.data_path / COMPLETE).exists():
        return read_manifest(config.data_path).format
    return config.data.format


def stage_job(config: RunConfig, stage: str) -> dict[str, Any]:
    """One stage for each backbone: the `train` or `evaluate` command."""
    cluster = None
    if stage != "train":
        refuse_workers(stage)
    else:
        cluster = training_cluster(config)
        config = as_worker(config, cluster)
        check_inputs(config)
        write_settings(config)
    if stage == "evaluate":
        _write_album(config)  # the data may have been stored by another workdir
    else:
        open_dataset(config.data_path).close()
    outcome = run_sweep(
        config, stages=(stage,), command=stage, is_alone=cluster is None
    )
    rows = read_results(config.workdir)
    rows = [row for row in rows if row["backbone"] in outcome.finished]
    result = {"runs": collect_runs(rows, stage)}
    if outcome.failures and outcome.finished:
        log(_RENDERERS[stage](result))  # what there is, before the failure ends it
    outcome.raise_failure()
    return result


def latency_job(config: RunConfig) -> dict[str, Any]:
    """Times each backbone and draws what was timed: the `latency` command."""
    refuse_workers("latency")
    outcome = time_backbones(config)
    result: dict[str, Any] = {
        "runs": [row for runs in outcome.rows.values() for row in runs]
    }
    result["plots"] = [str(path) for path in write_latency_plots(config.workdir)]
    if outcome.failures and outcome.rows:
        log(render_latency(result))  # before the failure ends it
    outcome.raise_failure()
    return result


_RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "train": terminal.render_train,
    "evaluate": terminal.render_evaluate,
}


def collect_runs(rows: Sequence[dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    """The newest result of each backbone; `latency` results hold several rows each."""
    results = [row["result"] for row in latest(rows, stage).values()]
    if stage == "latency":
        return [run for result in results for run in result["runs"]]
    return results


def run_job(
    config: RunConfig, *, on_accepted: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The whole way for each backbone; returns the JSON of `run`.

    A backbone that fails does not end the others: the report is written from what there
    is, then the failure is raised.

    Args:
        config: what to run.
        on_accepted: called once inputs and data are found good, before any training.
    """
    start = time.perf_counter()
    refuse_workers("run")
    training_cluster(config)
    check_inputs(config)
    if config.reuse_data:
        _write_album(config)  # opens, and so checks, the data
        write_settings(config)
        data: dict[str, Any] = {"data_dir": str(config.data_path), "reused": True}
    else:
        data = shard_job(config)
    on_accepted()
    outcome = run_sweep(config, stages=BACKBONE_STAGES, command="run")
    report = write_report(pathlib.Path(config.workdir))
    outcome.raise_failure()
    return {
        "data": data,
        "runs": summarise_runs(config),
        "report": report["report"],
        "seconds": time.perf_counter() - start,
        "smoke": config.is_smoke,
    }


def summarise_runs(config: RunConfig) -> list[dict[str, Any]]:
    """One object a backbone: its newest train, evaluate and latency results."""
    rows = read_results(config.workdir)
    by_stage = {stage: latest(rows, stage) for stage in BACKBONE_STAGES}
    return [
        {
            "backbone": spec.name,
            "train": by_stage["train"][spec.name]["result"],
            "evaluate": by_stage["evaluate"][spec.name]["result"],
            "latency": by_stage["latency"][spec.name]["result"]["runs"],
        }
        for spec in parse_backbones(config.backbones)
    ]
