"""What a job would do: `--dry_run` of `run`, `train` and `latency`; writes nothing.

    plan_job(config)["runs"][0]["train_steps"]
    plan_latency(config)["rows"]

The only time that can be told without training is what the arithmetic takes at this
CPU's matrix-product rate: a measure of size. It is no forecast, least of all for GPUs,
and no bound, as some convolutions multiply less.
"""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tlperf.core.choices import Protocol
from tlperf.core.settings import RunConfig
from tlperf.dataset.shard import plan_dataset
from tlperf.dataset.store import open_dataset
from tlperf.job.timing import plan_rows
from tlperf.latency.cells import FINETUNED, IMAGENET, Cell, plan_cells
from tlperf.pipeline.order import plan_evaluation, plan_training
from tlperf.reference.backbones import BackboneSpec, find_backbone, parse_backbones


def plan_job(config: RunConfig, *, is_timed: bool = True) -> dict[str, Any]:
    """What a run would do: data, steps, arithmetic, and timed rows if it is timed."""
    specs = parse_backbones(config.backbones)
    data = _plan_data(config)
    counts = {name: sum(split.values()) for name, split in data["splits"].items()}
    rate = measure_matmul_gflops()
    return {
        "data": data,
        "cpu_matmul_gflops_per_sec": rate,
        "runs": [
            _plan_backbone(spec, config, counts, rate)
            | (_plan_timing(spec, config, rate) if is_timed else {})
            for spec in specs
        ],
    }


def plan_latency(config: RunConfig) -> dict[str, Any]:
    """What `tlperf latency` would time: its rows, and how much of each.

    Returns:
        rows: a dict each, of its cell. processes: that share a row. samples: a row.
        least_secs, most_secs: of timed steps a row, the latter None without a limit.
        timed_secs_at_cpu_matmul_rate: of all rows, or None where a network's arithmetic
        is not known. cpu_matmul_gflops_per_sec.
    """
    rate = measure_matmul_gflops()
    cells = plan_rows(config)
    return {
        "rows": [dataclasses.asdict(cell) for cell in cells],
        "processes": config.latency.processes,
        "samples": config.latency.timed_samples,
        "least_secs": config.latency.min_secs,
        "most_secs": config.latency.latency_secs or None,
        "timed_secs_at_cpu_matmul_rate": _timed_secs(cells, config, rate),
        "cpu_matmul_gflops_per_sec": rate,
    }


def _timed_secs(cells: Iterable[Cell], config: RunConfig, rate: float) -> float | None:
    """Seconds that the timed steps of rows take at a rate in GFLOP/s."""
    latency, total = config.latency, 0.0
    for cell in cells:
        spec = find_backbone(cell.backbone)
        gmacs = spec.gmacs
        if cell.protocol is Protocol.TRAIN_STEP:
            gmacs = _training_gmacs(spec, config.model.freeze)
        if gmacs is None:
            return None
        if cell.kind == FINETUNED:
            gmacs *= _area_ratio(spec, config)
        step_secs = 2 * gmacs * cell.batch_size / rate
        secs = max(latency.timed_samples * step_secs, latency.min_secs)
        total += min(secs, latency.latency_secs or secs)
    return total


def _plan_data(config: RunConfig) -> dict[str, Any]:
    if not config.reuse_data:
        return plan_dataset(config.data, config.data_path)
    with open_dataset(config.data_path) as dataset:
        return {"splits": dataset.manifest.splits, "reused": True}


def _plan_timing(spec: BackboneSpec, config: RunConfig, rate: float) -> dict[str, Any]:
    """What the last stage of a run times: the fine-tuned network is there then."""
    cells = plan_cells(
        spec, config.latency, device=config.device, kinds=(IMAGENET, FINETUNED)
    )
    return {
        "latency_rows": len(cells),
        "latency_secs_at_cpu_matmul_rate": _timed_secs(cells, config, rate),
    }


def _plan_backbone(
    spec: BackboneSpec, config: RunConfig, counts: dict[str, int], rate: float
) -> dict[str, Any]:
    batch_size = config.input.batch_size
    image_size = config.input.image_size or spec.native_size
    train = plan_training(
        count=counts["train"], batch_size=batch_size, seed=config.input.seed, epoch=0
    )
    validation = plan_evaluation(count=counts["validation"], batch_size=batch_size)
    test = plan_evaluation(count=counts["test"], batch_size=batch_size)
    training = _training_gmacs(spec, config.model.freeze)
    gflop = None
    if training is not None and spec.gmacs is not None:
        gmacs = train.steps * training + validation.steps * spec.gmacs
        gflop = 2 * _area_ratio(spec, config) * batch_size * gmacs
        gflop *= config.training.epochs
    return {
        "backbone": spec.name,
        "image_size": image_size,
        "epochs": config.training.epochs,
        "train_steps": train.steps,
        "dropped_images": train.dropped,
        "validation_steps": validation.steps,
        "test_steps": test.steps,
        "train_gflop": gflop,
        "train_secs_at_cpu_matmul_rate": None if gflop is None else gflop / rate,
    }


def _area_ratio(spec: BackboneSpec, config: RunConfig) -> float:
    """Pixels of an image of this run to those of one of the backbone's own size."""
    return ((config.input.image_size or spec.native_size) / spec.native_size) ** 2


def _training_gmacs(spec: BackboneSpec, freeze: str) -> float | None:
    """Multiply-adds (1e9) of a training step for an image of the backbone's own size;
    None at a boundary of one's own and for a backbone whose are not known."""
    if spec.gmacs is None or spec.frozen_gmacs is None:
        return None
    known = {"paper": spec.gmacs - spec.frozen_gmacs, "all": 0.0, "none": spec.gmacs}
    active = known.get(freeze)
    # A backward pass of the active part costs two forward passes of it.
    return None if active is None else spec.gmacs + 2 * active


def measure_matmul_gflops(side: int = 1024, repeats: int = 5) -> float:
    """Float32 matrix-product rate of this CPU, GFLOP/s.

    The best of a few products of side x side matrices, after one untimed.
    """
    a = np.ones((side, side), np.float32)
    a @ a
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9
