"""Tiny real image files and folders of them, and what became of them in a store.

root = make_folder(tmp_path / "pets", {"cats": 10, "dogs": 10})
(root / "cats" / "extra.png").write_bytes(image_bytes(7, "PNG", mode="RGBA"))
examples = read_all(data_dir)["train"]
"""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from tlperf.dataset.examples import StoredExample
from tlperf.dataset.splits import SPLITS
from tlperf.dataset.store import open_dataset


def make_image(seed: int, *, width: int = 32, height: int = 24) -> Image.Image:
    """A smooth RGB image that no other seed gives."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def image_bytes(
    seed: int,
    kind: str = "JPEG",
    *,
    mode: str = "RGB",
    size: tuple[int, int] = (32, 24),
    **options: Any,
) -> bytes:
    """An image file; `size` is width, height; `options` go to Pillow's writer."""
    image = make_image(seed, width=size[0], height=size[1]).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif_bytes(orientation: int) -> bytes:
    """An Exif block for Pillow's `exif` option."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def make_folder(root: pathlib.Path, classes: Mapping[str, int]) -> pathlib.Path:
    """A folder source of JPEG files of varied sizes: `root/cats/000.jpg`, ..."""
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            seed += 1
            size = (24 + seed % 17, 20 + seed % 13)
            file = root / name / f"{index:03d}.jpg"
            file.write_bytes(image_bytes(seed, size=size))
    return root


def read_all(data_dir: pathlib.Path) -> dict[str, list[StoredExample]]:
    """All examples of a data directory by split, in stored order."""
    with open_dataset(data_dir) as stored:
        splits = {name: stored.split(name) for name in SPLITS}
        return {name: split.read(range(split.count)) for name, split in splits.items()}
