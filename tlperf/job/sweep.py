"""A sweep over backbones: one child process each.

outcome = run_sweep(config, stages=("train", "evaluate"), command="run")
outcome.failures   # {"vgg16": 71}
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log
from tlperf.core.results import latest, read_results
from tlperf.core.settings import RunConfig
from tlperf.core.stopping import stop_signals
from tlperf.job.children import Child
from tlperf.reference.backbones import BackboneSpec, parse_backbones

# The stages of a whole run, in order (see `tlperf.job.stages`).
BACKBONE_STAGES = ("train", "evaluate", "latency")


@dataclasses.dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left.

    Attributes:
        finished: backbones whose stages all ended well.
        failures: exit code by backbone.
        is_told: whether all there is to say is in the line of the one that failed.
    """

    finished: tuple[str, ...]
    failures: dict[str, int]
    is_told: bool = False

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
            is_told=self.is_told,
        )


def write_settings(config: RunConfig) -> None:
    """WORKDIR/config.json: the resolved settings, also where the data are."""
    files.write_json(pathlib.Path(config.workdir) / "config.json", config.to_dict())


def run_sweep(
    config: RunConfig, *, stages: Sequence[str], command: str, is_alone: bool = True
) -> SweepOutcome:
    """Runs the stages of every backbone, each in a fresh process, one at a time.

    One at a time: two trainings on one device would time each other.

    Args:
        config: of all backbones.
        stages: of each.
        command: whose stages they are; error lines of child processes name it.
        is_alone: False where other workers run the same sweep: what one of them does
            not finish ends it.

    Raises:
        TlperfError: 75 after a signal, to this process or to another worker's, or the
            code of a child process that could not save then.
    """
    finished, failures, child = [], {}, Child()
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
            code, is_told = int(ExitCode.OK), False
            if wanted and not stop.wanted:
                arguments = [str(settings_path), spec.name, ",".join(wanted), command]
                code = child.run(
                    "tlperf.job.child", arguments, title=spec.name, stop=stop
                )
                is_told = child.has_told
            if stop.wanted or (code == ExitCode.RETRY and not is_alone):
                raise TlperfError(
                    # Not 75 where it could not save.
                    ExitCode(code) if is_told else ExitCode.RETRY,
                    "stopped",
                    path=config.workdir,
                    found=f"{stop.wanted or 'another worker ended'} while {spec.name} "
                    "was run",
                    remedy="run again with --resume",
                    is_told=is_told,
                )
            if code == ExitCode.OK:
                finished.append(spec.name)
                continue
            failures[spec.name] = code
            if not is_alone:
                break  # the others end too, and nobody waits for who will not come
    is_told = child.has_told and not finished and len(failures) == 1
    return SweepOutcome(tuple(finished), failures, is_told)


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
