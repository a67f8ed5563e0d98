"""Measures training on this machine's GPUs: one command, one readable table.

    python -m tools.gpu_matrix --out=gpu_matrix           # all of it, hours
    python -m tools.gpu_matrix --out=gpu_matrix --backbones=resnet50 --xla=off
    python -m tools.gpu_matrix --out=w --devices=cpu --logical_devices=4 \
        --backbones=vgg16 --precision=float32 --weights=none --image_size=32

Each backbone, on features of its frozen part and on images, in each precision, with and
without XLA, on 1, 2, 4, ... devices. A cell is a `tlperf train` in a process of its
own; one that fails says why, and the rest goes on. Writes OUT/gpu_matrix.json and
OUT/gpu_matrix.md after each cell; run again, it does the cells that are not there.
`--devices=cpu` shows on logical CPU devices that the tool works, and nothing of GPUs.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.machine import machine_facts
from tlperf.core.progress import log, progress_bar
from tlperf.core.results import read_results
from tlperf.core.stopping import Stop, stop_signals
from tlperf.job.outcome import run_guarded
from tlperf.reference.backbones import parse_backbones
from tools.gpu_cells import (
    INPUTS,
    PRECISIONS,
    XLA,
    Cell,
    Child,
    Settings,
    find_reason,
    plan_counts,
    plan_places,
    train_command,
)
from tools.gpu_tables import format_result, render_matrix

# Images of the other splits where the photos are made here.
_HELD_OUT = 64
_LOG_LINES = 20
# Another process: the one that measures nothing touches no device.
_LOOK = """
import json, tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
build = tf.sysconfig.get_build_info()
names = ("cuda_version", "cudnn_version")
print(json.dumps({"gpus": gpus, **{name: build.get(name) for name in names}}))
"""
_DRIVER = pathlib.Path("/proc/driver/nvidia/version")


def write_photos(folder: pathlib.Path, count: int) -> None:
    """Crops of two real photographs as JPEG files of common sizes, split by folder; for
    speed alone: a split's pixels are in the others too.

    Args:
        folder: where to; as a source of `tlperf shard`.
        count: of training images.
    """
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        splits = {"train": (count + 1) // 2, "validation": _HELD_OUT // 2}
        for split, images in {**splits, "test": 2}.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                size = generator.integers((320, 214), (photo.width, photo.height))
                left, top = generator.integers((photo.width, photo.height) - size + 1)
                crop = photo.crop((left, top, left + size[0], top + size[1]))
                crop.save(folder / split / name / f"{number:05d}.jpg", quality=90)


class Matrix:
    """OUT/gpu_matrix.json and OUT/gpu_matrix.md, and the cells that are in them.

    Args:
        out: folder, made where it is not there.
        settings: of all cells.
        found: what the devices are.

    Raises:
        TlperfError: 73 where OUT holds cells of other settings or another machine.
    """

    def __init__(self, out: pathlib.Path, settings: Settings, found: dict[str, Any]):
        self._json, self._text = out / "gpu_matrix.json", out / "gpu_matrix.md"
        self._head = {
            "settings": dataclasses.asdict(settings),
            "machine": machine_facts(),
            "devices": found,
        }
        self.rows: list[dict[str, Any]] = []
        if not self._json.exists():
            return
        stored = files.read_json(self._json)
        self.rows = stored.pop("cells")
        if stored != json.loads(files.to_json(self._head)):
            raise TlperfError(
                ExitCode.EXISTS,
                "other_settings",
                path=self._json,
                found="made with other settings, devices or versions",
                remedy="give another --out",
            )

    def has(self, cell: Cell) -> bool:
        """Whether it was run."""
        return any(row["cell"] == dataclasses.asdict(cell) for row in self.rows)

    def drop_failed(self) -> None:
        """Forgets the cells that failed."""
        self.rows = [row for row in self.rows if row["exit_code"] == 0]

    def add(self, row: dict[str, Any]) -> None:
        """Writes both files with one cell more."""
        self.rows.append(row)
        self.write()

    def write(self) -> pathlib.Path:
        """Writes both files; the readable one's path."""
        files.write_json(self._json, {**self._head, "cells": self.rows})
        files.write_text(self._text, render_matrix(self._head, self.rows))
        return self._text


def run_cell(
    cell: Cell, settings: Settings, *, out: pathlib.Path, child: Child, stop: Stop
) -> dict[str, Any]:
    """Runs a cell; its row: the training's result and devices, or why it failed."""
    workdir = out / "cell"
    shutil.rmtree(workdir, ignore_errors=True)
    command = train_command(cell, settings, data_dir=out / "data", workdir=workdir)
    done = child.run(command, stop=stop)
    row: dict[str, Any] = {"cell": dataclasses.asdict(cell), "secs": done.secs}
    row |= {"exit_code": done.exit_code, "reason": ""}
    if done.exit_code == 0:
        (row["result"],) = json.loads(done.out.splitlines()[-1])["runs"]
        row["device"] = read_results(workdir)[-1]["device"]
    else:
        row["reason"] = find_reason(done, most_secs=child.most_secs)
        row["log"] = done.err.splitlines()[-_LOG_LINES:]
    # Features of a deep network take GiB.
    shutil.rmtree(workdir, ignore_errors=True)
    return row


def prepare_data(
    settings: Settings, *, out: pathlib.Path, child: Child, stop: Stop
) -> None:
    """OUT/data, where it is not there yet."""
    if (out / "data" / "COMPLETE").exists():
        return
    source = settings.source
    if not source:
        source = str(out / "photos")
        shutil.rmtree(source, ignore_errors=True)
        log(f"makes {settings.images} photos")
        write_photos(pathlib.Path(source), settings.images)
    command = [sys.executable, "-m", "tlperf", "shard", "--json", f"--source={source}"]
    done = child.run(
        [*command, f"--data_dir={out / 'data'}", f"--workdir={out / 'shard'}"],
        stop=stop,
    )
    if done.exit_code and not stop.wanted:
        known = done.exit_code in set(ExitCode)
        raise TlperfError(
            ExitCode(done.exit_code) if known else ExitCode.INTERNAL,
            "no_data",
            found=find_reason(done, most_secs=done.secs),
            remedy="give another --source",
        )


def look_at_devices(devices: str) -> dict[str, Any]:
    """The GPUs that TensorFlow sees, and what it was built for and runs on.

    Raises:
        TlperfError: 69 where GPUs are wanted and none is there, or TensorFlow is not.
    """
    if devices == "cpu":
        return {"gpus": []}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (*_, last) = ["nothing said", *done.stderr.strip().splitlines()]
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "no_tensorflow",
            found=f"TensorFlow does not start: {last}",
            remedy="install tlperf[gpu]",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not found["gpus"]:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "no_gpu",
            found="TensorFlow sees no GPU on this machine",
            remedy="install tlperf[gpu] and a driver, or try the tool by --devices=cpu",
        )
    driver = _DRIVER.read_text().splitlines()[0] if _DRIVER.exists() else None
    return {**found, "driver": driver}


def run_matrix(
    given: argparse.Namespace,
    *,
    settings: Settings,
    cells: Sequence[Cell],
    matrix: Matrix,
) -> None:
    """Runs the cells that are not there.

    Raises:
        TlperfError: 75 after a signal; whole cells are kept.
    """
    child = Child(given.out, most_secs=given.cell_secs)
    missing = [cell for cell in cells if not matrix.has(cell)]
    with (
        stop_signals(lambda number: child.stop()) as stop,
        progress_bar(total=len(missing), unit="cell", title="gpu_matrix") as bar,
    ):
        prepare_data(settings, out=given.out, child=child, stop=stop)
        for cell in missing:
            bar.set_postfix_str(cell.text)
            row = run_cell(cell, settings, out=given.out, child=child, stop=stop)
            if stop.wanted:
                raise TlperfError(
                    ExitCode.RETRY,
                    "stopped",
                    path=given.out,
                    found=f"{stop.wanted} in cell: {cell.text}",
                    remedy="run again: cells that are there are kept",
                )
            matrix.add(row)
            bar.clear()
            log(f"{cell.text}: {format_result(row)}")
            bar.update()


def _words(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(
                f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        return words

    return parse


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path("gpu_matrix"))
    add("--backbones", default="all", help="all, or a comma list")
    add("--precision", type=_words(PRECISIONS), default=list(PRECISIONS))
    add("--xla", type=_words(XLA), default=list(XLA))
    add("--inputs", type=_words(tuple(INPUTS)), default=list(INPUTS))
    add("--devices", choices=("gpu", "cpu"), default="gpu")
    add("--logical_devices", type=int, default=2, help="with --devices=cpu: at most")
    add("--source", default="", help="of tlperf shard (default: photos are made)")
    add("--images", type=int, default=4000, help="training photos to make")
    add("--weights", default="imagenet", help="of tlperf train")
    add("--epochs", type=int, default=3)
    add("--image_size", type=int, default=0, help="(default: native)")
    add("--batch_size", type=int, default=32, help="images a step and device")
    add("--cell_secs", type=float, default=3600.0, help="most for a cell")
    add("--retry", action="store_true", help="run cells that failed again")
    given = parser.parse_args(arguments)
    if given.logical_devices < 1:
        parser.error("--logical_devices is 1 or more")
    return given


def measure(given: argparse.Namespace) -> None:
    """Runs the matrix and prints where its table is."""
    names = [spec.name for spec in parse_backbones(given.backbones)]
    fields = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(given, name) for name in fields})
    found = look_at_devices(settings.devices)
    there = len(found["gpus"]) or given.logical_devices
    places = plan_places(plan_counts(there), given.xla)
    cells = [
        Cell(name, inputs, precision, *place)
        for name in names
        for inputs in given.inputs
        for precision in given.precision
        for place in places
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    with directory_lock(given.out):
        matrix = Matrix(given.out, settings, found)
        if given.retry:
            matrix.drop_failed()
        run_matrix(given, settings=settings, cells=cells, matrix=matrix)
        print(matrix.write())


def main(arguments: Sequence[str]) -> int:
    """Runs the tool; the exit code, as of the command line of tlperf."""
    given = parse_arguments(arguments)
    return run_guarded("gpu_matrix", lambda: measure(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
