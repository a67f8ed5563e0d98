"""A sweep over backbones: one child process each.

outcome = run_sweep(config, stages=("train", "evaluate"))
outcome.failures   # {"vgg16": 71}
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log
from tlperf.core.results import latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.core.stopping import Stop, stop_signals
from tlperf.reference.backbones import BackboneSpec, parse_backbones

# The stages of a whole run, in order (see `tlperf.job.stages`).
BACKBONE_STAGES = ("train", "evaluate", "latency")


@dataclasses.dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left.

    Attributes:
        finished: backbones whose stages all ended well.
        failures: exit code by backbone.
    """

    finished: tuple[str, ...]
    failures: dict[str, int]

    def raise_failure(self) -> None:
        """Raises one error with the first failure's code, naming every backbone."""
        if not self.failures:
            return
        names = ", ".join(
            f"{name} (exit {code})" for name, code in self.failures.items()
        )
        first = next(iter(self.failures.values()))
        known = first in set(ExitCode)
        raise TlperfError(
            ExitCode(first) if known else ExitCode.INTERNAL,
            "backbone_failed",
            found=f"{names}; finished: {', '.join(self.finished) or 'none'}",
            remedy="see the lines above and run these --backbones again",
        )


def write_settings(config: RunConfig) -> None:
    """WORKDIR/config.json: the resolved settings, also where the data are."""
    files.write_json(pathlib.Path(config.workdir) / "config.json", config.to_dict())


def run_sweep(
    config: RunConfig, *, stages: Sequence[str], is_alone: bool = True
) -> SweepOutcome:
    """Runs the stages of every backbone, each in a fresh process, one at a time.

    One at a time: two trainings on one device would time each other.

    Args:
        config: of all backbones.
        stages: of each.
        is_alone: False where other workers run the same sweep: what one of them does
            not finish ends it.

    Raises:
        TlperfError: 75 after a signal, to this process or to another worker's.
    """
    finished, failures, child = [], {}, _Child()
    with (
        tempfile.TemporaryDirectory() as folder,
        stop_signals(lambda number: child.stop()) as stop,
    ):
        settings_path = pathlib.Path(folder) / "settings.json"
        files.write_json(settings_path, config.to_dict())
        for spec in parse_backbones(config.backbones):
            # A worker of its own has not what the others have: each goes on from what
            # the first one tells it.
            wanted = [*stages]
            if is_alone:
                wanted = pending_stages(config, spec, stages)
            log(f"{spec.name}: {', '.join(wanted) or 'all is there already'}")
            code = int(ExitCode.OK)
            if wanted and not stop.wanted:
                code = child.run(settings_path, spec, wanted, stop=stop)
            if stop.wanted or (code == ExitCode.RETRY and not is_alone):
                raise TlperfError(
                    ExitCode.RETRY,
                    "stopped",
                    path=config.workdir,
                    found=f"{stop.wanted or 'another worker ended'} while {spec.name} "
                    "was run",
                    remedy="run again with --resume",
                )
            if code == ExitCode.OK:
                finished.append(spec.name)
                continue
            failures[spec.name] = code
            if not is_alone:
                break  # the others end too, and nobody waits for who will not come
    return SweepOutcome(tuple(finished), failures)


def pending_stages(
    config: RunConfig, spec: BackboneSpec, stages: Sequence[str]
) -> list[str]:
    """The stages that are still to be run: all, or with --resume those from the first
    one on whose newest row was not made with these settings."""
    if not config.training.resume:
        return list(stages)
    rows = read_results(config.workdir)
    now = _comparable(config.to_dict())
    trained = latest(rows, "train").get(spec.name)
    for number, stage in enumerate(stages):
        row = latest(rows, stage).get(spec.name)
        if row is None or _comparable(row["settings"]) != now:
            return list(stages[number:])
        if trained is not None and rows.index(row) < rows.index(trained):
            return list(stages[number:])  # of the weights before
    return []


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a result depends on."""
    training = {**settings["training"], "resume": False, "save_every": 0}
    plain: dict[str, Any] = json.loads(
        files.to_json({**settings, "training": training, "backbones": ""})
    )
    return plain


class _Child:
    """The process of one backbone, one at a time.

    It has a group of its own, so that the terminal's Ctrl-C reaches it once, by `stop`.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        settings_path: pathlib.Path,
        spec: BackboneSpec,
        stages: Sequence[str],
        *,
        stop: Stop,
    ) -> int:
        """Runs stages to their end; the exit code."""
        command = [sys.executable, "-m", "tlperf.job.child"]
        command += [str(settings_path), spec.name, ",".join(stages)]
        # stdout belongs to the parent's one result.
        with subprocess.Popen(
            command, stdout=sys.stderr, env=child_environment(), process_group=0
        ) as self._process:
            if stop.wanted:  # the signal came while it was started
                self.stop()
            try:
                code = self._process.wait()
            except BaseException:
                self._process.kill()
                raise
        self._process = None
        if code >= 0:
            return code
        log(f"{spec.name}: killed by signal {-code}" + _kill_hint(-code))
        return ExitCode.MEMORY if code == -9 else ExitCode.INTERNAL

    def stop(self) -> None:
        """Asks it to save and to end."""
        if self._process is not None:
            self._process.terminate()


def _kill_hint(signal: int) -> str:
    # SIGKILL that nobody sent comes from the kernel's out-of-memory killer.
    return " (out of memory? give a smaller --batch_size)" if signal == 9 else ""


def child_environment() -> dict[str, str]:
    """This environment; children import the same tlperf, wherever it was started."""
    root = str(pathlib.Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
