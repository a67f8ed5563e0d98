"""What a report shows of the data: counts, some refused files, some small pictures.

write_album(dataset, workdir / "examples")

Writes FOLDER/examples.json and FOLDER/01.jpg ... A report is made from these, so that
it never opens a dataset, which may be large, elsewhere or gone by then.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from tlperf.core import files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.examples import RecordError, StoredExample
from tlperf.dataset.manifest import QUARANTINE
from tlperf.dataset.store import StoredDataset, StoredSplit
from tlperf.dataset.thumbnails import Thumbnail, make_thumbnail

ALBUM_FOLDER, ALBUM_FILE = "examples", "examples.json"
# Pictures of a class, classes that are shown, and refused files that are named: what a
# person looks at before training. The rest is counted.
_PER_CLASS, _MOST_CLASSES, _MOST_REFUSED = 4, 8, 20
# Records that are read to find them: stored order mixes the classes, so a few dozen do
# where classes are of like size.
_MOST_READ = 2000
_SPLIT = "train"


def write_album(dataset: StoredDataset, folder: pathlib.Path) -> dict[str, Any]:
    """Writes the album of a dataset into `folder`, in place of one that is there.

    Args:
        dataset: that a report will tell of.
        folder: of its own; what else is in it goes.

    Returns:
        What examples.json holds: `name digest format encoding classes splits counts
        reasons flags bytes`, `quarantine` (the first refused files, each `path reason
        detail`), `pictures` (each `class id file sha256 width height`) and `unreadable`
        (records that gave none).
    """
    found, unreadable = _find_pictures(dataset)
    manifest = dataset.manifest
    album = {
        "name": manifest.name,
        "digest": manifest.digest,
        "format": manifest.format,
        "encoding": manifest.encoding,
        "classes": list(manifest.classes),
        "splits": manifest.splits,
        "counts": vars(manifest.counts),
        "reasons": manifest.reasons,
        "flags": manifest.flags,
        "bytes": manifest.bytes,
        "shards": len(manifest.shards),
        "quarantine": _read_refused(dataset.data_dir),
        "split": _SPLIT,
        "pictures": [
            {"class": manifest.classes[example.label], **picture.facts(example, file)}
            for file, (example, picture) in found.items()
        ],
        "unreadable": unreadable,
    }
    with files.staging_folder(folder) as staging:
        made = staging / folder.name
        made.mkdir()
        for file, (_, picture) in found.items():
            (made / file).write_bytes(picture.jpeg)
        (made / ALBUM_FILE).write_text(files.to_json(album, indent=1) + "\n", "utf-8")
        files.publish_all([folder.name], staging)
    return album


_Found = dict[str, tuple[StoredExample, Thumbnail]]


def _find_pictures(dataset: StoredDataset) -> tuple[_Found, list[str]]:
    """The first few pictures of each of the first classes, by file name; and a line for
    each record on the way that gives none."""
    manifest, split = dataset.manifest, dataset.split(_SPLIT)
    wanted = {
        label: min(_PER_CLASS, manifest.splits[_SPLIT].get(name, 0))
        for label, name in enumerate(manifest.classes[:_MOST_CLASSES])
    }
    unreadable: list[str] = []
    taken: list[tuple[StoredExample, Thumbnail]] = []
    for example in _read_some(split, unreadable):
        if not any(wanted.values()):
            break
        if not wanted.get(example.label):
            continue
        try:
            taken.append((example, make_thumbnail(example, manifest)))
        except RecordError as error:
            unreadable.append(f"{example.filename}: {error}")
            continue
        wanted[example.label] -= 1
    taken.sort(key=lambda one: one[0].label)  # stable: of a class in stored order
    return {f"{n + 1:02d}.jpg": one for n, one in enumerate(taken)}, unreadable


def _read_some(split: StoredSplit, unreadable: list[str]) -> Iterator[StoredExample]:
    """The first records; of a damaged one the error's text goes to `unreadable`: what
    is done about it is for the stage that needs it."""
    for index in range(min(split.count, _MOST_READ)):
        try:
            yield from split.read([index])
        except TlperfError as error:
            if error.code is not ExitCode.INTEGRITY:
                raise
            unreadable.append(error.text())


def _read_refused(data_dir: pathlib.Path) -> list[dict[str, Any]]:
    rows = files.read_json_lines(data_dir / QUARANTINE)
    return [
        {"path": row["path_text"], "reason": row["reason"], "detail": row["detail"]}
        for row in rows[:_MOST_REFUSED]
    ]
