"""Memory, disks, and the folder for results.

check_memory(patient); check_disk(patient); check_workdir(patient)
"""

import pathlib
import shutil

from tlperf.core import files
from tlperf.core.errors import TlperfError
from tlperf.core.locks import LOCK, FolderLock
from tlperf.core.machine import memory_limit_bytes, package_versions, usable_cores
from tlperf.core.results import read_results
from tlperf.core.units import format_bytes
from tlperf.dataset.manifest import COMPLETE
from tlperf.doctor.findings import Check, Patient

# Peak of a training with InceptionResNetV2 at its native size, batch 32.
_STUDY_BYTES = 4 << 30
# Below it little more than TensorFlow itself fits.
_LEAST_BYTES = 2 << 30


def check_memory(patient: Patient) -> Check:
    """What this process may use, and what of it is free."""
    return judge_memory(memory_limit_bytes(), available_bytes())


def judge_memory(limit: int, available: int | None) -> Check:
    """What so many bytes are enough for.

    Args:
        limit: bytes that this process may use (see `memory_limit_bytes`).
        available: bytes of the machine that are free; None where it does not tell.
    """
    found = f"{format_bytes(limit)}, {usable_cores()} cores"
    advice = "give a smaller --batch_size and --image_size"
    if limit < _LEAST_BYTES:
        wanted = f"raise the limit to {format_bytes(_STUDY_BYTES)}, or {advice}"
        return Check.bad(found, wanted)
    if limit < _STUDY_BYTES:
        told = f"{found}; the largest backbone takes {format_bytes(_STUDY_BYTES)}"
        return Check.warn(told, advice)
    if available is not None and available < _LEAST_BYTES:
        told = f"{found}, of which {format_bytes(available)} are free"
        return Check.warn(told, "end other programs")
    return Check.ok(found)


def available_bytes(root: pathlib.Path = pathlib.Path("/")) -> int | None:
    """Memory that programs can still get without swapping (proc(5)).

    Args:
        root: where `proc` is.
    """
    path = root / "proc/meminfo"
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def check_disk(patient: Patient) -> Check:
    """Whether results and data can be written, and for how long."""
    config = patient.config
    folders = {_existing(pathlib.Path(config.workdir)): "--workdir"}
    # Data that are whole are only read, and may be on a disk that is.
    if not (config.data_path / COMPLETE).exists():
        folders.setdefault(_existing(config.data_path), "--data_dir")
    return Check.joined(
        [_check_folder(patient, path, flag) for path, flag in folders.items()]
    )


def _existing(folder: pathlib.Path) -> pathlib.Path:
    """The folder, or the nearest one around it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_folder(patient: Patient, folder: pathlib.Path, flag: str) -> Check:
    if not folder.is_dir():
        return Check.bad(f"{folder} is no folder", f"give another {flag}")
    try:
        files.check_writable(folder)
    except TlperfError as error:
        found = f"{folder} cannot be written ({error.found})"
        return Check.bad(found, f"give a {flag} that you may write")
    free = shutil.disk_usage(folder).free
    needed = format_bytes(patient.min_free_bytes)
    if free < patient.min_free_bytes:
        found = f"{folder} has {format_bytes(free)} free"
        return Check.bad(found, f"free space, or give a {flag} with {needed} free")
    return Check.ok(f"{format_bytes(free)} free, writable")


def check_workdir(patient: Patient) -> Check:
    """Whether somebody else is at work there, and with what it was made."""
    config = patient.config
    workdir = pathlib.Path(config.workdir)
    if workdir.exists() and not workdir.is_dir():
        return Check.bad(f"{workdir} is no folder", "give another --workdir")
    if not workdir.is_dir():
        return Check.ok("not there yet: run, shard or train will make it")
    folders = {path.parent for path in workdir.glob(f"*/{LOCK}")}
    folders |= {config.data_path} if (config.data_path / LOCK).exists() else set()
    held = [str(folder) for folder in sorted(folders) if _is_held(folder)]
    try:
        rows = read_results(workdir)
    except TlperfError as error:
        return Check.of_error(error)
    found = []
    if held:
        told = f"another process is at work in {', '.join(held)}"
        found.append(Check.warn(told, "wait for it to end"))
    made = {_tensorflow_of(row) for row in rows} - {None}
    here = package_versions()["tensorflow"]
    others = sorted(str(version) for version in made - {here})
    if here and others:
        told = f"results of TensorFlow {', '.join(others)}, and here is {here}"
        advice = "run the stages again before you compare their figures"
        found.append(Check.warn(told, advice))
    return Check.joined(found) if found else Check.ok(f"{len(rows)} result rows")


def _is_held(folder: pathlib.Path) -> bool:
    """A lock dies with its owner, so one that is held has one. Where none can be taken
    nobody writes; whether one should, `check_disk` tells."""
    try:
        lock = FolderLock.take(folder, alone=True)
    except TlperfError:
        return False
    if lock is None:
        return True
    lock.let_go()
    return False


def _tensorflow_of(row: dict[str, dict[str, dict[str, str | None]]]) -> str | None:
    return row.get("machine", {}).get("versions", {}).get("tensorflow")
