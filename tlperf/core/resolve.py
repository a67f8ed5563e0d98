"""From flag values to frozen settings: presets, defaults of a workdir, typed values.

config = resolve_config("run", {"workdir": "w", "preset": "quick", "given": set()})
"""

import dataclasses
import pathlib
from typing import Any

from tlperf.core import files, settings
from tlperf.core.errors import SettingsError
from tlperf.core.settings import Preset, RunConfig


def preset_values(preset: Preset) -> dict[str, Any]:
    """The flags a preset changes, by their names on the command line.

    `paper` is the defaults. `quick` is the embedded default for a machine with nothing
    on it: it has to end within five minutes on two cores, so images have the
    smallest side that all six accept, 120 photos are taken and single images
    are timed.
    """
    if preset is Preset.PAPER:
        return {}
    return {
        "source": "photos",
        "weights": "none",
        "limit": 120,
        "image_size": 75,
        "epochs": 2,
        "batch_size": 16,
        "latency_batch_size": 1,
        "latency_secs": 1.0,
    }


def resolve_config(command: str, values: dict[str, Any]) -> RunConfig:
    """Frozen settings from flag values; a preset fills in what was not given.

    Args:
        command: `run`, `shard`, ...; commands that go on in a workdir take the data
            directory and the preset of its config.json.
        values: value by flag name, preset values written back into it; `given` holds
            the names that were set.
    """
    preset = Preset(values.get("preset") or Preset.PAPER)
    given = values["given"]
    for name, value in preset_values(preset).items():
        if name in values and name not in given:
            values[name] = value
    inherited = _workdir_settings(command, values)
    if "data_dir" in values and not values["data_dir"]:
        values["data_dir"] = inherited.get("data_dir")
    if command in ("evaluate", "latency") and "backbones" not in given:
        values["backbones"] = inherited.get("backbones", values["backbones"])
    if "preset" not in given and inherited.get("preset"):
        preset = Preset(inherited["preset"])
    return RunConfig(
        workdir=values["workdir"],
        data_dir=values.get("data_dir") or inherited.get("data_dir") or "",
        reuse_data=_reuses_data(command, values),
        backbones=values.get("backbones", settings.ALL_BACKBONES),
        preset=preset,
        data=_data_config(values),
        input=_pick(settings.InputConfig, values),
        model=_pick(settings.ModelConfig, values),
        training=_pick(settings.TrainConfig, values),
        device=_pick(settings.DeviceConfig, values),
        latency=_latency_config(command, values),
    )


def _workdir_settings(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """Where the data are and what was run, for commands that go on in a workdir."""
    path = pathlib.Path(values["workdir"]) / "config.json"
    if command in ("run", "shard") or not path.is_file():
        return {}
    return files.read_json(path)


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
    if values.get("protocol"):
        picked["protocols"] = values["protocol"].split(",")
    seconds = values.get("latency_secs")
    if seconds is None and command == "run":
        seconds = settings.RUN_LATENCY_SECS
    if seconds is not None:
        picked["latency_secs"] = seconds
    return settings.from_plain(settings.LatencyConfig, picked)
