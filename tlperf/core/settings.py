"""Frozen settings: validated once, at construction; what the command line fills in.

    run = RunConfig(workdir="w", data=DataConfig(source="photos"))

Choices are enums (`tlperf.core.choices`). `None` means "the backbone's or the paper's
own value" and is resolved where the backbone is known.
"""

import dataclasses
import enum
import pathlib
from typing import Any, Self

from tlperf.core.choices import (
    Augment,
    BatchNorm,
    Cache,
    ClassWeights,
    Decode,
    FeatureCache,
    FeatureDtype,
    OnBadRecord,
    Optimizer,
    Preprocess,
    Preset,
    Schedule,
    Sweep,
    parse_choice,
)
from tlperf.core.compute_settings import DeviceConfig, LatencyConfig
from tlperf.core.data_settings import DataConfig
from tlperf.core.errors import SettingsError
from tlperf.core.setting_checks import (
    check,
    check_image_size,
    check_seed,
    is_host_and_port,
)

__all__ = [
    "ALL_BACKBONES",
    "RUN_LATENCY_SECS",
    "DataConfig",
    "DeviceConfig",
    "FeatureConfig",
    "InputConfig",
    "LatencyConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "from_plain",
]


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """The host half of input.

    Attributes:
        image_size: side in pixels; None takes the backbone's native size.
        batch_size: global batch, over all replicas.
        preprocess: normalisation on the device.
        augment: of training images, on the device.
        seed: of the training order and of augmentation.
        decode: how JPEG files become pixels.
        cache: what is kept in memory from the first epoch on.
        ram_budget: bytes that batches, decoding and the cache may take; 0 takes a
            quarter of what this process may use.
        on_bad_record: what a record that cannot be read or decoded does to a pass.
        deterministic: whether batches come in the order of the plan; else as they are
            ready, the same ones.
        data_service: grpc://HOST:PORT of a tf.data service that makes the training
            batches; "" makes them here.
    """

    image_size: int | None = None
    batch_size: int = 32
    preprocess: Preprocess = Preprocess.BACKBONE
    augment: Augment = Augment.NONE
    seed: int = 0
    decode: Decode = Decode.EXACT
    cache: Cache = Cache.NONE
    ram_budget: int = 0
    on_bad_record: OnBadRecord = OnBadRecord.FAIL
    deterministic: bool = True
    data_service: str = ""

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        check(self.batch_size > 0, "batch_size", self.batch_size, "a positive number")
        check_seed(self.seed)
        check(self.ram_budget >= 0, "ram_budget", self.ram_budget, "bytes, 0 for auto")
        address = self.data_service
        check(
            not address
            or (address.startswith("grpc://") and is_host_and_port(address)),
            "data_service",
            address,
            "grpc://HOST:PORT",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Backbone weights and the freeze boundary.

    Attributes:
        weights: `imagenet`, `none`, a folder or a file; or a comma list of
            `BACKBONE:one of these` (see `tlperf.model.weights`).
        freeze: `paper` (Table 2), `all`, `none`, or the name of the first active layer.
    """

    weights: str = "imagenet"
    freeze: str = "paper"

    def __post_init__(self) -> None:
        check(bool(self.weights), "weights", self.weights, "imagenet, none or a path")
        check(bool(self.freeze), "freeze", self.freeze, "paper, all, none or a layer")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training; None takes Table 4's value of the backbone.

    Attributes:
        epochs: passes over the training split.
        learning_rate: positive.
        optimizer: Adagrad or Adam.
        seed: of head weights, dropout and drop-connect.
        schedule: of the learning rate.
        warmup_steps: over which the learning rate rises to its value, after the head's
            epochs once more; 0 for none.
        accumulate: parts that a replica takes its batch in, one after the other, for
            batches that do not fit; gradients are those of the whole.
        class_weights: what an image's loss counts.
        early_stopping: epochs without a better one after which training ends; 0 never.
        batch_norm: what BatchNormalization after the boundary does.
        resume: go on from the newest checkpoint in the workdir, where there is one.
        save_every: steps between two checkpoints; 0 saves after each epoch. A signal
            saves at any step.
        head_epochs: of the epochs, so many at the beginning train the head alone.
        head_learning_rate: theirs; None takes that of the others.
        ema: share of its former value that the moving average of a weight keeps at each
            step, e.g. 0.999; validation and weights.h5 take the averages. 0 for none.
        steps_per_call: train steps that the host starts at once.
    """

    epochs: int = 10
    learning_rate: float | None = None
    optimizer: Optimizer | None = None
    seed: int = 0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    accumulate: int = 1
    class_weights: ClassWeights = ClassWeights.NONE
    early_stopping: int = 0
    batch_norm: BatchNorm = BatchNorm.UPDATE
    resume: bool = False
    save_every: int = 0
    head_epochs: int = 0
    head_learning_rate: float | None = None
    ema: float = 0.0
    steps_per_call: int = 1

    def __post_init__(self) -> None:
        for name in ("save_every", "warmup_steps", "early_stopping"):
            value = getattr(self, name)
            check(value >= 0, name, value, "a number from 0")
        for name in ("accumulate", "steps_per_call"):
            value = getattr(self, name)
            check(value > 0, name, value, "1 or more")
        check(self.epochs > 0, "epochs", self.epochs, "a positive number")
        check(
            0 <= self.head_epochs < self.epochs,
            "head_epochs",
            self.head_epochs,
            "fewer than --epochs",
        )
        check(
            self.head_learning_rate is None or self.head_epochs > 0,
            "head_learning_rate",
            self.head_learning_rate,
            "--head_epochs with it",
        )
        check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        check_seed(self.seed)
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "a positive number")


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """What the frozen part makes of each image, computed once and kept.

    Attributes:
        feature_cache: whether it is.
        feature_dtype: in what numbers.
        feature_views: augmented views of an image that are kept, one an epoch in turn;
            0 keeps none where images are augmented.
        feature_dir: where; "" takes WORKDIR/features. Workdirs may share one.
        feature_budget: most bytes there, older ones make room; 0 takes half of what is
            free and used there.
    """

    feature_cache: FeatureCache = FeatureCache.AUTO
    feature_dtype: FeatureDtype = FeatureDtype.COMPUTED
    feature_views: int = 0
    feature_dir: str = ""
    feature_budget: int = 0

    def __post_init__(self) -> None:
        for name in ("feature_views", "feature_budget"):
            value = getattr(self, name)
            check(value >= 0, name, value, "a number from 0")


# Inside `run` a row stops here; the full 30 x 10 is `tlperf latency`'s.
RUN_LATENCY_SECS = 60.0

ALL_BACKBONES = "all"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One whole job.

    Attributes:
        workdir: where results go.
        data_dir: where shards are; "" takes WORKDIR/data.
        reuse_data: take the data directory as it is; `data` is not read.
        backbones: `all` or a comma list (see `tlperf.reference.backbones`).
        preset: the set of defaults this was derived from.
    """

    workdir: str
    data_dir: str = ""
    reuse_data: bool = False
    backbones: str = ALL_BACKBONES
    preset: Preset = Preset.PAPER
    data: DataConfig = DataConfig()
    input: InputConfig = InputConfig()
    model: ModelConfig = ModelConfig()
    training: TrainConfig = TrainConfig()
    features: FeatureConfig = FeatureConfig()
    device: DeviceConfig = DeviceConfig()
    latency: LatencyConfig = LatencyConfig(
        latency_secs=RUN_LATENCY_SECS, processes=1, min_secs=0.0
    )

    def __post_init__(self) -> None:
        check(bool(self.workdir), "workdir", self.workdir, "a folder")

    @property
    def data_path(self) -> pathlib.Path:
        """Where the shards are."""
        return pathlib.Path(self.data_dir or pathlib.Path(self.workdir) / "data")

    @property
    def features_path(self) -> pathlib.Path:
        """Where features are kept."""
        default = pathlib.Path(self.workdir) / "features"
        return pathlib.Path(self.features.feature_dir or default)

    def backbone_path(self, backbone: str) -> pathlib.Path:
        """Where the results of a backbone go."""
        return pathlib.Path(self.workdir) / backbone

    @property
    def is_smoke(self) -> bool:
        """Whether the figures only show that the machinery runs."""
        return self.preset is Preset.QUICK

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` gives the same settings back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The settings that `to_dict` gave, from memory or from JSON."""
        return from_plain(cls, values)


def from_plain(cls: type, values: dict[str, Any]) -> Any:
    """A settings object from plain values: words become enums, lists tuples.

    Raises:
        SettingsError: an unknown name, or a value that a setting cannot take.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SettingsError(
            f"{cls.__name__} has no setting {', '.join(unknown)}",
            "write the settings with this version of tlperf",
        )
    return cls(**{name: _typed(known[name], value) for name, value in values.items()})


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    default = field.default
    if dataclasses.is_dataclass(default):
        return from_plain(type(default), value)
    if isinstance(default, enum.StrEnum):
        return parse_choice(type(default), value)
    if field.name == "sweep":  # empty by default: it does not tell its kind
        return tuple(parse_choice(Sweep, item) for item in value)
    if isinstance(default, tuple):
        kind = type(default[0])
        if issubclass(kind, enum.StrEnum):
            return tuple(parse_choice(kind, item) for item in value)
        return tuple(kind(item) for item in value)
    if field.name == "optimizer" and value is not None:
        return parse_choice(Optimizer, value)
    return value
