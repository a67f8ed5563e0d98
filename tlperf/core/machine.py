"""Facts of the machine and the install, read without TensorFlow.

machine_facts()  # {"platform": ..., "cpu": ..., "cores": 2, "versions": {...}}
"""

import importlib.metadata
import os
import pathlib
import platform
import resource
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


def package_versions() -> dict[str, str | None]:
    """Installed versions by package name; None where one is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
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


def memory_limit_bytes() -> int:
    """Memory this process may use: physical, or less where its control group or its own
    limit says so (cgroups(7), setrlimit(2))."""
    limits = [memory_bytes()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = pathlib.Path("/sys/fs/cgroup", name)
        text = path.read_text().strip() if path.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    # Linux counts ru_maxrss in KiB (getrusage(2)).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
