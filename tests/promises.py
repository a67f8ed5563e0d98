"""What the promises' tests share: a command line to kill, its system calls, and trees
to compare."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tlperf.core.faults import VARIABLE
from tlperf.core.files import sha256_bytes

ROOT = pathlib.Path(__file__).parents[1]


def shard_command(
    source: pathlib.Path, data_dir: pathlib.Path, *flags: str
) -> list[str]:
    """`tlperf shard` of a tiny source, in shards of about 3 KB."""
    workdir = data_dir.with_name(f"{data_dir.name}-work")
    return [
        *(sys.executable, "-m", "tlperf", "shard", f"--source={source}", "--json"),
        *(f"--data_dir={data_dir}", f"--workdir={workdir}", "--shard_bytes=2600"),
        *flags,
    ]


def environment(faults: str | None = None, **variables: str) -> dict[str, str]:
    """This process' environment, with a planned fault and other variables."""
    values = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    values.pop(VARIABLE, None)
    return {**values, VARIABLE: faults} if faults else values


def run(
    command: Sequence[str],
    faults: str | None = None,
    *,
    most_secs: float = 120,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever that is; TimeoutExpired where it has none."""
    return subprocess.run(
        command,
        env=environment(faults, **variables),
        capture_output=True,
        text=True,
        timeout=most_secs,
        check=False,
    )


def tree(data_dir: pathlib.Path) -> dict[str, str]:
    """sha256 of every file below a folder by relative path, hidden ones too."""
    return {
        str(path.relative_to(data_dir)): sha256_bytes(path.read_bytes())
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
    }


WRITES = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "sendfile")
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")


class Call(NamedTuple):
    """A system call that succeeded; `begin` and `end` are lines of the trace."""

    name: str
    paths: list[str]
    begin: int
    end: int


def traced(command: Sequence[str], trace: pathlib.Path) -> list[str]:
    """The command under strace, with what `read_trace` reads; no text of writes."""
    calls = ",".join((*WRITES, *SYNCS, *RENAMES))
    return [
        *("strace", "--seccomp-bpf", "-f", "-y", "-s", "0", "-e", f"trace={calls}"),
        *("-o", str(trace), *command),
    ]


def read_trace(text: str) -> Iterator[Call]:
    """The calls of `strace -f -y` in the order of their ends; those that another
    thread's interrupt (`<unfinished ...>`) are put together."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines()):
        thread, _, told = line.partition(" ")
        begin, told = number, told.strip()
        if resumed := re.match(r"<\.\.\. \w+ resumed>", told):
            begin, head = begun.pop(thread)
            told = head + told[resumed.end() :]
        if told.endswith("<unfinished ...>"):
            begun[thread] = begin, told.removesuffix("<unfinished ...>")
        elif match := re.fullmatch(r"(\w+)\((.*)\)\s+= \d+", told):
            name, words = match.groups()
            place = r'"([^"]*)"' if name in RENAMES else r"^\d+<([^>]*)>"
            yield Call(name, re.findall(place, words), begin, number)
    assert not begun, f"calls without an end: {begun}"


def find_unsafe(calls: Sequence[Call], folder: str) -> Iterator[str]:
    """What breaks the order below `folder`: all of a file is written, then its data are
    on disk, then it is renamed, then its name is on disk; the last name last of all."""

    def times(names: Sequence[str], path: str) -> list[Call]:
        return [one for one in calls if one.name in names and one.paths[:1] == [path]]

    renames = [
        one
        for one in calls
        if one.name in RENAMES and one.paths[1].startswith(f"{folder}/")
    ]
    for rename in renames:
        partial, target = rename.paths
        written = max((one.end for one in times(WRITES, partial)), default=-1)
        safe = [
            one
            for one in times(SYNCS, partial)
            if one.begin > written and one.end < rename.begin
        ]
        if not safe:
            yield f"{target}: renamed before all of it was on disk"
        if any(one.end > rename.begin for one in times(WRITES, target)):
            yield f"{target}: written to under its name"
        named = [
            one.end
            for one in times(SYNCS, os.path.dirname(target))
            if one.begin > rename.end
        ]
        if not named:
            yield f"{target}: its name is never on disk"
        elif rename is not renames[-1] and min(named) > renames[-1].begin:
            yield f"{target}: its name is not on disk before the last one"
