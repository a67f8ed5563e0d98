"""Evaluation: counted from predictions, every image once, ids that fit."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from tests.tiny import TINY
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes
from tlperf.core.settings import InputConfig, RunConfig, TrainConfig
from tlperf.dataset.store import open_dataset
from tlperf.evaluation.evaluate import evaluate_backbone
from tlperf.evaluation.metrics import compute_metrics
from tlperf.evaluation.mistakes import find_worst
from tlperf.evaluation.table import inert_cell
from tlperf.model.trained import load_trained
from tlperf.model.weights import WeightsSource
from tlperf.training.loop import train_backbone

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def evaluated(two_cpus, photos_dir, tmp_path_factory):
    """A trained and evaluated workdir; 3 does not divide the 8 test images."""
    workdir = tmp_path_factory.mktemp("work")
    config = RunConfig(
        workdir=str(workdir),
        input=InputConfig(image_size=32, batch_size=3),
        training=TrainConfig(epochs=1, learning_rate=0.01),
    )
    with open_dataset(photos_dir) as dataset:
        trained = train_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=two_cpus,
            weights=WeightsSource("none"),
        ).result
        result = evaluate_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=two_cpus,
            trained=trained,
            network=load_trained(TINY, workdir / "tiny", trained, compute=two_cpus),
        )
    return config, trained, result, workdir / "tiny"


def read_predictions(folder):
    with open(folder / "predictions.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_test_image_is_one_row_with_its_own_label(evaluated, photos_dir):
    *_, folder = evaluated
    rows = read_predictions(folder)
    with open_dataset(photos_dir) as dataset:
        examples = dataset.split("test").read(range(dataset.split("test").count))
        classes = dataset.manifest.classes
    assert [row["id"] for row in rows] == [example.filename for example in examples]
    assert [row["label"] for row in rows] == [classes[e.label] for e in examples]


def test_the_numbers_follow_from_the_rows(evaluated):
    _, _, result, folder = evaluated
    rows = read_predictions(folder)
    hits = sum(row["label"] == row["predicted"] for row in rows)
    assert result["images"] == len(rows) == 8
    assert result["accuracy"] == hits / len(rows)
    chosen = [-np.log(float(row[f"probability {row['label']}"])) for row in rows]
    assert result["loss"] == pytest.approx(np.mean(chosen), rel=1e-3)
    assert np.sum(result["confusion"]) == len(rows)
    assert np.trace(result["confusion"]) == hits
    low, high = result["interval"]
    assert low <= result["accuracy"] <= high
    assert json.loads((folder / "evaluation.json").read_text()) == result


def test_the_worst_mistakes_are_kept_as_pictures(evaluated):
    """Found again from predictions.csv, which knows nothing of them."""
    _, _, result, folder = evaluated
    rows = [row for row in read_predictions(folder) if row["correct"] == "0"]
    rows.sort(key=lambda row: float(row[f"probability {row['label']}"]))
    mistakes = result["mistakes"]
    assert mistakes["count"] == len(rows)
    told = [(one["id"], one["label"], one["predicted"]) for one in mistakes["worst"]]
    assert told == [(row["id"], row["label"], row["predicted"]) for row in rows]
    assert sorted(path.name for path in (folder / "mistakes").iterdir()) == [
        one["file"] for one in mistakes["worst"]
    ]
    for one in mistakes["worst"]:
        data = (folder / "mistakes" / one["file"]).read_bytes()
        assert sha256_bytes(data) == one["sha256"]
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("label", "probability", "expected"),
    [
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]], []),
        # Worst first; of equals the one stored first, wherever it stands.
        ([0, 1, 0], [[0.4, 0.6], [0.7, 0.3], [0.3, 0.7]], [10, 11, 12]),
        # No number is never the worst.
        ([0, 1], [[np.nan, np.nan], [0.9, 0.1]], [11]),
        ([1, 1], [[np.nan, np.nan], [0.9, 0.1]], [11, 12]),
    ],
)
def test_find_worst(label, probability, expected):
    index = np.array([12, 11, 10])[: len(label)]
    found = find_worst(index, np.array(label), np.array(probability))
    assert [one.place for one in found] == expected


def test_two_replicas_give_the_same_predictions(evaluated, mirrored, photos_dir):
    config, trained, result, folder = evaluated
    before = read_predictions(folder)
    with open_dataset(photos_dir) as dataset:
        again = evaluate_backbone(
            TINY,
            RunConfig(workdir=config.workdir, input=InputConfig(batch_size=6)),
            dataset=dataset,
            compute=mirrored,
            trained=trained,
            network=load_trained(TINY, folder, trained, compute=mirrored),
        )
    assert again["confusion"] == result["confusion"]
    assert [row["id"] for row in read_predictions(folder)] == [
        row["id"] for row in before
    ]


def test_evaluation_keeps_to_the_memory_that_training_had(
    evaluated, two_cpus, photos_dir
):
    config, trained, _, folder = evaluated
    small = dataclasses.replace(config.input, ram_budget=1000)
    with open_dataset(photos_dir) as dataset:
        with pytest.raises(TlperfError, match="input may have 1000;") as caught:
            evaluate_backbone(
                TINY,
                dataclasses.replace(config, input=small),
                dataset=dataset,
                compute=two_cpus,
                network=load_trained(TINY, folder, trained, compute=two_cpus),
                trained=trained,
            )
    assert caught.value.code == ExitCode.MEMORY


def test_data_with_other_classes_are_refused(evaluated, two_cpus, photos_dir):
    config, trained, _, folder = evaluated
    network = load_trained(TINY, folder, trained, compute=two_cpus)
    other = {**trained, "classes": ["cats", "dogs"]}
    with open_dataset(photos_dir) as dataset:
        with pytest.raises(TlperfError, match="classes are") as caught:
            evaluate_backbone(
                TINY,
                config,
                dataset=dataset,
                compute=two_cpus,
                network=network,
                trained=other,
            )
    assert caught.value.code == 78


def test_other_data_than_the_trainings_are_said(evaluated, two_cpus, photos_dir):
    config, trained, _, folder = evaluated
    other = {**trained, "data_digest": "0" * 64}
    with open_dataset(photos_dir) as dataset:
        result = evaluate_backbone(
            TINY,
            config,
            dataset=dataset,
            compute=two_cpus,
            trained=other,
            network=load_trained(TINY, folder, trained, compute=two_cpus),
        )
    assert "not those of the training" in result["warnings"][0]


def test_metrics_equal_scikit_learns_and_numpys():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    loss = rng.random(200)
    found = compute_metrics(label, predicted, loss, ["a", "b", "accuracy"])
    assert found["accuracy"] == np.mean(label == predicted)
    assert found["loss"] == pytest.approx(loss.mean())
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (label, predicted), 1)
    assert found["confusion"] == matrix.tolist()
    # A class may be called as the report calls a row of its own.
    recall = sklearn.metrics.recall_score(label, predicted, average=None)
    assert found["report"]["accuracy"]["recall"] == pytest.approx(recall[2])
    assert found["report"]["macro avg"]["recall"] == pytest.approx(recall.mean())


def test_a_class_never_predicted_has_precision_0_as_in_table_10():
    """395 of class 0, 405 of class 1, all predicted 0: Table 10 follows."""
    label = np.array([0] * 395 + [1] * 405)
    found = compute_metrics(label, np.zeros(800, int), np.ones(800), ["cats", "dogs"])
    assert found["accuracy"] == 0.49375
    rows = found["report"]
    printed = {
        name: [round(rows[name][key], 2) for key in ("precision", "recall", "f1")]
        for name in rows
    }
    assert printed == {
        "cats": [0.49, 1.0, 0.66],
        "dogs": [0.0, 0.0, 0.0],
        "macro avg": [0.25, 0.5, 0.33],
        "weighted avg": [0.24, 0.49, 0.33],
    }


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd()|' /C calc'!A0", "'=cmd()|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        ("cats/1.jpg", "cats/1.jpg"),
        ("", ""),
    ],
)
def test_a_hostile_name_is_inert_in_a_spreadsheet_and_a_terminal(text, cell):
    assert inert_cell(text) == cell
