"""A dataset of tfds, prepared by tfds; its stored images are taken byte for byte.

    TfdsSource("imagenet_v2/topimages:3.0.0").name            # 'imagenet_v2'
    TfdsSource("cats_vs_dogs").read_listing().items[0].id
                                                    # 'train/PetImages/Cat/0.jpg'

tfds prepares the dataset in its own folder (TFDS_DATA_DIR, else ~/tensorflow_datasets)
where it is not prepared yet. What is read then are the records of its TFRecord files,
by place, in any process, without TensorFlow. Nothing is encoded anew here; a builder
may have done so: that of cats_vs_dogs leaves out 1,738 files without JFIF header and
encodes the others anew, so its images are not those of the original archive.

Ids are SPLIT/file name where the dataset stores file names, else tfds' own,
NAME-SPLIT.tfrecord-00000-of-00004__12. Classes are in code-point order here, as with
every source, so a label may be another number than in tfds; a class without an image
is left out. A dataset of one split is dealt by --split.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tlperf.core.errors import ExitCode, SettingsError, TlperfError, escape_text
from tlperf.core.files import io_errors
from tlperf.dataset.examples import RecordError, parse_features
from tlperf.dataset.framing import iterate_records, unframe
from tlperf.dataset.sources.listing import (
    Item,
    Listing,
    OriginError,
    check_listing,
    text_of_path,
)
from tlperf.dataset.sources.members import (
    ArchiveFile,
    Placed,
    check_max_bytes,
    read_at,
)
from tlperf.dataset.sources.tree import split_of_word

DATA_DIR_VARIABLE = "TFDS_DATA_DIR"
_TEXT = r"([a-z]\w*)(/[\w.+-]+)?(:[\w.*]+)?"
# What a record holds beside the image: names, boxes, a text.
_SLACK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class RecordOrigin(Placed):
    """An image in a record of a TFRecord file.

    Attributes:
        offset: of the record, framing included.
        size: of the record, framing included.
        key: of the feature that holds the image.
    """

    size: int
    key: str

    def read(self, *, max_bytes: int) -> bytes:
        """The stored image, the record's checksums checked."""
        check_max_bytes(self.size, max_bytes=max_bytes + _SLACK_BYTES)
        with self.archive.opened() as descriptor:
            record = read_at(descriptor, self.offset, size=self.size)
        try:
            data = one_value(parse_features(unframe(record)), self.key, "bytes_list")
        except RecordError as error:
            raise OriginError("damaged_member", str(error)) from None
        check_max_bytes(len(data), max_bytes=max_bytes)
        return data


def one_value(features: Any, key: str, kind: str) -> Any:
    """The one value of a feature; RecordError where there is not one."""
    values = getattr(features[key], kind).value if key in features else []
    if len(values) != 1:
        raise RecordError(f"{len(values)} values for {key!r}")
    return values[0]


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of a dataset's features.

    Attributes:
        image: the encoded image.
        label: the class.
        filename: the file's name, "" where it is not stored.
    """

    image: str
    label: str
    filename: str


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A dataset of tfds.

    Attributes:
        text: NAME, NAME/CONFIG, each with :VERSION or without.
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(_TEXT, self.text):
            raise SettingsError(
                f"source is tfds:{self.text!r}",
                "give tfds:NAME[/CONFIG][:VERSION], e.g. tfds:cats_vs_dogs",
            )

    @property
    def name(self) -> str:
        """The dataset's name, without configuration and version."""
        return re.split("[/:]", self.text)[0]

    def read_listing(self) -> Listing:
        """All examples of all splits; prepares the dataset where it is not."""
        builder = _prepared_builder(self.text)
        info = builder.info
        path = os.fspath(builder.data_path)
        if info.file_format.value != "tfrecord":
            raise TlperfError(
                ExitCode.CONFIG,
                "unsupported_format",
                path=path,
                found=f"stored as {info.file_format.value}",
                remedy="prepare it as TFRecord, tfds build --file_format=tfrecord",
            )
        keys = _find_keys(info, path=path)
        classes = [escape_text(name) for name in info.features[keys.label].names]
        items: list[Item] = []
        for split, facts in info.splits.items():
            given = None if len(info.splits) == 1 else split_of_word(split) or split
            lengths = facts.shard_lengths
            for file, count in zip(facts.filepaths, lengths, strict=True):
                shard = _Shard(os.fspath(file), split, count, keys, classes)
                items.extend(
                    dataclasses.replace(item, split=given) for item in shard.items()
                )
        items.sort(key=lambda item: item.id)
        present = {item.class_name for item in items}
        kept = sorted(name for name in classes if name in present)
        if len(kept) < 2:
            raise _error(
                "one_class",
                path=path,
                found=f"images of {len(kept)} of {len(classes)} classes",
                remedy="choose a dataset of at least two classes",
            )
        listing = Listing(tuple(kept), tuple(items), ignored=0)
        return check_listing(listing, path=path)


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One TFRecord file of a dataset.

    Attributes:
        path: of the file.
        split: its split, as the dataset calls it.
        count: records that it has to hold.
        keys: names of features.
        classes: names by the dataset's own label.
    """

    path: str
    split: str
    count: int
    keys: Keys
    classes: Sequence[str]

    def items(self) -> Iterator[Item]:
        """An item a record; TlperfError 76 where the file is damaged."""
        number = 0
        try:
            shard = ArchiveFile.at(self.path)
            offset = 0
            with open(self.path, "rb") as stream:
                for record in iterate_records(stream, file_bytes=shard.size):
                    origin = RecordOrigin(shard, offset, len(record), self.keys.image)
                    yield self._item(number, record, origin)
                    offset += len(record)
                    number += 1
        except (RecordError, FileNotFoundError) as error:
            raise self._damaged(str(error), number) from None
        if number != self.count:
            found = f"{number} records, the dataset's description says {self.count}"
            raise self._damaged(found)

    def _item(self, number: int, record: bytes, origin: RecordOrigin) -> Item:
        features = parse_features(unframe(record))
        label = one_value(features, self.keys.label, "int64_list")
        if not 0 <= label < len(self.classes):
            raise _error(
                "bad_label",
                path=self.path,
                record=number,
                found=f"label {label}, of no class",
                remedy="choose a dataset that has labels in all its splits",
            )
        path = f"{os.path.basename(self.path)}__{number}".encode()
        if self.keys.filename:
            name = one_value(features, self.keys.filename, "bytes_list")
            path = self.split.encode() + b"/" + name
        return Item(text_of_path(path), path, self.classes[label], origin)

    def _damaged(self, found: str, record: int | None = None) -> TlperfError:
        return TlperfError(
            ExitCode.INTEGRITY,
            "damaged_shard",
            path=self.path,
            record=record,
            found=found,
            remedy="remove the dataset's folder and run again, so that tfds prepares "
            "it again",
        )


def _error(
    reason: str, *, path: str, found: str, remedy: str, record: int | None = None
) -> TlperfError:
    return TlperfError(
        ExitCode.DATA, reason, path=path, found=found, remedy=remedy, record=record
    )


# What builders raise: each is code of its own, with checks of what it downloaded.
_BUILDER_ERRORS = (
    AssertionError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
)


def _prepared_builder(text: str) -> Any:
    """The builder of a dataset that is on disk.

    Raises:
        TlperfError: 66 unknown name, configuration or version; else as `_prepare`.
    """
    import tensorflow_datasets as tfds  # without TensorFlow, which only preparing needs

    try:
        builder = tfds.builder(text, data_dir=os.environ.get(DATA_DIR_VARIABLE))
    except (ValueError, AssertionError) as error:
        raise TlperfError(
            ExitCode.NO_INPUT,
            "missing_source",
            path=f"tfds:{text}",
            found=_first_line(error),
            remedy="give a name that tfds lists, with a version that it has",
        ) from error
    if not builder.is_prepared():
        _prepare(builder, text)
    return builder


def _prepare(builder: Any, text: str) -> None:
    """Lets tfds download and prepare a dataset.

    Raises:
        TlperfError: 69 it cannot be prepared, 74 the disk is full, 76 what was
            downloaded is another.
    """
    from tensorflow_datasets.core.download.download_manager import (
        NonMatchingChecksumError,
    )
    from tensorflow_datasets.core.download.util import DownloadError

    path = f"tfds:{text}"
    try:
        # tfds prints what it does, and stdout belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except NonMatchingChecksumError as error:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "wrong_sha256",
            path=path,
            found=_first_line(error),
            remedy="run again; where it stays, the data moved on: update tfds",
        ) from error
    except (DownloadError, *_BUILDER_ERRORS) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            with io_errors(pathlib.Path(os.fspath(builder.data_path))):
                raise
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "not_prepared",
            path=path,
            found=f"tfds could not prepare it: {_first_line(error)}",
            remedy=f"run `tfds build {text}` where there is a network, and set "
            f"{DATA_DIR_VARIABLE} to its folder",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _find_keys(info: Any, *, path: str) -> Keys:
    """The features to read.

    Raises:
        TlperfError: 65, where it is not clear which are meant.
    """
    import tensorflow_datasets as tfds

    features = tfds.features
    if not isinstance(info.features, features.FeaturesDict):
        raise _error(
            "no_image_feature",
            path=path,
            found="examples that are no dictionary",
            remedy="choose a dataset of labelled images",
        )

    def keys_of(kind: type) -> list[str]:
        # A subclass is something else: LabeledImage is a mask.
        return [key for key, value in info.features.items() if type(value) is kind]

    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    chosen = {}
    for what, kind in (("image", features.Image), ("label", features.ClassLabel)):
        found = keys_of(kind)
        if len(found) > 1:
            found = [key for key in found if key in supervised] or found
        if len(found) != 1:
            raise _error(
                f"no_{what}_feature",
                path=path,
                found=f"{len(found)} features of type {kind.__name__}"
                + (f": {', '.join(sorted(found))}" if found else ""),
                remedy="choose a dataset with one image and one class an example",
            )
        chosen[what] = found[0]
    names = [
        key for key in keys_of(features.Text) if re.search("file_?name", key.lower())
    ]
    filename = names[0] if len(names) == 1 else ""
    return Keys(chosen["image"], chosen["label"], filename)
