"""The cells of `tools.gpu_matrix`: which there are, and the command of each.

cells = plan_cells(["vgg16"], Choices(), there=4, settings=settings)
command = cell_command(cells[0], settings, data_dir=data, workdir=workdir)
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence

from tlperf.core.choices import Protocol

PARTS = ("input", "latency", "training")
# How a training gets its images, and the flag that says so.
INPUTS = {"features": "--feature_cache=on", "images": "--feature_cache=off"}
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
XLA = ("on", "off")
TF32 = ("on", "off")
# Keras' predict is there to set beside a published text, which names its device.
PROTOCOLS = ("compiled", "transfer", "stream", "train_step")
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
        protocols, processes, latency_secs: of `tlperf latency`; 0 seconds for its own.
        input_secs: of `tlperf input`.
    """

    source: str
    images: int
    weights: str
    epochs: int
    image_size: int
    batch_size: int
    devices: str
    protocols: Sequence[str] = PROTOCOLS
    processes: int = 5
    latency_secs: float = 0.0
    input_secs: float = 3.0


@dataclasses.dataclass(frozen=True)
class Choices:
    """What is varied: words of the constant of its name.

    `tf32` has the one word "" where no device has TensorFloat-32.
    """

    parts: Sequence[str] = PARTS
    inputs: Sequence[str] = tuple(INPUTS)
    precision: Sequence[str] = PRECISIONS
    xla: Sequence[str] = XLA
    tf32: Sequence[str] = TF32


@dataclasses.dataclass(frozen=True)
class Cell:
    """One command.

    Attributes:
        part: word of PARTS.
        backbone: its name.
        devices: how many.
        strategy: `one` or `mirrored`.
        precision, xla, tf32, inputs: words of the choices; "" where it has none.
    """

    part: str
    backbone: str
    devices: int
    strategy: str
    precision: str = ""
    xla: str = ""
    tf32: str = ""
    inputs: str = ""

    @property
    def text(self) -> str:
        """In words, for a line."""
        words = [f"{self.part} of {self.backbone}", self.precision]
        words += [f"on {self.inputs}" if self.inputs else ""]
        words += [{"on": "TF32", "off": "no TF32"}.get(self.tf32, "")]
        words += [{"on": "XLA", "off": "no XLA"}.get(self.xla, "")]
        return ", ".join(filter(None, [*words, f"{self.devices} x {self.strategy}"]))


def plan_cells(
    names: Sequence[str], choices: Choices, *, there: int, settings: Settings
) -> list[Cell]:
    """All cells, part by part.

    Args:
        names: of backbones.
        choices: what is varied.
        there: devices.
        settings: of all cells.
    """
    planners = {
        "input": [*_plan_input(there)],
        "latency": [*_plan_latency(choices, there=there, settings=settings)],
        "training": [*_plan_training(choices, there=there)],
    }
    return [
        dataclasses.replace(cell, backbone=name)
        for part, cells in planners.items()
        if part in choices.parts
        for name in names
        for cell in cells
    ]


def _plan_input(there: int) -> Iterator[Cell]:
    for count in sorted({1, there}):
        yield Cell("input", "", count, "one" if count == 1 else "mirrored")


def _plan_latency(
    choices: Choices, *, there: int, settings: Settings
) -> Iterator[Cell]:
    """TF32 is a way of float32; inference is one device's; several cannot have XLA."""
    places: list[Place] = [(xla, 1, "one") for xla in choices.xla]
    if there > 1 and "off" in choices.xla and Protocol.TRAIN_STEP in settings.protocols:
        places.append(("off", there, "mirrored"))
    for precision in choices.precision:
        for tf32 in choices.tf32 if precision == "float32" else ("",):
            for xla, count, strategy in places:
                yield Cell("latency", "", count, strategy, precision, xla, tf32)


def _plan_training(choices: Choices, *, there: int) -> Iterator[Cell]:
    for inputs in choices.inputs:
        for precision in choices.precision:
            for xla, count, strategy in plan_places(there, choices.xla):
                yield Cell(
                    "training", "", count, strategy, precision, xla, inputs=inputs
                )


def plan_places(there: int, xlas: Sequence[str]) -> list[Place]:
    """The places of trainings of one backbone, input and precision.

    Several replicas cannot have XLA. Beside several, one device under MirroredStrategy
    tells what the strategy alone costs.
    """
    places: list[Place] = [(xla, 1, "one") for xla in xlas]
    if there > 1 and "off" in xlas:
        places += [("off", count, "mirrored") for count in plan_counts(there)]
    return places


def plan_counts(there: int) -> list[int]:
    """Numbers of devices to train on: 1, 2, 4, ... and all.

    >>> plan_counts(1), plan_counts(4), plan_counts(6)
    ([1], [1, 2, 4], [1, 2, 4, 6])
    """
    doubled = [2**power for power in range(there.bit_length())]
    return sorted({*doubled, there})


def cell_command(
    cell: Cell, settings: Settings, *, data_dir: pathlib.Path, workdir: pathlib.Path
) -> list[str]:
    """The `tlperf` command of a cell."""
    command = "train" if cell.part == "training" else cell.part
    flags = ["--json", f"--workdir={workdir}", f"--backbones={cell.backbone}"]
    flags += [f"--strategy={cell.strategy}", *_device_flags(cell, settings)]
    flags += [f"--precision={cell.precision}"] if cell.precision else []
    flags += [f"--xla={cell.xla}"] if cell.xla else []
    flags += [f"--image_size={settings.image_size}"] if settings.image_size else []
    if cell.part == "latency":  # it needs no data
        flags += _latency_flags(cell, settings)
    else:
        batch_size = settings.batch_size * cell.devices
        flags += [f"--data_dir={data_dir}", f"--batch_size={batch_size}"]
    if cell.part == "input":
        flags += [f"--secs={settings.input_secs}"]
    if cell.part == "training":
        flags += [INPUTS[cell.inputs], f"--weights={settings.weights}"]
        flags += [f"--epochs={settings.epochs}"]
    return [sys.executable, "-m", "tlperf", command, *flags]


def _device_flags(cell: Cell, settings: Settings) -> list[str]:
    if settings.devices == "cpu":
        return ["--devices=cpu", f"--logical_devices={cell.devices}"]
    return [f"--devices=gpu:{','.join(map(str, range(cell.devices)))}"]


def _latency_flags(cell: Cell, settings: Settings) -> list[str]:
    """All protocols on one device, steps of training on several."""
    protocols = settings.protocols if cell.devices == 1 else [Protocol.TRAIN_STEP]
    flags = [f"--protocol={','.join(protocols)}", f"--processes={settings.processes}"]
    flags += [f"--latency_batch_size={settings.batch_size * cell.devices}"]
    flags += [f"--tf32={'true' if cell.tf32 == 'on' else 'false'}"] if cell.tf32 else []
    if limit := settings.latency_secs:
        flags += [f"--latency_secs={limit}", "--min_secs=0"]
    return flags
