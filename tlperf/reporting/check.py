"""Whether timed rows can be published, and what they lack.

    check_workdir("w")
    # {"rows": [{"backbone": "vgg16", ..., "ok": True, "problems": []}], "ok": True}

After the checkers of MLPerf's submissions. A row has to name what was timed, by which
code and versions, on which device, beside how much other load; it has to hold as many
samples and seconds as were asked for; and it has to be valid. What a row says of
itself is not believed: its figures are derived once more from its raw samples, and the
rules that make it INVALID are applied again. Reads WORKDIR/results.jsonl, and counts
what a `latency` that was stopped has left in WORKDIR/trials.
"""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packaging.version import InvalidVersion, Version

from tlperf.core.choices import PROTOCOL_TEXTS, Precision, Preset, Protocol, Runtime
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.results import (
    RESULTS_NAME,
    SCHEMA_VERSION,
    read_results,
    settings_digest,
)
from tlperf.core.trials import (
    TRIALS_FOLDER,
    all_samples,
    derive_figures,
    find_faults,
    largest_difference,
)
from tlperf.reference import paper
from tlperf.reference.backbones import BACKBONES
from tlperf.reporting import kinds, shapes
from tlperf.reporting.kinds import find_unlike
from tlperf.reporting.reasons import describe_unfinished
from tlperf.reporting.rows import IMAGENET_MODEL, Row, child

_OTHER_STAGES = ("shard", "preprocess", "train", "evaluate")
# What tells a row from the others, as the JSON has it.
_NAMES = (
    *("backbone", "model", "protocol", "runtime", "batch_size", "precision", "xla"),
    *("tf32", "device", "p50_ms"),
)

# Of the multiply-adds that are known; another count is another network.
_MOST_GFLOP_ERROR = 0.02


def check_workdir(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The JSON of `check`; `unfinished` counts the processes of rows that are not
    written yet.

    Raises:
        TlperfError: 66 where there is no timed row.
    """
    checked = check_rows(read_results(workdir))
    trials = pathlib.Path(workdir) / TRIALS_FOLDER
    unfinished = len([*trials.glob("*.json")])
    if not checked:
        remedy = "run tlperf latency first, or give the --workdir where it was run"
        raise TlperfError(
            ExitCode.NO_INPUT,
            "no_timed_rows",
            path=pathlib.Path(workdir) / RESULTS_NAME,
            found="no timed row",
            remedy=describe_unfinished(unfinished) if unfinished else remedy,
        )
    return {
        "rows": checked,
        "ok": all(row["ok"] for row in checked),
        "unfinished": unfinished,
    }


def check_rows(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """What is wrong with each timed row: of each backbone, those measured last.

    Args:
        rows: of results.jsonl, oldest first, whatever they are.
    """
    return [checked for row in _newest(rows) for checked in _check_row(row)]


def _newest(rows: Sequence[Any]) -> list[Any]:
    """What does not tell its stage or backbone is replaced by nothing else."""
    found: dict[object, Any] = {}
    for number, row in enumerate(rows):
        values = row if isinstance(row, Mapping) else {}
        stage, backbone = values.get("stage"), values.get("backbone")
        if stage in _OTHER_STAGES:
            continue
        is_named = stage == "latency" and isinstance(backbone, str)
        found[backbone if is_named else number] = row
    return list(found.values())


def _check_row(row: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(row, Mapping):
        yield _checked({}, ["row: expected an object"])
        return
    shared = list(_row_problems(row))
    runs = child(row, "result").get("runs")
    if not isinstance(runs, list) or not runs:
        yield _checked(row, [*shared, "runs: missing"])
        return
    for run in runs:
        own = run if isinstance(run, Mapping) else {}
        yield _checked(own, [*shared, *_run_problems(own, row)])


def _checked(run: Row, problems: Sequence[str]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        is_plain = isinstance(value, str | bool) or kinds.is_number(value)
        return value if is_plain else None

    names = {name: plain(run.get(name)) for name in _NAMES}
    if not kinds.is_number(names["p50_ms"]):
        names["p50_ms"] = None
    return {**names, "ok": not problems, "problems": list(dict.fromkeys(problems))}


def _row_problems(row: Row) -> Iterator[str]:
    """What all timed runs of a row share."""
    yield from find_unlike(row, shapes.ROW)
    if row.get("schema_version") != SCHEMA_VERSION:
        yield f"schema_version: expected {SCHEMA_VERSION}"
    machine, settings = child(row, "machine"), child(row, "settings")
    yield from find_unlike(machine, shapes.MACHINE, "machine ")
    yield from find_unlike(child(machine, "versions"), shapes.VERSIONS, "version of ")
    yield from find_unlike(child(row, "device"), shapes.DEVICE, "device ")
    yield from find_unlike(child(settings, "latency"), shapes.ASKED, "asked for: ")
    if settings.get("preset") == Preset.QUICK:
        yield "smoke figures: made with --preset=quick"
    try:
        digest = settings_digest(dict(settings))
    except (TypeError, ValueError):
        digest = ""
    if row.get("settings_digest") != digest:
        yield "settings_digest: is another one than that of the settings"


def _run_problems(run: Row, row: Row) -> Iterator[str]:
    unlike = [*find_unlike(run, shapes.RUN), *_trial_problems(run)]
    yield from unlike
    if "weights_sha256" in run:  # older rows do not tell it
        yield from find_unlike(run, {"weights_sha256": kinds.or_none(kinds.SHA256)})
    yield from _code_problems(run, child(child(row, "machine"), "versions"))
    if run.get("backbone") != row.get("backbone"):
        yield "backbone: is another one than the row's"
    if unlike:
        return  # there is nothing to derive anything from
    yield from _consistency_problems(run)
    yield from _place_problems(run, child(row, "machine"))
    yield from _figure_problems(run)
    yield from _rule_problems(run, child(row, "machine"))
    yield from _count_problems(run, child(child(row, "settings"), "latency"))
    yield from _network_problems(run)


def _trial_problems(run: Row) -> Iterator[str]:
    """What raw values are missing or cannot be."""
    trials = run.get("trials")
    for number, trial in enumerate(trials if isinstance(trials, list) else ()):
        name, own = f"trial {number} ", trial if isinstance(trial, Mapping) else {}
        yield from find_unlike(own, shapes.TRIAL, name)
        yield from find_unlike(child(own, "load"), shapes.LOAD, f"{name}load ")
        if run.get("protocol") != Protocol.TRAIN_STEP:
            yield from find_unlike(
                child(own, "checks"), shapes.CHECKS, f"{name}checks "
            )
        elif "checks" not in own or own["checks"] is not None:
            yield f"{name}checks: expected none of a step that changes the network"


def _code_problems(run: Row, versions: Row) -> Iterator[str]:
    """Which code it was: an installed release, or a commit with no changed files."""
    code = child(run, "code")
    version, commit = code.get("version"), code.get("commit")
    if version != versions.get("tlperf"):
        yield f"code: version {version}, installed was {versions.get('tlperf')}"
    if "commit" not in code or "changed" not in code:
        yield "code: does not tell its commit, or whether files were changed"
    elif commit is None:
        if code["changed"] is not None or not _is_release(version):
            yield "code: neither a commit nor an installed release"
    elif not kinds.DIGEST.holds(commit):
        yield "code: the commit is not known"
    elif code["changed"] is not False:
        yield "code: files were changed since the commit"
    told, installed = map(
        _parse_version, (run.get("runtime_version"), versions.get("tensorflow"))
    )
    if run.get("runtime") == Runtime.TF and (told is None or told != installed):
        yield "runtime_version: is not that of the installed TensorFlow"


def _is_release(version: Any) -> bool:
    found = _parse_version(version)
    return found is not None and not (found.is_prerelease or found.local)


def _parse_version(text: Any) -> Version | None:
    try:
        return Version(text)
    except (InvalidVersion, TypeError):
        return None


def _consistency_problems(run: Row) -> Iterator[str]:
    """Raw values that contradict each other."""
    trials = run["trials"]
    numbers = [trial["process"] for trial in trials]
    if sorted(numbers) != list(range(len(trials))):
        yield f"process: expected each from 0 to {len(trials) - 1}, got {numbers}"
    measured = [tuple(trial["samples_secs"]) for trial in trials]
    if len(set(measured)) < len(measured):
        yield "samples_secs: two processes have the same to the last bit"
    names = {tuple(sorted(trial["prepare_secs"])) for trial in trials}
    if len(names) > 1:
        yield "prepare_secs: processes prepared unlike things"
    for number, trial in enumerate(trials):
        least = trial["first_step_secs"] + math.fsum(trial["samples_secs"])
        if trial["measured_secs"] < least * (1 - 1e-9):
            yield f"trial {number} measured_secs: is less than its steps took"
        checks = trial["checks"]
        most = largest_difference(run["precision"], tf32=run["tf32"])
        if checks and checks["tolerance"] != most:
            yield f"trial {number} checks tolerance: is not that of {run['precision']}"


def _place_problems(run: Row, machine: Row) -> Iterator[str]:
    """What the row says of where and how it was computed, against its processes; that
    these are alike is a rule of its own."""
    trial = run["trials"][0]
    device = trial["device"]
    is_training = run["protocol"] == Protocol.TRAIN_STEP
    expected = {
        "device": device.get("text") if is_training else trial["device_text"],
        "precision": device.get("precision"),
        "xla": device.get("xla"),
        "tf32": bool(device.get("tf32")) and run["precision"] == Precision.FLOAT32,
        "runtime_version": trial["runtime_version"],
        "winograd_convolutions": trial["winograd_convolutions"],
        "code": trial["code"],
        "protocol_text": PROTOCOL_TEXTS[Protocol(run["protocol"])],
    }
    for name, value in expected.items():
        if run[name] != value:
            yield f"{name}: is not what its processes had"
    # Older rows tell it neither of their trials nor of themselves.
    told = run.get("weights_sha256", "")
    if any(one.get("weights_sha256", "") != told for one in run["trials"]):
        yield "weights_sha256: is not what its processes had"
    if any(trial["machine"].get(name) != machine[name] for name in machine):
        yield "machine: is not what its processes had"
    if device.get("kind") == "GPU" and not trial["machine"].get("gpu_driver"):
        yield "machine: the GPU's driver is not known"
    if missing := set(run["invalid"]) - set(run["warnings"]):
        yield f"warnings: lack {', '.join(sorted(missing))}"


def _figure_problems(run: Row) -> Iterator[str]:
    """Figures that are not what the raw samples give."""
    trials = run["trials"]
    if len({tuple(sorted(trial["prepare_secs"])) for trial in trials}) > 1:
        return
    derived = derive_figures(
        trials,
        batch_size=run["batch_size"],
        gflop=run["gflop_per_step"],
        gbytes=run["gbytes_per_step"],
    )
    for name, value in derived.items():
        if name not in run:
            yield f"{name}: missing"
        elif not _is_equal(run[name], value):
            told, own = kinds.short_text(run[name]), kinds.short_text(value)
            yield f"{name}: is {told}, its samples give {own}"


def _is_equal(told: Any, derived: Any) -> bool:
    """Whether a value of JSON is what was derived, but for the last bits."""
    if isinstance(derived, Mapping):
        is_alike = isinstance(told, Mapping) and set(told) == set(derived)
        return is_alike and all(_is_equal(told[key], derived[key]) for key in derived)
    if isinstance(derived, list):
        is_alike = isinstance(told, list) and len(told) == len(derived)
        return is_alike and all(map(_is_equal, told, derived))
    if derived is None or isinstance(derived, str):
        return bool(told == derived)
    return kinds.is_number(told) and math.isclose(told, derived, rel_tol=1e-9)


def _rule_problems(run: Row, machine: Row) -> Iterator[str]:
    """The rules that the row breaks, whether it says so or not."""
    told: Any = machine.get("cores")
    cores: int = told if kinds.COUNT.holds(told) else 1
    faults = list(find_faults(run["trials"], cores=cores))
    for reason in (*run["invalid"], *faults):  # each once: see `_checked`
        yield f"INVALID: {reason}"
    if run["valid"] != (not run["invalid"]) or run["valid"] != (not faults):
        yield f"valid: is {str(run['valid']).lower()}, its samples say otherwise"


def _count_problems(run: Row, asked: Row) -> Iterator[str]:
    """Samples, seconds and processes against what was asked for."""
    if [*find_unlike(asked, shapes.ASKED)]:
        return  # told already
    samples = all_samples(run["trials"])
    wanted = asked["batches"] * asked["repetitions"]
    if run["requested_samples"] != wanted:
        yield f"requested_samples: expected {wanted}, as the settings say"
    if len(samples) < wanted:
        yield f"{len(samples)} of {wanted} samples"
    secs = math.fsum(samples)
    if secs < asked["min_secs"] * (1 - 1e-9):
        yield f"{secs:.1f} of {asked['min_secs']:g} s of timed steps"
    if len(run["trials"]) != asked["processes"]:
        yield f"{len(run['trials'])} of {asked['processes']} processes"
    if run["protocol"] not in asked["protocols"]:
        yield f"protocol: {run['protocol']} was not asked for"
    own_runtimes = [Runtime.TF, *asked["runtimes"]]
    is_tf_only = run["protocol"] in (Protocol.KERAS_PREDICT, Protocol.TRAIN_STEP)
    if run["runtime"] not in (own_runtimes[:1] if is_tf_only else own_runtimes[1:]):
        yield f"runtime: {run['runtime']} was not asked for"


def _network_problems(run: Row) -> Iterator[str]:
    """What is known of the network, against what the row says of it."""
    gflop = run["gflop_per_step"]
    if (gflop is None) != (run["protocol"] == Protocol.TRAIN_STEP):
        yield "gflop_per_step: is counted for inference alone"
    known = {spec.name: spec for spec in BACKBONES}.get(run["backbone"])
    printed = None
    if run["model"] == IMAGENET_MODEL:
        printed = paper.published_step(run["backbone"], gflop, run["batch_size"])
    if not _is_equal(run["published"], printed):
        yield "published: is not what Table 1 prints of this network"
    if known is None or run["model"] != IMAGENET_MODEL or gflop is None:
        return
    if run["image_size"] != known.native_size:
        yield f"image_size: expected {known.native_size}, the network's own"
    if known.gmacs is not None:
        expected = 2 * known.gmacs * run["batch_size"]
        if abs(gflop / expected - 1) > _MOST_GFLOP_ERROR:
            yield f"gflop_per_step: expected about {expected:.4g} of this network"
