"""`tlperf latency`: each cell in several fresh processes, one at a time.

    outcome = time_backbones(config)
    outcome.rows["xception"]         # of the `latency` JSON

The first process of every cell comes before the second of any, so that a machine that
slows down slows down all rows alike. What each process measured is in WORKDIR/trials
until its row is written: --resume goes on from there. A cell whose batch does not fit
is measured with half of it, or a little less that its replicas can share, and so on; of
a sweep over batches the larger ones are left out.
"""

import dataclasses
import pathlib
import time
from typing import Any

from tlperf.core import files
from tlperf.core.choices import Runtime, Sweep
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.machine import code_facts, machine_and_gpu_facts
from tlperf.core.progress import log, progress_bar
from tlperf.core.results import append_result, latest, read_results
from tlperf.core.settings import LatencyConfig, RunConfig
from tlperf.core.stopping import Stop, stop_signals
from tlperf.core.trials import TRIALS_FOLDER
from tlperf.core.units import format_count, format_secs
from tlperf.job.children import Child
from tlperf.job.trial import REPLICAS_NAME
from tlperf.latency.cells import FINETUNED, IMAGENET, Cell, plan_cells
from tlperf.latency.packages import check_installed
from tlperf.latency.rows import build_row
from tlperf.reference.backbones import parse_backbones


@dataclasses.dataclass
class _Slot:
    """A row that is to be.

    Attributes:
        cell: what is timed for it.
        trials: of the processes so far.
        paths: of the files where they are.
        code: exit code of a process that failed, else 0.
        is_left_out: larger than what fits, in a sweep that is to find that.
        notes: for the row's warnings.
    """

    cell: Cell
    trials: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    paths: list[pathlib.Path] = dataclasses.field(default_factory=list)
    code: int = int(ExitCode.OK)
    is_left_out: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class TimingOutcome:
    """What was timed.

    Attributes:
        rows: by backbone.
        failures: a cell in words to the exit code of its process.
        is_told: whether all there is to say is in the line of the one that failed.
    """

    rows: dict[str, list[dict[str, Any]]]
    failures: dict[str, int]
    is_told: bool = False

    def raise_failure(self) -> None:
        """Raises one error with the first failure's code, naming every cell."""
        if not self.failures:
            return
        first = next(iter(self.failures.values()))
        known = first in set(ExitCode)
        cells = [f"{cell} (exit {code})" for cell, code in self.failures.items()]
        raise TlperfError(
            ExitCode(first) if known else ExitCode.INTERNAL,
            "cell_failed",
            found="; ".join(cells),
            remedy="see the lines above; the other rows are in the workdir",
            is_told=self.is_told,
        )


def time_backbones(config: RunConfig) -> TimingOutcome:
    """Measures every cell of every backbone; appends a `latency` row a backbone.

    Raises:
        TlperfError: 69 where a runtime is not installed, 75 after a signal (or the code
            of a process that failed then) or where another one times in this workdir.
    """
    _check_runtimes(config)
    slots = [_Slot(cell) for cell in plan_rows(config)]
    folder = pathlib.Path(config.workdir) / TRIALS_FOLDER
    with directory_lock(folder), stop_signals(lambda number: child.stop()) as stop:
        child = Child()
        if not config.training.resume:
            _clear(folder)
        runner = _Runner(config, folder, child=child, stop=stop)
        _run_rounds(config.latency, runner, slots)
        outcome = _collect(config, slots, is_told=child.has_told)
        if not outcome.failures:
            runner.drop_outdated()
        return outcome


def _run_rounds(config: LatencyConfig, runner: "_Runner", slots: list[_Slot]) -> None:
    """A process of every cell, then the next of each; tells how long it may take."""
    count, start = config.processes, time.perf_counter()
    log(
        f"latency: {format_count(len(slots), 'row')}, each of "
        f"{format_count(count, 'process', 'processes')}, {config.amount}"
    )
    total = count * len(slots)
    with progress_bar(total=total, unit="process", title="latency") as bar:
        for process in range(count):
            for slot in slots:
                bar.set_postfix_str(slot.cell.text)
                runner.advance(slot, process, slots)
                bar.update()
            if process == 0 and count > 1 and not runner.found:
                secs = time.perf_counter() - start
                log(
                    f"latency: the first process of every row took {format_secs(secs)} "
                    f"in all, the other {count - 1} may take "
                    f"{format_secs((count - 1) * secs)}"
                )


def _check_runtimes(config: RunConfig) -> None:
    for runtime in config.latency.runtimes:
        if runtime is Runtime.ONNXRUNTIME:
            check_installed("onnxruntime", "tf2onnx")
        if runtime is Runtime.OPENVINO:
            check_installed("openvino")


def plan_rows(config: RunConfig) -> list[Cell]:
    """A cell a row of all backbones: networks with their 1000 classes, and fine-tuned
    ones where the workdir has them."""
    trained = latest(read_results(config.workdir), "train")
    return [
        cell
        for spec in parse_backbones(config.backbones)
        for cell in plan_cells(
            spec,
            config.latency,
            device=config.device,
            kinds=(IMAGENET, FINETUNED) if spec.name in trained else (IMAGENET,),
        )
    ]


def _clear(folder: pathlib.Path) -> None:
    """Of trials: the lock is in use."""
    for path in folder.glob("*.json"):
        path.unlink()


def _digest(facts: dict[str, Any]) -> str:
    return files.sha256_bytes(files.to_json(facts).encode())[:16]


class _Runner:
    """Runs the processes of slots.

    Args:
        config: of all.
        folder: for what they measured.
        child: that runs them.
        stop: the wish to stop.

    Attributes:
        found: trials that were measured before.
    """

    def __init__(
        self, config: RunConfig, folder: pathlib.Path, *, child: Child, stop: Stop
    ):
        self._config, self._folder = config, folder
        self._child, self._stop = child, stop
        self.found = 0
        # What a trial depends on; `resume` is not among it.
        values = config.to_dict()
        parts = ("workdir", "input", "model", "device", "latency")
        self._settings = {part: values[part] for part in parts}
        # A row is of one code on one machine, and of one training's weights: what
        # others measured is measured again.
        self._origin = _digest(
            {
                "code": code_facts(),
                "machine": machine_and_gpu_facts(),
                "weights": {
                    name: row["result"].get("weights_sha256")
                    for name, row in latest(
                        read_results(config.workdir), "train"
                    ).items()
                },
            }
        )

    def advance(self, slot: _Slot, process: int, slots: list[_Slot]) -> None:
        """Takes one trial of a slot, unless it failed or was left out before."""
        while not (slot.code or slot.is_left_out):
            code = self._take(slot, process)
            if code == ExitCode.OK:
                return
            if code != ExitCode.MEMORY or process > 0:
                slot.code = code
            elif Sweep.BATCH_SIZE in self._config.latency.sweep:
                self._drop_larger(slot, slots)
            elif half := self._half(slot.cell.batch_size):
                self._shrink(slot, half)
            else:
                slot.code = code

    def _take(self, slot: _Slot, process: int) -> int:
        """A trial, from a file where it was taken before; the exit code."""
        key = {"settings": self._settings, "cell": dataclasses.asdict(slot.cell)}
        name = f"{self._origin}-{_digest(key)}-{process}.json"
        path = self._folder / name
        if path.exists():
            self.found += 1
        else:
            settings, cell = self._folder / "settings", self._folder / "cell"
            files.write_json(settings, self._config.to_dict())
            files.write_json(cell, dataclasses.asdict(slot.cell))
            (self._folder / REPLICAS_NAME).unlink(missing_ok=True)
            code = self._child.run(
                "tlperf.job.trial",
                [str(settings), str(cell), str(path), str(process)],
                title=slot.cell.text,
                stop=self._stop,
            )
            if self._stop.wanted:
                raise TlperfError(
                    ExitCode(code) if self._child.has_told else ExitCode.RETRY,
                    "stopped",
                    path=self._config.workdir,
                    found=f"{self._stop.wanted} while {slot.cell.text} was timed",
                    remedy="run again with --resume",
                    is_told=self._child.has_told,
                )
            if code != ExitCode.OK:
                return code
        trial = files.read_json(path)
        slot.trials.append(trial)
        slot.paths.append(path)
        secs = sorted(trial["samples_secs"])
        log(
            f"{slot.cell.text}: process {process + 1} of "
            f"{self._config.latency.processes}, p50 {format_secs(secs[len(secs) // 2])}"
        )
        return int(ExitCode.OK)

    def drop_outdated(self) -> None:
        """Removes trials of other code, machines or weights: no row takes them."""
        for path in self._folder.glob("*.json"):
            if not path.name.startswith(f"{self._origin}-"):
                path.unlink()

    def _drop_larger(self, slot: _Slot, slots: list[_Slot]) -> None:
        """This batch does not fit, nor do larger ones of the same cell; it is a failure
        where no smaller one did."""
        cell = slot.cell
        alike = [
            other
            for other in slots
            if dataclasses.replace(other.cell, batch_size=cell.batch_size) == cell
        ]
        for other in alike:
            other.is_left_out |= other.cell.batch_size >= cell.batch_size
        if not any(other.trials for other in alike):
            slot.code = int(ExitCode.MEMORY)
        log(f"{cell.text}: does not fit; larger batches are left out")

    def _half(self, batch_size: int) -> int:
        """The largest batch up to half of one that the replicas of the process that
        failed can share; 0 where there is none, and where that process ended before it
        had its devices: no smaller batch would help it."""
        path = self._folder / REPLICAS_NAME
        if not path.exists():
            return 0
        replicas: int = files.read_json(path)
        return batch_size // 2 // replicas * replicas

    def _shrink(self, slot: _Slot, batch_size: int) -> None:
        slot.notes.append(f"a batch of {slot.cell.batch_size} does not fit the memory")
        log(f"{slot.cell.text}: does not fit, tries {batch_size}")
        slot.cell = dataclasses.replace(slot.cell, batch_size=batch_size)


def _collect(config: RunConfig, slots: list[_Slot], *, is_told: bool) -> TimingOutcome:
    """Rows into the workdir, for each backbone that has any; then their trials go.

    Args:
        config: of all.
        slots: that were measured, or failed.
        is_told: whether the last process failed and said why.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    devices: dict[str, dict[str, Any]] = {}
    whole = [slot for slot in slots if slot.trials and not slot.code]
    for slot in whole:
        row = build_row(slot.cell, slot.trials, config.latency)
        row["warnings"] += slot.notes
        rows.setdefault(slot.cell.backbone, []).append(row)
        # The first row's: each has those of its trials.
        devices.setdefault(slot.cell.backbone, slot.trials[0]["device"])
    for backbone, runs in rows.items():
        path = config.backbone_path(backbone) / "latency.json"
        files.write_json(path, {"runs": runs})
        append_result(
            config.workdir,
            stage="latency",
            backbone=backbone,
            result={"runs": runs},
            settings=config.to_dict(),
            device=devices[backbone],
        )
    for path in (path for slot in whole for path in slot.paths):
        path.unlink()
    failures = {slot.cell.text: slot.code for slot in slots if slot.code}
    is_told = is_told and len(slots) == 1
    return TimingOutcome(rows, failures, is_told)
