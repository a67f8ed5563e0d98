"""Stored examples, and tf.train.Example messages without TensorFlow.

    payload = serialize_example(example, class_name="cats")
    parse_example(payload) == example

The keys are Model Garden's for classification, with the source file's sha256 and the
EXIF orientation beside them.
"""

import functools
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory


class StoredExample(NamedTuple):
    """One example as both formats hold it.

    Attributes:
        encoded: the image: a file's bytes, or with raw uint8 pixels [S, S, 3].
        label: position in the manifest's classes.
        filename: id, the path relative to the source.
        orientation: EXIF turn that is still to be done, 1 to 8 (1: none).
        height, width: pixels of what is stored.
        sha256: hexadecimal, of the source file.
    """

    encoded: bytes
    label: int
    filename: str
    orientation: int
    height: int
    width: int
    sha256: str


class RecordError(Exception):
    """A stored record is damaged; the text says how."""


ENCODED = "image/encoded"
LABEL = "image/class/label"
CLASS_TEXT = "image/class/text"
FILENAME = "image/filename"
HEIGHT = "image/height"
WIDTH = "image/width"
SHA256 = "image/key/sha256"
ORIENTATION = "image/orientation"


def serialize_example(example: StoredExample, *, class_name: str) -> bytes:
    """The bytes of a tf.train.Example; equal examples give equal bytes."""
    made = _example_type()()
    feature = made.features.feature
    for key, data in (
        (ENCODED, example.encoded),
        (CLASS_TEXT, class_name.encode()),
        (FILENAME, example.filename.encode()),
        (SHA256, example.sha256.encode()),
    ):
        feature[key].bytes_list.value.append(data)
    for key, number in (
        (LABEL, example.label),
        (HEIGHT, example.height),
        (WIDTH, example.width),
        (ORIENTATION, example.orientation),
    ):
        feature[key].int64_list.value.append(number)
    return made.SerializeToString(deterministic=True)


def parse_example(payload: bytes) -> StoredExample:
    """The example in a record's payload.

    Raises:
        RecordError: it is no Example, or a key is missing.
    """
    feature = parse_features(payload)
    # Reading a map with [] would add a missing key, so ask first.
    missing = [key for key in _KEYS if key not in feature]
    if missing:
        raise RecordError(f"Example without {', '.join(missing)}")
    try:
        return StoredExample(
            encoded=feature[ENCODED].bytes_list.value[0],
            label=feature[LABEL].int64_list.value[0],
            filename=feature[FILENAME].bytes_list.value[0].decode(),
            orientation=feature[ORIENTATION].int64_list.value[0],
            height=feature[HEIGHT].int64_list.value[0],
            width=feature[WIDTH].int64_list.value[0],
            sha256=feature[SHA256].bytes_list.value[0].decode(),
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"Example with an unusable value ({error})") from None


def parse_features(payload: bytes) -> Any:
    """The features of any tf.train.Example by key, a protobuf map.

    Raises:
        RecordError: it is no Example.
    """
    try:
        return _example_type().FromString(payload).features.feature
    except message.DecodeError as error:
        raise RecordError(f"not an Example ({error})") from None


_KEYS = (ENCODED, LABEL, FILENAME, ORIENTATION, HEIGHT, WIDTH, SHA256)


@functools.cache
def _example_type() -> Any:
    """The message class, from tensorflow/core/example/{example,feature}.proto.

    In a pool of its own: TensorFlow registers the same names in the default one.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tlperf/example.proto", package="tlperf", syntax="proto3"
    )

    def add(
        name: str, *fields: tuple[str, int, int, str], repeated: bool = False
    ) -> Any:
        made = file.message_type.add(name=name)
        for field_name, number, kind, type_name in fields:
            made.field.add(
                name=field_name,
                number=number,
                type=kind,
                type_name=type_name or None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
        return made

    add("BytesList", ("value", 1, field.TYPE_BYTES, ""), repeated=True)
    add("FloatList", ("value", 1, field.TYPE_FLOAT, ""), repeated=True)
    add("Int64List", ("value", 1, field.TYPE_INT64, ""), repeated=True)
    feature = add(
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, ".tlperf.BytesList"),
        ("float_list", 2, field.TYPE_MESSAGE, ".tlperf.FloatList"),
        ("int64_list", 3, field.TYPE_MESSAGE, ".tlperf.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    features = add(
        "Features",
        ("feature", 1, field.TYPE_MESSAGE, ".tlperf.Features.FeatureEntry"),
        repeated=True,
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(
        name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
    )
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".tlperf.Feature",
        label=field.LABEL_OPTIONAL,
    )
    add("Example", ("features", 1, field.TYPE_MESSAGE, ".tlperf.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tlperf.Example"))
