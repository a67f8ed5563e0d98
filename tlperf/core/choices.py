"""Closed choices: enums whose values are the words of the command line.

parse_choice(Format, "hdf5")             # SettingsError lists the good words
"""

import enum
from typing import Any

from tlperf.core.errors import SettingsError


class Format(enum.StrEnum):
    """Container of the stored examples."""

    TFRECORD = "tfrecord"
    HDF5 = "hdf5"


class Encoding(enum.StrEnum):
    """What is stored of an image."""

    SOURCE = "source"  # the file's bytes, untouched
    JPEG = "jpeg"  # resized to image_size and encoded again
    RAW = "raw"  # uint8 pixels at image_size


class SplitMode(enum.StrEnum):
    """How images are dealt to the three splits."""

    STRATIFIED = "stratified"  # each class by the same shares
    RANDOM = "random"  # as the paper: over all images at once


class OnBad(enum.StrEnum):
    """What a file that cannot be used does to the whole."""

    QUARANTINE = "quarantine"
    FAIL = "fail"


class ImageCheck(enum.StrEnum):
    """How far an image is read before it is stored."""

    DECODE = "decode"  # decoded whole, so that training never meets a bad one
    HEADER = "header"  # by its header alone: faster, for sources checked before


class OnWarning(enum.StrEnum):
    """What becomes of a JPEG that decodes with the decoder's warnings."""

    ACCEPT = "accept"  # stored and counted, as TensorFlow decodes it too
    QUARANTINE = "quarantine"


class Decode(enum.StrEnum):
    """How JPEG files become pixels of the size asked for."""

    EXACT = "exact"  # bit for bit TensorFlow's decode_jpeg and bilinear resize
    FAST = "fast"  # libjpeg-turbo's fast transforms, scaled while decoding, OpenCV


class Augment(enum.StrEnum):
    """What training changes of an image, on the device."""

    NONE = "none"
    FLIP = "flip"  # left and right exchanged, half of the time
    FLIP_CROP = "flip_crop"  # and a random part of it, at the same size


class Cache(enum.StrEnum):
    """What input keeps in memory from the first epoch on."""

    NONE = "none"
    ENCODED = "encoded"  # stored bytes: saves reading and checking
    DECODED = "decoded"  # uint8 pixels: saves decoding and resizing too


class FeatureCache(enum.StrEnum):
    """Whether what the frozen part makes of each image is computed once and kept."""

    AUTO = "auto"  # where later epochs use it again and there is room for it
    ON = "on"
    OFF = "off"


class FeatureDtype(enum.StrEnum):
    """In what numbers it is kept."""

    COMPUTED = "computed"  # as they are computed: nothing is lost
    FLOAT16 = "float16"  # half of the room of float32, 0.05 % of a value apart
    BFLOAT16 = "bfloat16"  # half of it too, 0.4 % apart, of any size


class OnBadRecord(enum.StrEnum):
    """What a record that cannot be read or decoded does to a pass."""

    FAIL = "fail"
    SKIP = "skip"  # left out, named and counted


class Exif(enum.StrEnum):
    """Whether the EXIF orientation turns the image."""

    APPLY = "apply"
    IGNORE = "ignore"  # as TensorFlow, tfds and Keras do


class Preprocess(enum.StrEnum):
    """Normalisation of the pixels on the device."""

    BACKBONE = "backbone"  # what each backbone's weights were trained with
    PAPER = "paper"  # x / 255 for all six, the study's likely choice


class Optimizer(enum.StrEnum):
    """Optimisers of Table 4."""

    ADAGRAD = "adagrad"
    ADAM = "adam"


class Schedule(enum.StrEnum):
    """How the learning rate goes on after its warm-up."""

    CONSTANT = "constant"  # Table 4's
    COSINE = "cosine"  # half a cosine down to 0 at the last step


class ClassWeights(enum.StrEnum):
    """What an image's loss counts in training."""

    NONE = "none"  # all the same
    BALANCED = "balanced"  # images / (classes x images of its class)


class BatchNorm(enum.StrEnum):
    """What BatchNormalization after the boundary does in training; before the boundary
    it always is in inference mode."""

    UPDATE = "update"  # normalises by the replica's batch and moves its statistics
    INFERENCE = "inference"  # as it came: statistics, scale and offset stay


class Strategy(enum.StrEnum):
    """How replicas share a step."""

    AUTO = "auto"  # TF_CONFIG names workers: multiworker; several devices: mirrored
    ONE = "one"
    MIRRORED = "mirrored"
    # Several processes, each with its devices; but for training, the same as auto.
    MULTIWORKER = "multiworker"


class Precision(enum.StrEnum):
    """Keras dtype policy; a trained network's softmax and loss are float32 in each."""

    AUTO = "auto"  # mixed_float16 on GPUs with tensor cores, float32 elsewhere
    FLOAT32 = "float32"
    MIXED_FLOAT16 = "mixed_float16"
    MIXED_BFLOAT16 = "mixed_bfloat16"


class Xla(enum.StrEnum):
    """Whether steps are compiled by XLA."""

    AUTO = "auto"  # on for one GPU; off on CPUs, where depthwise models slow down 6-10x
    ON = "on"
    OFF = "off"


class Protocol(enum.StrEnum):
    """What one latency sample times."""

    KERAS_PREDICT = "keras_predict"  # one batch inside model.predict
    COMPILED = "compiled"  # a call of the runtime, input on the device, result read
    TRANSFER = "transfer"  # compiled, from uint8 pixels in the host's memory
    STREAM = "stream"  # transfer of single images
    TRAIN_STEP = "train_step"  # a step of the fine-tuning, images on the device


# What one sample times, as rows say it.
PROTOCOL_TEXTS = {
    Protocol.KERAS_PREDICT: (
        "one batch inside model.predict over a tf.data.Dataset that repeats a "
        "preprocessed float32 batch from host memory; a repetition is a predict call, "
        "whose set-up its first step carries; the clock stops when the batch's result "
        "is a NumPy array"
    ),
    Protocol.COMPILED: (
        "one call of the runtime on a preprocessed float32 batch that the device holds "
        "already; the clock stops when the result is a NumPy array"
    ),
    Protocol.TRANSFER: (
        "one call of the runtime on a uint8 batch in host memory: copied to the "
        "device, preprocessed there, forward; the clock stops when the result is a "
        "NumPy array"
    ),
    Protocol.STREAM: "as transfer, a single image at a time",
    Protocol.TRAIN_STEP: (
        "one step of the fine-tuning on a uint8 batch that the device holds already: "
        "preprocessing, the frozen part forward, the active part forward and backward, "
        "the update; the clock stops when the loss is a NumPy array"
    ),
}


class Runtime(enum.StrEnum):
    """What computes a timed step."""

    TF = "tf"  # a TensorFlow graph with the weights as constants
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Sweep(enum.StrEnum):
    """What `tlperf latency --sweep` varies."""

    BATCH_SIZE = "batch_size"  # 1, 2, 4, ... 256, or up to what fits
    PRECISION = "precision"  # float32, mixed_float16, mixed_bfloat16
    XLA = "xla"  # on and off
    TF32 = "tf32"  # float32 products of GPUs on and off TensorFloat-32


class ExportFormat(enum.StrEnum):
    """What `tlperf export` writes."""

    KERAS = "keras"
    SAVED_MODEL = "saved_model"
    ONNX = "onnx"
    OPENVINO = "openvino"


class Preset(enum.StrEnum):
    """Named sets of defaults."""

    QUICK = "quick"  # a few minutes on two cores; smoke figures only
    PAPER = "paper"  # Tables 2-4


def parse_choice(kind: type[enum.StrEnum], text: str) -> Any:
    """The member of `kind` named `text`; SettingsError lists the good words."""
    try:
        return kind(text)
    except ValueError:
        words = ", ".join(member.value for member in kind)
        raise SettingsError(f"{text!r} is no {kind.__name__}", f"use {words}") from None
