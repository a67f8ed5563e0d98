"""Who is first: by test accuracy, by time an image, by training time.

ranking_table(run)
alike = find_alike(run)      # a timed row of each backbone, all timed in one way
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tlperf.core.choices import Protocol
from tlperf.core.units import format_number, format_secs
from tlperf.reporting.document import NOT_MEASURED, Table
from tlperf.reporting.rows import (
    FINETUNED_MODEL,
    IMAGENET_MODEL,
    BackboneRows,
    Row,
    RunRows,
    child,
    finite,
    is_valid,
)
from tlperf.reporting.study_tables import format_interval, format_measured

# Two times stand side by side only where all of these are equal.
_ALIKE = ("protocol", "runtime", "batch_size", "precision", "xla", "tf32", "device")


@dataclasses.dataclass(frozen=True)
class AlikeRows:
    """Timed rows of several backbones that were timed in one way.

    Attributes:
        way: what they have in common, in words; "" where nothing was timed.
        rows: by backbone.
        others: titles of backbones whose fine-tuned network was timed with the weights
            of another training than the accuracy is of: that time is left out.
    """

    way: str
    rows: Mapping[str, Row]
    others: tuple[str, ...] = ()

    @property
    def others_text(self) -> str:
        """What is left out, in words; "" where nothing is."""
        if not self.others:
            return ""
        names = ", ".join(self.others)
        return f"left out, timed with another training's weights: {names}"

    def image_ms(self, name: str) -> float | None:
        """Milliseconds an image at the median step; None where there is no row."""
        row = self.rows.get(name)
        return None if row is None else row["p50_ms"] / row["batch_size"]

    def is_valid(self, name: str) -> bool:
        """Whether a backbone's time keeps the rules of timing."""
        return name in self.rows and is_valid(self.rows[name])


def find_alike(run: RunRows) -> AlikeRows:
    """Of the ways that inference was timed, the one that most backbones share; of
    equals the first. The fine-tuned networks, and where none was timed those with
    their 1000 classes."""
    others: dict[str, None] = {}
    for model in (FINETUNED_MODEL, IMAGENET_MODEL):
        ways: dict[tuple[Any, ...], dict[str, Row]] = {}
        for results in run.backbones:
            for row in results.latency_runs:
                if row.get("model") != model or not _is_usable(row):
                    continue
                if not results.is_of_training(row):
                    others[results.title] = None
                else:
                    way = tuple(row.get(key) for key in _ALIKE)
                    ways.setdefault(way, {}).setdefault(results.name, row)
        if ways:
            # max() gives the first of equals.
            rows = max(ways.values(), key=len)
            return AlikeRows(_describe_way(*rows.values()), rows, (*others,))
    return AlikeRows("", {}, (*others,))


def _is_usable(row: Row) -> bool:
    is_step = row.get("protocol") == Protocol.TRAIN_STEP
    known = [finite(row.get(key)) for key in ("p50_ms", "batch_size")]
    return not is_step and all(known)


def _describe_way(row: Row, *_: Row) -> str:
    """What rows have in common that were timed in one way."""
    kind = "fine-tuned" if row["model"] == FINETUNED_MODEL else "1000-class"
    xla = ", XLA" if row.get("xla") else ""
    return (
        f"{kind} networks, {row.get('protocol')}, {row.get('runtime')}, batch "
        f"{row['batch_size']}, {row.get('precision')}{xla}, {row.get('device')}"
    )


def name_with_weights(results: BackboneRows) -> str:
    """The backbone's title; says so where its training began at random."""
    is_random = child(results.train, "weights").get("kind") == "none"
    return f"{results.title} (random start)" if is_random else results.title


def ranking_table(run: RunRows) -> Table:
    """A row a measured backbone, the most accurate first, with its place in each
    respect; of those without an accuracy the fastest first."""
    alike = find_alike(run)
    accuracy = {r.name: finite(r.evaluate.get("accuracy")) for r in run.backbones}
    training = {r.name: finite(r.train.get("train_secs")) for r in run.backbones}
    image_ms = {r.name: alike.image_ms(r.name) for r in run.backbones}
    ranked_ms = {
        name: value if alike.is_valid(name) else None
        for name, value in image_ms.items()
    }
    places = [
        _places(accuracy, best=max),
        _places(ranked_ms, best=min),
        _places(training, best=min),
    ]
    last = len(run.backbones) + 1
    order = sorted(
        run.measured or run.backbones,
        key=lambda r: [place.get(r.name, last) for place in places],
    )
    rows = [
        (
            name_with_weights(results),
            _place(places[0], results.name),
            format_measured("accuracy", accuracy[results.name]),
            format_interval(results),
            _place(places[1], results.name),
            _format_ms(image_ms[results.name], alike.is_valid(results.name)),
            _place(places[2], results.name),
            _format_secs(training[results.name]),
        )
        for results in order
    ]
    columns = (
        "backbone",
        "place by accuracy",
        "test accuracy",
        "95 % interval",
        "place by time an image",
        "ms an image",
        "place by training time",
        "training time",
    )
    return Table(
        "Ranking",
        columns,
        tuple(rows),
        tuple(_notes(run, order, alike)),
        run.sources("train", "evaluate", "latency"),
    )


def _places(values: Mapping[str, float | int | None], *, best: Any) -> dict[str, int]:
    """Places from 1; equal values share one."""
    known = {name: value for name, value in values.items() if value is not None}
    ordered = sorted(known.values(), reverse=best is max)
    return {name: ordered.index(value) + 1 for name, value in known.items()}


def _place(places: Mapping[str, int], name: str) -> str:
    return str(places[name]) if name in places else ""


def _format_ms(value: float | None, is_valid: bool) -> str:
    if value is None:
        return NOT_MEASURED
    return format_number(value, 2) + ("" if is_valid else " (invalid)")


def _format_secs(value: float | int | None) -> str:
    return NOT_MEASURED if value is None else format_secs(value)


def _notes(
    run: RunRows, order: Iterable[BackboneRows], alike: AlikeRows
) -> Iterable[str]:
    first, *others = order
    near = [results.title for results in others if _reaches(results, first)]
    if near:
        yield (
            f"The intervals of {', '.join(near)} overlap with that of {first.title}: "
            "so few test images do not tell which is better."
        )
    known = {results.name for results in run.measured}
    absent = [results.title for results in run.backbones if results.name not in known]
    if known and absent:
        yield f"Not measured: {', '.join(absent)}."
    if alike.way:
        yield f"Time an image: the median step divided by its batch; {alike.way}."
    if alike.others:
        yield f"{alike.others_text[:1].upper()}{alike.others_text[1:]}."
    invalid = [
        results.title
        for results in run.backbones
        if results.name in alike.rows and not alike.is_valid(results.name)
    ]
    if invalid:
        yield (
            f"Marked invalid, so without a place by time: {', '.join(invalid)}. The "
            "warnings of each say why."
        )
    yield "Training time is of all epochs, validation included."
    for key, words in _TRAINED_UNLIKE.items():
        groups: dict[str, list[str]] = collections.defaultdict(list)
        for results in run.backbones:
            if results.train:
                groups[str(_trained(results, key))].append(results.title)
        if len(groups) > 1:
            told = "; ".join(f"{v}: {', '.join(names)}" for v, names in groups.items())
            yield f"Not trained alike, {words}: {told}."


_TRAINED_UNLIKE = {
    "epochs": "epochs",
    "image_size": "pixels a side",
    "feature_cache": "feature cache",
    "weights": "weights",
}


def _trained(results: BackboneRows, key: str) -> Any:
    if key == "epochs":
        return len(results.epochs)
    if key == "weights":
        return child(results.train, "weights").get("kind")
    return results.train.get(key)


def _reaches(results: BackboneRows, first: BackboneRows) -> bool:
    """Whether the interval of an accuracy overlaps that of the best."""
    edges = [
        finite(edge)
        for one in (results, first)
        for edge in one.evaluate.get("interval") or ()
    ]
    if len(edges) != 4 or None in edges:
        return False
    return edges[1] >= edges[2]  # type: ignore[operator]
