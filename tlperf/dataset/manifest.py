"""The manifest: what a data directory holds, to the byte; and the marker that seals it.

    write_manifest(data_dir, manifest)       # manifest.json, then COMPLETE
    read_manifest(data_dir).splits["train"]["cats"]

TFRecord's own checksums miss a shard that is cut between records, missing, doubled or
foreign. Counts, sizes and hashes in one sealed file catch each of these.
"""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
from typing import Any, Self

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.files import sha256_bytes, to_json, write_text
from tlperf.dataset.splits import SPLITS

SCHEMA_VERSION = 2
MANIFEST, COMPLETE, QUARANTINE = "manifest.json", "COMPLETE", "quarantine.jsonl"
# Written first and kept: the files of a folder that has it are ours to clear.
OWNER = ".tlperf-data"


@dataclasses.dataclass(frozen=True)
class Written:
    """What a writer made of one file.

    Attributes:
        bytes: size of the file.
        sha256: of the file, hexadecimal.
        sidecars: sha256 of the files that belong to it, by name.
    """

    bytes: int
    sha256: str
    sidecars: dict[str, str]


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One file of examples.

    Attributes:
        file: its name.
        split: its split.
        count: examples in it.
        bytes: its size.
        sha256: of the file, hexadecimal.
        labels: examples by class name.
        sidecars: sha256 of the files that belong to it, by name.
        plan: digest of all that decides its bytes, records and settings.
    """

    file: str
    split: str
    count: int
    bytes: int
    sha256: str
    labels: dict[str, int]
    sidecars: dict[str, str]
    plan: str


@dataclasses.dataclass(frozen=True)
class Counts:
    """Where each file of the source went.

    Attributes:
        seen: all files of the source, those beyond --limit left out.
        accepted: stored.
        quarantined: unusable.
        ignored: no images of a class by their name or place.
        duplicates: same bytes as an accepted file of the same class.
    """

    seen: int
    accepted: int
    quarantined: int
    ignored: int
    duplicates: int

    def __post_init__(self) -> None:
        parts = self.accepted + self.quarantined + self.ignored + self.duplicates
        if self.seen != parts:
            raise ValueError(f"seen: expected the sum of the parts, got {self}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A whole dataset.

    Attributes:
        name, format, encoding, image_size, exif: as in `DataConfig`; image_size is None
            with encoding `source`.
        settings: every setting that decides what is stored; equal settings and an equal
            digest mean an equal dataset.
        layout: choices that are not settings, e.g. the JPEG quality.
        classes: names by label.
        digest: sha256 over (id, label, sha256) of every file offered.
        counts: where each file went.
        reasons: quarantined files by reason, e.g. `truncated`.
        flags: accepted files by what is odd about them, e.g. `decoder_warning`.
        splits: images by split and class.
        shards: in the order of splits and of the stored order.
        files: sha256 of the other files of the directory by name.
        tlperf_version: of the writer.
        schema_version: of this file.
    """

    name: str
    format: str
    encoding: str
    image_size: int | None
    exif: str
    settings: dict[str, Any]
    layout: dict[str, Any]
    classes: tuple[str, ...]
    digest: str
    counts: Counts
    reasons: dict[str, int]
    flags: dict[str, int]
    splits: dict[str, dict[str, int]]
    shards: tuple[ShardEntry, ...]
    files: dict[str, str]
    tlperf_version: str
    schema_version: int = SCHEMA_VERSION

    def shards_of(self, split: str) -> tuple[ShardEntry, ...]:
        """The shards of a split, in stored order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def records_digest(self) -> str:
        """sha256 of what is stored, in its order, and of how it is read: where it is
        equal, an index of a split is the same image. `digest` alone is of the source,
        whatever split it was dealt to."""
        stored = [(shard.split, shard.sha256) for shard in self.shards]
        return sha256_bytes(to_json([self.exif, self.encoding, stored]).encode())

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The manifest that `to_dict` gave."""
        return cls(
            **{
                **values,
                "classes": tuple(values["classes"]),
                # JSON has them by name.
                "splits": {name: values["splits"][name] for name in SPLITS},
                "counts": Counts(**values["counts"]),
                "shards": tuple(ShardEntry(**shard) for shard in values["shards"]),
            }
        )


def tlperf_version() -> str:
    """The installed version; `unknown` where the package runs from its source tree."""
    try:
        return importlib.metadata.version("tlperf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def codec_versions() -> dict[str, str]:
    """Versions of what decodes and encodes images here: they show in which are accepted
    and in the bytes of those that are made."""
    return {name: importlib.metadata.version(name) for name in ("pillow", "simplejpeg")}


def write_manifest(data_dir: pathlib.Path, manifest: Manifest) -> None:
    """Writes manifest.json, then COMPLETE with its sha256."""
    text = to_json(manifest.to_dict(), indent=1) + "\n"
    write_text(data_dir / MANIFEST, text)
    write_text(data_dir / COMPLETE, sha256_bytes(text.encode()) + "\n")


def read_manifest(data_dir: pathlib.Path) -> Manifest:
    """The manifest of a finished dataset.

    Raises:
        TlperfError: 66 where there is no such folder or nothing in it, 76 where it is
            unfinished or altered, 78 where another version of tlperf wrote it.
    """
    path = data_dir / MANIFEST
    if not data_dir.is_dir() or not any(
        (data_dir / name).exists() for name in (MANIFEST, COMPLETE)
    ):
        raise TlperfError(
            ExitCode.NO_INPUT,
            "missing_data",
            path=data_dir,
            found="no dataset here",
            remedy="run tlperf shard first",
        )
    if not (data_dir / COMPLETE).exists():
        raise _damaged(data_dir, "unfinished_data", "no COMPLETE marker")
    if not path.exists():
        raise _damaged(path, "missing_manifest", "no such file beside COMPLETE")
    text = path.read_bytes()
    seal = (data_dir / COMPLETE).read_bytes()
    if seal != f"{sha256_bytes(text)}\n".encode():
        raise _damaged(path, "damaged_manifest", "not the file that COMPLETE seals")
    values = json.loads(text)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise TlperfError(
            ExitCode.CONFIG,
            "other_schema",
            path=path,
            found=f"schema version {version}, ours is {SCHEMA_VERSION}",
            remedy="run tlperf shard into another --data_dir",
        )
    return Manifest.from_dict(values)


def _damaged(path: pathlib.Path, reason: str, found: str) -> TlperfError:
    if not (path if path.is_dir() else path.parent).joinpath(OWNER).exists():
        # Perhaps a folder of somebody else: no advice to delete it.
        remedy = "give the --data_dir of a dataset, or a new one to tlperf shard"
    elif reason == "unfinished_data":
        remedy = "run tlperf shard again"
    else:
        # Without its manifest a sealed folder does not say what may replace it.
        remedy = "delete the folder and run tlperf shard again"
    return TlperfError(
        ExitCode.INTEGRITY, reason, path=path, found=found, remedy=remedy
    )
