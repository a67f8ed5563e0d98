"""One pass over the test split: predictions with ids, then metrics from them.

    result = evaluate_backbone(spec, config, dataset=dataset, compute=compute,
                               network=network, trained=train_row["result"])

Writes WORKDIR/BACKBONE/{predictions.csv, evaluation.json, mistakes/}.
"""

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

from tlperf.core import files
from tlperf.core.choices import Decode
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import progress_bar
from tlperf.core.settings import InputConfig, RunConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.setup import Compute
from tlperf.evaluation.metrics import compute_metrics
from tlperf.evaluation.mistakes import find_worst, write_mistakes
from tlperf.evaluation.samples import TEST_SPLIT
from tlperf.evaluation.table import (
    format_probabilities,
    inert_cell,
    probability_columns,
    write_table,
)
from tlperf.model.steps import Network
from tlperf.pipeline.input import Batches, InputPipeline
from tlperf.reference.backbones import BackboneSpec


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a split, one row an image, in stored order.

    Attributes:
        index: int64 [N], index in the split.
        label: int32 [N].
        probability: float32 [N, C].
        loss: float32 [N].
    """

    index: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """int64 [N]: the most probable class."""
        return np.argmax(self.probability, axis=-1)


def predict_split(step: Any, batches: Batches, *, compute: Compute) -> Predictions:
    """Runs the predict step over a pass; padding is left out, ids come along."""

    def host(value: Any) -> np.ndarray:
        parts = compute.strategy.experimental_local_results(value)
        return np.concatenate([part.numpy() for part in parts])

    columns: list[list[np.ndarray]] = [[], [], [], []]
    total = batches.plan.steps * batches.plan.batch_size
    with progress_bar(total=total, unit="img", title="predict") as bar:
        for batch in batches.distribute(compute):
            probability, loss = step(batch)
            counts = host(batch.weight) > 0
            values = (batch.index, batch.label, probability, loss)
            for column, value in zip(columns, values, strict=True):
                column.append(host(value)[counts])
            bar.update(batches.plan.batch_size)
    return Predictions(*(np.concatenate(column) for column in columns))


def evaluate_backbone(
    spec: BackboneSpec,
    config: RunConfig,
    *,
    dataset: StoredDataset,
    compute: Compute,
    network: Network,
    trained: dict[str, Any],
) -> dict[str, Any]:
    """Evaluates the best weights of a trained backbone on the test split.

    Args:
        spec: row of the backbone table.
        config: of the run; its workdir holds the weights.
        dataset: the data directory.
        compute: strategy and XLA policy.
        network: with the best weights (see `tlperf.model.trained`).
        trained: result of the `train` row: image size, preprocessing, weights hash.

    Raises:
        TlperfError: 78 where the data have other classes.
    """
    start = time.perf_counter()
    folder = config.backbone_path(spec.name)
    _check_classes(trained, dataset)
    # Decoded as in training; nothing is skipped: each image of the split counts.
    # Trainings of before there was a choice decoded exactly.
    decode = Decode(trained.get("decode", Decode.EXACT))
    settings = InputConfig(
        batch_size=config.input.batch_size,
        ram_budget=config.input.ram_budget,
        decode=decode,
    )
    size = trained["image_size"]
    with InputPipeline(dataset, settings, image_size=size) as pipeline:
        batches = pipeline.evaluation(TEST_SPLIT)
        predictions = predict_split(network.predict, batches, compute=compute)
    _check_every_image_once(predictions, dataset)
    mistakes = find_worst(predictions.index, predictions.label, predictions.probability)
    result = {
        "backbone": spec.name,
        **compute_metrics(
            predictions.label,
            predictions.predicted,
            predictions.loss,
            dataset.manifest.classes,
        ),
        "split": TEST_SPLIT,
        "weights_sha256": trained["weights_sha256"],
        "data_digest": dataset.manifest.digest,
        "mistakes": write_mistakes(
            mistakes, dataset.split(TEST_SPLIT), dataset.manifest, folder
        ),
        "secs": time.perf_counter() - start,
        "warnings": _warnings(trained, dataset),
    }
    _write_predictions(folder / "predictions.csv", predictions, dataset)
    files.write_json(folder / "evaluation.json", result)
    return result


def _check_classes(trained: dict[str, Any], dataset: StoredDataset) -> None:
    stored = list(dataset.manifest.classes)
    if stored != trained["classes"]:
        raise TlperfError(
            ExitCode.CONFIG,
            "other_classes",
            path=dataset.data_dir,
            found=f"the data's classes are {stored}, the model's {trained['classes']}",
            remedy="evaluate on data with the classes of the training",
        )


def _check_every_image_once(predictions: Predictions, dataset: StoredDataset) -> None:
    count = dataset.split(TEST_SPLIT).count
    # Our own invariant, kept in release builds too: a wrong count is a wrong accuracy.
    if not np.array_equal(np.sort(predictions.index), np.arange(count)):
        raise TlperfError(
            ExitCode.INTERNAL,
            "miscounted",
            found=f"{len(predictions.index)} predictions of {count} test images",
            remedy="please report this as a bug",
        )


def _warnings(trained: dict[str, Any], dataset: StoredDataset) -> list[str]:
    if trained["data_digest"] == dataset.manifest.digest:
        return []
    return [
        "the data are not those of the training: test images may have been trained on"
    ]


def _write_predictions(
    path: pathlib.Path, predictions: Predictions, dataset: StoredDataset
) -> None:
    classes = dataset.manifest.classes
    split = dataset.split(TEST_SPLIT)
    columns = ["index", "id", "label", "predicted", "correct", "loss"]
    values = (
        predictions.index,
        predictions.label,
        predictions.predicted,
        predictions.loss,
        predictions.probability,
    )
    rows = []
    for index, label, predicted, loss, probability in zip(*values, strict=True):
        (example,) = split.read([int(index)])
        rows.append(
            [
                int(index),
                inert_cell(example.filename),
                inert_cell(classes[label]),
                inert_cell(classes[predicted]),
                int(label == predicted),
                f"{loss:.6g}",
                *format_probabilities(probability),
            ]
        )
    write_table(path, [*columns, *probability_columns(classes)], rows)
