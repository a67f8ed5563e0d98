"""What is in a data directory: as figures, as one picture, and what looks alike.

report = inspect_dataset(Path("data"), png=Path("sheet.png"), near_duplicates=6)
report["splits"]["train"]["cats"], report["near_duplicates"]["across_splits"]
"""

import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg

from tlperf.core.choices import Encoding
from tlperf.core.progress import progress_bar
from tlperf.dataset.examples import StoredExample
from tlperf.dataset.headers import sniff
from tlperf.dataset.manifest import Manifest
from tlperf.dataset.near_duplicates import (
    HashedImage,
    Hasher,
    load_hasher,
    report_near_duplicates,
)
from tlperf.dataset.sheet import Picture, Sheet, SheetRow, write_sheet
from tlperf.dataset.store import StoredDataset, StoredSplit, open_dataset
from tlperf.dataset.thumbnails import decode_example, show_upright

SHEET_COLUMNS = 4
# A sheet of more rows could not be looked at; what is left out is counted.
SHEET_MAX_ROWS = 30
_READ_AT_ONCE = 256
# Pixels a side that a JPEG keeps where it is decoded to be hashed. On 400 photos of
# about 500 x 375 the hash moves by 0 bits for 67 %, 2 for 31 %, 4 for 2 % against that
# of the full image, at twice its rate.
_HASHED_SIDE = 128


def inspect_dataset(
    data_dir: pathlib.Path,
    *,
    png: pathlib.Path | None = None,
    near_duplicates: int | None = None,
) -> dict[str, Any]:
    """Counts, bytes and sizes, and more where it is asked for.

    Args:
        data_dir: the directory.
        png: where to draw charts and a contact sheet.
        near_duplicates: most differing bits, 0 to 64, of the hashes of two images that
            count as one; None compares nothing.

    Returns:
        The manifest's figures, and by split `height` and `width` in pixels of what is
        stored as {min, median, max}, and `payload_bytes` in the same form; with `png`
        what it left out; with `near_duplicates` as `report_near_duplicates`.

    Raises:
        SettingsError: `near_duplicates` is out of range.
        TlperfError: as `open_dataset` and `StoredSplit.read`; exit code 69 where the
            library for near duplicates is not installed.
    """
    # First: what cannot be done should not cost a pass over the images.
    hasher = None if near_duplicates is None else load_hasher(distance=near_duplicates)
    with open_dataset(data_dir) as stored:
        manifest = stored.manifest
        sizes = {name: _measure_split(stored.split(name)) for name in manifest.splits}
        report = _describe(manifest)
        report["sizes"] = {
            name: {key: _summarize(values) for key, values in columns.items()}
            for name, columns in sizes.items()
        }
        if png is not None:
            sheet = _build_sheet(stored, sizes)
            write_sheet(sheet, png)
            report["png"] = str(png)
            report["png_rows_left_out"] = sheet.rows_left_out
            report["png_classes_left_out"] = sheet.classes_left_out
        if hasher is not None and near_duplicates is not None:
            hashed = list(_hash_images(stored, hasher))
            report["near_duplicates"] = report_near_duplicates(
                hashed, distance=near_duplicates
            )
    return report


def decode_small(example: StoredExample, *, encoding: str) -> np.ndarray:
    """Pixels of a stored example fit for a hash: of a JPEG its luma, uint8 [h, w], at
    1/8 to 1/1 of its size but not below 128 a side; else as `decode_example`."""
    if encoding != Encoding.RAW and sniff(example.encoded) == "jpeg":
        side = {"min_height": _HASHED_SIDE, "min_width": _HASHED_SIDE}
        try:
            luma = simplejpeg.decode_jpeg(
                example.encoded, "GRAY", fastdct=True, strict=False, **side
            )
            return luma[..., 0]
        except (ValueError, KeyError):
            pass  # a rare sampling: the way below knows what to do with it
    return decode_example(example, encoding=encoding)


def _describe(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "format": manifest.format,
        "encoding": manifest.encoding,
        "image_size": manifest.image_size,
        "exif": manifest.exif,
        "classes": list(manifest.classes),
        "splits": manifest.splits,
        "images": manifest.counts.accepted,
        "bytes": manifest.bytes,
        "shards": len(manifest.shards),
        "quarantined": manifest.counts.quarantined,
        "duplicates": manifest.counts.duplicates,
        "ignored": manifest.counts.ignored,
        "reasons": manifest.reasons,
        "flags": manifest.flags,
        "digest": manifest.digest,
    }


def _read_all(split: StoredSplit) -> Iterator[StoredExample]:
    for start in range(0, split.count, _READ_AT_ONCE):
        yield from split.read(range(start, min(start + _READ_AT_ONCE, split.count)))


def _measure_split(split: StoredSplit) -> dict[str, np.ndarray]:
    """int64 [N] each: `height` and `width` in pixels, and `payload_bytes`."""
    names = ("height", "width", "payload_bytes")
    columns = {name: np.empty(split.count, dtype=np.int64) for name in names}
    title = f"measuring {split.name}"
    with progress_bar(total=split.count, unit="img", title=title) as bar:
        for index, example in enumerate(_read_all(split)):
            columns["height"][index] = example.height
            columns["width"][index] = example.width
            columns["payload_bytes"][index] = len(example.encoded)
            bar.update()
    return columns


def _summarize(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):  # a source's own splits may leave one empty
        return {"min": None, "median": None, "max": None}
    plain = values.tolist()
    return {"min": min(plain), "median": statistics.median(plain), "max": max(plain)}


def _hash_images(stored: StoredDataset, hasher: Hasher) -> Iterator[HashedImage]:
    manifest = stored.manifest
    total = manifest.counts.accepted
    with progress_bar(total=total, unit="img", title="hashing") as bar:
        for name in manifest.splits:
            for example in _read_all(stored.split(name)):
                pixels = decode_small(example, encoding=manifest.encoding)
                image = show_upright(pixels, example, manifest)
                class_name = manifest.classes[example.label]
                yield HashedImage(example.filename, name, class_name, hasher(image))
                bar.update()


def _build_sheet(
    stored: StoredDataset, sizes: dict[str, dict[str, np.ndarray]]
) -> Sheet:
    manifest = stored.manifest
    planned = [
        (name, label)
        for name in manifest.splits
        for label in range(len(manifest.classes))
    ]
    shown = planned[:SHEET_MAX_ROWS]
    rows = []
    for name in manifest.splits:
        counts = {
            label: manifest.splits[name][manifest.classes[label]]
            for split, label in shown
            if split == name
        }
        found = _first_pictures(stored, name, counts)
        rows += [
            SheetRow(name, manifest.classes[label], counts[label], found[label])
            for label in counts
        ]
    return Sheet(
        title=f"{manifest.name}: {manifest.counts.accepted} images "
        f"in {manifest.format}, encoding {manifest.encoding}",
        classes=manifest.classes,
        splits=manifest.splits,
        sizes={
            key: np.concatenate([columns[key] for columns in sizes.values()])
            for key in ("width", "height", "payload_bytes")
        },
        rows=rows,
        rows_left_out=len(planned) - len(shown),
    )


def _first_pictures(
    stored: StoredDataset, name: str, counts: dict[int, int]
) -> dict[int, list[Picture]]:
    """The first SHEET_COLUMNS in stored order of each label of `counts`, which says how
    many of it the split called `name` has."""
    manifest, split = stored.manifest, stored.split(name)
    found: dict[int, list[Picture]] = {label: [] for label in counts}
    missing = sum(min(SHEET_COLUMNS, count) for count in counts.values())
    for index in range(split.count):
        if not missing:
            break
        (example,) = split.read([index])
        if len(found.get(example.label, range(SHEET_COLUMNS))) < SHEET_COLUMNS:
            pixels = decode_example(example, encoding=manifest.encoding)
            image = show_upright(pixels, example, manifest)
            found[example.label].append(Picture.of(image))
            missing -= 1
    return found
