"""The embedded source: two classes cut from the photographs that scikit-learn ships.

    PhotosSource().read_listing().items[0].id     # 'china/test-000.jpg'

Real photographic JPEGs with no download. Each photograph is 640 x 427 pixels; five
bands of 128 columns go to train, validation, train, test, train, so that no pixel is in
two splits.
"""

import dataclasses
import functools
import importlib.util
import io
import pathlib

from PIL import Image

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.sources.listing import PHOTOS, Item, Listing

CLASSES = ("china", "flower")
CROPS = {"train": 120, "validation": 40, "test": 40}
BANDS = {"train": (0, 2, 4), "validation": (1,), "test": (3,)}
BAND_WIDTH, PHOTO_HEIGHT = 128, 427


@dataclasses.dataclass(frozen=True)
class CropOrigin:
    """A crop of a photograph, encoded as JPEG.

    Attributes:
        photo: file name of the photograph.
        box: left, top, right, bottom in pixels.
        quality: of the JPEG.
    """

    photo: str
    box: tuple[int, int, int, int]
    quality: int

    def read(self, *, max_bytes: int) -> bytes:
        """The JPEG file of the crop, a few KB."""
        stream = io.BytesIO()
        _photo(self.photo).crop(self.box).save(stream, "JPEG", quality=self.quality)
        return stream.getvalue()

    def stamp(self) -> str:
        """Nothing tells whether the photograph changed."""
        return ""


@dataclasses.dataclass(frozen=True)
class PhotosSource:
    """120, 40 and 40 crops a class, 64 to 128 pixels wide and 64 to 160 high."""

    name: str = PHOTOS

    def read_listing(self) -> Listing:
        """All crops, each with its split."""
        items = [
            _item(class_name, split, index)
            for class_name in CLASSES
            for split, count in CROPS.items()
            for index in range(count)
        ]
        items.sort(key=lambda item: item.id)
        return Listing(CLASSES, tuple(items), ignored=0)


def crop_box(split: str, index: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a split's crop: a formula, no two alike."""
    band = BANDS[split][index % len(BANDS[split])]
    # 65 widths, 97 heights: coprime periods, so no size repeats below index 6305.
    width, height = 64 + 29 * index % 65, 64 + 47 * index % 97
    left = band * BAND_WIDTH + 53 * index % (BAND_WIDTH - width + 1)
    top = 101 * index % (PHOTO_HEIGHT - height + 1)
    return left, top, left + width, top + height


def _item(class_name: str, split: str, index: int) -> Item:
    path = f"{class_name}/{split}-{index:03d}.jpg"
    origin = CropOrigin(
        photo=f"{class_name}.jpg",
        box=crop_box(split, index),
        quality=85 + index % 11,
    )
    return Item(path, path.encode(), class_name, origin, split)


@functools.lru_cache(maxsize=len(CLASSES))
def _photo(name: str) -> Image.Image:
    # The specification tells the folder without importing scikit-learn (a second).
    spec = importlib.util.find_spec("sklearn")
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = pathlib.Path(folder, "datasets", "images", name)
        if path.is_file():
            with Image.open(path) as image:
                return image.convert("RGB")
    raise TlperfError(
        ExitCode.UNAVAILABLE,
        "missing_photos",
        path=name,
        found="scikit-learn's sample photographs are not installed",
        remedy="install scikit-learn, or give --source a folder",
    )
