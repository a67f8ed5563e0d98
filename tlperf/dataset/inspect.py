"""What is in a data directory, as figures and as a contact sheet.

inspect_dataset(Path("data"), png=Path("sheet.png"))["splits"]["train"]["cats"]
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tlperf.core.choices import Encoding, Exif
from tlperf.core.files import atomic_path
from tlperf.dataset.examples import StoredExample
from tlperf.dataset.guard import decode_rgb
from tlperf.dataset.headers import sniff
from tlperf.dataset.payload import turn_upright
from tlperf.dataset.store import StoredDataset, StoredSplit, open_dataset

SHEET_COLUMNS = 4
# A sheet of more rows could not be looked at; what is left out is counted.
SHEET_MAX_ROWS = 30
_READ_AT_ONCE = 256


def inspect_dataset(
    data_dir: pathlib.Path, *, png: pathlib.Path | None = None
) -> dict[str, Any]:
    """Counts, bytes and sizes; writes a contact sheet where `png` is given.

    Returns:
        The manifest's figures, and by split `height` and `width` in pixels of what is
        stored as {min, median, max}, and `payload_bytes` in the same form.

    Raises:
        TlperfError: as `open_dataset` and `StoredSplit.read`.
    """
    with open_dataset(data_dir) as stored:
        manifest = stored.manifest
        report: dict[str, Any] = {
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
            "flags": manifest.flags,
            "digest": manifest.digest,
            "sizes": {
                name: _measure_split(stored.split(name)) for name in manifest.splits
            },
        }
        if png is not None:
            report["png"] = str(png)
            report["png_rows_left_out"] = write_contact_sheet(stored, png)
    return report


def _measure_split(split: StoredSplit) -> dict[str, dict[str, float]]:
    columns: dict[str, list[int]] = {"height": [], "width": [], "payload_bytes": []}
    for start in range(0, split.count, _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, split.count)
        for example in split.read(range(start, stop)):
            columns["height"].append(example.height)
            columns["width"].append(example.width)
            columns["payload_bytes"].append(len(example.encoded))
    return {
        name: {
            "min": min(values),
            "median": statistics.median(values),
            "max": max(values),
        }
        for name, values in columns.items()
    }


def decode_example(example: StoredExample, *, encoding: str) -> np.ndarray:
    """Pixels of a stored example: uint8 [H, W, 3], orientation not applied."""
    if encoding == Encoding.RAW:
        shape = (example.height, example.width, 3)
        return np.frombuffer(example.encoded, dtype=np.uint8).reshape(shape)
    return decode_rgb(example.encoded, sniff(example.encoded))


def write_contact_sheet(stored: StoredDataset, png: pathlib.Path) -> int:
    """A row of images for each split and class; returns the rows left out."""
    from matplotlib.figure import Figure  # half a second that the figures do not need

    manifest = stored.manifest
    rows = [
        (name, class_name)
        for name in manifest.splits
        for class_name in manifest.classes
    ]
    shown = rows[:SHEET_MAX_ROWS]
    figure = Figure(figsize=(2.2 * SHEET_COLUMNS, 2.4 * len(shown)), layout="tight")
    axes = figure.subplots(len(shown), SHEET_COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    samples = {
        name: _first_of_each(
            stored.split(name), [counts[class_name] for class_name in manifest.classes]
        )
        for name, counts in manifest.splits.items()
    }
    for row, (name, class_name) in zip(axes, shown, strict=True):
        images = samples[name][manifest.classes.index(class_name)]
        for axis, example in zip(row, images, strict=False):
            image = Image.fromarray(decode_example(example, encoding=manifest.encoding))
            if manifest.exif == Exif.APPLY:
                image = turn_upright(image, example.orientation)
            axis.imshow(image)
            axis.set_title(f"{image.width} x {image.height}", fontsize=7)
        title = f"{name}: {class_name} ({manifest.splits[name][class_name]})"
        row[0].set_title(f"{title}\n{row[0].get_title()}", fontsize=8)
    with atomic_path(png) as partial:
        figure.savefig(partial, format="png", dpi=100)
    return len(rows) - len(shown)


def _first_of_each(
    split: StoredSplit, counts: Sequence[int]
) -> list[list[StoredExample]]:
    """By label the first SHEET_COLUMNS examples in stored order, of `counts` there."""
    found: list[list[StoredExample]] = [[] for _ in counts]
    missing = sum(min(SHEET_COLUMNS, count) for count in counts)
    for index in range(split.count):
        if not missing:
            break
        (example,) = split.read([index])
        if len(found[example.label]) < SHEET_COLUMNS:
            found[example.label].append(example)
            missing -= 1
    return found
