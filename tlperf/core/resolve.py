"""From flag values to frozen settings: presets, defaults of a workdir, typed values.

config = resolve_config("run", {"workdir": "w", "preset": "quick", "given": set()})
"""

import dataclasses
import pathlib
from typing import Any

from tlperf.core import files, settings
from tlperf.core.choices import Preset
from tlperf.core.errors import SettingsError
from tlperf.core.settings import RunConfig


def preset_values(preset: Preset) -> dict[str, Any]:
    """The flags a preset changes, by their names on the command line.

    `paper` is the defaults. `quick` is the embedded default for a machine with nothing
    on it: it has to end within five minutes on two cores, so images have the
    smallest side that all six accept, 120 photos are taken for one epoch and
    single images are timed.
    """
    if preset is Preset.PAPER:
        return {}
    return {
        "source": "photos",
        "weights": "none",
        "limit": 120,
        "image_size": 75,
        "epochs": 1,
        "batch_size": 16,
        "latency_batch_size": 1,
        "latency_secs": 1.0,
    }


# Commands that go on with what a workdir holds, under the settings it was made with.
_CONTINUING = ("evaluate", "latency", "predict", "export")
# Of their flags, those that are of the data's settings: what `predict` refuses.
_REFUSING = (
    *("max_pixels", "min_side", "max_file_bytes", "max_jpeg_scans", "image_check"),
    "follow_links",
)


def resolve_config(command: str, values: dict[str, Any]) -> RunConfig:
    """Frozen settings from flag values; a preset fills in what was not given.

    Args:
        command: `run`, `shard`, ...; `evaluate`, `latency`, `predict` and `export`
            start from the workdir's config.json, the others take its data directory at
            most.
        values: value by flag name, preset values written back into it; `given` holds
            the names that were set.
    """
    preset = Preset(values.get("preset") or Preset.PAPER)
    for name, value in preset_values(preset).items():
        if name in values and name not in values["given"]:
            values[name] = value
    stored = _workdir_config(command, values)
    if stored is not None and command in _CONTINUING:
        return _continued(stored, command, values, preset)
    data_dir = values.get("data_dir") or (stored.data_dir if stored else "")
    return RunConfig(
        workdir=values["workdir"],
        data_dir=data_dir,
        reuse_data=_reuses_data(command, values),
        backbones=values.get("backbones", settings.ALL_BACKBONES),
        preset=preset,
        # `train` does not shard: its data were stored under the workdir's settings.
        data=stored.data if stored and command == "train" else _data_config(values),
        input=_pick(settings.InputConfig, values),
        model=_pick(settings.ModelConfig, values),
        training=_pick(settings.TrainConfig, values),
        features=_pick(settings.FeatureConfig, values),
        device=_pick(settings.DeviceConfig, values),
        latency=_latency_config(command, values),
    )


def _workdir_config(command: str, values: dict[str, Any]) -> RunConfig | None:
    """The settings of a workdir, for commands that do not make it anew."""
    path = pathlib.Path(values["workdir"]) / "config.json"
    if command in ("run", "shard", "serve") or values.get("model"):
        return None  # made anew, or not read: an exported model is enough
    if not path.is_file():
        return None
    return RunConfig.from_dict(files.read_json(path))


def _continued(
    stored: RunConfig, command: str, values: dict[str, Any], preset: Preset
) -> RunConfig:
    """The stored settings with the flags that were given, and this command's own."""
    given = {name: values[name] for name in values["given"] if name in values}
    device = {**dataclasses.asdict(stored.device), **given}
    inputs = {**dataclasses.asdict(stored.input), **given}
    return dataclasses.replace(
        stored,
        # What a step takes does not depend on how the network was trained.
        preset=preset if command == "latency" else stored.preset,
        workdir=values["workdir"],
        data_dir=given.get("data_dir", stored.data_dir),
        backbones=given.get("backbones", stored.backbones),
        data=dataclasses.replace(stored.data, **_pick_refusing(given)),
        device=_pick(settings.DeviceConfig, device),
        input=_pick(settings.InputConfig, inputs),
        model=_pick(
            settings.ModelConfig, {**dataclasses.asdict(stored.model), **given}
        ),
        training=dataclasses.replace(
            stored.training, resume=given.get("resume", False)
        ),
        latency=_latency_config(command, values),
    )


def _pick_refusing(given: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in _REFUSING if name in given]
    picked = _pick(settings.DataConfig, {name: given[name] for name in names})
    return {name: getattr(picked, name) for name in names}


def _reuses_data(command: str, values: dict[str, Any]) -> bool:
    """`run --data_dir=D` without a source takes the finished directory as it is."""
    given = values["given"]
    if command != "run" or "data_dir" not in given or "source" in given:
        return False
    return (pathlib.Path(values["data_dir"]) / "COMPLETE").exists()


def _pick(cls: type, values: dict[str, Any]) -> Any:
    """A settings object from the flags that bear its fields' names."""
    names = {field.name for field in dataclasses.fields(cls)} & set(values)
    plain = {name: values[name] for name in names if values[name] is not None}
    return settings.from_plain(cls, plain)


def _data_config(values: dict[str, Any]) -> settings.DataConfig:
    # `image_size` stores images at that size only where they are encoded anew.
    stored = dict(values)
    if stored.get("encoding", "source") == "source":
        stored.pop("image_size", None)
    if "split" in stored:
        parts = str(stored["split"]).split("/")
        if not all(part.isdecimal() for part in parts):
            raise SettingsError(f"split is {stored['split']!r}", "write 60/20/20")
        stored["split"] = [int(part) for part in parts]
    return _pick(settings.DataConfig, stored)


def _latency_config(command: str, values: dict[str, Any]) -> settings.LatencyConfig:
    picked: dict[str, Any] = {}
    if values.get("latency_batch_size"):
        picked["batch_size"] = values["latency_batch_size"]
    for name, field in (
        ("protocol", "protocols"),
        ("runtime", "runtimes"),
        ("sweep", "sweep"),
    ):
        if values.get(name):
            picked[field] = values[name].split(",")
    for name in ("processes", "min_secs"):
        if values.get(name) is not None:
            picked[name] = values[name]
    seconds = values.get("latency_secs")
    if command == "run":
        seconds = settings.RUN_LATENCY_SECS if seconds is None else seconds
        # A first look, by the process that trained.
        picked |= {"processes": 1, "min_secs": 0.0}
    if seconds is not None:
        picked["latency_secs"] = seconds
    return settings.from_plain(settings.LatencyConfig, picked)
