"""Settings: validated at construction, the same after JSON, texts that help."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlperf.core import choices, settings
from tlperf.core.errors import ExitCode, SettingsError, TlperfError, escape_text
from tlperf.core.resolve import preset_values, resolve_config
from tlperf.core.settings import RunConfig


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: settings.DataConfig(split=(60, 20, 21)), "split is '60/20/21'"),
        (lambda: settings.DataConfig(split=(100, 0, 0)), "split is '100/0/0'"),
        (lambda: settings.DataConfig(name="2cats"), "name is '2cats'"),
        (lambda: settings.DataConfig(name="cats\n"), "name is 'cats\\n'"),
        (lambda: settings.DataConfig(limit=-1), "limit is -1"),
        (
            lambda: settings.DataConfig(encoding=choices.Encoding.RAW),
            "give --image_size with it",
        ),
        (lambda: settings.InputConfig(batch_size=0), "batch_size is 0"),
        (lambda: settings.InputConfig(image_size=7), "image_size is 7"),
        (lambda: settings.TrainConfig(learning_rate=0.0), "learning_rate is 0.0"),
        (lambda: settings.TrainConfig(epochs=0), "epochs is 0"),
        (lambda: settings.DeviceConfig(devices="gpu:x"), "devices is 'gpu:x'"),
        (lambda: settings.DeviceConfig(devices="gpu:0,1,0"), "give each GPU once"),
        (lambda: settings.DeviceConfig(devices="gpu:1,01"), "give each GPU once"),
        (
            lambda: settings.DeviceConfig(devices=f"gpu:{'9' * 5000}"),
            "devices is 'gpu:9",
        ),
        (lambda: settings.LatencyConfig(warmup_steps=0), "warmup_steps is 0"),
        (lambda: settings.LatencyConfig(protocols=()), "give at least one"),
        (lambda: RunConfig(workdir=""), "workdir is ''"),
        (
            lambda: choices.parse_choice(choices.Xla, "maybe"),
            "'maybe' is no Xla; use auto, on, off",
        ),
    ],
)
def test_a_bad_value_is_printed_with_what_to_give(make, text):
    with pytest.raises(SettingsError) as caught:
        make()
    assert text in str(caught.value)
    assert caught.value.code is ExitCode.USAGE
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("devices", "numbers"),
    [("auto", ()), ("cpu", ()), ("gpu", ()), ("gpu:1", (1,)), ("gpu:2,0", (2, 0))],
)
def test_gpus_are_named_by_number(devices, numbers):
    assert settings.DeviceConfig(devices=devices).gpu_numbers == numbers


def test_settings_come_back_equal_from_json():
    config = RunConfig(
        workdir="w",
        data=settings.DataConfig(
            split=(50, 25, 25), encoding=choices.Encoding.RAW, image_size=96
        ),
        training=settings.TrainConfig(optimizer=choices.Optimizer.ADAGRAD),
        latency=settings.LatencyConfig(protocols=(choices.Protocol.COMPILED,)),
        preset=choices.Preset.QUICK,
    )
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert isinstance(again.data.encoding, choices.Encoding)
    assert isinstance(again.training.optimizer, choices.Optimizer)


def test_a_setting_of_another_version_is_refused():
    values = RunConfig(workdir="w").to_dict()
    values["data"]["colour"] = "red"
    with pytest.raises(SettingsError, match="DataConfig has no setting colour"):
        RunConfig.from_dict(values)


def test_settings_cannot_be_changed():
    config = settings.InputConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 1  # type: ignore[misc]


def _values(**given):
    defaults = {"workdir": "w", "preset": "paper", "batch_size": 32, "epochs": 10}
    defaults |= {"backbones": "all"}
    return {**defaults, **given, "given": set(given)}


def test_a_preset_fills_in_only_what_was_not_given():
    config = resolve_config("run", _values(preset="quick", epochs=7))
    assert config.training.epochs == 7
    assert config.input.batch_size == preset_values(choices.Preset.QUICK)["batch_size"]
    assert config.is_smoke


def test_run_limits_a_latency_row_and_latency_does_not():
    assert resolve_config("run", _values()).latency.latency_secs == 60
    assert resolve_config("latency", _values()).latency.latency_secs == 0


@pytest.mark.parametrize("split", ["60/20", "a/b/c", "60/20/20/0", ""])
def test_a_split_that_is_no_split_is_refused(split):
    with pytest.raises(SettingsError, match="split is"):
        resolve_config("run", _values(split=split))


def test_an_error_line_has_the_documented_form():
    error = TlperfError(
        ExitCode.INTEGRITY,
        "damaged_record",
        path="/d/x\n.tfrecord",
        shard=3,
        record=7,
        found="CRC differs",
        remedy="shard again",
    )
    assert error.line("train") == (
        "tlperf train: E76 damaged_record: /d/x\\n.tfrecord (shard 3, record 7): "
        "CRC differs; shard again"
    )


@given(st.text())
def test_escaped_text_is_one_printable_line(text):
    assert escape_text(text).isprintable()
