"""Every network of `keras.applications` in Keras 3.15, as facts of its source.

    for family in FAMILIES:
        for model in family.models:
            model.constructor, model.native_size, family.pixels, family.url + model.file

`tlperf.reference.backbones` makes backbones of these rows; they are no part of the
study. Sizes, files and hashes stand in keras/src/applications/MODULE.py; a test reads
them again from the Keras that is installed.
"""

import dataclasses
import enum


class Pixels(enum.Enum):
    """What `preprocess_input` of the network's module makes of pixels from 0 to 255."""

    TF = "tf"  # from -1 to 1
    TORCH = "torch"  # less ImageNet's mean, by its standard deviation, per channel
    CAFFE = "caffe"  # BGR, less ImageNet's mean
    RAW = "raw"  # nothing: the network itself does it


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """One network.

    Attributes:
        constructor: attribute of `keras.applications`.
        native_size: side in pixels its ImageNet weights were trained at.
        file: of its trunk's ImageNet weights, as Keras' cache names it.
        file_hash: that Keras checks the file by: md5 (32 digits) or sha256 (64), or ""
            where Keras states none.
        remote_file: name at the URL; "" where it is the same.
    """

    constructor: str
    native_size: int
    file: str
    file_hash: str
    remote_file: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one module.

    Attributes:
        module: in `keras.applications`.
        pixels: what its networks expect.
        min_size: smallest side in pixels that they accept.
        url: folder of their weights, with the slash.
        models: the networks.
        extra_rescaling: see `tlperf.reference.backbones.WeightsFile`.
    """

    module: str
    pixels: Pixels
    min_size: int
    url: str
    models: tuple[ZooModel, ...]
    extra_rescaling: bool = False


_BUCKET = "https://storage.googleapis.com"
_OLD = f"{_BUCKET}/tensorflow/keras-applications"
_NOTOP = "weights_tf_dim_ordering_tf_kernels_notop.h5"

FAMILIES: tuple[Family, ...] = (
    Family(
        "convnext",
        Pixels.RAW,
        32,
        f"{_OLD}/convnext/",
        (
            ZooModel(
                "ConvNeXtTiny",
                224,
                "convnext_tiny_notop.h5",
                "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            ),
            ZooModel(
                "ConvNeXtSmall",
                224,
                "convnext_small_notop.h5",
                "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
            ),
            ZooModel(
                "ConvNeXtBase",
                224,
                "convnext_base_notop.h5",
                "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
            ),
            ZooModel(
                "ConvNeXtLarge",
                224,
                "convnext_large_notop.h5",
                "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
            ),
            ZooModel(
                "ConvNeXtXLarge",
                224,
                "convnext_xlarge_notop.h5",
                "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
            ),
        ),
    ),
    Family(
        "densenet",
        Pixels.TORCH,
        32,
        f"{_OLD}/densenet/",
        (
            ZooModel(
                "DenseNet121",
                224,
                f"densenet121_{_NOTOP}",
                "30ee3e1110167f948a6b9946edeeb738",
            ),
            ZooModel(
                "DenseNet169",
                224,
                f"densenet169_{_NOTOP}",
                "b8c4d4c20dd625c148057b9ff1c1176b",
            ),
            ZooModel(
                "DenseNet201",
                224,
                f"densenet201_{_NOTOP}",
                "c13680b51ded0fb44dff2d8f86ac8bb1",
            ),
        ),
    ),
    Family(
        "efficientnet",
        Pixels.RAW,
        32,
        f"{_BUCKET}/keras-applications/",
        tuple(
            ZooModel(f"EfficientNet{name}", size, f"efficientnet{file}_notop.h5", md5)
            for name, size, file, md5 in (
                ("B0", 224, "b0", "50bc09e76180e00e4465e1a485ddc09d"),
                ("B1", 240, "b1", "74c4e6b3e1f6a1eea24c589628592432"),
                ("B2", 260, "b2", "111f8e2ac8aa800a7a99e3239f7bfb39"),
                ("B3", 300, "b3", "af6d107764bb5b1abb91932881670226"),
                ("B4", 380, "b4", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
                ("B5", 456, "b5", "38879255a25d3c92d5e44e04ae6cec6f"),
                ("B6", 528, "b6", "9ecce42647a20130c1f39a5d4cb75743"),
                ("B7", 600, "b7", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
            )
        ),
        extra_rescaling=True,
    ),
    Family(
        "efficientnet_v2",
        Pixels.RAW,
        32,
        f"{_OLD}/efficientnet_v2/",
        tuple(
            ZooModel(
                f"EfficientNetV2{name}", size, f"efficientnetv2-{file}_notop.h5", md5
            )
            for name, size, file, md5 in (
                ("B0", 224, "b0", "893217f2bb855e2983157299931e43ff"),
                ("B1", 240, "b1", "0e80663031ca32d657f9caa404b6ec37"),
                ("B2", 260, "b2", "1dfe2e7a5d45b6632553a8961ea609eb"),
                ("B3", 300, "b3", "f6abf7b5849ac99a89b50dd3fd532856"),
                ("S", 384, "s", "af0682fb74e8c54910f2d4393339c070"),
                ("M", 480, "m", "1b8dc055df72dde80d614482840fe342"),
                ("L", 480, "l", "b0b66b5c863aef5b46e8608fe1711615"),
            )
        ),
    ),
    Family(
        "inception_resnet_v2",
        Pixels.TF,
        75,
        f"{_OLD}/inception_resnet_v2/",
        (
            ZooModel(
                "InceptionResNetV2",
                299,
                f"inception_resnet_v2_{_NOTOP}",
                "d19885ff4a710c122648d3b5c3b684e4",
            ),
        ),
    ),
    Family(
        "inception_v3",
        Pixels.TF,
        75,
        f"{_OLD}/inception_v3/",
        (
            ZooModel(
                "InceptionV3",
                299,
                f"inception_v3_{_NOTOP}",
                "bcbd6486424b2319ff4ef7d526e38f63",
            ),
        ),
    ),
    # Of MobileNet and MobileNetV2 Keras has a file for each of several image sizes, and
    # no hash; here the one of the native size serves every size.
    Family(
        "mobilenet",
        Pixels.TF,
        32,
        f"{_OLD}/mobilenet/",
        (ZooModel("MobileNet", 224, "mobilenet_1_0_224_tf_no_top.h5", ""),),
    ),
    Family(
        "mobilenet_v2",
        Pixels.TF,
        32,
        f"{_OLD}/mobilenet_v2/",
        (
            ZooModel(
                "MobileNetV2",
                224,
                "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
                "",
            ),
        ),
    ),
    Family(
        "mobilenet_v3",
        Pixels.RAW,
        32,
        f"{_OLD}/mobilenet_v3/",
        (
            ZooModel(
                "MobileNetV3Large",
                224,
                "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
                "07fb09a5933dd0c8eaafa16978110389",
            ),
            ZooModel(
                "MobileNetV3Small",
                224,
                "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                "d3e8ec802a04aa4fc771ee12a9a9b836",
            ),
        ),
    ),
    Family(
        "nasnet",
        Pixels.TF,
        32,
        f"{_OLD}/nasnet/",
        (
            ZooModel(
                "NASNetLarge",
                331,
                "nasnet_large_no_top.h5",
                "d81d89dc07e6e56530c4e77faddd61b5",
                remote_file="NASNet-large-no-top.h5",
            ),
            ZooModel(
                "NASNetMobile",
                224,
                "nasnet_mobile_no_top.h5",
                "1ed92395b5b598bdda52abe5c0dbfd63",
                remote_file="NASNet-mobile-no-top.h5",
            ),
        ),
    ),
    Family(
        "resnet",
        Pixels.CAFFE,
        32,
        f"{_OLD}/resnet/",
        tuple(
            ZooModel(f"ResNet{depth}", 224, f"resnet{depth}_{_NOTOP}", md5)
            for depth, md5 in (
                (50, "4d473c1dd8becc155b73f8504c6f6626"),
                (101, "88cf7a10940856eca736dc7b7e228a21"),
                (152, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
            )
        ),
    ),
    Family(
        "resnet_v2",
        Pixels.TF,
        32,
        f"{_OLD}/resnet/",
        tuple(
            ZooModel(f"ResNet{depth}V2", 224, f"resnet{depth}v2_{_NOTOP}", md5)
            for depth, md5 in (
                (50, "fac2f116257151a9d068a22e544a4917"),
                (101, "c0ed64b8031c3730f411d2eb4eea35b5"),
                (152, "ed17cf2e0169df9d443503ef94b23b33"),
            )
        ),
    ),
    Family(
        "vgg16",
        Pixels.CAFFE,
        32,
        f"{_OLD}/vgg16/",
        (
            ZooModel(
                "VGG16", 224, f"vgg16_{_NOTOP}", "6d6bbae143d832006294945121d1f1fc"
            ),
        ),
    ),
    Family(
        "vgg19",
        Pixels.CAFFE,
        32,
        f"{_OLD}/vgg19/",
        (
            ZooModel(
                "VGG19", 224, f"vgg19_{_NOTOP}", "253f8cb515780f3b799900260a226db6"
            ),
        ),
    ),
    Family(
        "xception",
        Pixels.TF,
        71,
        f"{_OLD}/xception/",
        (
            ZooModel(
                "Xception",
                299,
                f"xception_{_NOTOP}",
                "b0042744bf5b25fce3cb969f33bebb97",
            ),
        ),
    ),
)
