"""The command line: absl flags to frozen settings to one call into a room.

    tlperf run --preset=quick --workdir=w

Flags (`tlperf.flags`) are defined on a FlagValues of each call: importing this module
defines none.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tlperf.commands import COMMANDS
from tlperf.core import files
from tlperf.core.errors import ExitCode, SettingsError
from tlperf.core.quiet import VERBOSE_VARIABLE
from tlperf.core.resolve import resolve_config
from tlperf.flags import FLAGS
from tlperf.job.outcome import run_guarded
from tlperf.reporting import terminal

# Commands whose --dry_run is a plan; the others show the settings they would use.
_PLANNED = ("run", "shard", "train", "latency")


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
