"""Frozen settings of devices and of timing; see `tlperf.core.settings`."""

import dataclasses
import math
import re

from tlperf.core.choices import (
    Precision,
    Protocol,
    Runtime,
    Strategy,
    Sweep,
    Xla,
)
from tlperf.core.setting_checks import check
from tlperf.core.units import format_amount


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """What computes, and how.

    Attributes:
        devices: `auto`, `cpu`, `gpu`, or `gpu:0,1`.
        logical_devices: devices to split the CPU into (for tests); 0 leaves it whole.
        strategy: how replicas share a step.
        startup_timeout: seconds that a worker waits for the others.
        allow_public_bind: train with other processes although other machines can reach
            TensorFlow's servers, and run programs through them.
        precision: dtype policy.
        xla: whether steps are compiled by XLA.
        tf32: whether GPUs may round the factors of float32 products to TensorFloat-32,
            as TensorFlow lets them.
        op_determinism: whether TensorFlow takes operations that give the same bits each
            time only, as it does on CPUs; slower on GPUs, and without XLA.
        profile_steps: FIRST:LAST, training steps from 1 that are traced; "" for none.
    """

    devices: str = "auto"
    logical_devices: int = 0
    strategy: Strategy = Strategy.AUTO
    startup_timeout: float = 120.0
    allow_public_bind: bool = False
    precision: Precision = Precision.AUTO
    xla: Xla = Xla.AUTO
    tf32: bool = True
    op_determinism: bool = False
    profile_steps: str = ""

    def __post_init__(self) -> None:
        first, last = self.traced_steps or (1, 1)
        check(
            0 < first <= last,
            "profile_steps",
            self.profile_steps,
            "FIRST:LAST, steps from 1, e.g. 10:15",
        )
        check(
            bool(re.fullmatch(r"auto|cpu|gpu(:\d{1,9}(,\d{1,9})*)?", self.devices)),
            "devices",
            self.devices,
            "auto, cpu, gpu or gpu:0,1",
        )
        check(
            self.startup_timeout > 0,
            "startup_timeout",
            self.startup_timeout,
            "seconds, more than 0",
        )
        numbers = self.gpu_numbers
        check(
            len(set(numbers)) == len(numbers), "devices", self.devices, "each GPU once"
        )
        check(
            0 <= self.logical_devices <= 64,
            "logical_devices",
            self.logical_devices,
            "0 to 64",
        )

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """The GPUs that `devices` names; () where it names none."""
        _, _, numbers = self.devices.partition(":")
        return tuple(map(int, numbers.split(","))) if numbers else ()

    @property
    def traced_steps(self) -> tuple[int, int] | None:
        """First and last step of the trace; (0, 0) for what is none."""
        if not self.profile_steps:
            return None
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", self.profile_steps)
        return (int(match[1]), int(match[2])) if match else (0, 0)


@dataclasses.dataclass(frozen=True)
class LatencyConfig:
    """The timing protocol; defaults are the published text taken literally.

    Attributes:
        protocols: what to time.
        runtimes: what computes it.
        batch_size: images a step.
        batches: steps a repetition.
        repetitions: repetitions a row; batches x repetitions samples in all.
        processes: fresh processes that share the samples of a row.
        warmup_steps: least untimed steps of a window of the warm-up.
        min_secs: of timed steps a row; more repetitions are added until they are spent.
        latency_secs: a row stops after this many seconds of timed steps; 0 never.
        sweep: what else is varied.
    """

    protocols: tuple[Protocol, ...] = (Protocol.KERAS_PREDICT, Protocol.COMPILED)
    runtimes: tuple[Runtime, ...] = (Runtime.TF,)
    batch_size: int = 32
    batches: int = 30
    repetitions: int = 10
    processes: int = 5
    warmup_steps: int = 3
    min_secs: float = 10.0
    latency_secs: float = 0.0
    sweep: tuple[Sweep, ...] = ()

    def __post_init__(self) -> None:
        check(bool(self.protocols), "protocol", self.protocols, "at least one")
        check(bool(self.runtimes), "runtime", self.runtimes, "at least one")
        for name in ("batch_size", "batches", "repetitions", "processes"):
            value = getattr(self, name)
            check(value > 0, name, value, "a positive number")
        check(self.warmup_steps >= 1, "warmup_steps", self.warmup_steps, "1 or more")
        for name in ("min_secs", "latency_secs"):
            value = getattr(self, name)
            check(value >= 0, name, value, "0 or more")

    @property
    def requested_samples(self) -> int:
        """Timed steps of a full row."""
        return self.batches * self.repetitions

    @property
    def process_repetitions(self) -> int:
        """Repetitions of each process of a row: an equal share, rounded up."""
        return math.ceil(self.repetitions / self.processes)

    @property
    def timed_samples(self) -> int:
        """Steps of a row that its processes time, before any for `min_secs`."""
        return self.batches * self.process_repetitions * self.processes

    @property
    def amount(self) -> str:
        """What is timed of a row, in words."""
        return format_amount(self.timed_samples, self.min_secs, self.latency_secs)
