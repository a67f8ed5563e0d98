"""One stage for one backbone, in this process; each appends its result row.

    stages = StageRunner(config)
    stages.run("train", spec); stages.run("evaluate", spec)

A process sets up its devices once, so a runner serves one configuration.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from tlperf.core import faults, files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import peak_memory_bytes
from tlperf.core.progress import log
from tlperf.core.results import append_result, latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.dataset.store import StoredDataset, open_dataset
from tlperf.device.cluster import Cluster, meet
from tlperf.device.setup import Compute, device_facts, setup_compute
from tlperf.device.workers import naming_lost_workers
from tlperf.job.workers import facts_to_share
from tlperf.latency.cells import FINETUNED, IMAGENET, plan_cells
from tlperf.pipeline.endpoint import check_service
from tlperf.reference.backbones import BackboneSpec, parse_backbones


class StageRunner:
    """Runs stages of one configuration; opens the data and the devices when needed.

    Args:
        config: of all stages.
        cluster: the workers to train with; None for this process alone.
    """

    def __init__(self, config: RunConfig, *, cluster: Cluster | None = None):
        self.config = config
        self._cluster = cluster
        self._networks: dict[str, Any] = {}
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
        return setup_compute(self.config.device, cluster=self._cluster)

    def run(self, stage: str, spec: BackboneSpec) -> dict[str, Any]:
        """Runs train, evaluate or latency, appends its row, returns its result."""
        result = self._stages[stage](spec)
        for text in result.get("warnings", ()):
            log(f"warning: {spec.name}: {text}")
        result["process_peak_memory_bytes"] = peak_memory_bytes()
        append_result(
            self.config.workdir,
            stage=stage,
            backbone=spec.name,
            result=result,
            settings=self.config.to_dict(),
            device=self.compute.facts(),
        )
        return result

    def measure_input(self, *, secs: float, demand: float | None) -> dict[str, Any]:
        """The input pipeline alone, at the first backbone's size if none is given."""
        from tlperf.model.preprocess import build_device_half, normalisation_for
        from tlperf.pipeline.ceilings import Target
        from tlperf.pipeline.measure import measure_input

        spec, *_ = parse_backbones(self.config.backbones)
        settings = self.config.input
        if settings.data_service:
            check_service(settings, file_format=self.dataset.manifest.format)
        half = build_device_half(
            self.compute,
            normalisation=normalisation_for(spec, settings.preprocess),
            augmentation=settings.augment,
        )
        image_size = settings.image_size or spec.native_size
        target = Target(image_size, self.compute, half)
        return measure_input(self.dataset, settings, target, secs=secs, demand=demand)

    def _train(self, spec: BackboneSpec) -> dict[str, Any]:
        from tlperf.model.weights import (
            WEIGHTS_NAME,
            find_weights,
            load_keras_weights,
        )
        from tlperf.training.loop import train_backbone

        # Both are checked before the devices are touched: seconds sooner.
        weights = find_weights(spec, self.config.model.weights)
        dataset = self.dataset
        together: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._cluster is not None:
            facts = facts_to_share(self.config, spec, weights.facts(), dataset)
            facts |= device_facts(self.config.device)
            timeout_secs = self.config.device.startup_timeout
            meet(self._cluster, facts, timeout_secs=timeout_secs)
            faults.hit("met")
            together = naming_lost_workers()
        with together:
            training = train_backbone(
                spec,
                self.config,
                dataset=dataset,
                compute=self.compute,
                weights=weights,
            )
        if not self.compute.is_chief:
            return training.result
        # Evaluation goes on with the network that is built and traced, from the file.
        path = self.config.backbone_path(spec.name) / WEIGHTS_NAME
        load_keras_weights(training.network.model, path)
        self._networks = {training.result["weights_sha256"]: training.network}
        return training.result

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
            network=self._network(spec, trained),
            trained=trained,
        )

    def _latency(self, spec: BackboneSpec) -> dict[str, Any]:
        from tlperf.latency.measure import measure_cells
        from tlperf.latency.subjects import Subjects

        trained, network, kinds = self._trained(spec), None, [IMAGENET]
        if trained is not None:
            network = self._network(spec, trained)
            kinds.append(FINETUNED)
        config = self.config
        subjects = Subjects(
            spec, config, compute=self.compute, trained=trained, network=network
        )
        cells = plan_cells(spec, config.latency, device=config.device, kinds=kinds)
        runs = measure_cells(
            cells, config.latency, subjects=subjects, compute=self.compute
        )
        path = config.backbone_path(spec.name) / "latency.json"
        files.write_json(path, {"runs": runs})
        return {"runs": runs}

    def _trained(self, spec: BackboneSpec) -> dict[str, Any] | None:
        row = latest(read_results(self.config.workdir), "train").get(spec.name)
        return row["result"] if row else None

    def _network(self, spec: BackboneSpec, trained: dict[str, Any]) -> Any:
        """Built and traced once a process: the deep networks take seconds."""
        from tlperf.model.trained import load_trained

        key = trained["weights_sha256"]
        if key not in self._networks:
            network = load_trained(
                spec,
                self.config.backbone_path(spec.name),
                trained,
                compute=self.compute,
            )
            self._networks[key] = network
        return self._networks[key]
