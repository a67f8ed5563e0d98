"""Stored examples, and tf.train.Example messages without TensorFlow.

    payload = serialize_example(example, class_name="cats")
    parse_example(payload) == example

The keys are Model Garden's for classification, with the source file's sha256 and the
EXIF orientation beside them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
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


class RecordView(NamedTuple):
    """What input needs of one example.

    Attributes:
        encoded: uint8 [bytes], as of `StoredExample`; in memory that may be used again
            for the next record of the same thread.
        label, orientation, height, width: as of `StoredExample`.
    """

    encoded: np.ndarray
    label: int
    orientation: int
    height: int
    width: int


class RecordLayout(NamedTuple):
    """Where a payload holds its image, and its numbers.

    Attributes:
        start, stop: bytes of the image.
        label, orientation, height, width: as of `StoredExample`.
    """

    start: int
    stop: int
    label: int
    orientation: int
    height: int
    width: int


# Gives memory for a record of so many bytes: uint8 [bytes].
Memory = Callable[[int], np.ndarray]


def copy_encoded(view: RecordView, out: np.ndarray) -> int:
    """Copies an example's image to `out`, uint8 [bytes]; gives its label.

    Raises:
        RecordError: it has another size.
    """
    if len(view.encoded) != len(out):
        raise RecordError(f"{len(view.encoded)} bytes, not {len(out)}")
    out[...] = view.encoded
    return view.label


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


def layout_of(payload: bytes | memoryview) -> RecordLayout:
    """What input needs of a record's payload, its image left where it is.

    Reads messages as `serialize_example` writes them and no others, at a fifth of the
    cost of protobuf, which copies an image twice.

    Raises:
        RecordError: it is no such message, or a key is missing.
    """
    try:
        found = _locate(payload)
        return RecordLayout(*found[_ENCODED_KEY], *(found[key] for key in _NUMBER_KEYS))
    except (IndexError, KeyError, TypeError) as error:
        raise RecordError("not an Example as tlperf writes it") from error


# Tags of the protobuf wire format (field number << 3 | 2): all fields of ours are of
# lengths that stand before them.
_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A


def _locate(payload: bytes | memoryview) -> dict[bytes, Any]:
    """By key, an int64 value, or where the bytes value begins and ends."""
    found: dict[bytes, Any] = {}
    position, end = _enter(payload, 0, _FIELD_1)
    if end != len(payload):
        raise TypeError
    while position < end:
        position, stop = _enter(payload, position, _FIELD_1)
        start, position = _enter(payload, position, _FIELD_1)
        key = bytes(payload[start:position])
        position, _ = _enter(payload, position, _FIELD_2)
        kind = payload[position]
        position, _ = _enter(payload, position, kind)
        start, position = _enter(payload, position, _FIELD_1)
        if position != stop:
            raise TypeError
        if kind == _FIELD_1:
            found[key] = (start, stop)
        elif kind == _FIELD_3:
            found[key], start = _varint(payload, start)
            if start != stop or found[key] >> 63:  # several numbers, a negative one
                raise TypeError
        else:
            raise TypeError
    return found


def _enter(payload: bytes | memoryview, position: int, tag: int) -> tuple[int, int]:
    """Begin and end of the field of that tag at `position`."""
    if payload[position] != tag:
        raise TypeError
    size = payload[position + 1]
    if size < 0x80:  # nearly all
        return position + 2, position + 2 + size
    size, position = _varint(payload, position + 1)
    return position, position + size


def _varint(payload: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = shift = 0
    while (byte := payload[position]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
    return value | byte << shift, position + 1


def parse_features(payload: bytes) -> Any:
    """The features of any tf.train.Example by key, a protobuf map.

    Raises:
        RecordError: it is no Example.
    """
    try:
        return _example_type().FromString(payload).features.feature
    except message.DecodeError as error:
        raise RecordError(f"not an Example ({error})") from None


_ENCODED_KEY = ENCODED.encode()
_NUMBER_KEYS = tuple(key.encode() for key in (LABEL, ORIENTATION, HEIGHT, WIDTH))
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
