"""The JSON beside an exported file: what is needed to serve it, and the hash of each
byte of it.

    description = read_description(Path("w/export/xception.onnx"))
    description.classes, description.pixels.image_size

Of no runtime: neither this nor what it reads needs TensorFlow.
"""

import dataclasses
import pathlib
from typing import Any, Self

from tlperf.core import files
from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.recipe import PixelRecipe

SCHEMA_VERSION = 1
# File name endings; a SavedModel is a folder.
ENDINGS = {
    ExportFormat.KERAS: ".keras",
    ExportFormat.SAVED_MODEL: ".saved_model",
    ExportFormat.ONNX: ".onnx",
    ExportFormat.OPENVINO: ".xml",
}
_OPENVINO_WEIGHTS = ".bin"
# Signatures of a SavedModel: of pixels, and of image files.
PIXELS_SIGNATURE, FILES_SIGNATURE = "serve", "serve_files"


@dataclasses.dataclass(frozen=True)
class Description:
    """An exported network.

    Attributes:
        backbone: word of the backbone.
        format: of the file.
        classes: names in the order of the outputs.
        pixels: how image files became what the network takes.
        preprocess: the normalisation that is inside.
        weights_sha256: of the training's weights, hexadecimal.
        parity: `images` and where they are from, `max_relative_difference` of their
            logits from those of the network itself as a share of the `largest_logit`,
            its `limit`.
        files: bytes and sha256 by name, relative to the folder that the file is in.
        versions: of what wrote it.
    """

    backbone: str
    format: ExportFormat
    classes: tuple[str, ...]
    pixels: PixelRecipe
    preprocess: str
    weights_sha256: str
    parity: dict[str, Any]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str | None]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(facts["bytes"] for facts in self.files.values())

    @property
    def sha256(self) -> str:
        """Of the file; of several, of the JSON of their names and hashes."""
        hashes = {name: facts["sha256"] for name, facts in self.files.items()}
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        return files.sha256_bytes(files.to_json(hashes).encode())

    def to_dict(self) -> dict[str, Any]:
        """What is written: the fields, and the network's ends in words."""
        side = self.pixels.image_size
        plain = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return {
            **plain,
            "pixels": self.pixels.to_dict(),
            "schema_version": SCHEMA_VERSION,
            "image_size": side,
            "input": {
                "name": "images",
                "dtype": "uint8",
                "shape": [None, side, side, 3],
                "text": "RGB pixels from 0 to 255, any number of images; whatever the "
                "network's normalisation is, it is inside",
            },
            "output": {
                "dtype": "float32",
                "shape": [None, len(self.classes)],
                "text": "probability of each class, in the order of `classes`",
            },
            "signatures": _signatures(self),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The description that `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {values['schema_version']}")
        plain = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        return cls(
            **{
                **plain,
                "format": ExportFormat(values["format"]),
                "classes": tuple(map(str, values["classes"])),
                "pixels": PixelRecipe.from_dict(values["pixels"]),
                "files": {
                    name: {"bytes": int(facts["bytes"]), "sha256": str(facts["sha256"])}
                    for name, facts in dict(values["files"]).items()
                },
            }
        )


def _signatures(description: Description) -> dict[str, str]:
    """Those of a SavedModel, in words; the other formats have one input."""
    if description.format is not ExportFormat.SAVED_MODEL:
        return {}
    return {
        PIXELS_SIGNATURE: "pixels as of `input`; also called serving_default",
        FILES_SIGNATURE: "encoded JPEG, PNG or one-frame GIF files, string [B], "
        "decoded and resized as in training by TensorFlow's own operations: a pixel "
        "may be rounded to its neighbour. JPEGs are decoded exactly whatever "
        "`pixels.decode` is, and no EXIF orientation is applied. A file that is no "
        "image fails its whole batch",
    }


def description_path(path: pathlib.Path) -> pathlib.Path:
    """Where the JSON of an exported file is."""
    return path.with_name(f"{path.name}.json")


def find_format(path: pathlib.Path) -> ExportFormat:
    """The format that a file's ending says; SettingsError where it is none."""
    for kind, ending in ENDINGS.items():
        if path.suffix == ending:
            return kind
    endings = ", ".join(ENDINGS.values())
    raise SettingsError(
        f"model is {str(path)!r}, which is no file of tlperf export",
        f"give one that ends in {endings}",
    )


def top_names(path: pathlib.Path, kind: ExportFormat) -> tuple[str, ...]:
    """Names of an exported network's files in its folder, its own first; a SavedModel
    is a folder."""
    if kind is ExportFormat.OPENVINO:
        return path.name, path.with_suffix(_OPENVINO_WEIGHTS).name
    return (path.name,)


def list_files(path: pathlib.Path, kind: ExportFormat) -> dict[str, pathlib.Path]:
    """The files of an exported network by name, relative to the folder it is in."""
    if kind is ExportFormat.SAVED_MODEL:
        found = sorted(one for one in path.rglob("*") if not one.is_dir())
    else:
        found = [path.with_name(name) for name in top_names(path, kind)]
    return {one.relative_to(path.parent).as_posix(): one for one in found}


def hash_files(path: pathlib.Path, kind: ExportFormat) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 by name."""
    return {
        name: {"bytes": one.stat().st_size, "sha256": files.sha256_file(one)}
        for name, one in list_files(path, kind).items()
    }


def read_description(path: pathlib.Path) -> Description:
    """The description of an exported file, each of whose bytes is the one that was
    exported; nothing of it is opened but to be hashed.

    Raises:
        TlperfError: 64 where it is no format of ours, 66 where the file or its
            description is missing, 76 where one is not what was exported.
    """
    kind = find_format(path)
    _require(path, "missing_model", "give a file that tlperf export wrote")
    beside = description_path(path)
    _require(beside, "no_description", "run tlperf export, which writes it")
    values = files.read_json(beside)
    try:
        description = Description.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_description",
            path=beside,
            found=f"no description of an exported network ({error!r})",
            remedy="run tlperf export again",
        ) from error
    if description.format is not kind:
        raise _altered(path, f"described as {description.format}")
    _check_hashes(path, description)
    return description


def _require(path: pathlib.Path, reason: str, remedy: str) -> None:
    if not path.exists():
        raise TlperfError(
            ExitCode.NO_INPUT, reason, path=path, found="no such file", remedy=remedy
        )


def _check_hashes(path: pathlib.Path, description: Description) -> None:
    there = list_files(path, description.format)
    for name in sorted(there.keys() | description.files.keys()):
        if name not in description.files:
            raise _altered(path, f"{name} is not in its description")
        if name not in there or not there[name].is_file():
            raise _altered(path, f"{name} is missing")
        expected, found = description.files[name]["sha256"], there[name]
        if (digest := files.sha256_file(found)) != expected:
            raise _altered(
                path,
                f"sha256 of {name} is {digest[:12]}..., exported {expected[:12]}...",
            )


def _altered(path: pathlib.Path, found: str) -> TlperfError:
    return TlperfError(
        ExitCode.INTEGRITY,
        "model_hash",
        path=path,
        found=found,
        remedy="run tlperf export again",
    )
