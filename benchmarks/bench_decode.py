"""What an encoding or a faster decode costs in accuracy, and what it stores.

    pytest benchmarks/bench_decode.py --benchmark-only --source=FOLDER --weights=DIR \\
        --backbones=xception --image-size=150 --epochs=3

One training from source files decoded exactly; the same weights then classify the same
test images from every encoding, decoded exactly and fast. Answers are paired: McNemar's
exact test takes the images that only one of the two gets right. `extra_info` and
`decode.md` have accuracy, both counts, p, the largest change of a probability and bytes
an image; how fast each is stands in bench_input.py.
"""

import pathlib
import sys

import numpy as np
import pytest
from scipy.stats import binomtest

from tlperf.core.choices import Decode, Encoding
from tlperf.core.settings import (
    DataConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.evaluation.evaluate import predict_split
from tlperf.model.trained import load_trained
from tlperf.model.weights import find_weights
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.rates import stored_bytes
from tlperf.training.loop import train_backbone

# Half of the images are for the test: what is measured is a difference between two
# ways, and its error falls with the number of test images, not with the accuracy.
SPLIT = (40, 10, 50)
REFERENCE = (Encoding.SOURCE, Decode.EXACT)
WAYS = [
    REFERENCE,
    (Encoding.SOURCE, Decode.FAST),
    (Encoding.JPEG, Decode.EXACT),
    (Encoding.JPEG, Decode.FAST),
    (Encoding.RAW, Decode.EXACT),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, request):
    """One dataset an encoding, of the same images in the same splits."""
    folder = tmp_path_factory.mktemp("decode")
    stored = {}
    for encoding in Encoding:
        config = DataConfig(
            source=request.config.getoption("--source"),
            encoding=encoding,
            split=SPLIT,
            image_size=request.config.getoption("--image-size"),
        )
        write_dataset(config, folder / encoding)
        stored[encoding] = open_dataset(folder / encoding)
    yield stored
    for one in stored.values():
        one.close()


def classify(dataset, decode, network, *, image_size, compute):
    """Predictions of the test split."""
    config = InputConfig(decode=decode)
    with InputPipeline(dataset, config, image_size=image_size) as pipeline:
        batches = pipeline.evaluation("test")
        return predict_split(network.predict, batches, compute=compute)


def compare(found, reference):
    """Accuracy, and how it differs from the reference image by image."""
    is_right = found.predicted == found.label
    was_right = reference.predicted == reference.label
    gained = int((is_right & ~was_right).sum())
    lost = int((was_right & ~is_right).sum())
    change = np.abs(found.probability - reference.probability).max()
    return {
        "accuracy": float(is_right.mean()),
        "only_this_right": gained,
        "only_reference_right": lost,
        "mcnemar_p": binomtest(gained, gained + lost).pvalue if gained + lost else 1.0,
        "largest_change": float(change),
    }


def test_accuracy_of_each_decode(spec, datasets, compute, tmp_path, request, benchmark):
    """The same weights and test images from every encoding and decode."""
    image_size = request.config.getoption("--image-size")
    config = RunConfig(
        workdir=str(tmp_path),
        input=InputConfig(image_size=image_size),
        model=ModelConfig(weights=request.config.getoption("--weights")),
        training=TrainConfig(epochs=request.config.getoption("--epochs")),
    )
    training = train_backbone(
        spec,
        config,
        dataset=datasets[Encoding.SOURCE],
        compute=compute,
        weights=find_weights(spec, config.model.weights),
    )
    folder = config.backbone_path(spec.name)
    network = load_trained(spec, folder, training.result, compute=compute)
    found = {
        (encoding, decode): classify(
            datasets[encoding], decode, network, image_size=image_size, compute=compute
        )
        for encoding, decode in WAYS
    }
    rows = {}
    for way, predictions in found.items():
        np.testing.assert_array_equal(predictions.label, found[REFERENCE].label)
        rows[" ".join(way)] = {
            "bytes_per_image": stored_bytes(datasets[way[0]]),
            **compare(predictions, found[REFERENCE]),
        }
    benchmark.extra_info["decode"] = rows
    write_table(spec, rows, images=len(found[REFERENCE].label))
    benchmark.pedantic(
        classify,
        args=(datasets[Encoding.RAW], Decode.EXACT, network),
        kwargs={"image_size": image_size, "compute": compute},
        rounds=1,
    )


def write_table(spec, rows, *, images):
    """decode.md: a row a way."""
    lines = [
        f"{spec.name}, {images} test images",
        "",
        "| stored, decoded | bytes an image | accuracy | right only here / only in the "
        "first | McNemar's p | largest change of a probability |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        pair = f"{row['only_this_right']} / {row['only_reference_right']}"
        lines.append(
            f"| {name} | {row['bytes_per_image']:,.0f} | {row['accuracy']:.4f} "
            f"| {pair} | {row['mcnemar_p']:.2f} | {row['largest_change']:.3f} |"
        )
    text = "\n".join(lines) + "\n"
    pathlib.Path("decode.md").write_text(text)
    print("\n" + text, file=sys.stderr)
