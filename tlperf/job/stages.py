"""One stage for one backbone, in this process; each appends its result row.

    stages = StageRunner(config)
    stages.run("train", spec); stages.run("evaluate", spec)

A process sets up its devices once, so a runner serves one configuration.
"""

import functools
from collections.abc import Callable
from typing import Any

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import peak_memory_bytes
from tlperf.core.results import append_result, latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.dataset.store import StoredDataset, open_dataset
from tlperf.device.setup import Compute, setup_compute
from tlperf.reference.backbones import BackboneSpec, parse_backbones

BACKBONE_STAGES = ("train", "evaluate", "latency")


class StageRunner:
    """Runs stages of one configuration; opens the data and the devices when needed."""

    def __init__(self, config: RunConfig):
        self.config = config
        self._stages: dict[str, Callable[[BackboneSpec], dict[str, Any]]] = {
            "train": self._train,
            "evaluate": self._evaluate,
            "latency": self._latency,
        }

    @functools.cached_property
    def dataset(self) -> StoredDataset:
        """The data directory, checked against its manifest."""
        return open_dataset(self.config.data_path)

    @functools.cached_property
    def compute(self) -> Compute:
        """The devices of this process."""
        return setup_compute(self.config.device)

    def run(self, stage: str, spec: BackboneSpec) -> dict[str, Any]:
        """Runs a stage of `BACKBONE_STAGES`, appends its row, returns its result."""
        result = self._stages[stage](spec)
        result["peak_memory_bytes"] = peak_memory_bytes()
        append_result(
            self.config.workdir,
            stage=stage,
            backbone=spec.name,
            result=result,
            settings=self.config.to_dict(),
            device=self.compute.facts(),
        )
        return result

    def measure_input(self, *, secs: float) -> dict[str, Any]:
        """The input pipeline alone, at the first backbone's size if none is given."""
        from tlperf.pipeline.measure import measure_input

        spec, *_ = parse_backbones(self.config.backbones)
        return measure_input(
            self.dataset,
            self.config.input,
            image_size=self.config.input.image_size or spec.native_size,
            compute=self.compute,
            secs=secs,
        )

    def _train(self, spec: BackboneSpec) -> dict[str, Any]:
        from tlperf.model.weights import find_weights
        from tlperf.training.loop import train_backbone

        # Both are checked before the devices are touched: seconds sooner.
        weights = find_weights(spec, self.config.model.weights)
        dataset = self.dataset
        return train_backbone(
            spec, self.config, dataset=dataset, compute=self.compute, weights=weights
        )

    def _evaluate(self, spec: BackboneSpec) -> dict[str, Any]:
        from tlperf.evaluation.evaluate import evaluate_backbone

        trained = self._trained(spec)
        if trained is None:
            raise TlperfError(
                ExitCode.NO_INPUT,
                "not_trained",
                path=self.config.workdir,
                found=f"no training of {spec.name} in this workdir",
                remedy=f"run tlperf train --backbones={spec.name} --workdir="
                f"{self.config.workdir}",
            )
        return evaluate_backbone(
            spec,
            self.config,
            dataset=self.dataset,
            compute=self.compute,
            trained=trained,
        )

    def _latency(self, spec: BackboneSpec) -> dict[str, Any]:
        from tlperf.latency.measure import measure_backbone

        trained = self._trained(spec)
        runs = measure_backbone(
            spec, self.config, compute=self.compute, trained=trained
        )
        return {"runs": runs}

    def _trained(self, spec: BackboneSpec) -> dict[str, Any] | None:
        row = latest(read_results(self.config.workdir), "train").get(spec.name)
        return row["result"] if row else None
