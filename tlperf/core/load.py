"""How much of this machine others used meanwhile, read from /proc (proc(5)).

before = read_load()
...
load = load_between(before, read_load())
load.others_cores   # 0.1: a tenth of a core
read_gpu_busy([0])  # 0.3: before this process uses it; None where it cannot be told
"""

import dataclasses
import os
import pathlib
import subprocess
import time
from collections.abc import Collection

_USER, _SYSTEM, _STEAL = (0, 1), (2, 5, 6), 7
_SMI_SECS = 20
# How CUDA numbers GPUs, which nvidia-smi numbers so always.
ORDER_VARIABLE, PCI_ORDER = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"


@dataclasses.dataclass(frozen=True)
class LoadReading:
    """Counters in seconds of processor time.

    Attributes:
        clock_secs: monotonic time.
        busy_secs: of all processes on the cores that this one may run on.
        own_secs: of this process and its children that ended.
        stolen_secs: that the host of a virtual machine gave to others.
    """

    clock_secs: float
    busy_secs: float
    own_secs: float
    stolen_secs: float


@dataclasses.dataclass(frozen=True)
class Load:
    """Between two readings.

    Attributes:
        others_cores: cores that other processes used, as a mean.
        stolen_cores: cores that the host of a virtual machine gave to others.
    """

    others_cores: float
    stolen_cores: float


def read_load(root: pathlib.Path = pathlib.Path("/")) -> LoadReading | None:
    """The counters now; None where the system has no /proc/stat.

    Args:
        root: where `proc` is.
    """
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError:
        return None
    usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    columns = [line.split() for line in lines]
    cores = [
        [int(word) for word in words] for name, *words in columns if name in usable
    ]
    # Kernels before 2.6.11 had no stolen time.
    ticks = [sum(column) for column in zip(*cores, strict=True)] + [0] * 8
    per_sec = os.sysconf("SC_CLK_TCK")
    own = os.times()
    return LoadReading(
        clock_secs=time.monotonic(),
        busy_secs=sum(ticks[place] for place in (*_USER, *_SYSTEM)) / per_sec,
        own_secs=own.user + own.system + own.children_user + own.children_system,
        stolen_secs=ticks[_STEAL] / per_sec,
    )


def load_between(before: LoadReading, after: LoadReading) -> Load:
    """What others used between two readings of one process."""
    secs = max(after.clock_secs - before.clock_secs, 1e-9)
    busy = after.busy_secs - before.busy_secs
    own = after.own_secs - before.own_secs
    stolen = after.stolen_secs - before.stolen_secs
    # The counters tick: a little less than nothing is nothing.
    return Load(max(0.0, busy - own) / secs, stolen / secs)


def read_gpu_busy(numbers: Collection[int]) -> float | None:
    """Share of the last moment, 0 to 1, in which the busiest of some NVIDIA GPUs
    computed, whoever used it; None where nvidia-smi does not tell that of each.

    Args:
        numbers: among the GPUs that CUDA shows this process; none for all of these.
    """
    names = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    try:
        rows = _ask_smi()
        # Parts of a GPU (MIG) and GPUs in CUDA's own order are not those of a number.
        if os.environ.get(ORDER_VARIABLE, PCI_ORDER) != PCI_ORDER:
            return None
        shown = [_find_row(rows, name) for name in names] if any(names) else rows
        chosen = [shown[number] for number in numbers] if numbers else shown
        return max(int(busy) for _, _, busy in chosen) / 100
    except (OSError, ValueError, LookupError, subprocess.SubprocessError):
        return None


def _ask_smi() -> list[list[str]]:
    """Number, UUID and utilisation in percent of each GPU."""
    query = "--query-gpu=index,uuid,utilization.gpu"
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_SMI_SECS,
    )
    return [line.split(", ") for line in done.stdout.splitlines()]


def _find_row(rows: list[list[str]], name: str) -> list[str]:
    """By number, or by as much of the UUID as tells it.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = [row for row in rows if row[0] == name]
    found = found or [row for row in rows if name and row[1].startswith(name)]
    if len(found) != 1:
        raise LookupError(name)
    return found[0]
