"""The command line: absl flags to frozen settings to one call into a room.

    tlperf run --preset=quick --workdir=w

Flags are defined here and nowhere else, on a FlagValues of each call: importing this
module defines none. Heavy imports happen inside the commands.
"""

import dataclasses
import difflib
import enum
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tlperf.core import choices, files, settings
from tlperf.core.choices import Preset
from tlperf.core.errors import ExitCode, SettingsError
from tlperf.core.quiet import VERBOSE_VARIABLE, quiet_stderr
from tlperf.core.resolve import resolve_config
from tlperf.core.settings import RunConfig
from tlperf.job.outcome import run_guarded
from tlperf.reporting import terminal

Outcome = tuple[dict[str, Any], ExitCode]


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag: its name, default, help, and the words it takes if it is a choice."""

    name: str
    default: str | int | float | bool | None
    help: str
    kind: type = str

    def define(self, values: flags.FlagValues) -> None:
        """Adds the flag to `values`."""
        if issubclass(self.kind, enum.StrEnum):
            words = [member.value for member in self.kind]
            flags.DEFINE_enum(
                self.name, self.default, words, self.help, flag_values=values
            )
            return
        makers = {
            str: flags.DEFINE_string,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_bool,
        }
        makers[self.kind](self.name, self.default, self.help, flag_values=values)

    def usage(self) -> str:
        """One line of help."""
        words = ""
        if issubclass(self.kind, enum.StrEnum):
            words = "|".join(member.value for member in self.kind) + ": "
        shown = "" if self.default is None else f" (default {self.default})"
        if self.kind is bool:
            shown = f" (default {str(self.default).lower()})"
        return f"  --{self.name:<19} {words}{self.help}{shown}"


_DATA = settings.DataConfig()
_LATENCY = settings.LatencyConfig()
FLAGS = {
    flag.name: flag
    for flag in (
        Flag("workdir", "tlperf-work", "folder for results"),
        Flag("data_dir", None, "folder of the shards (default WORKDIR/data)"),
        Flag("preset", "paper", "set of defaults", Preset),
        Flag("source", "photos", "photos, a folder with a sub-folder a class, a .zip "
             "or .tar[.gz] of one or its URL, a .csv, or tfds:NAME"),
        Flag("source_sha256", None, "of an archive; a URL needs it"),
        Flag("keep_splits", True, "splits that the source gives win over --split",
             bool),
        Flag("follow_links", False, "read symbolic links to files inside the source",
             bool),
        Flag("name", None, "dataset name in file names (default: the source's)"),
        Flag("format", "tfrecord", "container", choices.Format),
        Flag("encoding", "source", "what is stored", choices.Encoding),
        Flag("split", "60/20/20", "percentages of train/validation/test"),
        Flag("split_mode", "stratified", "how images are dealt", choices.SplitMode),
        Flag("seed", 0, "of split, order, head weights and dropout", int),
        Flag("limit", 0, "at most this many images; 0 takes all", int),
        Flag("shard_bytes", _DATA.shard_bytes, "about the size of a TFRecord shard",
             int),
        Flag("workers", 0, "processes that write shards; 0 takes one a core", int),
        Flag("max_pixels", _DATA.max_pixels, "refuse larger images", int),
        Flag("min_side", _DATA.min_side, "refuse images with a shorter side", int),
        Flag("max_file_bytes", _DATA.max_file_bytes, "refuse larger files", int),
        Flag("max_jpeg_scans", _DATA.max_jpeg_scans, "refuse JPEGs of more", int),
        Flag("image_check", "decode", "before storing", choices.ImageCheck),
        Flag("on_warning", "accept", "JPEGs decoded with warnings", choices.OnWarning),
        Flag("tfds_compat", False, "leave out JPEGs without JFIF, as tfds does", bool),
        Flag("on_bad", "quarantine", "unusable files", choices.OnBad),
        Flag("max_bad", None, "most unusable files (default max(5, 1 %))", int),
        Flag("exif", "ignore", "EXIF orientation", choices.Exif),
        Flag("image_size", None, "side in pixels (default: native)", int),
        Flag("preprocess", "backbone", "pixel normalisation", choices.Preprocess),
        Flag("batch_size", 32, "images a step, over all replicas", int),
        Flag("augment", "none", "training images, on the device", choices.Augment),
        Flag("decode", "exact", "JPEG files to pixels", choices.Decode),
        Flag("cache", "none", "kept in memory from epoch 1 on", choices.Cache),
        Flag("ram_budget", 0, "bytes for batches, decoding and cache (default: a "
             "quarter of the memory there is)", int),
        Flag("on_bad_record", "fail", "records that cannot be used",
             choices.OnBadRecord),
        Flag("deterministic", True, "batches in the order of the plan", bool),
        Flag("data_service", None, "grpc://HOST:PORT of tlperf serve, whose workers "
             "make training batches (default: made here)"),
        Flag("dispatcher", None, "HOST:PORT that a worker is for (default: this is "
             "the dispatcher)"),
        Flag("port", 0, "to listen on; 0 takes a free one", int),
        Flag("worker_host", "localhost", "name by which others reach this machine"),
        Flag("journal_dir", None, "where a dispatcher keeps what it needs to go on "
             "after a restart (default: nowhere)"),
        Flag("allow_public_bind", False, "listen although other machines can reach "
             "this one, and run programs through it", bool),
        Flag("backbones", "all", "all, or a comma list of backbones and keras:NAME"),
        Flag("weights", "imagenet", "imagenet, none, DIR, FILE, or NAME:one,NAME:two"),
        Flag("freeze", "paper", "paper, all, none, or the first active layer; for "
             "keras:NAME paper is all"),
        Flag("epochs", 10, "passes over the training split", int),
        Flag("learning_rate", None, "(default: Table 4; of keras:NAME 0.001)", float),
        Flag("optimizer", None, "(default: Table 4; of keras:NAME adam)",
             choices.Optimizer),
        Flag("schedule", "constant", "of the learning rate", choices.Schedule),
        Flag("warmup_steps", 0, "over which the learning rate rises", int),
        Flag("accumulate", 1, "parts of a batch, one after the other", int),
        Flag("class_weights", "none", "of the loss", choices.ClassWeights),
        Flag("early_stopping", 0, "epochs without a better one; 0 never", int),
        Flag("head_epochs", 0, "first epochs that train the head alone", int),
        Flag("head_learning_rate", None, "of those (default: that of the others)",
             float),
        Flag("ema", 0.0, "share of a moving average of weights that a step keeps; 0 "
             "for no average", float),
        Flag("steps_per_call", 1, "train steps that the host starts at once", int),
        Flag("batch_norm", "update", "after the boundary", choices.BatchNorm),
        Flag("resume", False, "go on from the newest checkpoint in the workdir", bool),
        Flag("save_every", 0, "steps between checkpoints (default: each epoch)", int),
        Flag("feature_cache", "auto", "compute the frozen part once an image",
             choices.FeatureCache),
        Flag("feature_dtype", "computed", "of what is kept", choices.FeatureDtype),
        Flag("feature_views", 0, "augmented views of an image to keep", int),
        Flag("feature_dir", None, "where to keep them (default WORKDIR/features)"),
        Flag("feature_budget", 0, "most bytes there (default: half of the disk's "
             "free space)", int),
        Flag("devices", "auto", "auto, cpu, gpu or gpu:0,1"),
        Flag("logical_devices", 0, "split the CPU into so many, for tests", int),
        Flag("strategy", "auto", "replicas", choices.Strategy),
        Flag("precision", "auto", "of the backbone", choices.Precision),
        Flag("xla", "auto", "compile steps by XLA", choices.Xla),
        Flag("op_determinism", False, "operations that give the same bits each time "
             "only; without XLA", bool),
        Flag("startup_timeout", settings.DeviceConfig().startup_timeout, "seconds that "
             "a worker of TF_CONFIG waits for the others", float),
        Flag("profile_steps", None, "FIRST:LAST, training steps to trace for "
             "TensorBoard"),
        Flag("protocol", None, "comma list of keras_predict, compiled (default both)"),
        Flag("latency_secs", None, "stop a row after (default 60 in run, else never)",
             float),
        Flag("latency_batch_size", None, "images a timed step (default 32)", int),
        Flag("fast", False, "manifest and sizes only", bool),
        Flag("png", None, "write a contact sheet to this file"),
        Flag("near_duplicates", None, "report images whose perceptual hashes differ by "
             "at most so many of 64 bits", int),
        Flag("secs", 3.0, "seconds to measure the whole; a part takes a quarter",
             float),
        Flag("demand", None, "images a second that a step would take", float),
        Flag("plot", None, "draw the rates to this .svg or .png file"),
        Flag("dry_run", False, "print the plan, do nothing", bool),
        Flag("json", False, "print one JSON object on stdout", bool),
        Flag("verbose", False, "tracebacks and TensorFlow's own log", bool),
    )
}  # fmt: skip

_COMMON = ("workdir", "preset", "dry_run", "json", "verbose")
# Commands whose --dry_run is a plan; the others show the settings they would use.
_PLANNED = ("run", "shard", "train")
_SOURCE_FLAGS = (
    *("source", "source_sha256", "keep_splits", "follow_links", "name", "format"),
    *("encoding", "split", "split_mode", "seed", "limit", "shard_bytes", "workers"),
    *(
        "max_pixels",
        "min_side",
        "max_file_bytes",
        "max_jpeg_scans",
        "image_check",
        "on_warning",
    ),
    *("tfds_compat", "on_bad", "max_bad", "exif"),
)
_DEVICE_FLAGS = (
    *("devices", "logical_devices", "strategy", "precision", "xla"),
    "op_determinism",
)
_PIPELINE_FLAGS = (
    *("augment", "decode", "cache", "ram_budget", "on_bad_record", "deterministic"),
    "data_service",
)
_TRAIN_FLAGS = (
    *("backbones", "weights", "freeze", "image_size", "preprocess", "batch_size"),
    *_PIPELINE_FLAGS,
    *("epochs", "learning_rate", "optimizer", "schedule", "warmup_steps"),
    *("accumulate", "class_weights", "early_stopping", "batch_norm"),
    *("head_epochs", "head_learning_rate", "ema", "steps_per_call"),
    *("resume", "save_every", "profile_steps"),
    *("feature_cache", "feature_dtype", "feature_views", "feature_dir"),
    "feature_budget",
)
_INPUT_FLAGS = (
    *("secs", "demand", "plot", "backbones", "image_size", "preprocess"),
    *("batch_size", "seed", *_PIPELINE_FLAGS),
)
_LATENCY_FLAGS = ("latency_batch_size", "protocol", "latency_secs")
_RUN_FLAGS = (
    *(*_COMMON, "data_dir", *_SOURCE_FLAGS),
    *(*_TRAIN_FLAGS, *_DEVICE_FLAGS, *_LATENCY_FLAGS),
)


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
    from tlperf.job.run import stage_job

    return stage_job(config, "latency"), ExitCode.OK


def _report(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.reporting.report import write_report

    return write_report(pathlib.Path(config.workdir)), ExitCode.OK


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
        _RUN_FLAGS,
        _run,
        terminal.render_run,
    ),
    "shard": Command(
        "images to shards, with splits, quarantine and manifest",
        (*_COMMON, "data_dir", *_SOURCE_FLAGS, "image_size"),
        _shard,
        terminal.render_values,
    ),
    "verify": Command(
        "full integrity check of a data directory",
        (*_COMMON, "data_dir", "fast"),
        _verify,
        terminal.render_verify,
    ),
    "inspect": Command(
        "what is in a data directory: counts, sizes, shapes",
        (*_COMMON, "data_dir", "png", "near_duplicates"),
        _inspect,
        terminal.render_inspect,
    ),
    "input": Command(
        "how fast the input pipeline is alone, and where its time goes",
        (*_COMMON, "data_dir", *_INPUT_FLAGS, *_DEVICE_FLAGS),
        _input,
        terminal.render_input,
    ),
    "train": Command(
        "fine-tune backbones on a data directory",
        (
            *(*_COMMON, "data_dir", "seed", *_TRAIN_FLAGS, *_DEVICE_FLAGS),
            *("startup_timeout", "allow_public_bind"),
        ),
        _train,
        terminal.render_train,
    ),
    "evaluate": Command(
        "evaluate trained backbones on the test split",
        (
            *(*_COMMON, "data_dir", "backbones", "batch_size", "ram_budget"),
            *_DEVICE_FLAGS,
        ),
        _evaluate,
        terminal.render_evaluate,
    ),
    "latency": Command(
        "time inference steps beside the published figures",
        (*_COMMON, "backbones", *_LATENCY_FLAGS, *_DEVICE_FLAGS),
        _latency,
        terminal.render_latency,
    ),
    "report": Command(
        "rebuild the report from result files",
        _COMMON,
        _report,
        terminal.render_values,
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
        (*_COMMON, "data_dir", "backbones", "weights", *_DEVICE_FLAGS),
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
