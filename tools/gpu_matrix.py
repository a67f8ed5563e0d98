r"""Measures a machine's GPUs: one command, one file, one readable table.

    python -m tools.gpu_matrix --out=gpu_matrix           # all of it, many hours
    python -m tools.gpu_matrix --out=gpu_matrix --backbones=resnet50 --xla=off
    python -m tools.gpu_matrix --out=gpu_matrix --parts=input,latency
    python -m tools.gpu_matrix --out=w --devices=cpu --logical_devices=2 \
        --backbones=vgg16 --precision=float32 --weights=none --image_size=32 \
        --batch_size=2 --images=64 --epochs=1 --processes=1 --latency_secs=1
    tlperf report --workdir=gpu_matrix

Of each backbone, on one GPU and on all: input rates; the latency of inference and of
steps of training, in each precision (float32 with and without TF32), with and without
XLA; trainings on features of the frozen part and on images, on 1, 2, 4, ... devices. A
cell is a `tlperf` command in a process of its own; one that fails says why, the rest
goes on, and the exit code is that of the first. Writes OUT/gpu_matrix.json, which
`tlperf report` reads, and OUT/gpu_matrix.md after each cell; run again, it does the
cells that are not there. `--devices=cpu` shows on logical CPU devices that the tool
works, and nothing of GPUs.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.machine import gpu_facts, has_tf32
from tlperf.core.progress import log, progress_bar
from tlperf.core.results import latest, read_results
from tlperf.core.stopping import Stop, stop_signals
from tlperf.job.outcome import run_guarded
from tlperf.model.weights import find_weights
from tlperf.reference.backbones import parse_backbones
from tlperf.reporting.gpu_tables import format_result
from tools.gpu_cells import (
    INPUTS,
    PARTS,
    PRECISIONS,
    PROTOCOLS,
    TF32,
    XLA,
    Cell,
    Choices,
    Settings,
    cell_command,
    plan_cells,
)
from tools.gpu_child import Child, Done, find_reason, known_code
from tools.gpu_data import prepare_data
from tools.gpu_file import Matrix

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
# Options that choose among a constant's words.
_VARIED = {
    "parts": PARTS,
    "inputs": tuple(INPUTS),
    "precision": PRECISIONS,
    "xla": XLA,
    "tf32": TF32,
}


def run_cell(
    cell: Cell, settings: Settings, *, out: pathlib.Path, child: Child, stop: Stop
) -> dict[str, Any]:
    """Runs a cell; its row: the command's result and devices, and why it failed."""
    workdir = out / "cell"
    child.wait_until_alone()
    shutil.rmtree(workdir, ignore_errors=True)
    command = cell_command(cell, settings, data_dir=out / "data", workdir=workdir)
    done = child.run(command, stop=stop)
    row = {
        "cell": dataclasses.asdict(cell),
        "secs": done.secs,
        "exit_code": done.exit_code,
        "reason": "",
        **read_cell(cell, done, workdir),
    }
    if done.exit_code:
        row["reason"] = find_reason(done, most_secs=child.most_secs)
        row["log"] = done.err.splitlines()[-_LOG_LINES:]
    # Features of a deep network take GiB.
    shutil.rmtree(workdir, ignore_errors=True)
    return row


def read_cell(cell: Cell, done: Done, workdir: pathlib.Path) -> dict[str, Any]:
    """What a command gave; of a latency that failed, the protocols that did not."""
    if cell.part == "latency":
        row = latest(read_results(workdir), "latency").get(cell.backbone)
        return {key: row[key] for key in ("result", "device")} if row else {}
    if done.exit_code:
        return {}
    result = json.loads(done.out.splitlines()[-1])
    if cell.part == "input":
        return {"result": result, "device": {"text": result["device"]}}
    (run,) = result["runs"]
    return {"result": run, "device": read_results(workdir)[-1]["device"]}


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
    return {**found, "driver": gpu_facts()["gpu_driver"]}


def run_matrix(
    given: argparse.Namespace,
    *,
    settings: Settings,
    missing: list[Cell],
    matrix: Matrix,
) -> None:
    """Runs the cells that are missing.

    Raises:
        TlperfError: 75 after a signal; whole cells are kept.
    """
    child = Child(given.out, most_secs=given.cell_secs)
    with (
        stop_signals(lambda number: child.stop()) as stop,
        progress_bar(total=len(missing), unit="cell", title="gpu_matrix") as bar,
    ):
        if any(cell.part != "latency" for cell in missing):
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


def measure(given: argparse.Namespace) -> None:
    """Runs the matrix and prints where its table is.

    Raises:
        TlperfError: with the exit code of the first cell that failed, at the end.
    """
    specs = parse_backbones(given.backbones)
    fields = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(given, name) for name in fields})
    found = look_at_devices(settings.devices)
    varied = {name: getattr(given, name) for name in _VARIED}
    varied["tf32"] = varied["tf32"] if has_tf32(found["gpus"]) else [""]
    there = len(found["gpus"]) or given.logical_devices
    names = [spec.name for spec in specs]
    cells = plan_cells(names, Choices(**varied), there=there, settings=settings)
    given.out.mkdir(parents=True, exist_ok=True)
    with directory_lock(given.out):
        matrix = Matrix(given.out, settings, found)
        missing = find_missing(cells, matrix, retry=given.retry)
        wanted = {cell.backbone for cell in missing if cell.part == "training"}
        for spec in specs:
            if spec.name in wanted:  # what is not there is told before hours of work
                find_weights(spec, settings.weights)
        # From now on the data are those of these settings.
        matrix.write()
        run_matrix(given, settings=settings, missing=missing, matrix=matrix)
        print(matrix.write())
    raise_failure([matrix.find(cell) or {} for cell in cells])


def find_missing(cells: Sequence[Cell], matrix: Matrix, *, retry: bool) -> list[Cell]:
    """The cells to run: those that are not there or that a signal ended, and by `retry`
    those that failed."""
    missing = []
    for cell in cells:
        row = matrix.find(cell)
        code = ExitCode.RETRY if row is None else row.get("exit_code")
        if code == ExitCode.RETRY or (retry and code):
            missing.append(cell)
    return missing


def raise_failure(rows: Sequence[dict[str, Any]]) -> None:
    """Raises one error with the first failure's code, where a cell failed."""
    failed = [row for row in rows if row.get("exit_code")]
    if not failed:
        return
    first = failed[0]
    raise TlperfError(
        known_code(first["exit_code"]),
        "cell_failed",
        found=f"{len(failed)} of {len(rows)} cells, the first: "
        f"{Cell(**first['cell']).text}: {first['reason']}",
        remedy="see the outcomes in the table; --retry runs them again",
    )


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(
                f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        return list(dict.fromkeys(words))

    return parse


def _above_0(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path("gpu_matrix"))
    add("--backbones", default="all", help="all, or a comma list")
    for name, known in {**_VARIED, "protocols": PROTOCOLS}.items():
        text = f"comma list (default {','.join(known)})"
        add(f"--{name}", type=_words(known), default=list(known), help=text)
    count, secs = _above_0(int), _above_0(float)
    add("--processes", type=count, default=5, help="of tlperf latency (5)")
    add("--latency_secs", type=float, default=0.0, help="most for a timed row")
    add("--input_secs", type=secs, default=3.0, help="of tlperf input (3)")
    add("--devices", choices=("gpu", "cpu"), default="gpu")
    add("--logical_devices", type=count, default=2, help="with --devices=cpu (2)")
    add("--source", default="", help="of tlperf shard (default: photos are made)")
    add("--images", type=count, default=4000, help="training photos to make (4000)")
    add("--weights", default="imagenet", help="of tlperf train; none: random ones")
    add("--epochs", type=count, default=3, help="of tlperf train (3)")
    add("--image_size", type=int, default=0, help="but of 1000-class networks (native)")
    add("--batch_size", type=count, default=32, help="images a step and device (32)")
    add("--cell_secs", type=secs, default=7200.0, help="most for a cell (7200)")
    add("--retry", action="store_true", help="run cells that failed again")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs the tool; the exit code, as of the command line of tlperf."""
    given = parse_arguments(arguments)
    return run_guarded("gpu_matrix", lambda: measure(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
