"""A few photos as a network takes them, to compare what two ways make of them.

images = read_test_images(dataset, decode=Decode.EXACT, image_size=150, count=16)
images = read_sample_images(recipe, count=16)      # where there are no data
"""

import numpy as np

from tlperf.core.choices import Decode
from tlperf.core.recipe import PixelRecipe
from tlperf.core.settings import DataConfig, InputConfig
from tlperf.dataset.examples import RecordError
from tlperf.dataset.sources.listing import Item
from tlperf.dataset.sources.photos import PhotosSource
from tlperf.dataset.store import StoredDataset
from tlperf.evaluation.folder import FilePixels
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.load import name_record
from tlperf.pipeline.memory import Scratch

TEST_SPLIT = "test"


def read_test_images(
    dataset: StoredDataset, *, decode: Decode, image_size: int, count: int
) -> np.ndarray:
    """Images of the test split, at even distances: uint8 [N, S, S, 3], RGB.

    Args:
        dataset: the data directory.
        decode: as in training.
        image_size: S.
        count: N at most.

    Raises:
        TlperfError: 65 or 76 at a bad record.
    """
    split = dataset.split(TEST_SPLIT)
    numbers = np.linspace(0, split.count - 1, min(count, split.count)).astype(int)
    decoder = Decoder.of(dataset.manifest, decode, image_size=image_size)
    scratch = Scratch(0)
    images = np.empty((len(numbers), image_size, image_size, 3), np.uint8)
    for number, out in zip(numbers.tolist(), images, strict=True):
        view = split.view(number, scratch.record)
        try:
            decoder.decode_into(view, out, scratch)
        except RecordError as error:
            raise name_record(split, number, error) from error
    return images


def read_sample_images(recipe: PixelRecipe, *, count: int) -> np.ndarray:
    """Crops of the photographs that scikit-learn ships: uint8 [N, S, S, 3], RGB.

    Args:
        recipe: of the training.
        count: N, at most the 80 test crops of both photographs.
    """
    items = PhotosSource().read_listing().items
    tests = [item for item in items if item.split == TEST_SPLIT]
    chosen = [tests[n] for n in np.linspace(0, len(tests) - 1, count).astype(int)]
    side = recipe.image_size
    images = np.empty((count, side, side, 3), np.uint8)
    with FilePixels(recipe, data=DataConfig(), settings=InputConfig()) as pixels:
        for item, out in zip(chosen, images, strict=True):
            _load(pixels, item, out)
    return images


def _load(pixels: FilePixels, item: Item, out: np.ndarray) -> None:
    problem = pixels.load(item, out)
    if problem is not None:
        raise problem.error()
