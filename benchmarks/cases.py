"""What `bench_latency.py` times, and what pytest calls it.

    full_name("vgg16", Case(Protocol.COMPILED, Runtime.TF, 32))
    # "benchmarks/bench_latency.py::test_step[vgg16-compiled-tf-32]"

pytest-benchmark compares what bears the same name: rows of another run, and of the
published table (`benchmarks.published`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from tlperf.core.choices import Protocol, Runtime

# Steps on images that the device holds, and on single images in the host's memory.
PROTOCOLS = (Protocol.COMPILED, Protocol.STREAM)


class Case(NamedTuple):
    """One benchmark of a backbone."""

    protocol: Protocol
    runtime: Runtime
    batch_size: int

    @property
    def text(self) -> str:
        """As pytest's id has it."""
        return f"{self.protocol}-{self.runtime}-{self.batch_size}"

    @property
    def group(self) -> str:
        """Of rows that stand in one table."""
        return f"latency-{self.protocol}-batch-{self.batch_size}"


def plan_cases(batch_sizes: Sequence[int], runtimes: Sequence[Runtime]) -> list[Case]:
    """The benchmarks of each backbone; a stream is of single images."""
    return [
        Case(protocol, runtime, batch_size)
        for protocol in PROTOCOLS
        for runtime in runtimes
        for batch_size in ((1,) if protocol is Protocol.STREAM else batch_sizes)
    ]


def short_name(backbone: str, case: Case) -> str:
    """The benchmark's name in tables."""
    return f"test_step[{backbone}-{case.text}]"


def full_name(backbone: str, case: Case) -> str:
    """The name by which runs are compared."""
    return f"benchmarks/bench_latency.py::{short_name(backbone, case)}"
