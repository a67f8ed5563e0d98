"""Where each of several worker processes has its files, and what they must agree on.

    cluster = training_cluster(config)          # None where this process trains alone
    config = as_worker(config, cluster)         # WORKDIR/workers/1 of the second one

Workers may share a file system: the chief has the workdir, each of the others a folder
in it for what it saw, and for its features.
"""

import dataclasses
import os
import pathlib
from typing import Any

from tlperf.core.choices import Strategy
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.network import check_private
from tlperf.core.settings import RunConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.cluster import VARIABLE, Cluster, find_cluster
from tlperf.reference.backbones import BackboneSpec

# Settings that workers need not share: where files are, and how long each waits.
_OWN = {
    # What devices there are is compared instead of how they are named.
    "device": {"startup_timeout", "allow_public_bind", "devices"},
    "features": {"feature_dir", "feature_budget"},
    "input": {"ram_budget", "cache"},
}


def training_cluster(config: RunConfig) -> Cluster | None:
    """The workers to train with; None where this process trains alone.

    Raises:
        TlperfError: 78 where TF_CONFIG is not good, workers are asked for and it names
            none, others could reach TensorFlow's servers unasked, or what is asked for
            is not done by several processes.
    """
    strategy = config.device.strategy
    if strategy not in (Strategy.AUTO, Strategy.MULTIWORKER):
        return None
    cluster = find_cluster(os.environ)
    if cluster is None:
        if strategy is Strategy.MULTIWORKER:
            raise TlperfError(
                ExitCode.CONFIG,
                "no_workers",
                found=f"--strategy=multiworker, but {VARIABLE} names no two workers",
                remedy=f"set {VARIABLE} for each process, or use --strategy=auto",
            )
        return None
    if config.input.data_service:
        raise TlperfError(
            ExitCode.CONFIG,
            "service_refused",
            found=f"--data_service, and {VARIABLE} names workers",
            remedy="use one of them: each worker reads its own part of every batch",
        )
    check_private(allow_public_bind=config.device.allow_public_bind)
    return cluster


def refuse_workers(command: str) -> None:
    """Stops a command that several processes cannot do together (exit code 78), but
    for the first of them, which does a single stage alone."""
    cluster = find_cluster(os.environ)
    if cluster is not None and (command == "run" or not cluster.is_chief):
        raise TlperfError(
            ExitCode.CONFIG,
            "workers_refused",
            found=f"{VARIABLE} names workers, which tlperf {command} does not use",
            remedy="tlperf shard once, tlperf train on every worker, then evaluate, "
            "latency and report on the first one",
        )


def as_worker(config: RunConfig, cluster: Cluster | None) -> RunConfig:
    """The settings of this process; the chief's are those given."""
    if cluster is None or cluster.is_chief:
        return config
    name = str(cluster.worker)
    features = config.features
    if features.feature_dir:
        own = pathlib.Path(features.feature_dir) / "workers" / name
        features = dataclasses.replace(features, feature_dir=str(own))
    return dataclasses.replace(
        config,
        workdir=str(pathlib.Path(config.workdir) / "workers" / name),
        data_dir=str(config.data_path),
        features=features,
    )


def facts_to_share(
    config: RunConfig,
    spec: BackboneSpec,
    weights: dict[str, Any],
    dataset: StoredDataset,
) -> dict[str, Any]:
    """What has to be equal in all workers: what is trained, how, on what, by what."""
    from tlperf.core.machine import package_versions

    values = config.to_dict()
    sections = ("input", "model", "training", "features", "device")
    settings = {
        f"{section}.{name}": value
        for section in sections
        for name, value in values[section].items()
        if name not in _OWN.get(section, ())
    }
    return {
        **settings,
        "backbone": spec.name,
        "weights": weights["sha256"],
        "records": dataset.manifest.records_digest(),
        "versions": package_versions(),
    }
