"""The study's backbones as one table, and those of any network of `keras.applications`.

    spec = find_backbone("Inception-ResNet-V2")
    parse_backbones("all"), parse_backbones("xception,keras:MobileNetV2")

Freeze boundaries are named by the first active layer. All six names are written out in
Keras' own source, so neither EfficientNet's extra layer with `weights="imagenet"` nor
the numbering of auto-named layers (`add_11`) can move them.

`keras:NAME` is no backbone of the study. Its defaults are this project's: the whole
trunk frozen, global average pooling and the softmax as its head, Adam at 1e-3.
"""

import dataclasses
import difflib
import enum
import re

from tlperf.core.choices import Optimizer
from tlperf.core.errors import SettingsError
from tlperf.core.settings import ALL_BACKBONES
from tlperf.reference.keras_zoo import FAMILIES, Family, Pixels, ZooModel


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """`(pixel - mean) / divisor` per channel of the backbone's channel order.

    Attributes:
        mean: subtracted, in pixel units 0..255, per channel after any reversal.
        divisor: divides the difference, all channels by one or each by its own.
        reverse_channels: whether RGB becomes BGR first.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    divisor: float | tuple[float, float, float] = 1.0
    reverse_channels: bool = False


# keras.applications.imagenet_utils.preprocess_input, modes "tf", "caffe" and "torch".
TF_MODE = Normalisation(mean=(127.5, 127.5, 127.5), divisor=127.5)
CAFFE_MODE = Normalisation(mean=(103.939, 116.779, 123.68), reverse_channels=True)
TORCH_MODE = Normalisation(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    divisor=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)
# EfficientNet and other newer networks rescale inside.
RAW_PIXELS = Normalisation()
# "normalización de las variables" in the study: most plausibly x / 255 for all six.
PAPER_MODE = Normalisation(divisor=255.0)

# Those that the project knows, by the words of results and reports.
NORMALISATIONS = {
    "tf": TF_MODE,
    "torch": TORCH_MODE,
    "caffe": CAFFE_MODE,
    "raw": RAW_PIXELS,
    "x/255": PAPER_MODE,
}


def normalisation_name(normalisation: Normalisation) -> str:
    """The word for a normalisation that the project knows.

    >>> normalisation_name(CAFFE_MODE)
    'caffe'
    """
    names = {value: name for name, value in NORMALISATIONS.items()}
    return names[normalisation]


class HeadKind(enum.StrEnum):
    """Layers that Table 3 appends."""

    BATCH_NORMALIZATION = "BatchNormalization"
    FLATTEN = "Flatten"
    GLOBAL_AVERAGE_POOLING = "GlobalAveragePooling2D"
    DENSE_RELU = "Dense"
    DROPOUT = "Dropout"


@dataclasses.dataclass(frozen=True)
class HeadLayer:
    """One appended layer; `value` is the units of a Dense, the rate of a Dropout."""

    kind: HeadKind
    value: float | None = None

    def __str__(self) -> str:
        if self.kind is HeadKind.DENSE_RELU:
            return f"Dense({self.value:.0f}, relu)"
        if self.kind is HeadKind.DROPOUT:
            return f"Dropout({self.value:g})"
        return self.kind.value


_NORM = HeadLayer(HeadKind.BATCH_NORMALIZATION)
_FLAT = HeadLayer(HeadKind.FLATTEN)
_POOL = HeadLayer(HeadKind.GLOBAL_AVERAGE_POOLING)
_DENSE = (
    HeadLayer(HeadKind.DENSE_RELU, 512),
    HeadLayer(HeadKind.DROPOUT, 0.5),
    HeadLayer(HeadKind.DENSE_RELU, 256),
)


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """Keras' own ImageNet file of the trunk.

    Attributes:
        name: file name in Keras' cache and in a weights folder.
        url: where Keras downloads it from.
        file_hash: that Keras checks it by: md5 (32 digits) or sha256 (64), or "" where
            Keras states none.
        extra_rescaling: True where Keras builds one more layer for this file than for
            `weights=None`: its Normalization divides by sqrt(std) once more.
    """

    name: str
    url: str
    file_hash: str
    extra_rescaling: bool = False


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """One backbone: how Keras builds it and what the study did with it.

    Attributes:
        name: the word of the command line and of folders.
        title: as people write it.
        constructor: attribute of `keras.applications`, or `module:callable`.
        native_size: side in pixels its ImageNet weights were trained at.
        min_size: smallest side the network accepts.
        normalisation: what its ImageNet weights expect of the pixels.
        first_active: name of the first layer that Table 2 trains; None freezes the
            whole trunk.
        head: Table 3 without its last layer, a softmax over the classes.
        optimizer: Table 4.
        gmacs: 1e9 multiply-adds an image, native size, with the 1000-class top; None
            where they are not known before the network is built.
        frozen_gmacs: those of the layers that Table 2 freezes; None likewise.
        learning_rate: Table 4.
        imagenet: Keras' ImageNet file, or None where there is none.
        defaults: where boundary, head, optimiser and learning rate come from.
    """

    name: str
    title: str
    constructor: str
    native_size: int
    min_size: int
    normalisation: Normalisation
    first_active: str | None
    head: tuple[HeadLayer, ...]
    optimizer: Optimizer
    gmacs: float | None
    frozen_gmacs: float | None
    learning_rate: float = 5e-5
    imagenet: WeightsFile | None = None
    defaults: str = "Tables 2-4 of the study"


_BUCKET = "https://storage.googleapis.com"
_OLD = f"{_BUCKET}/tensorflow/keras-applications"

EFFICIENTNETB0 = BackboneSpec(
    name="efficientnetb0",
    title="EfficientNetB0",
    constructor="EfficientNetB0",
    native_size=224,
    min_size=32,
    normalisation=RAW_PIXELS,
    first_active="block5c_drop",
    head=(_NORM, _FLAT, *_DENSE),
    optimizer=Optimizer.ADAGRAD,
    gmacs=0.386,
    frozen_gmacs=0.24,
    imagenet=WeightsFile(
        "efficientnetb0_notop.h5",
        f"{_BUCKET}/keras-applications/efficientnetb0_notop.h5",
        "50bc09e76180e00e4465e1a485ddc09d",
        extra_rescaling=True,
    ),
)
INCEPTIONV3 = BackboneSpec(
    name="inceptionv3",
    title="InceptionV3",
    constructor="InceptionV3",
    native_size=299,
    min_size=75,
    normalisation=TF_MODE,
    first_active="mixed8",
    head=(_NORM, _FLAT, *_DENSE),
    optimizer=Optimizer.ADAGRAD,
    gmacs=5.713,
    frozen_gmacs=5.0,
    imagenet=WeightsFile(
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        f"{_OLD}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "bcbd6486424b2319ff4ef7d526e38f63",
    ),
)
INCEPTIONRESNETV2 = BackboneSpec(
    name="inceptionresnetv2",
    title="InceptionResNetV2",
    constructor="InceptionResNetV2",
    native_size=299,
    min_size=75,
    normalisation=TF_MODE,
    first_active="block8_1_mixed",
    head=(_POOL,),
    optimizer=Optimizer.ADAM,
    gmacs=13.156,
    frozen_gmacs=11.72,
    imagenet=WeightsFile(
        "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        f"{_OLD}/inception_resnet_v2/"
        "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "d19885ff4a710c122648d3b5c3b684e4",
    ),
)
RESNET50 = BackboneSpec(
    name="resnet50",
    title="ResNet50",
    constructor="ResNet50",
    native_size=224,
    min_size=32,
    normalisation=CAFFE_MODE,
    first_active="conv5_block1_1_conv",
    head=(_FLAT, _NORM),
    optimizer=Optimizer.ADAM,
    gmacs=3.858,
    frozen_gmacs=3.12,
    imagenet=WeightsFile(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        f"{_OLD}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
    ),
)
VGG16 = BackboneSpec(
    name="vgg16",
    title="VGG16",
    constructor="VGG16",
    native_size=224,
    min_size=32,
    normalisation=CAFFE_MODE,
    first_active="block5_conv1",
    head=(_FLAT, *_DENSE),
    optimizer=Optimizer.ADAM,
    gmacs=15.47,
    frozen_gmacs=13.96,
    imagenet=WeightsFile(
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        f"{_OLD}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
    ),
)
XCEPTION = BackboneSpec(
    name="xception",
    title="Xception",
    constructor="Xception",
    native_size=299,
    min_size=71,
    normalisation=TF_MODE,
    first_active="block14_sepconv1",
    head=(_POOL,),
    optimizer=Optimizer.ADAM,
    gmacs=8.357,
    frozen_gmacs=7.88,
    imagenet=WeightsFile(
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        f"{_OLD}/xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "b0042744bf5b25fce3cb969f33bebb97",
    ),
)

# In the order of Table 1.
BACKBONES: tuple[BackboneSpec, ...] = (
    EFFICIENTNETB0,
    INCEPTIONV3,
    INCEPTIONRESNETV2,
    RESNET50,
    VGG16,
    XCEPTION,
)


_NORMALISATIONS = {
    Pixels.TF: TF_MODE,
    Pixels.TORCH: TORCH_MODE,
    Pixels.CAFFE: CAFFE_MODE,
    Pixels.RAW: RAW_PIXELS,
}
KERAS_PREFIX = "keras"
KERAS_DEFAULTS = (
    "of this project, not of the study: whole trunk frozen, global average pooling, "
    "Adam at 0.001"
)


def _keras_spec(family: Family, model: ZooModel) -> BackboneSpec:
    """`keras:NAME`; its folder is `keras-name`, apart from the study's of that name."""
    return BackboneSpec(
        name=f"{KERAS_PREFIX}-{model.constructor.lower()}",
        title=f"{KERAS_PREFIX}:{model.constructor}",
        constructor=model.constructor,
        native_size=model.native_size,
        min_size=family.min_size,
        normalisation=_NORMALISATIONS[family.pixels],
        first_active=None,
        head=(_POOL,),
        optimizer=Optimizer.ADAM,
        gmacs=None,
        frozen_gmacs=None,
        learning_rate=1e-3,
        imagenet=WeightsFile(
            model.file,
            family.url + (model.remote_file or model.file),
            model.file_hash,
            extra_rescaling=family.extra_rescaling,
        ),
        defaults=KERAS_DEFAULTS,
    )


KERAS_BACKBONES: tuple[BackboneSpec, ...] = tuple(
    _keras_spec(family, model) for family in FAMILIES for model in family.models
)


def check_image_size(spec: BackboneSpec, image_size: int) -> None:
    """Refuses an image smaller than the network accepts (SettingsError)."""
    if image_size < spec.min_size:
        raise SettingsError(
            f"image_size is {image_size}",
            f"give {spec.min_size} or more: {spec.title} accepts no smaller image",
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_backbone(name: str) -> BackboneSpec:
    """The backbone called `name`; case and punctuation do not count.

    One of the study's, or `keras:NAME` with NAME of `keras.applications`; result rows
    and folders call the latter `keras-name`.

    Raises:
        SettingsError: no such backbone; the text suggests the nearest name.
    """
    rows = {_plain(spec.name): spec for spec in (*BACKBONES, *KERAS_BACKBONES)}
    if _plain(name) in rows:
        return rows[_plain(name)]
    is_keras = name.strip().lower().startswith(KERAS_PREFIX)
    near = _nearest(name, is_keras=is_keras)
    hint = f"did you mean {near}? " if near else ""
    known = [spec.title for spec in KERAS_BACKBONES]
    if not is_keras:
        known = [*(spec.name for spec in BACKBONES), "all", "keras:NAME"]
    raise SettingsError(
        f"no backbone is called {name!r}",
        f"{hint}choose from {', '.join(known[:-1])} or {known[-1]}",
        reason="unknown_backbone",
    )


def _nearest(name: str, *, is_keras: bool) -> str | None:
    """The word to write for the backbone whose name is most like `name`, if any is."""
    words = {_plain(spec.constructor): spec.title for spec in KERAS_BACKBONES}
    if not is_keras:
        words |= {spec.name: spec.name for spec in BACKBONES}
    plain = _plain(name)
    if is_keras:
        plain = plain.removeprefix(KERAS_PREFIX)
    near = difflib.get_close_matches(plain, words, n=1, cutoff=0.4)
    return words[near[0]] if near else None


def parse_backbones(text: str) -> tuple[BackboneSpec, ...]:
    """The backbones of a comma list, in its order; `all` gives the study's six.

    Raises:
        SettingsError: an unknown name, a name given twice, or no name.
    """
    if _plain(text) == ALL_BACKBONES:
        return BACKBONES
    specs = tuple(find_backbone(part) for part in text.split(",") if part.strip())
    twice = sorted({spec.name for spec in specs if specs.count(spec) > 1})
    if not specs or twice:
        raise SettingsError(
            f"backbones is {text!r}",
            f"name {twice[0]} once" if twice else "name at least one, or all",
        )
    return specs
