"""What `tlperf latency` measures: one cell a row of its table.

for cell in plan_cells(spec, config, kinds=("imagenet", "finetuned")):
    device = cell.device_config(config.device)
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from tlperf.core.choices import Precision, Protocol, Runtime, Strategy, Sweep, Xla
from tlperf.core.settings import DeviceConfig, LatencyConfig
from tlperf.reference.backbones import BackboneSpec

IMAGENET, FINETUNED = "imagenet", "finetuned"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FLOAT32 = (Precision.AUTO, Precision.FLOAT32)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration.

    Attributes:
        backbone: word of the backbone.
        kind: `imagenet`, the 1000-class network at its native size, or `finetuned`.
        protocol, runtime, precision, xla: words of the choices.
        batch_size: images a step.
        tf32: whether float32 products may take TensorFloat-32.
    """

    backbone: str
    kind: str
    protocol: Protocol
    runtime: Runtime
    batch_size: int
    precision: Precision
    xla: Xla
    tf32: bool

    @property
    def text(self) -> str:
        """In words, for a line."""
        words = [self.backbone, self.kind, self.protocol, self.runtime]
        words += [f"batch {self.batch_size}", self.precision]
        words += [] if self.xla is Xla.AUTO else [f"XLA {self.xla}"]
        words += [] if self.tf32 else ["without TF32"]
        return ", ".join(words)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The cell that `dataclasses.asdict` gave, from JSON."""
        kinds: dict[str, Callable[[Any], Any]] = {
            "protocol": Protocol,
            "runtime": Runtime,
            "precision": Precision,
            "xla": Xla,
        }
        return cls(
            **{key: kinds.get(key, lambda x: x)(value) for key, value in values.items()}
        )

    def device_config(self, base: DeviceConfig) -> DeviceConfig:
        """The devices of a process that measures it; inference is one device's, and
        OpenVINO's is the CPU."""
        is_training = self.protocol is Protocol.TRAIN_STEP
        is_free = base.devices == "auto" and self.runtime is Runtime.OPENVINO
        return dataclasses.replace(
            base,
            devices="cpu" if is_free else base.devices,
            precision=self.precision,
            xla=self.xla,
            tf32=self.tf32,
            strategy=base.strategy if is_training else Strategy.ONE,
        )


def plan_cells(
    spec: BackboneSpec,
    config: LatencyConfig,
    *,
    device: DeviceConfig,
    kinds: Sequence[str] = (IMAGENET,),
) -> list[Cell]:
    """The cells of a backbone, in the order of the table.

    Args:
        spec: row of the backbone table.
        config: protocols, runtimes, batch size and what is varied.
        device: precision, XLA and TF32 where they are not varied.
        kinds: networks that are there. `keras_predict` is there to set beside the
            published text, which describes the 1000-class network: the fine-tuned one
            is timed under it only where nothing else is asked for. A step of training
            is one of the fine-tuning.
    """
    return [
        Cell(spec.name, kind, protocol, runtime, batch_size, *rest)
        for kind, protocol in _networks(config.protocols, kinds)
        for runtime in _runtimes(protocol, config.runtimes)
        for batch_size in _batch_sizes(protocol, config)
        for rest in _variants(runtime, config.sweep, device)
    ]


def _networks(
    protocols: Sequence[Protocol], kinds: Sequence[str]
) -> Iterator[tuple[str, Protocol]]:
    for kind in kinds:
        for protocol in protocols:
            if protocol is Protocol.TRAIN_STEP:
                continue
            is_alone = tuple(protocols) == (protocol,)
            if kind == IMAGENET or protocol is not Protocol.KERAS_PREDICT or is_alone:
                yield kind, protocol
    if Protocol.TRAIN_STEP in protocols:
        yield FINETUNED, Protocol.TRAIN_STEP


def _runtimes(protocol: Protocol, runtimes: Sequence[Runtime]) -> tuple[Runtime, ...]:
    """Keras' own calls and training are TensorFlow's."""
    if protocol in (Protocol.KERAS_PREDICT, Protocol.TRAIN_STEP):
        return (Runtime.TF,)
    return tuple(runtimes)


def _batch_sizes(protocol: Protocol, config: LatencyConfig) -> tuple[int, ...]:
    if protocol is Protocol.STREAM:
        return (1,)
    if Sweep.BATCH_SIZE not in config.sweep:
        return (config.batch_size,)
    return BATCH_SIZES


def _variants(
    runtime: Runtime, sweep: Sequence[Sweep], device: DeviceConfig
) -> list[tuple[Precision, Xla, bool]]:
    if runtime is not Runtime.TF:  # float32, and compiled by itself
        return [(Precision.FLOAT32, Xla.OFF, device.tf32)]
    precisions = [device.precision]
    if Sweep.TF32 in sweep and device.precision is Precision.AUTO:
        precisions = [Precision.FLOAT32]
    if Sweep.PRECISION in sweep:
        precisions = [one for one in Precision if one is not Precision.AUTO]
    xlas = [Xla.OFF, Xla.ON] if Sweep.XLA in sweep else [device.xla]
    tf32s = [True, False] if Sweep.TF32 in sweep else [device.tf32]
    return [
        (precision, xla, tf32)
        for precision in precisions
        for xla in xlas
        # It is a way of float32.
        for tf32 in (tf32s if precision in _FLOAT32 else [device.tf32])
    ]
