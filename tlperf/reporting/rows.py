"""Result rows, sorted out for reading: the newest of each stage and backbone.

    run = collect_rows(read_results(workdir))
    run.backbones[0].train["epochs"], run.backbones[0].find_latency("compiled")

A stage that has no row is an empty dictionary, so that whoever reads asks with `.get`
and meets "missing" in one form only.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlperf.core.choices import Precision, Preset, Protocol, Runtime
from tlperf.core.files import to_json
from tlperf.core.results import RESULTS_NAME, latest
from tlperf.reference.backbones import BACKBONES, KERAS_BACKBONES
from tlperf.reference.paper import PUBLISHED_BATCH_SIZE
from tlperf.reporting.sources import Source

Row = Mapping[str, Any]

IMAGENET_MODEL, FINETUNED_MODEL = "imagenet", "finetuned"
# What each backbone goes through.
WAY_STAGES = ("train", "evaluate", "latency")


def finite(value: Any) -> float | int | None:
    """`value` where it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def child(row: Row, key: str) -> Row:
    """The object under `key`, or an empty one where there is none."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def objects(values: Any) -> list[Row]:
    """Those of a list that are objects."""
    values = values if isinstance(values, list) else []
    return [value for value in values if isinstance(value, Mapping)]


def is_valid(timed: Row) -> bool:
    """Whether a timed row keeps the rules of `tlperf.core.trials`; one that does not
    say so does not."""
    return timed.get("valid") is True


def invalid_text(timed: Row) -> str:
    """The rules that an INVALID row breaks, in its own words."""
    reasons = timed.get("invalid")
    told = map(str, reasons) if isinstance(reasons, list | tuple) else ()
    return f"INVALID: {'; '.join(told) or 'no reason given'}"


def is_smoke_row(row: Row) -> bool:
    """Whether a row was made with the settings that only show the machinery runs."""
    return child(row, "settings").get("preset") == Preset.QUICK.value


@dataclasses.dataclass(frozen=True)
class BackboneRows:
    """What was measured of one backbone.

    Attributes:
        name: as in result rows.
        title: as people write it.
        rows: newest row by stage: `train`, `evaluate`, `latency`, and `preprocess`, the
            check of the input against the pretrained weights; some may be missing.
        replaced: models and protocols that only older rows of `latency` have.
        lines: of results.jsonl, from 1: where each of `rows` stands.
    """

    name: str
    title: str
    rows: Mapping[str, Row]
    replaced: tuple[str, ...] = ()
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def sources(self, *stages: str) -> tuple[Source, ...]:
        """Where stages stand."""
        return cite([self], *stages)

    def result(self, stage: str) -> Row:
        """Result of a stage; empty where it was not measured."""
        return child(self.rows.get(stage, {}), "result")

    @property
    def train(self) -> Row:
        """Result of the training stage."""
        return self.result("train")

    @property
    def evaluate(self) -> Row:
        """Result of the evaluation stage."""
        return self.result("evaluate")

    @property
    def preprocess(self) -> Row:
        """Result of the check of what the weights expect of their input."""
        return self.result("preprocess")

    @property
    def latency_runs(self) -> tuple[Row, ...]:
        """Timed rows, one a model and protocol."""
        return tuple(objects(self.result("latency").get("runs")))

    def find_latency(self, protocol: str | None, *, model: str = IMAGENET_MODEL) -> Row:
        """A model's run under a protocol (None: any): of several the one as near to
        float32 on the tf runtime in batches of 32 as there is, which Table 1 is taken
        to be; empty where there is none."""
        known = [
            run
            for run in self.latency_runs
            if run.get("model") == model and protocol in (None, run.get("protocol"))
        ]

        def strangeness(run: Row) -> tuple[bool, ...]:
            return (
                run.get("runtime", Runtime.TF) != Runtime.TF,
                run.get("batch_size") != PUBLISHED_BATCH_SIZE,
                run.get("precision") != Precision.FLOAT32,
                not is_valid(run),
            )

        return min(known, key=strangeness, default={})

    def is_of_training(self, run: Row) -> bool:
        """Whether a network was timed with the weights that the accuracy is of, or with
        random ones. Older rows do not tell: what was timed before the newest training
        was another one's."""
        is_trained = run.get("model") == FINETUNED_MODEL
        is_trained &= run.get("protocol") != Protocol.TRAIN_STEP
        if is_trained and "weights_sha256" not in run:
            return self.lines.get("latency", 0) >= self.lines.get("train", 0)
        timed = run.get("weights_sha256")
        known = [row.get("weights_sha256") for row in (self.evaluate, self.train)]
        return timed is None or timed in known or not any(known)

    @property
    def epochs(self) -> tuple[Row, ...]:
        """Per-epoch values of the training."""
        return tuple(objects(self.train.get("epochs")))

    def is_smoke(self, stage: str) -> bool:
        """Whether a stage's figures are smoke figures."""
        return is_smoke_row(self.rows.get(stage, {}))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all stages, each named once; of a check of the input where the
        training that there is began with it."""
        train = self.rows.get("train", {})
        found = [
            f"{stage}: {text}"
            for stage, row in self.rows.items()
            if stage != "preprocess" or not train or _is_check_of(row, train)
            for text in _texts(row.get("warnings"))
        ]
        found += [
            f"latency, {run.get('protocol')}, {run.get('model')}: {text}"
            for run in self.latency_runs
            for text in _texts(run.get("warnings"))
        ]
        return tuple(dict.fromkeys(found))


def cite(backbones: Iterable[BackboneRows], *stages: str) -> tuple[Source, ...]:
    """The lines that stages of backbones have in results.jsonl, a source a stage."""
    known = list(backbones)
    lines = {
        stage: dict.fromkeys(r.lines[stage] for r in known if stage in r.lines)
        for stage in stages
    }
    return tuple(
        Source(RESULTS_NAME, stage, tuple(found))
        for stage, found in lines.items()
        if found
    )


def _is_check_of(check: Row, train: Row) -> bool:
    """Whether a check looked at what a training was given: the same weights under the
    same --preprocess."""

    def given(row: Row) -> tuple[object, object]:
        weights = child(child(row, "result"), "weights")
        asked = child(child(row, "settings"), "input")
        return weights.get("sha256"), asked.get("preprocess")

    return given(check) == given(train)


def _texts(values: Any) -> list[str]:
    values = values if isinstance(values, list) else []
    return [value if isinstance(value, str) else to_json(value) for value in values]


@dataclasses.dataclass(frozen=True)
class RunRows:
    """Everything a report is made of.

    Attributes:
        backbones: the study's six in the order of Table 1, then any other.
        shard: result of the stage that stored the data; empty where it has no row.
        rows: the rows that count, in the order of the way.
        shard_sources: where `shard` stands.
    """

    backbones: tuple[BackboneRows, ...]
    shard: Row
    rows: tuple[Row, ...]
    shard_sources: tuple[Source, ...] = ()

    def sources(self, *stages: str) -> tuple[Source, ...]:
        """Where stages of all backbones stand."""
        return cite(self.backbones, *stages)

    @property
    def is_smoke(self) -> bool:
        """Whether any figure of the report is a smoke figure."""
        return any(map(is_smoke_row, self.rows))

    @property
    def measured(self) -> tuple[BackboneRows, ...]:
        """Backbones that any stage of the way has a row of."""
        return tuple(
            results for results in self.backbones if {*results.rows} & {*WAY_STAGES}
        )


def collect_rows(rows: Sequence[dict[str, Any]]) -> RunRows:
    """The newest row of each stage and backbone."""
    stages = {stage: latest(rows, stage) for stage in (*WAY_STAGES, "preprocess")}
    titles = {spec.name: spec.title for spec in BACKBONES}
    others = {spec.name: spec.title for spec in KERAS_BACKBONES}
    for found in stages.values():
        new = [name for name in found if name and name not in titles]
        titles |= {name: others.get(name, name) for name in new}
    lines = {id(row): number for number, row in enumerate(rows, 1)}
    backbones = []
    for name, title in titles.items():
        own = _of_one_training(name, stages)
        backbones.append(
            BackboneRows(
                name=name,
                title=title,
                rows=own,
                replaced=_find_replaced(name, rows),
                lines={stage: lines[id(row)] for stage, row in own.items()},
            )
        )
    shards = list(latest(rows, "shard").values())[-1:]
    return RunRows(
        backbones=tuple(backbones),
        shard=child(shards[0], "result") if shards else {},
        rows=(
            *shards,
            *(row for results in backbones for row in results.rows.values()),
        ),
        shard_sources=tuple(
            Source(RESULTS_NAME, "shard", (lines[id(row)],)) for row in shards
        ),
    )


def _of_one_training(
    name: str, stages: Mapping[str, Mapping[str, Row]]
) -> dict[str, Row]:
    """A backbone's newest rows; an evaluation of weights that a newer training replaced
    is left out, since its accuracy is not that of the curves beside it."""
    rows = {stage: found[name] for stage, found in stages.items() if name in found}
    trained, evaluated = (
        child(rows.get(stage, {}), "result").get("weights_sha256")
        for stage in ("train", "evaluate")
    )
    if trained and evaluated and trained != evaluated:
        del rows["evaluate"]
    return rows


def _find_replaced(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """What the newest timing of a backbone left out of what was timed before."""
    timed = [
        {
            f"{run.get('model')} {run.get('protocol')}"
            for run in objects(child(row, "result").get("runs"))
        }
        for row in rows
        if (row["stage"], row["backbone"]) == ("latency", name)
    ]
    if not timed:
        return ()
    return tuple(sorted(set().union(*timed[:-1]) - timed[-1]))
