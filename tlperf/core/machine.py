"""Facts of the machine and the install, read without TensorFlow.

machine_facts()  # {"platform": ..., "cpu": ..., "cores": 2, "versions": {...}}
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

_PACKAGES = (
    "tlperf",
    "tensorflow",
    "keras",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
    "h5py",
    "pillow",
    "simplejpeg",
    "protobuf",
)
# First compute capability with TensorFloat-32 (NVIDIA, Ampere).
_TF32_CAPABILITY = (8, 0)


def package_versions(*more: str) -> dict[str, str | None]:
    """Installed versions by package name, of those a result depends on and `more`; None
    where one is not installed."""
    versions: dict[str, str | None] = {}
    for name in (*_PACKAGES, *more):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def cpu_name() -> str:
    """The processor's name, or the architecture where the system tells no name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [
        line.partition(":")[2].strip()
        for line in lines
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit_bytes(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Memory this process may use: physical, or less where a control group that it is
    in, or its own limit, says so (cgroups(7), setrlimit(2)).

    Args:
        root: where `proc` and `sys` are.
    """
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    soft = [resource.getrlimit(kind)[0] for kind in kinds]
    own = [limit for limit in soft if limit != resource.RLIM_INFINITY]
    return min([memory_bytes(), *own, *_group_limits(root)])


def _group_limits(root: pathlib.Path) -> list[int]:
    """Limits of the control groups of this process and of those around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inner = pathlib.PurePath(group).relative_to("/")
        for folder in (inner, *inner.parents):  # a container may see its own as the top
            path = top / folder / name
            text = path.read_text().strip() if path.is_file() else "max"
            limits += [int(text)] if text.isdigit() else []
    return limits


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    # Linux counts ru_maxrss in KiB (getrusage(2)).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def code_facts() -> dict[str, Any]:
    """Which tlperf this is: its version, and of a git checkout the commit and whether
    files were changed since; of a release from a package index both are None."""
    root = pathlib.Path(__file__).parents[2]
    facts: dict[str, Any] = {"version": package_versions()["tlperf"]}
    facts |= {"commit": None, "changed": None}
    if not (root / ".git").exists():
        return {**facts, **_installed_from()}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        facts["commit"] = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {**facts, "commit": "unknown", "changed": True}  # it cannot be told
    facts["changed"] = bool(changes)
    return facts


def _installed_from() -> dict[str, Any]:
    """Commit and changes of an installed package: pip writes down where one came from
    that is no index's (PEP 610)."""
    try:
        text = importlib.metadata.distribution("tlperf").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {"commit": "unknown", "changed": True}
    origin = json.loads(text) if text else None
    if origin is None:
        return {}
    commit = origin.get("vcs_info", {}).get("commit_id")
    # Of a folder it cannot be told what was changed in it.
    return {"commit": commit or "unknown", "changed": commit is None}


def gpu_facts(root: pathlib.Path = pathlib.Path("/")) -> dict[str, Any]:
    """Names of NVIDIA's GPUs and the driver's version, as the driver tells them.

    Args:
        root: where `proc` is.
    """
    folder = root / "proc/driver/nvidia"
    told = [path.read_text() for path in sorted(folder.glob("gpus/*/information"))]
    names = [
        line.partition(":")[2].strip()
        for text in told
        for line in text.splitlines()
        if line.startswith("Model:")
    ]
    version = folder / "version"
    driver = version.read_text().splitlines()[0] if version.is_file() else None
    return {"gpus": names, "gpu_driver": driver}


def least_capability(gpus: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """The least compute capability, (0, 0) where one of them tells none, or none is
    there.

    Args:
        gpus: what `tf.config.experimental.get_device_details` tells of each.
    """
    told = [tuple(gpu.get("compute_capability") or (0, 0)) for gpu in gpus]
    return min(told, default=(0, 0))


def has_tf32(gpus: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there are GPUs and float32 products can take TensorFloat-32 on each."""
    return least_capability(gpus) >= _TF32_CAPABILITY


def machine_facts() -> dict[str, Any]:
    """What a result row says about where it was made; no host name, no user."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "versions": package_versions(),
    }


def machine_and_gpu_facts() -> dict[str, Any]:
    """What a timed process says about where it ran."""
    return {**machine_facts(), **gpu_facts()}
