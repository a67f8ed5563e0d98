"""The cells of `tools.gpu_matrix`, and the process that each runs in.

for place in plan_places(plan_counts(4), ("on", "off")):
    cell = Cell("vgg16", "features", "float32", *place)
    command = train_command(cell, settings, data_dir=data, workdir=workdir)
    done = child.run(command, stop=stop)
"""

import contextlib
import dataclasses
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tlperf.core.stopping import Stop
from tlperf.core.units import format_secs
from tlperf.job.children import child_environment

# How a cell gets its images, and the flag that says so.
INPUTS = {"features": "--feature_cache=on", "images": "--feature_cache=off"}
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
XLA = ("on", "off")
# XLA, devices and strategy of a cell.
Place = tuple[str, int, str]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
        source: of `tlperf shard`; "" makes photos of common sizes.
        images: training images, where they are made here.
        weights, epochs: of `tlperf train`.
        image_size: side in pixels; 0 for each backbone's own.
        batch_size: images a step and device; the global batch grows with the devices.
        devices: `gpu` or `cpu`.
    """

    source: str
    images: int
    weights: str
    epochs: int
    image_size: int
    batch_size: int
    devices: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: words of INPUTS, PRECISIONS and XLA, and how many devices under
    which strategy (`one` or `mirrored`)."""

    backbone: str
    inputs: str
    precision: str
    xla: str
    devices: int
    strategy: str

    @property
    def text(self) -> str:
        """In words, for a line."""
        xla = "XLA" if self.xla == "on" else "no XLA"
        where = f"{self.devices} x {self.strategy}"
        return f"{self.backbone} on {self.inputs}, {self.precision}, {xla}, {where}"


def plan_counts(there: int) -> list[int]:
    """Numbers of devices to measure: 1, 2, 4, ... and all.

    >>> plan_counts(1), plan_counts(4), plan_counts(6)
    ([1], [1, 2, 4], [1, 2, 4, 6])
    """
    doubled = [2**power for power in range(there.bit_length())]
    return sorted({*doubled, there})


def plan_places(counts: Sequence[int], xlas: Sequence[str]) -> list[Place]:
    """The places of one backbone, input and precision.

    Several replicas cannot have XLA. One device under MirroredStrategy tells what the
    strategy alone costs.
    """
    places: list[Place] = [(xla, 1, "one") for xla in xlas]
    if "off" in xlas:
        places += [("off", count, "mirrored") for count in counts]
    return places


def train_command(
    cell: Cell, settings: Settings, *, data_dir: pathlib.Path, workdir: pathlib.Path
) -> list[str]:
    """The `tlperf train` of a cell."""
    numbers = ",".join(map(str, range(cell.devices)))
    devices = [f"--devices=gpu:{numbers}"]
    if settings.devices == "cpu":
        devices = ["--devices=cpu", f"--logical_devices={cell.devices}"]
    size = [f"--image_size={settings.image_size}"] if settings.image_size else []
    return [
        *(sys.executable, "-m", "tlperf", "train", "--json"),
        *(f"--data_dir={data_dir}", f"--workdir={workdir}", INPUTS[cell.inputs]),
        *(f"--backbones={cell.backbone}", f"--weights={settings.weights}"),
        *(f"--epochs={settings.epochs}", *size, *devices),
        f"--batch_size={settings.batch_size * cell.devices}",
        *(f"--precision={cell.precision}", f"--xla={cell.xla}"),
        f"--strategy={cell.strategy}",
    ]


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that ended; `is_late` where it was made to, for its time."""

    exit_code: int
    out: str
    err: str
    secs: float
    is_late: bool


class Child:
    """Runs a command, one at a time, in a group of its own: a terminal's Ctrl-C reaches
    it once, by `stop`.

    Args:
        folder: for what it prints.
        most_secs: a command takes.
        grace_secs: from asking one to end to making it.
    """

    def __init__(
        self, folder: pathlib.Path, *, most_secs: float, grace_secs: float = 30.0
    ):
        self._folder, self.most_secs = folder, most_secs
        self._grace_secs = grace_secs
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], *, stop: Stop) -> Done:
        """Runs it to its end, or to that of its time."""
        start, is_late = time.perf_counter(), False
        out, err = self._folder / "stdout", self._folder / "stderr"
        # No pipes: what a killed command leaves running would hold them open.
        with out.open("wb") as stdout, err.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdout=stdout,
                stderr=stderr,
                env=child_environment(),
                process_group=0,
            )
            if stop.wanted:  # the signal came while it was started
                self.stop()
            try:
                self._process.wait(self.most_secs)
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                code = self._end()
        secs = time.perf_counter() - start
        printed, told = (path.read_text(errors="replace") for path in (out, err))
        return Done(code, printed, told, secs, is_late)

    def stop(self) -> None:
        """Asks it to end."""
        if self._process is not None:
            self._process.terminate()

    def _end(self) -> int:
        """Its exit code; it is made to end. The first signal asks, the second has it
        kill the process that trains."""
        process, self._process = self._process, None
        assert process is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self._grace_secs)
        return process.wait()


def find_reason(done: Done, *, most_secs: float) -> str:
    """Why a command failed: its first error line, or what its end looks like."""
    if done.is_late:
        return f"took longer than {format_secs(most_secs)}"
    # That of the parent only points to the lines above it.
    told = re.findall(r"^tlperf \w+: E\d+ (?!backbone_failed)(.+)$", done.err, re.M)
    told += re.findall(r"^\w+: (killed by signal .+)$", done.err, re.M)
    return (told or done.err.strip().splitlines()[-1:] or ["it said nothing"])[0]
