"""The command line: instant help, one error line with its code, one JSON object."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from tlperf import cli
from tlperf.commands import COMMANDS, write_flagfile
from tlperf.core.choices import Preset
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.resolve import resolve_config
from tlperf.core.settings import RunConfig, TrainConfig
from tlperf.job.outcome import run_guarded
from tlperf.job.sweep import write_settings

README = pathlib.Path(__file__).parents[1] / "README.md"


def run_main(*arguments):
    """Runs the command line in this process; for commands without TensorFlow."""
    return cli.main(list(arguments))


def error_line(capsys):
    """The one line on stderr that starts like an error."""
    lines = [x for x in capsys.readouterr().err.splitlines() if ": E" in x]
    assert len(lines) == 1, lines
    return lines[0]


def timed(*arguments):
    """Runs a command line in a fresh process: seconds, and the finished process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    return time.perf_counter() - start, done


WITHOUT = (
    "import sys; from tlperf import cli; code = cli.main(sys.argv[1:]);"
    "heavy = {'tensorflow', 'keras', 'tensorflow_datasets', 'sklearn', 'matplotlib'};"
    "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["serve", "--help"], ["--version"]]
)
def test_help_is_instant_and_imports_nothing_heavy(arguments):
    runs = [timed("-c", WITHOUT, *arguments) for _ in range(3)]
    for _, done in runs:
        assert done.returncode == 0
        assert done.stderr.strip() == "[]"
    assert min(secs for secs, _ in runs) < 1.0


def test_importing_the_package_has_no_effect():
    code = (
        "import sys, os; before = dict(os.environ); import tlperf, tlperf.cli;"
        "assert dict(os.environ) == before; from absl import flags;"
        "assert 'workdir' not in flags.FLAGS; assert 'tensorflow' not in sys.modules"
    )
    _, done = timed("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_lists_commands_in_the_order_of_the_way(capsys):
    assert run_main("--help") == 0
    text = capsys.readouterr().out
    order = [
        *("run", "shard", "verify", "inspect", "input"),
        *("train", "evaluate", "latency", "predict", "export", "report", "check"),
        *("serve", "doctor"),
    ]
    assert re.findall(r"^  (\w+) ", text, re.MULTILINE) == order


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_commands_help_shows_its_flags_with_defaults_and_no_others(command, capsys):
    assert run_main(command, "--help") == 0
    shown = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    assert shown == {*COMMANDS[command].flags, "flagfile"}


def test_every_flag_is_some_commands_and_has_a_place_in_the_settings():
    used = {name for row in COMMANDS.values() for name in row.flags}
    assert used == set(cli.FLAGS)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["trian"], 64, "no command is called trian; did you mean train?"),
        ([], 64, "no command is called"),
        (["run", "--bachsize=3"], 64, "did you mean --batch_size?"),
        (["run", "--format=zip"], 64, "tfrecord|hdf5"),
        (["run", "--epochs=many"], 64, "epochs"),
        (["run", "extra"], 64, "'extra' is no flag"),
        (["run", "--split=60/40"], 64, "split is '60/40'"),
        (["run", "--batch_size=0"], 64, "batch_size is 0"),
        (["run", "--backbones=xeption"], 64, "did you mean xception?"),
        (["run", "--weights=/no/such/folder"], 66, "no such weights file"),
        (["train", "--protocol=x"], 64, "no flag is called --protocol"),
        (["latency", "--protocol=fast"], 64, "'fast' is no Protocol"),
        (["shard", "--encoding=raw"], 64, "give --image_size with it"),
        (["verify", "--data_dir=/no/such"], 66, "/no/such"),
        (["inspect", "--data_dir=/no/such"], 66, "/no/such"),
        (["report", "--workdir=/no/such"], 66, "/no/such"),
        (["check", "--workdir=/no/such"], 66, "/no/such"),
        (["shard", "--source=/no/such", "--workdir={tmp}"], 66, "/no/such"),
    ],
)
def test_a_bad_call_gives_one_line_and_its_code(
    arguments, code, text, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run_main(*arguments) == code
    line = error_line(capsys)
    assert line.startswith(f"tlperf {arguments[0] if arguments else ''}".rstrip()) or (
        arguments[0] not in COMMANDS
    )
    assert f"E{code} " in line
    assert text in line
    assert "; " in line  # what was found; what to do


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("a\nb"), ExitCode.INTERNAL, "internal_error: RuntimeError: a; "),
        (MemoryError(), ExitCode.MEMORY, "out_of_memory: Python could not allocate; "),
        (OSError(5, "Input/output error", "f"), ExitCode.IO, "io_error: f: Input/out"),
        (KeyboardInterrupt(), 130, "tlperf shard: interrupted"),
    ],
)
def test_errors_that_no_room_named_have_a_line_too(error, code, line, capsys):
    def action():
        raise error

    assert run_guarded("shard", action) == code
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def write_photos(folder, classes=("cats", "dogs"), count=6):
    """A source folder of small real JPEGs."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (40 + i, 30), (90 * number, 10 * i, 120))
            image.save(folder / name / f"{i}.jpg")
    return folder


@pytest.mark.parametrize(
    ("classes", "spoil", "text"),
    [
        (("cats",), None, "one"),
        (("cats", "dogs"), "dogs", "dogs"),
        ((), None, ""),
    ],
)
def test_a_source_that_cannot_train_is_refused(tmp_path, capsys, classes, spoil, text):
    source = tmp_path / "source"
    source.mkdir()
    write_photos(source, classes)
    if spoil:
        shutil.rmtree(source / spoil)
        (source / spoil).mkdir()
    code = run_main("shard", f"--source={source}", f"--workdir={tmp_path / 'w'}")
    assert code == ExitCode.DATA
    assert text in error_line(capsys)
    assert not list((tmp_path / "w").glob("**/COMPLETE"))


def test_imagenet_weights_without_a_network_name_the_other_choices(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    # A proxy that refuses: what urllib meets on a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    code = run_main("run", "--backbones=vgg16", f"--workdir={tmp_path / 'w'}")
    line = error_line(capsys)
    assert code == ExitCode.UNAVAILABLE
    for choice in ("--weights=none", "--weights=DIR", "--weights=FILE"):
        assert choice in line
    assert not (tmp_path / "w" / "data").exists()  # refused before any work


def test_a_weights_folder_that_lacks_a_backbone_is_refused(tmp_path, capsys):
    (tmp_path / "xception_notop.weights.h5").write_bytes(b"not read before the check")
    code = run_main(
        "run", "--backbones=xception,vgg16", f"--weights={tmp_path}",
        f"--workdir={tmp_path / 'w'}",
    )  # fmt: skip
    assert code == ExitCode.NO_INPUT
    line = error_line(capsys)
    assert "no weights for vgg16" in line
    assert "vgg16_notop.weights.h5" in line


@pytest.mark.parametrize("reuses", [False, True])
def test_a_flagfile_runs_the_same_again(tmp_path, reuses):
    (tmp_path / "d").mkdir()
    arguments = ["--preset=quick", "--epochs=7", f"--workdir={tmp_path}"]
    if reuses:
        (tmp_path / "d" / "COMPLETE").touch()
        arguments.append(f"--data_dir={tmp_path / 'd'}")
    values = cli.parse_values("run", arguments)
    config = resolve_config("run", values)
    write_flagfile("run", values)
    again = cli.parse_values("run", [f"--flagfile={tmp_path / 'flags.txt'}"])
    assert resolve_config("run", again) == config
    assert config.reuse_data == reuses


def test_evaluate_goes_on_under_the_settings_of_the_workdir(tmp_path):
    made = RunConfig(
        workdir=str(tmp_path),
        data_dir="d",
        backbones="vgg16",
        training=TrainConfig(epochs=3),
        preset=Preset.QUICK,
    )
    write_settings(made)
    values = cli.parse_values("evaluate", [f"--workdir={tmp_path}", "--batch_size=8"])
    found = resolve_config("evaluate", values)
    assert (found.backbones, found.training.epochs) == ("vgg16", 3)
    assert (found.data_dir, found.is_smoke) == ("d", True)
    assert found.input.batch_size == 8
    # Training anew takes the data and nothing else: a preset is never half applied.
    values = cli.parse_values("train", [f"--workdir={tmp_path}"])
    found = resolve_config("train", values)
    assert (found.data_dir, found.training.epochs, found.is_smoke) == ("d", 10, False)


def test_a_refused_run_keeps_the_files_of_the_run_before(tmp_path, capsys):
    for name in ("flags.txt", "config.json"):
        (tmp_path / name).write_text("kept")
    bad = ["--image_size=60", "--weights=none", f"--workdir={tmp_path}"]
    assert run_main("run", *bad) == ExitCode.USAGE
    assert "give 75 or more: InceptionV3" in error_line(capsys)
    for name in ("flags.txt", "config.json"):
        assert (tmp_path / name).read_text() == "kept"
    assert not (tmp_path / "data").exists()


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    for command in ("run", "shard", "latency"):
        arguments = [f"--workdir={tmp_path / 'w'}", "--dry_run", "--json"]
        assert run_main(command, *arguments) == 0
        assert json.loads(capsys.readouterr().out)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (SettingsError("x is 1", "give 2"), 64, "x is 1; give 2"),
        (MemoryError(), 71, "smaller batch (--batch_size"),
        (FileNotFoundError(2, "No such file", "/a/b"), 74, "/a/b: No such file"),
        (RuntimeError("boom\nline two"), 70, "RuntimeError: boom; please report"),
        (TlperfError(ExitCode.RETRY, "r", found="f", remedy="m"), 75, "r: f; m"),
    ],
)
def test_every_exception_becomes_one_line(raised, code, text, capsys):
    def action():
        raise raised

    assert run_guarded("run", action) == code
    assert text in error_line(capsys)


def test_an_interrupt_ends_in_130(capsys):
    def action():
        raise KeyboardInterrupt

    assert run_guarded("run", action) == 130
    assert "interrupted" in capsys.readouterr().err


def test_readme_commands_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "flags.txt").write_text("--preset=quick\n")
    lines = re.findall(r"^ {4}(?:python -m )?tlperf (.+)$", README.read_text(), re.M)
    commands = [line.split("#")[0].split() for line in lines]
    assert {"run", "train", "report"} <= {command[0] for command in commands}
    for command, *arguments in commands:
        if command not in ("--help", "--version"):
            values = cli.parse_values(command, arguments)
            resolve_config(command, values)


def test_the_data_way_from_shard_to_inspect(tmp_path, capsys):
    source = write_photos(tmp_path / "source", count=20)
    (source / "cats" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (source / "dogs" / "empty.jpg").write_bytes(b"")
    (source / "dogs" / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    workdir = f"--workdir={tmp_path / 'w'}"
    assert run_main("shard", f"--source={source}", workdir, "--json") == 0
    out = capsys.readouterr().out
    result = json.loads(out)
    assert out.count("\n") == 1
    assert (result["seen"], result["accepted"], result["quarantined"]) == (43, 40, 3)
    assert result["splits"]["train"] == {"cats": 12, "dogs": 12}
    assert run_main("verify", workdir) == 0
    assert capsys.readouterr().out.startswith("ok: 40 records")
    png = tmp_path / "sheet.png"
    assert run_main("inspect", workdir, f"--png={png}", "--json") == 0
    with Image.open(png) as sheet:
        assert sheet.size[0] > 100
    (shard,) = (tmp_path / "w" / "data").glob("*-train.tfrecord-*-of-00001")
    os.truncate(shard, shard.stat().st_size - 100)
    capsys.readouterr()
    assert run_main("verify", workdir) == ExitCode.INTEGRITY
    assert shard.name in capsys.readouterr().out
    assert run_main("train", workdir, "--weights=none") == ExitCode.INTEGRITY
    assert shard.name in error_line(capsys)
