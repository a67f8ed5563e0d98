"""The commands in the order of the way, each a row: its flags, its call, its text.

    row = COMMANDS["train"]
    result, code = row.call(config, values)   # settings, and flags by name
    print(row.render(result))

Heavy imports happen inside the calls: `tlperf --help` needs none of them.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode
from tlperf.core.quiet import quiet_stderr
from tlperf.core.settings import RunConfig
from tlperf.flags import (
    COMMON,
    DEVICE_FLAGS,
    INPUT_FLAGS,
    LATENCY_FLAGS,
    PREDICT_FLAGS,
    RUN_FLAGS,
    SOURCE_FLAGS,
    TRAIN_FLAGS,
)
from tlperf.reporting import latency_terminal, terminal

Outcome = tuple[dict[str, Any], ExitCode]


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
    from tlperf.job import plan, run

    if values["dry_run"]:
        return plan.plan_job(config), ExitCode.OK
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
    from tlperf.job import plan, run

    if values["dry_run"]:
        planned = dataclasses.replace(config, reuse_data=True)
        return plan.plan_job(planned, is_timed=False), ExitCode.OK
    return run.stage_job(config, "train"), ExitCode.OK


def _evaluate(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.run import stage_job

    return stage_job(config, "evaluate"), ExitCode.OK


def _latency(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.plan import plan_latency
    from tlperf.job.run import latency_job

    if values["dry_run"]:
        return plan_latency(config), ExitCode.OK
    return latency_job(config), ExitCode.OK


def _predict(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.predict import PredictRequest, predict_job

    result = predict_job(config, PredictRequest.from_flags(values))
    return result, ExitCode.DATA if result["problems"] else ExitCode.OK


def _export(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.job.deploy import ExportRequest, export_job

    return export_job(config, ExportRequest.from_flags(values)), ExitCode.OK


def _report(config: RunConfig, values: dict[str, Any]) -> Outcome:
    from tlperf.reporting.comparison import report_job

    result = report_job(config.workdir, compare=values["compare"], out=values["out"])
    return result, ExitCode.OK


def _render_report(result: dict[str, Any]) -> str:
    from tlperf.reporting.report_terminal import render_report

    return render_report(result)


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
    is_good = all(check["ok"] for check in checks)
    result = {"checks": checks, "ok": is_good}
    return result, ExitCode.OK if is_good else ExitCode.CONFIG


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
        latency_terminal.render_latency,
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
        "rebuild the report from result files, or compare workdirs",
        (*COMMON, "compare", "out"),
        _report,
        _render_report,
    ),
    "check": Command(
        "whether timed rows can be published, and what they lack",
        COMMON,
        _check,
        latency_terminal.render_check,
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
        "what this machine, install, data and weights can do, and what is wrong; exit "
        "code 78 where something is bad",
        (
            *(*COMMON, "data_dir", "backbones", "weights", "image_size"),
            *("preprocess", *DEVICE_FLAGS),
        ),
        _doctor,
        terminal.render_doctor,
    ),
}


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
