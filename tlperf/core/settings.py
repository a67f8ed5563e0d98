"""Frozen settings: validated once, at construction; what the command line fills in.

    run = RunConfig(workdir="w", data=DataConfig(source="photos"))

Choices are enums (`tlperf.core.choices`). `None` means "the backbone's or the paper's
own value" and is resolved where the backbone is known.
"""

import dataclasses
import enum
import pathlib
import re
from typing import Any, Self

from tlperf.core.choices import (
    Augment,
    BatchNorm,
    Cache,
    ClassWeights,
    Decode,
    Encoding,
    Exif,
    FeatureCache,
    FeatureDtype,
    Format,
    ImageCheck,
    OnBad,
    OnBadRecord,
    OnWarning,
    Optimizer,
    Precision,
    Preprocess,
    Preset,
    Protocol,
    Runtime,
    Schedule,
    SplitMode,
    Strategy,
    Sweep,
    Xla,
    parse_choice,
)
from tlperf.core.errors import SettingsError


def _check(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise SettingsError(f"{name} is {value!r}", f"give {expected}")


def is_host_and_port(text: str) -> bool:
    """Whether a text is [grpc://]HOST:PORT."""
    match = re.fullmatch(r"(?:grpc://)?(?:[^\s/:]+|\[[\da-fA-F:.]+\]):(\d{1,5})", text)
    return match is not None and 0 < int(match[1]) <= 65535


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is stored, and how it is dealt to splits.

    Attributes:
        source: `photos`; a folder with one sub-folder a class; a .zip, .tar or .tar.gz
            of one, or its http(s) URL; a .csv of path,label[,split][,group];
            `tfds:NAME`.
        source_sha256: hexadecimal, of what a URL source gives; "" for the others.
        keep_splits: whether splits that the source gives win over `split`.
        follow_links: whether a folder's symbolic links to files inside it are read.
        name: dataset name in file names, `[a-zA-Z]\\w*`; "" takes the source's name.
        format: TFRecord or HDF5.
        encoding: what is stored of an image.
        image_size: side in pixels of `jpeg` and `raw` images; unused with `source`.
        split: percentages of train, validation and test; positive, sum 100.
        split_mode: stratified, or random as in the paper.
        seed: of the split, at least 0.
        limit: at most this many images, dealt evenly over classes; 0 takes all.
        shard_bytes: about how large a TFRecord shard is; HDF5 has one file a split.
        workers: processes that write shards; 0 takes one a core.
        max_pixels: an image of more pixels is refused from its header.
        min_side: an image with a shorter side, in pixels, is refused.
        max_file_bytes: a larger file is refused unread.
        max_jpeg_scans: a JPEG of more scans is refused undecoded.
        image_check: how far an image is read before it is stored.
        on_warning: what becomes of a JPEG that decodes with warnings.
        tfds_compat: leave out JPEGs without JFIF header, as tfds' cats_vs_dogs does.
        on_bad: quarantine unusable files, or stop at the first.
        max_bad: most quarantined files accepted; None takes max(5, 1 % of all).
        exif: whether the orientation is applied.
    """

    source: str = "photos"
    source_sha256: str = ""
    keep_splits: bool = True
    follow_links: bool = False
    name: str = ""
    format: Format = Format.TFRECORD
    encoding: Encoding = Encoding.SOURCE
    image_size: int | None = None
    split: tuple[int, int, int] = (60, 20, 20)
    split_mode: SplitMode = SplitMode.STRATIFIED
    seed: int = 0
    limit: int = 0
    # Large enough for sequential reading, small enough to be one unit of work and loss.
    shard_bytes: int = 64 * 1024 * 1024
    workers: int = 0
    # Pillow's default limit, which Pillow itself only warns of.
    max_pixels: int = 89_478_485
    min_side: int = 8
    max_file_bytes: int = 128 * 1024 * 1024
    max_jpeg_scans: int = 100
    image_check: ImageCheck = ImageCheck.DECODE
    on_warning: OnWarning = OnWarning.ACCEPT
    tfds_compat: bool = False
    on_bad: OnBad = OnBad.QUARANTINE
    max_bad: int | None = None
    exif: Exif = Exif.IGNORE

    def __post_init__(self) -> None:
        _check(
            bool(self.source),
            "source",
            self.source,
            "photos, a path, a URL or tfds:NAME",
        )
        _check(
            not self.name or bool(re.fullmatch(r"[a-zA-Z]\w*", self.name, re.ASCII)),
            "name",
            self.name,
            "letters, digits and underscores, a letter first",
        )
        _check(
            len(self.split) == 3 and min(self.split) > 0 and sum(self.split) == 100,
            "split",
            "/".join(map(str, self.split)),
            "three positive percentages that sum to 100, e.g. 60/20/20",
        )
        _check_seed(self.seed)
        _check(self.limit >= 0, "limit", self.limit, "a number from 0 (0 takes all)")
        _check(self.workers >= 0, "workers", self.workers, "a number from 0")
        for name in (
            "shard_bytes",
            "max_pixels",
            "min_side",
            "max_file_bytes",
            "max_jpeg_scans",
        ):
            value = getattr(self, name)
            _check(value > 0, name, value, "a positive number")
        _check(
            bool(re.fullmatch(r"|[0-9a-f]{64}", self.source_sha256)),
            "source_sha256",
            self.source_sha256,
            "64 hexadecimal digits, in lower case",
        )
        _check(
            self.max_bad is None or self.max_bad >= 0,
            "max_bad",
            self.max_bad,
            "a number from 0",
        )
        _check(
            self.encoding is Encoding.SOURCE or bool(self.image_size),
            "encoding",
            str(self.encoding),
            "--image_size with it: jpeg and raw store images at that size",
        )
        _check_image_size(self.image_size)


def _check_seed(value: int) -> None:
    # NumPy's generators, which Keras seeds too, take 32 bits.
    _check(0 <= value < 1 << 32, "seed", value, "0 to 4294967295")


def _check_image_size(value: int | None) -> None:
    _check(value is None or 8 <= value <= 4096, "image_size", value, "8 to 4096 pixels")


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
        _check_image_size(self.image_size)
        _check(self.batch_size > 0, "batch_size", self.batch_size, "a positive number")
        _check_seed(self.seed)
        _check(self.ram_budget >= 0, "ram_budget", self.ram_budget, "bytes, 0 for auto")
        address = self.data_service
        _check(
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
        _check(bool(self.weights), "weights", self.weights, "imagenet, none or a path")
        _check(bool(self.freeze), "freeze", self.freeze, "paper, all, none or a layer")


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
            _check(value >= 0, name, value, "a number from 0")
        for name in ("accumulate", "steps_per_call"):
            value = getattr(self, name)
            _check(value > 0, name, value, "1 or more")
        _check(self.epochs > 0, "epochs", self.epochs, "a positive number")
        _check(
            0 <= self.head_epochs < self.epochs,
            "head_epochs",
            self.head_epochs,
            "fewer than --epochs",
        )
        _check(
            self.head_learning_rate is None or self.head_epochs > 0,
            "head_learning_rate",
            self.head_learning_rate,
            "--head_epochs with it",
        )
        _check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        _check_seed(self.seed)
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            _check(value is None or value > 0, name, value, "a positive number")


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
            _check(value >= 0, name, value, "a number from 0")


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
        _check(
            0 < first <= last,
            "profile_steps",
            self.profile_steps,
            "FIRST:LAST, steps from 1, e.g. 10:15",
        )
        _check(
            bool(re.fullmatch(r"auto|cpu|gpu(:\d{1,9}(,\d{1,9})*)?", self.devices)),
            "devices",
            self.devices,
            "auto, cpu, gpu or gpu:0,1",
        )
        _check(
            self.startup_timeout > 0,
            "startup_timeout",
            self.startup_timeout,
            "seconds, more than 0",
        )
        numbers = self.gpu_numbers
        _check(
            len(set(numbers)) == len(numbers), "devices", self.devices, "each GPU once"
        )
        _check(
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
        _check(bool(self.protocols), "protocol", self.protocols, "at least one")
        _check(bool(self.runtimes), "runtime", self.runtimes, "at least one")
        for name in ("batch_size", "batches", "repetitions", "processes"):
            value = getattr(self, name)
            _check(value > 0, name, value, "a positive number")
        _check(self.warmup_steps >= 1, "warmup_steps", self.warmup_steps, "1 or more")
        for name in ("min_secs", "latency_secs"):
            value = getattr(self, name)
            _check(value >= 0, name, value, "0 or more")

    @property
    def requested_samples(self) -> int:
        """Timed steps of a full row."""
        return self.batches * self.repetitions


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
        _check(bool(self.workdir), "workdir", self.workdir, "a folder")

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
