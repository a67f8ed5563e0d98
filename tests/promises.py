"""What the promises' tests share: a command line to kill, and trees to compare."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

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
    command: Sequence[str], faults: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever that is."""
    return subprocess.run(
        command,
        env=environment(faults, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tree(data_dir: pathlib.Path) -> dict[str, str]:
    """sha256 of every file below a folder by relative path, hidden ones too."""
    return {
        str(path.relative_to(data_dir)): sha256_bytes(path.read_bytes())
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
    }
