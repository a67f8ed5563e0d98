"""Tables of our own: summary, timed runs, data, settings and machine.

summary_table(run, ledger), latency_table(run), split_table(run.shard)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlperf.core.files import to_json
from tlperf.core.trials import LEAST_PROCESSES, LEAST_SAMPLES
from tlperf.core.units import (
    NOT_AVAILABLE,
    format_bytes,
    format_number,
    format_secs,
)
from tlperf.reporting.document import NOT_MEASURED, Table
from tlperf.reporting.rows import (
    IMAGENET_MODEL,
    WAY_STAGES,
    BackboneRows,
    Row,
    RunRows,
    child,
    finite,
    invalid_text,
    is_valid,
)
from tlperf.reporting.sources import Source, study_source
from tlperf.reporting.study_tables import (
    Ledger,
    find_entry,
    format_difference,
    format_fact,
    format_interval,
    format_measured,
    format_published_score,
)
from tlperf.reporting.timed_cells import format_ms, measured_protocols, timed_on

_MOST_CLASSES = 50
_SPLITS = ("train", "validation", "test")


def summary_table(run: RunRows, ledger: Ledger) -> Table:
    """One row a backbone: what a reader came for."""
    protocols = measured_protocols(run)
    columns = (
        "backbone",
        "test accuracy",
        "95 % interval",
        "published accuracy",
        "measured - published",
        "weights",
        "epochs",
        "training time",
        "training images/s",
        *(f"p50 ms a step, {protocol}" for protocol in protocols),
        "timed on",
    )
    rows = [_summary_row(results, ledger, protocols) for results in run.backbones]
    notes = (
        "Interval: binomial, of the test images alone; another training run moves the "
        "accuracy too. Training time is of all epochs, validation included. Latencies "
        "are of the ImageNet model with its top.",
    )
    sources = (study_source("Table 11"), *run.sources("train", "evaluate", "latency"))
    return Table("Measured beside published", columns, tuple(rows), notes, sources)


def _summary_row(
    results: BackboneRows, ledger: Ledger, protocols: Sequence[str]
) -> tuple[str, ...]:
    train, entry = (
        results.train,
        find_entry(ledger, "Table 11", results.name, "accuracy"),
    )
    accuracy = finite(results.evaluate.get("accuracy"))
    return (
        results.title,
        format_measured("accuracy", accuracy),
        format_interval(results),
        format_published_score(entry),
        format_difference(entry),
        format_weights(train),
        str(len(results.epochs)) if train else NOT_MEASURED,
        format_secs(finite(train.get("train_secs"))) if train else NOT_MEASURED,
        _format_rate(train),
        *(format_ms(results, protocol, "p50_ms") for protocol in protocols),
        timed_on(results),
    )


def _format_rate(result: Row) -> str:
    if not result:
        return NOT_MEASURED
    return format_number(finite(result.get("images_per_sec")), 1)


def format_weights(train: Row) -> str:
    """Where the backbone's weights came from."""
    if not train:
        return NOT_MEASURED
    weights = child(train, "weights")
    kind, file = str(weights.get("kind", NOT_AVAILABLE)), weights.get("file")
    kind = "none (random start)" if kind == "none" else kind
    return f"{kind}: {file}" if file else kind


_TIMES = ("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms")
_LATENCY_FACTS = (
    *("runtime", "batch_size", "image_size", "precision", "xla", "tf32", "device"),
)
_RULES = (
    "An INVALID row is no result. A row is INVALID where it has fewer than "
    f"{LEAST_SAMPLES} samples or {LEAST_PROCESSES} processes, or their medians lie far "
    "apart; where steps drift; where other programs or the host took much of the "
    "machine; where its processes had unlike machines, devices, versions, code or "
    "weights; where the network was traced again while it was timed; and where a timed "
    "step did not give an untimed one's outputs, or was faster on images it had seen."
)


def latency_table(run: RunRows) -> Table:
    """Every timed run with its whole protocol."""
    columns = (
        "backbone",
        "model",
        "its weights",
        "protocol",
        *(key.replace("_", " ") for key in _LATENCY_FACTS),
        *(f"{key.removesuffix('_ms')}, ms" for key in _TIMES),
        "processes",
        "their medians, ms",
        "jitter, ms",
        "samples",
        "warm-up steps",
        "first call",
        "images/s",
        "TFLOP/s",
        "valid",
    )
    rows = tuple(
        _latency_row(results, timed)
        for results in run.backbones
        for timed in results.latency_runs
    )
    notes = [
        "A step is one batch. The first call (tracing, compiling) is no sample. A "
        "percentile that too few samples support is n/a. The range of the processes' "
        "medians is the interval of the median; jitter is the scaled median deviation "
        "of single steps."
    ]
    if not all(is_valid(t) for results in run.backbones for t in results.latency_runs):
        notes.append(_RULES)
    notes += [
        f"{results.title}: {timed.get('model')} {timed.get('protocol')} was timed with "
        "another training's weights than its newest rows are of."
        for results in run.backbones
        for timed in results.latency_runs
        if not results.is_of_training(timed)
    ]
    notes += [
        f"{results.title}: older rows have {', '.join(results.replaced)} too; the "
        "newest row of a backbone counts. Time all of them in one tlperf latency."
        for results in run.backbones
        if results.replaced
    ]
    sources = run.sources("latency")
    return Table("Timed runs", columns, rows, tuple(notes), sources)


def _latency_row(results: BackboneRows, timed: Row) -> tuple[str, ...]:
    requested = timed.get("requested_samples", NOT_AVAILABLE)
    return (
        results.title,
        str(timed.get("model")),
        _timed_weights(timed),
        str(timed.get("protocol")),
        *(format_fact(timed, key) for key in _LATENCY_FACTS),
        *(format_number(finite(timed.get(key)), 2) for key in _TIMES),
        format_fact(timed, "processes"),
        _format_medians(timed),
        format_number(finite(timed.get("jitter_ms")), 2),
        f"{timed.get('samples', NOT_AVAILABLE)} of {requested}",
        format_fact(timed, "warmup_steps"),
        format_secs(finite(timed.get("first_call_secs"))),
        format_number(finite(timed.get("images_per_sec")), 1),
        format_number(finite(timed.get("tflops_per_sec")), 3),
        "yes" if is_valid(timed) else invalid_text(timed),
    )


def _timed_weights(timed: Row) -> str:
    """The beginning of the sha256 of a training's weights."""
    digest = timed.get("weights_sha256")
    if digest is None and timed.get("model") == IMAGENET_MODEL:
        return "random"
    return NOT_AVAILABLE if digest is None else f"sha256 {str(digest)[:12]}"


def _format_medians(timed: Row) -> str:
    edges = [
        format_number(finite(child(timed, "interval_ms").get(key)), 2)
        for key in ("low", "high")
    ]
    return NOT_AVAILABLE if NOT_AVAILABLE in edges else " to ".join(edges)


def split_table(shard: Row, sources: tuple[Source, ...] = ()) -> Table:
    """Images of each class in each split."""
    found = child(shard, "splits")
    # JSON objects come back in alphabetical order.
    names = sorted(found, key=lambda name: (*_SPLITS, name).index(name))
    splits = {name: found[name] for name in names}
    classes = [str(name) for name in shard.get("classes") or ()]
    classes = classes or sorted({name for counts in splits.values() for name in counts})
    rows = [
        (name, *(str(counts.get(name, 0)) for counts in splits.values()))
        for name in classes[:_MOST_CLASSES]
    ]
    totals = ("all", *(f"{sum(counts.values())}" for counts in splits.values()))
    rest = len(classes) - _MOST_CLASSES
    notes = (f"{rest} more classes are in results.jsonl.",) if rest > 0 else ()
    return Table(
        "Images by class and split",
        ("class", *splits),
        (*rows, totals),
        notes,
        sources,
    )


_SHARD_COUNTS = ("seen", "accepted", "quarantined", "ignored", "duplicates")
_SHARD_FACTS = ("name", "format", "encoding", *_SHARD_COUNTS, "shards")


def shard_table(shard: Row, sources: tuple[Source, ...] = ()) -> Table:
    """What became of the files that were found, and how they are stored."""
    rows = [(key, format_fact(shard, key)) for key in _SHARD_FACTS]
    for title, key in (("quarantined", "reasons"), ("flagged", "flags")):
        counts = shard.get(key)
        if isinstance(counts, dict):
            rows += [(f"{title}: {name}", str(n)) for name, n in counts.items()]
    rows += [
        ("size", format_bytes(finite(shard.get("bytes")))),
        ("written in", format_secs(finite(shard.get("seconds")))),
        ("images/s", format_number(finite(shard.get("images_per_sec")), 1)),
        ("digest", format_fact(shard, "digest")),
    ]
    note = "Seen = accepted + quarantined + ignored + duplicates."
    return Table("What was stored", ("fact", "value"), tuple(rows), (note,), sources)


_TRAIN_FACTS = (
    "image_size",
    "batch_size",
    "preprocess",
    "decode",
    "augment",
    "freeze",
    "precision",
    "xla",
    "strategy",
    "replicas",
    "feature_cache",
    "best_epoch",
)


def settings_table(run: RunRows) -> Table:
    """How each backbone was trained."""
    columns = (
        "backbone",
        "weights",
        *(key.replace("_", " ") for key in _TRAIN_FACTS),
        "optimizer",
        "steps/s",
        "waiting for input",
        "settings digest",
    )
    rows = tuple(
        (
            results.title,
            format_weights(results.train),
            *(format_fact(results.train, key) for key in _TRAIN_FACTS),
            _format_object(child(results.train, "optimizer")),
            format_number(finite(results.train.get("steps_per_sec")), 2),
            _format_share(results.train.get("input_wait_fraction")),
            str(results.rows["train"].get("settings_digest", NOT_AVAILABLE)),
        )
        for results in run.backbones
        if results.train
    )
    sources = run.sources("train")
    return Table("How each backbone was trained", columns, rows, sources=sources)


def _format_share(value: Any) -> str:
    share = finite(value)
    return NOT_AVAILABLE if share is None else f"{share:.1%}"


def _format_object(value: Row) -> str:
    return ", ".join(f"{name}={item}" for name, item in sorted(value.items()))


def machine_table(run: RunRows) -> Table:
    """Machines and installs the rows come from, one column each."""
    return _facts_table("Machine and versions", run, "machine", run.shard_sources)


def device_table(run: RunRows) -> Table:
    """Devices that computed, one column each."""
    return _facts_table("Devices", run, "device", ())


def _facts_table(title: str, run: RunRows, key: str, also: tuple[Source, ...]) -> Table:
    distinct: list[dict[str, str]] = []
    for row in run.rows:
        facts = dict(_flat_facts(child(row, key)))
        if facts and facts not in distinct:
            distinct.append(facts)
    names = dict.fromkeys(name for facts in distinct for name in facts)
    return Table(
        title,
        ("fact", *(f"{key} {number + 1}" for number in range(len(distinct)))),
        tuple(
            (name, *(facts.get(name, NOT_AVAILABLE) for facts in distinct))
            for name in names
        ),
        ("The rows come from more than one: compare times with care.",)
        if len(distinct) > 1
        else (),
        (*also, *run.sources("preprocess", *WAY_STAGES)),
    )


def _flat_facts(facts: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat_facts(value, f"{prefix}{name} ")
        elif name.endswith("_bytes"):
            yield f"{prefix}{name.removesuffix('_bytes')}", format_bytes(finite(value))
        elif value is None:
            yield f"{prefix}{name}", NOT_AVAILABLE
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else to_json(value)
