"""Keras' published step times as a run that pytest-benchmark can compare with.

    python -m benchmarks.published --out=published.json
    pytest benchmarks/bench_latency.py --benchmark-only --batch-size=32 -k compiled \\
        --benchmark-compare=published.json --benchmark-sort=name

The table of Keras Applications (column "Time (ms) per inference step (GPU)") gives one
mean a network: of 30 batches and 10 repetitions, batch 32, on a "Tesla A100".
Precision, XLA, copies and warm-up are not stated, and VGG16's figure is beyond what
that device can multiply in float32: a reference, no target. pytest-benchmark wants more
statistics than one mean; here each is what it would be of one round that took the mean,
and `extra_info` names those that are not published.
"""

import argparse
import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.cases import Case, full_name, short_name
from tlperf.core import files
from tlperf.core.choices import Protocol, Runtime
from tlperf.reference import paper

# When the column came to be: keras-team/keras-io pull request 603.
DATE = "2021-08-22T00:00:00+00:00"
BATCHES, REPETITIONS = 30, 10
STATED = "average of 30 batches and 10 repetitions, batch size 32, GPU: Tesla A100"
SOURCE = "https://keras.io/api/applications/"


def published_run() -> dict[str, Any]:
    """The JSON of a run of pytest-benchmark."""
    return {
        "machine_info": {
            "node": "as published, not measured here",
            "processor": "Tesla A100",
            "machine": "as published: Tesla A100",
            "cpu": {"brand_raw": "AMD EPYC Processor (with IBPB) (92 core)"},
        },
        "commit_info": {"id": "published", "dirty": False},
        "benchmarks": [
            published_row(backbone, runtime, mean_ms / 1e3)
            for backbone, mean_ms in paper.UNROUNDED_GPU_MS.items()
            for runtime in Runtime
        ],
        "datetime": DATE,
        "version": importlib.metadata.version("pytest-benchmark"),
    }


def published_row(backbone: str, runtime: Runtime, mean_secs: float) -> dict[str, Any]:
    """The row that stands beside ours of a runtime; nothing else of it is published
    than the mean and what it is a mean of."""
    case = Case(Protocol.COMPILED, runtime, paper.PUBLISHED_BATCH_SIZE)
    repeated = ("min", "max", "median", "q1", "q3", "ld15iqr", "hd15iqr", "total")
    spread = ("stddev", "iqr", "stddev_outliers", "iqr_outliers")
    stats: dict[str, Any] = {
        "mean": mean_secs,
        "ops": 1 / mean_secs,
        "rounds": 1,
        "iterations": BATCHES * REPETITIONS,
        **dict.fromkeys(repeated, mean_secs),
        **dict.fromkeys(spread, 0),
        "outliers": "0;0",
    }
    return {
        "group": case.group,
        "name": short_name(backbone, case),
        "fullname": full_name(backbone, case),
        "params": {"spec": backbone, "case": case.text},
        "param": f"{backbone}-{case.text}",
        "extra_info": {
            "source": SOURCE,
            "stated": STATED,
            "published": ["mean", "iterations"],
            "not_published_the_mean_repeated": [*repeated],
            "not_published_one_round_has_none": [*spread, "outliers"],
            "protocol": "not stated",
            "precision": "not stated",
        },
        "options": {},
        "stats": stats,
    }


def main(arguments: Sequence[str]) -> int:
    """Writes the file."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="published.json")
    given = parser.parse_args(arguments)
    files.write_json(given.out, published_run())
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
