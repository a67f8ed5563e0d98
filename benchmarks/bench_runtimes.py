"""Runtimes beside Keras' predict, a traced Keras call, and the same runtimes by hand.

    pip install '.[test,runtimes]'
    pytest benchmarks/bench_runtimes.py --benchmark-only --rounds=15 -s

Float32, batch 16, each 1000-class network at its native size. All sides of a network in
one process, interleaved: a round takes a turn of each, half a second or one step after
one that is not timed, in an order of its own, so that the two of a pair are seconds
apart on a machine that drifts up to twofold within minutes. Each export is made before
in a process of its own: to ONNX it takes about 45 times the weights, and the sides of
VGG16 alone peak at 13.5 GiB. `benchmarks.runtime_sides` has the sides, each warm before
the rounds and its output compared with Keras' own.

`runtimes.md` in the working directory has medians of the paired ratios with their 95 %
intervals (order statistics, of the rounds of one process: `tlperf latency` takes
several), and geometric means of the medians over the networks. The fastest of ours is
chosen for each round by all the others. The bound is what a
step's multiply-adds take at the rate of a large product, measured in the same rounds:
predict by it is what no runtime can gain more than, short of kernels that multiply
less. A runtime that is not installed is left out and named.
"""

import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from benchmarks.runtime_files import BATCH_SIZE, EXPORTS
from benchmarks.runtime_sides import BOUND, SIDES
from tlperf.core.errors import TlperfError
from tlperf.core.statistics import percentile_interval
from tlperf.core.units import NOT_AVAILABLE, format_bytes, format_number
from tlperf.job.children import child_environment
from tlperf.latency.packages import check_installed

ROUNDS = 15
OURS = ("tf", "openvino", "onnxruntime")
# Seconds of the first by those of the second; `best` is the fastest of ours.
PAIRS = (
    ("keras predict", "tf"),
    ("traced Keras call", "tf"),
    ("keras predict", "best"),
    ("openvino", "openvino by hand"),
    ("onnxruntime", "onnxruntime by hand"),
    ("keras predict", BOUND),
    ("best", BOUND),
)
ROWS: dict[str, dict] = {}


def find_best(secs: Mapping[str, Sequence[float]], *, without: int = -1) -> str:
    """The fastest of ours by its median over the rounds.

    Args:
        secs: by side, a value a round.
        without: a round that is not looked at: its figure is not flattered by a choice
            that the others made.
    """

    def middle(name: str) -> float:
        known = [one for place, one in enumerate(secs[name]) if place != without]
        return statistics.median(known)

    return min((name for name in OURS if name in secs), key=middle)


def side_secs(secs: Mapping[str, Sequence[float]], name: str) -> Sequence[float] | None:
    """A side's value of each round; None where it was not measured."""
    if name != "best":
        return secs.get(name)
    rounds = range(len(secs["tf"]))
    return [secs[find_best(secs, without=place)][place] for place in rounds]


def pair_ratio(
    secs: Mapping[str, Sequence[float]], pair: tuple[str, str]
) -> tuple[float, float, float] | None:
    """Median of the paired ratios and its interval's edges; None where a side was not
    measured, NaN edges of too few rounds."""
    above, below = (side_secs(secs, name) for name in pair)
    if above is None or below is None:
        return None
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, high = percentile_interval(ratios, 50) or (float("nan"),) * 2
    return statistics.median(ratios), low, high


def render_runtimes(rows: Mapping[str, dict]) -> str:
    """runtimes.md.

    Args:
        rows: of each network what `benchmarks.runtime_sides` wrote.
    """
    names = [
        name
        for name in (*SIDES, BOUND)
        if any(name in row["secs"] for row in rows.values())
    ]
    lines = [f"Float32, batch {BATCH_SIZE}, milliseconds a step (median)", ""]
    head = ["network", *names, "fastest", "rounds", "peak memory"]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for backbone, row in rows.items():
        secs = row["secs"]
        cells = [
            f"{1e3 * statistics.median(secs[name]):.1f}"
            if name in secs
            else NOT_AVAILABLE
            for name in names
        ]
        cells += [find_best(secs), str(len(secs["tf"]))]
        cells.append(format_bytes(row["process_peak_memory_bytes"]))
        lines.append(f"| {backbone} | {' | '.join(cells)} |")
    titles = [f"{above} / {below}" for above, below in PAIRS]
    lines += ["", "Medians of paired ratios, with 95 % intervals", ""]
    lines += [f"| network | {' | '.join(titles)} |", "|---" * (1 + len(PAIRS)) + "|"]
    found = {
        backbone: [pair_ratio(row["secs"], pair) for pair in PAIRS]
        for backbone, row in rows.items()
    }
    for backbone, ratios in found.items():
        lines.append(f"| {backbone} | {' | '.join(map(format_pair, ratios))} |")
    means = [
        statistics.geometric_mean(one[0] for one in column if one is not None)
        if any(column)
        else None
        for column in zip(*found.values(), strict=True)
    ]
    cells = [format_number(mean, 2) for mean in means]
    lines.append(f"| geometric mean | {' | '.join(cells)} |")
    missing = {text for row in rows.values() for text in row["left_out"]}
    lines += ["", *(f"Left out: {text}" for text in sorted(missing))]
    return "\n".join(lines).rstrip() + "\n"


def format_pair(ratio: tuple[float, float, float] | None) -> str:
    """`1.41 (1.38 to 1.45)`."""
    if ratio is None:
        return NOT_AVAILABLE
    middle, low, high = ratio
    return f"{middle:.2f} ({format_number(low, 2)} to {format_number(high, 2)})"


def run_module(name: str, *arguments: str) -> None:
    """A module of the benchmarks in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    subprocess.run(command, env=child_environment(), check=True)


def measure(backbone: str, rounds: int, folder: pathlib.Path) -> dict:
    """Makes a network's files and times its sides; what is not installed, or cannot be
    exported here, is left out and named: with tf2onnx 1.17 the 1000-class VGG16 was
    killed while it became ONNX, holding 23 GiB."""
    run_module("runtime_files", "weights", backbone, str(folder))
    left_out = []
    for name, (_, _, packages) in EXPORTS.items():
        try:
            check_installed(*packages)
            run_module("runtime_files", name, backbone, str(folder))
        except TlperfError as error:
            left_out.append(f"{name}: {error.found}; {error.remedy}")
        except subprocess.CalledProcessError as error:
            left_out.append(
                f"{name}: the export of {backbone} ended with {error.returncode}"
            )
    run_module("runtime_sides", backbone, str(rounds), str(folder))
    row = json.loads((folder / "sides.json").read_text())
    return {**row, "left_out": left_out}


@pytest.mark.benchmark(group="runtimes")
def test_runtimes(benchmark, spec, tmp_path, request):
    rounds = request.config.getoption("--rounds") or ROUNDS
    row = ROWS[spec.name] = measure(spec.name, rounds, tmp_path)
    text = render_runtimes(ROWS)
    pathlib.Path("runtimes.md").write_text(text)
    print("\n" + text, file=sys.stderr)
    ratios = {" / ".join(pair): pair_ratio(row["secs"], pair) for pair in PAIRS}
    benchmark.extra_info.update(row, ratios=ratios)
    # The seconds were taken in another process.
    benchmark.pedantic(lambda: None, rounds=1)
