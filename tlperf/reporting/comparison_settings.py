"""What else differs between workdirs: training times, settings, machines, data.

compare_training(workdirs, "xception")["secs"]    # {"A": 412.0, "B": 377.5}
list_differences(workdirs)    # [{"what": "training epochs", "A": "10", "B": "3"}]
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlperf.core.files import to_json
from tlperf.core.units import NOT_AVAILABLE, ratio
from tlperf.reporting.comparison_inputs import Workdir
from tlperf.reporting.document import NOT_MEASURED
from tlperf.reporting.rows import Row, child, finite

# What was decided in training, beside the settings that asked for it.
_TRAINED = (
    *("image_size", "batch_size", "preprocess", "decode", "freeze", "optimizer"),
    *("precision", "xla", "strategy", "replicas", "feature_cache", "weights"),
    "data_digest",
)
# Names of a workdir and of what is in it: always other ones.
_PLACES = ("workdir", "data_dir", "features feature_dir")


def compare_training(workdirs: Sequence[Workdir], backbone: str) -> dict[str, Any]:
    """Times of a backbone's training in each workdir, by label.

    Returns:
        backbone; secs (all epochs, validation included), epochs, images_per_sec and
        device; ratio: secs by those of the first workdir; None where not measured. One
        training each gives no interval, so there is no verdict.
    """
    found: dict[str, dict[str, Any]] = {
        key: {} for key in ("secs", "epochs", "images_per_sec", "device", "ratio")
    }
    for workdir in workdirs:
        results, label = workdir.results(backbone), workdir.label
        trained = results.train
        device = child(results.rows.get("train", {}), "device").get("text")
        found["secs"][label] = finite(trained.get("train_secs"))
        found["epochs"][label] = len(results.epochs) if trained else None
        found["images_per_sec"][label] = finite(trained.get("images_per_sec"))
        found["device"][label] = device if isinstance(device, str) else None
    of_first = found["secs"][workdirs[0].label]
    for workdir in workdirs[1:]:
        secs = found["secs"][workdir.label]
        found["ratio"][workdir.label] = ratio(secs, of_first)
    return {"backbone": backbone, **found}


def list_differences(workdirs: Sequence[Workdir]) -> list[dict[str, str]]:
    """What was set or found otherwise: `what`, and by label its values as text.

    Where backbones of a workdir differ, each value is named once.
    """
    found = {workdir.label: _collect(workdir) for workdir in workdirs}
    names = dict.fromkeys(name for values in found.values() for name in values)
    rows = []
    for name in sorted(names):
        texts = {
            label: " / ".join(sorted(values.get(name, ()))) or NOT_MEASURED
            for label, values in found.items()
        }
        if len(set(texts.values())) > 1:
            rows.append({"what": name, **texts})
    return rows


def _collect(workdir: Workdir) -> dict[str, set[str]]:
    """Texts of every fact by its name."""
    found: dict[str, set[str]] = {}
    for row in workdir.run.rows:
        for name, text in _row_facts(row):
            found.setdefault(name, set()).add(text)
    return found


def _row_facts(row: Row) -> Iterator[tuple[str, str]]:
    stage, result = str(row.get("stage")), child(row, "result")
    for name, text in _flatten(child(row, "settings")):
        if name not in _PLACES and _concerns(stage, name):
            yield f"setting: {name}", text
    for key in ("machine", "device"):
        for name, text in _flatten(child(row, key)):
            yield f"{key}: {name}", text
    if stage == "train":
        chosen = {name: result[name] for name in _TRAINED if name in result}
        backbone = row.get("backbone")
        for name, text in _flatten(chosen):
            yield f"trained {backbone}: {name}", text
    if stage == "shard" and "digest" in result:
        yield "data: digest", str(result["digest"])


def _concerns(stage: str, name: str) -> bool:
    """A row has all settings, also those that its stage does not read: a later command
    leaves them as they are by default."""
    part = name.partition(" ")[0]
    readers = {"data": "shard", "latency": "latency", "training": "train"}
    readers |= {"model": "train", "features": "train", "input": "train"}
    return readers.get(part, stage) == stage


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name} ")
        elif value is None:
            yield f"{prefix}{name}", NOT_AVAILABLE
        else:
            text = value if isinstance(value, str) else to_json(value)
            yield f"{prefix}{name}", text
