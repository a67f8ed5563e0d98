"""What the preprocessing check finds with real weights, and what a misfit costs.

    python -m benchmarks.preprocess --weights=DIR --data_dir=DATA --out=found.json \\
        --backbones=xception,vgg16 --image_size=150 --samples=20 --epochs=3

DATA is a directory of `tlperf shard`. For each backbone: random samples of 64 training
photos under every normalisation that the project knows, the range of the shifts, what
was found, and how many samples were judged wrong: the backbone's own normalisation has
to fit and to be the best in each of them, and every other word of `EXPECTED` has to be
found. Then a training with each of `--trained` and the accuracy on the test split
beside the finding; `--epochs=0` leaves them out. Raw values are in the JSON.

Measured on 2,000 photos of cats and dogs (400 of them the test), samples and trainings
in runs of their own, one training each, on two cores of an AMD EPYC virtual machine;
1 s a sample. The limits were chosen on other samples of the same photos:

    xception  tf (own)     0.29 to 0.48  fits    0.9800
              x/255        1.68 to 1.82  mild    0.9750
              raw          7.96 to 8.12  severe  0.6375
    vgg16     caffe (own)  0.07 to 0.22  fits    0.9475
              x/255        7.53 to 7.84  mild    0.9000
              raw          0.68 to 0.97  mild    0.8875
"""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlperf.core import files
from tlperf.core.machine import machine_facts
from tlperf.core.settings import InputConfig, ModelConfig, RunConfig, TrainConfig
from tlperf.dataset.store import StoredDataset, open_dataset
from tlperf.device.setup import Compute, setup_compute
from tlperf.model.build import build_backbone
from tlperf.model.fit import (
    Finding,
    Shift,
    build_probe,
    find_shifts,
    judge,
)
from tlperf.model.weights import find_weights
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.sample import SAMPLE_IMAGES
from tlperf.reference.backbones import (
    NORMALISATIONS,
    BackboneSpec,
    normalisation_name,
    parse_backbones,
)
from tlperf.reporting.terminal_table import render_table
from tlperf.training.trainer import build_trainer

# What has to be found of a normalisation that is not the backbone's own.
_WRONG = (Finding.MILD, Finding.SEVERE)
EXPECTED: dict[str, dict[str, tuple[Finding, ...]]] = {
    "xception": {"x/255": _WRONG, "raw": (Finding.SEVERE,), "caffe": (Finding.SEVERE,)},
    "vgg16": {"x/255": _WRONG, "raw": _WRONG, "tf": _WRONG},
}


def measure(
    spec: BackboneSpec, config: RunConfig, dataset: StoredDataset, *, samples: int
) -> dict[str, Any]:
    """The shifts of every sample: by normalisation a list of the worst layers'."""
    image_size = config.input.image_size or spec.native_size
    backbone = build_backbone(spec, image_size=image_size)
    find_weights(spec, config.model.weights).load(backbone)
    probe = build_probe(backbone)
    with InputPipeline(dataset, config.input, image_size=image_size) as pipeline:
        batches = pipeline.evaluation("train")
        photos = np.concatenate(
            [batch.image.numpy()[batch.weight.numpy() > 0] for batch in batches]
        )
    shifts: dict[str, list[Shift]] = {name: [] for name in NORMALISATIONS}
    secs = []
    for sample in range(samples):
        chosen = np.random.default_rng(sample).choice(
            len(photos), min(SAMPLE_IMAGES, len(photos)), replace=False
        )
        start = time.perf_counter()
        found = find_shifts(probe, photos[chosen], own=spec.normalisation)
        secs.append(time.perf_counter() - start)
        for name, layers in found.items():
            shifts[name].append(max(layers, key=lambda shift: shift.distance))
    own = normalisation_name(spec.normalisation)
    expected = {own: (Finding.FITS,), **EXPECTED.get(spec.name, {})}
    wrong = [
        sample
        for sample in range(samples)
        if min(shifts, key=lambda name: shifts[name][sample].distance) != own
        or any(
            judge(shifts[name][sample], probe.rule) not in findings
            for name, findings in expected.items()
        )
    ]
    return {
        "backbone": spec.name,
        "rule": probe.rule.value,
        "own": own,
        "image_size": image_size,
        "samples": samples,
        "wrong": wrong,
        "secs": secs,
        "shifts": {
            name: [dataclasses.asdict(one) for one in found]
            for name, found in shifts.items()
        },
        "findings": {
            name: sorted({judge(one, probe.rule).value for one in found})
            for name, found in shifts.items()
        },
    }


def train(
    spec: BackboneSpec,
    name: str,
    config: RunConfig,
    dataset: StoredDataset,
    compute: Compute,
) -> dict[str, Any]:
    """Accuracy on the test split after a training under a normalisation."""
    changed = dataclasses.replace(spec, normalisation=NORMALISATIONS[name])
    weights = find_weights(spec, config.model.weights)
    with tempfile.TemporaryDirectory() as workdir:
        own = dataclasses.replace(config, workdir=workdir)
        trainer = build_trainer(
            changed, own, dataset=dataset, compute=compute, weights=weights
        )
        with contextlib.closing(trainer):
            trainer.frozen_part.open()
            for epoch in range(own.training.epochs):
                trainer.train_epoch(epoch)
            result = trainer.validate("test")
    return {"accuracy": result.accuracy, "loss": result.loss, "images": result.count}


def render(row: dict[str, Any]) -> str:
    """A backbone's table."""
    lines = []
    for name, found in row["shifts"].items():
        distances = [one["distance"] for one in found]
        trained = row["trained"].get(name)
        worst = max(found, key=lambda one: one["distance"])
        lines.append(
            [
                f"{name} (own)" if name == row["own"] else name,
                f"{min(distances):.3f} to {max(distances):.3f}",
                worst["layer"],
                f"{worst['spread']:.3g}",
                f"{worst['offset']:.3g}",
                " ".join(row["findings"][name]),
                f"{trained['accuracy']:.4f}" if trained else "not measured",
            ]
        )
    columns = ["pixels", "shift", "layer", "spread", "offset", "found", "accuracy"]
    head = (
        f"{row['backbone']} at {row['image_size']} px, rule {row['rule']}: "
        f"{len(row['wrong'])} of {row['samples']} samples wrong, "
        f"{np.median(row['secs']):.2f} s a sample"
    )
    return f"{head}\n{render_table(columns, lines)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 1 where a sample was judged wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data_dir", required=True, type=pathlib.Path)
    parser.add_argument("--backbones", default="xception,vgg16")
    parser.add_argument("--image_size", type=int, default=150)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trained", default="own,x/255,raw")
    parser.add_argument("--out", type=pathlib.Path)
    values = parser.parse_args(arguments)
    config = RunConfig(
        workdir="unused",
        input=InputConfig(image_size=values.image_size),
        model=ModelConfig(weights=values.weights),
        training=TrainConfig(epochs=max(1, values.epochs)),
    )
    compute = setup_compute(config.device)
    rows = []
    with open_dataset(values.data_dir) as dataset:
        for spec in parse_backbones(values.backbones):
            row = measure(spec, config, dataset, samples=values.samples)
            row["trained"], row["epochs"] = {}, values.epochs
            own = normalisation_name(spec.normalisation)
            for word in values.trained.split(",") if values.epochs else ():
                name = own if word == "own" else word
                row["trained"][name] = train(spec, name, config, dataset, compute)
            print(render(row), end="\n\n", flush=True)
            rows.append(row)
    if values.out:
        files.write_json(
            values.out,
            {"rows": rows, "machine": machine_facts(), "device": compute.facts()},
        )
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
