"""Times of two workdirs: the same step, and how many times as long the second takes.

    compare_latencies(first, second, "xception")[0]["ratio"]   # 0.91

A step is the same where network, model, protocol, runtime, batch, image size and
precision are. XLA and TensorFloat-32 may differ, and are named then. The ratio is that
of the medians of the processes, which are independent, with the interval of
`tlperf.core.differences.ratio_interval`; the verdict is on the second, beside the
first, and less is better.

The two were not timed in turn: a machine that changed between them is in the ratio too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlperf.core.differences import ratio_interval
from tlperf.core.statistics import median
from tlperf.reporting.comparison_inputs import Workdir
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.readings import SMOKE, listed
from tlperf.reporting.rows import Row, finite, invalid_text, is_valid
from tlperf.reporting.verdicts import EQUAL, judge_edges, not_comparable

# What makes two steps the same.
SAME = ("model", "protocol", "runtime", "batch_size", "image_size", "precision")
# How they were computed: where it is unlike, the row says so.
COMPUTED = ("xla", "tf32")


def compare_latencies(
    first: Workdir, second: Workdir, backbone: str
) -> list[dict[str, Any]]:
    """A row a step that either workdir has timed.

    Returns:
        of each: backbone, what makes it the same step, first and second (labels), and
        of both device, p50_ms, xla and tf32; ratio (second / first), ratio_interval
        {low, high, confidence}, verdict and note; what is not known is None.
    """
    runs = [workdir.results(backbone).latency_runs for workdir in (first, second)]
    return [_compare(first, second, backbone, *pair) for pair in _pairs(*runs)]


def _key(run: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(run.get(name)) for name in names)


def _pairs(
    first: Sequence[Row], second: Sequence[Row]
) -> Iterator[tuple[Row | None, Row | None]]:
    """Runs of the same step: computed alike where there is one, otherwise the only one
    that is left on either side; None where the other has none."""
    for key in dict.fromkeys(_key(run, SAME) for run in (*first, *second)):
        left, right = (
            {_key(run, COMPUTED): run for run in runs if _key(run, SAME) == key}
            for runs in (first, second)
        )
        for computed in [name for name in left if name in right]:
            yield left.pop(computed), right.pop(computed)
        if len(left) == len(right) == 1:
            yield left.popitem()[1], right.popitem()[1]
        yield from ((run, None) for run in left.values())
        yield from ((None, run) for run in right.values())


def _compare(
    first: Workdir,
    second: Workdir,
    backbone: str,
    left: Row | None,
    right: Row | None,
) -> dict[str, Any]:
    known = left if left is not None else right
    assert known is not None
    row: dict[str, Any] = {
        "backbone": backbone,
        **{name: known.get(name) for name in SAME},
        "first": first.label,
        "second": second.label,
        **_facts("first", left),
        **_facts("second", right),
        "ratio": None,
        "ratio_interval": None,
        "note": "",
    }
    if left is None or right is None:
        missing = first if left is None else second
        return {**row, "verdict": NOT_MEASURED, "note": f"not in {missing.label}"}
    row["note"] = "; ".join(_find_notes(left, right))
    if any(
        workdir.results(backbone).is_smoke("latency") for workdir in (first, second)
    ):
        return {**row, "verdict": not_comparable(SMOKE)}
    return {**row, **_judge((first.label, left), (second.label, right))}


def _facts(name: str, run: Row | None) -> dict[str, Any]:
    known = run or {}
    return {
        f"{name}_p50_ms": finite(known.get("p50_ms")),
        **{f"{name}_{key}": known.get(key) for key in ("device", *COMPUTED)},
    }


def _find_notes(left: Row, right: Row) -> Iterator[str]:
    for key, title in (("xla", "XLA"), ("tf32", "TensorFloat-32")):
        if bool(left.get(key)) != bool(right.get(key)):
            states = ["on" if run.get(key) else "off" for run in (left, right)]
            yield f"{title} {states[0]}, then {states[1]}"
    if left.get("device") != right.get("device"):
        yield f"on {left.get('device')}, then on {right.get('device')}"


def _judge(*named: tuple[str, Row]) -> dict[str, Any]:
    for label, run in named:
        if not is_valid(run):
            return {"verdict": not_comparable(f"{label} is {invalid_text(run)}")}
    medians = [process_medians(run) for _, run in named]
    for (label, _), own in zip(named, medians, strict=True):
        if own is None:
            return {"verdict": not_comparable(f"{label} has no samples of processes")}
    left, right = medians
    assert left is not None
    assert right is not None
    found = ratio_interval(left, right)
    if found is None:
        counts = f"{len(left)} and {len(right)} processes"
        return {"verdict": not_comparable(f"{counts} give no interval")}
    low, high = found.interval.low, found.interval.high
    word = judge_edges((low - 1, high - 1), more_is_better=False)
    return {
        "ratio": found.value,
        "ratio_interval": {
            "low": low,
            "high": high,
            "confidence": found.interval.confidence,
        },
        # The same samples: one workdir is a copy of the other.
        "verdict": EQUAL if left == right else word,
    }


def process_medians(run: Row) -> list[float] | None:
    """Median seconds of each process; None where any has no samples above 0."""
    medians = []
    for trial in listed(run, "trials"):
        samples = listed(trial, "samples_secs") if isinstance(trial, Mapping) else []
        known = list(map(finite, samples))
        secs = [one for one in known if one is not None and one > 0]
        middle = median(secs)
        if middle is None or len(secs) < len(known):
            return None
        medians.append(middle)
    return medians or None
