"""Checks of install, machine, devices, data, weights and preprocessing.

    checks = run_checks(config)   # [{"name", "ok", "level", "found", "advice"}, ...]

Each says what to do. They come in the order a run would meet their subject; what is
broken in one is a finding, and ends none of the others.
"""

import traceback
from collections.abc import Callable, Collection
from typing import Any

from tlperf.core.errors import TlperfError
from tlperf.core.quiet import is_verbose
from tlperf.core.settings import RunConfig
from tlperf.doctor import compute, data, install, machine, networks
from tlperf.doctor.findings import MIN_FREE_BYTES, Check, Level, Patient

_CHECKS: dict[str, Callable[[Patient], Check]] = {
    "python": install.check_python,
    "packages": install.check_packages,
    "combinations": install.check_combinations,
    "memory": machine.check_memory,
    "disk": machine.check_disk,
    "workdir": machine.check_workdir,
    # In a process of its own; the next one sets up the devices of this one.
    "tensorflow": compute.check_tensorflow,
    "devices": compute.check_devices,
    "gpu": compute.check_gpu,
    "jpeg": compute.check_jpeg,
    "page_cache": data.check_page_cache,  # before all data are read
    "data": data.check_data,
    "weights": networks.check_weights,
    "preprocessing": networks.check_preprocessing,
}
# They import TensorFlow here, which a broken one might not survive.
_NEED_TENSORFLOW = ("devices", "jpeg", "preprocessing")


def run_checks(
    config: RunConfig,
    *,
    names: Collection[str] = tuple(_CHECKS),
    min_free_bytes: int = MIN_FREE_BYTES,
) -> list[dict[str, Any]]:
    """The checks, in their order; `ok` is whether it is not bad.

    Args:
        config: the settings that a command would have.
        names: of the checks to run.
        min_free_bytes: of a disk.
    """
    patient = Patient(config, min_free_bytes=min_free_bytes)
    for name, check in _CHECKS.items():
        if name in names:
            patient.found[name] = _run(name, check, patient)
    return [
        {
            "name": name,
            "ok": check.level is not Level.BAD,
            "level": check.level.value,
            "found": check.found,
            "advice": check.advice,
        }
        for name, check in patient.found.items()
    ]


def _run(name: str, check: Callable[[Patient], Check], patient: Patient) -> Check:
    if name in _NEED_TENSORFLOW and patient.is_bad("tensorflow"):
        return Check.warn("not looked at", "mend TensorFlow first")
    try:
        return check(patient)
    except TlperfError as error:
        return Check.of_error(error)
    except Exception as error:  # whatever is broken here is the finding
        if is_verbose():
            traceback.print_exc()
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check.bad(found, "run again with --verbose to see where")
