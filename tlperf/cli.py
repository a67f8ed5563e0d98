"""The command line: absl flags to frozen settings to one call into a room.

    tlperf run --preset=quick --workdir=w

Flags (`tlperf.flags`) are defined on a FlagValues of each call: importing this module
defines none. Heavy imports happen inside the commands.
"""

import dataclasses
import difflib
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tlperf.core import files
from tlperf.core.errors import ExitCode, SettingsError
from tlperf.core.quiet import VERBOSE_VARIABLE, quiet_stderr
from tlperf.core.resolve import resolve_config
from tlperf.core.settings import RunConfig
from tlperf.flags import (
    COMMON,
    DEVICE_FLAGS,
    FLAGS,
    INPUT_FLAGS,
    LATENCY_FLAGS,
    PREDICT_FLAGS,
    RUN_FLAGS,
    SOURCE_FLAGS,
    TRAIN_FLAGS,
)
from tlperf.job.outcome import run_guarded
from tlperf.reporting import terminal

Outcome = tuple[dict[str, Any], ExitCode]


# Commands whose --dry_run is a plan; the others show the settings they would use.
_PLANNED = ("run", "shard", "train")


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: one line.
        flags: names of rows of `FLAGS`, in help order.
        call: settings and given values to the JSON to print and the exit code.
        render: that JSON as text.
        after: what goes on once the result is printed, given the same values.
    """

    help: str
    flags: tuple[str, ...]
    call: Callable[[RunConfig, dict[str, Any]], Outcome]
    render: Callable[[dict[str, Any]], str]
    after: Callable[[dict[str, Any]], None] = lambda values: None


def _run(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job import run

    if values["dry_run"]:
        return run.plan_job(config), ExitCode.OK
    # Not before: a refused call keeps the flags of the run that is there.
    accepted = functools.partial(write_flagfile, "run", values)
    return run.run_job(config, on_accepted=accepted), ExitCode.OK


def _shard(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.dataset.shard import plan_dataset
    from tlperf.job.run import shard_job

    if values["dry_run"]:
        return plan_dataset(config.data, config.data_path), ExitCode.OK
    return shard_job(config), ExitCode.OK


def _verify(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.dataset.verify import verify_dataset

    result = verify_dataset(config.data_path, full=not values["fast"])
    return result, ExitCode.OK if result["ok"] else ExitCode.INTEGRITY


def _inspect(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.dataset.inspect import inspect_dataset

    png = pathlib.Path(values["png"]) if values["png"] else None
    near = values["near_duplicates"]
    result = inspect_dataset(config.data_path, png=png, near_duplicates=near)
    return result, ExitCode.OK


def _input(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.pipeline.chart import check_plot, draw_input

    plot = None if values["plot"] is None else pathlib.Path(values["plot"])
    if plot is not None:
        check_plot(plot)
    with quiet_stderr():
        from tlperf.job.stages import StageRunner

    result = StageRunner(config).measure_input(
        secs=values["secs"], demand=values["demand"]
    )
    if plot is not None:
        draw_input(result, plot)
    return result, ExitCode.OK


def _train(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job import run

    if values["dry_run"]:
        planned = dataclasses.replace(config, reuse_data=True)
        return run.plan_job(planned), ExitCode.OK
    return run.stage_job(config, "train"), ExitCode.OK


def _evaluate(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.run import stage_job

    return stage_job(config, "evaluate"), ExitCode.OK


def _latency(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.run import latency_job

    return latency_job(config), ExitCode.OK


def _predict(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.predict import PredictRequest, predict_job

    result = predict_job(config, PredictRequest.from_flags(values))
    return result, ExitCode.DATA if result["problems"] else ExitCode.OK


def _export(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.deploy import ExportRequest, export_job

    return export_job(config, ExportRequest.from_flags(values)), ExitCode.OK


def _report(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.reporting.report import write_report

    return write_report(pathlib.Path(config.workdir)), ExitCode.OK


def _check(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.reporting.check import check_workdir

    result = check_workdir(config.workdir)
    return result, ExitCode.OK if result["ok"] else ExitCode.DATA


def _serve(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.pipeline.serve import ServeConfig, start_server

    given = {
        field.name: values[field.name] for field in dataclasses.fields(ServeConfig)
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    values["server"] = start_server(ServeConfig(**wanted))
    return values["server"].facts, ExitCode.OK


def _keep_serving(values: dict[str, Any]) -> None:
    values["server"].wait()


def _doctor(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.doctor.checks import run_checks

    checks = run_checks(config)
    good = all(check["ok"] for check in checks)
    return {"checks": checks}, ExitCode.OK if good else ExitCode.CONFIG


# In the order of the way.
COMMANDS = {
    "run": Command(
        "shard if needed, train, evaluate and time each backbone, report",
        RUN_FLAGS,
        _run,
        terminal.render_run,
    ),
    "shard": Command(
        "images to shards, with splits, quarantine and manifest",
        (*COMMON, "data_dir", *SOURCE_FLAGS, "image_size"),
        _shard,
        terminal.render_values,
    ),
    "verify": Command(
        "full integrity check of a data directory",
        (*COMMON, "data_dir", "fast"),
        _verify,
        terminal.render_verify,
    ),
    "inspect": Command(
        "what is in a data directory: counts, sizes, shapes",
        (*COMMON, "data_dir", "png", "near_duplicates"),
        _inspect,
        terminal.render_inspect,
    ),
    "input": Command(
        "how fast the input pipeline is alone, and where its time goes",
        (*COMMON, "data_dir", *INPUT_FLAGS, *DEVICE_FLAGS),
        _input,
        terminal.render_input,
    ),
    "train": Command(
        "fine-tune backbones on a data directory",
        (
            *(*COMMON, "data_dir", "seed", *TRAIN_FLAGS, *DEVICE_FLAGS),
            *("startup_timeout", "allow_public_bind"),
        ),
        _train,
        terminal.render_train,
    ),
    "evaluate": Command(
        "evaluate trained backbones on the test split",
        (
            *(*COMMON, "data_dir", "backbones", "batch_size", "ram_budget"),
            *DEVICE_FLAGS,
        ),
        _evaluate,
        terminal.render_evaluate,
    ),
    "latency": Command(
        "time inference steps beside the published figures",
        (
            *(*COMMON, "backbones", "freeze", "image_size", *LATENCY_FLAGS),
            *("runtime", "processes", "min_secs", "sweep", "resume", "profile_steps"),
            *DEVICE_FLAGS,
        ),
        _latency,
        terminal.render_latency,
    ),
    "predict": Command(
        "classes and probabilities of new images, by a trained or exported network",
        (*COMMON, *PREDICT_FLAGS),
        _predict,
        terminal.render_predict,
    ),
    "export": Command(
        "trained networks as files, preprocessing inside, compared before they stay",
        (*COMMON, "data_dir", "backbones", "export_format", "out"),
        _export,
        terminal.render_export,
    ),
    "report": Command(
        "rebuild the report from result files",
        COMMON,
        _report,
        terminal.render_values,
    ),
    "check": Command(
        "whether timed rows can be published, and what they lack",
        COMMON,
        _check,
        terminal.render_check,
    ),
    "serve": Command(
        "a dispatcher or worker of --data_service; workers read the data directory "
        "themselves, under the same path",
        (
            *("dispatcher", "port", "worker_host", "journal_dir", "allow_public_bind"),
            *("dry_run", "json", "verbose"),
        ),
        _serve,
        terminal.render_serve,
        _keep_serving,
    ),
    "doctor": Command(
        "what this machine, install, data and weights can do, and what is wrong",
        (*COMMON, "data_dir", "backbones", "weights", *DEVICE_FLAGS),
        _doctor,
        terminal.render_doctor,
    ),
}


def parse_values(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The flags of a command by name; `given` holds the names that were set.

    Raises:
        SettingsError: an unknown flag (the nearest is suggested), a bad value, or a
            word that is no flag.
    """
    names = COMMANDS[command].flags
    parsed = flags.FlagValues()
    for name in names:
        FLAGS[name].define(parsed)
    try:
        rest = parsed([command, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown("flag", error.flagname, names, f"tlperf {command}") from error
    except flags.Error as error:
        raise SettingsError(str(error), f"see tlperf {command} --help") from error
    if rest:
        raise SettingsError(
            f"{rest[0]!r} is no flag",
            f"write --flag=value; see tlperf {command} --help",
        )
    values = {name: parsed[name].value for name in names}
    values["given"] = {name for name in names if parsed[name].present}
    values.setdefault("workdir", FLAGS["workdir"].default)  # settings have one
    return values


def _unknown(kind: str, word: str, known: Sequence[str], usage: str) -> SettingsError:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    dashes = "--" if kind == "flag" else ""
    hint = f"did you mean {dashes}{near[0]}? " if near else ""
    return SettingsError(
        f"no {kind} is called {dashes}{word}",
        f"{hint}see {usage} --help",
        reason=f"unknown_{kind}",
    )


def write_flagfile(command: str, values: dict[str, Any]) -> None:
    """WORKDIR/flags.txt: `tlperf COMMAND --flagfile=` of it runs the same again.

    It holds what was given, the preset's name among it; the rest are defaults.
    """
    lines = [f"# tlperf {command} --flagfile=THIS_FILE"]
    for name in COMMANDS[command].flags:
        wanted = name in values["given"] or name == "workdir"
        if wanted and name not in ("json", "dry_run", "verbose"):
            lines.append(f"--{name}={values[name]}")
    path = pathlib.Path(values["workdir"]) / "flags.txt"
    files.write_text(path, "\n".join(lines) + "\n")


def execute(command: str, arguments: Sequence[str]) -> ExitCode:
    """Parses, runs and prints a command."""
    values = parse_values(command, arguments)
    if values["verbose"]:
        os.environ[VERBOSE_VARIABLE] = "1"
    else:
        # Before TensorFlow is imported, here and in children: errors only.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    config = resolve_config(command, values)
    row = COMMANDS[command]
    render: Callable[[dict[str, Any]], str]
    if values["dry_run"] and command not in _PLANNED:
        result: dict[str, Any] = {"command": command, "settings": config.to_dict()}
        code, render = ExitCode.OK, terminal.render_values
    else:
        render = row.render
        result, code = row.call(config, values)
    if values["json"]:
        print(files.to_json(result), flush=True)
    else:
        print(render(result), flush=True)
    if not values["dry_run"]:
        row.after(values)
    return code


def help_text(command: str | None = None) -> str:
    """The help of tlperf, or of one command with its own flags only."""
    if command is None:
        rows = [f"  {name:<10} {row.help}" for name, row in COMMANDS.items()]
        more = "tlperf COMMAND --help shows its flags; --version the version."
        return "\n".join(["tlperf COMMAND [--flag=value ...]", "", *rows, "", more])
    row = COMMANDS[command]
    usage = [FLAGS[name].usage() for name in row.flags]
    usage.append("  --flagfile            read flags from a file")
    return "\n".join([f"tlperf {command}: {row.help}", "", *usage])


_HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort", "help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else ""
    if "--version" in (command, *arguments):
        from tlperf import __version__

        print(f"tlperf {__version__}")
        return ExitCode.OK
    if command in _HELP:
        print(help_text())
        return ExitCode.OK
    if command in COMMANDS and _HELP & set(arguments):
        print(help_text(command))
        return ExitCode.OK
    code = ExitCode.OK

    def action() -> None:
        nonlocal code
        if command not in COMMANDS:
            raise _unknown("command", command, list(COMMANDS), "tlperf")
        code = execute(command, arguments)

    failed = run_guarded(command if command in COMMANDS else "", action)
    return failed or code
