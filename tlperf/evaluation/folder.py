"""Image files to predictions: listed, checked, decoded as training did, in batches.

    found = list_images(pathlib.Path("photos"))
    with FilePixels(recipe, data=DataConfig(), settings=InputConfig()) as pixels:
        predictions = predict_files(found.items, classify, pixels, classes=classes,
                                    on_problem=print)

Memory holds a few batches of pixels and the files that are being decoded, whatever
there is in the folder. What computes the probabilities is somebody else's: any function
of pixels. Neither this nor what it reads files with needs TensorFlow.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np

from tlperf.core.choices import Encoding, Exif, ImageCheck
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.core.progress import progress_bar
from tlperf.core.recipe import Classify, PixelRecipe
from tlperf.core.settings import DataConfig, InputConfig
from tlperf.dataset.examples import RecordError, RecordView
from tlperf.dataset.findings import Refusal, read_item
from tlperf.dataset.guard import ImageFacts, Limits, RefusedError, check_image
from tlperf.dataset.headers import named_format
from tlperf.dataset.payload import Layout, encode_payload
from tlperf.dataset.sources.folder import FileOrigin, read_tree
from tlperf.dataset.sources.listing import Item, Origin, text_of_path
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.memory import Workbench, budget_bytes

# Known by their names as well, and no images.
_DOCUMENTS = ("pdf",)
# One that is computed, one that is decoded meanwhile, and one of which the runtime may
# still hold the memory.
_BATCHES_HELD = 3
# Bytes a pixel at most of an image that is stored anew: decoded (10), as Pillow's (4),
# turned (4).
_ENCODING_BYTES = 18


class ImageFiles(NamedTuple):
    """What there is to predict.

    Attributes:
        items: files by path, in code-point order.
        ignored: files that are no images by their name.
    """

    items: tuple[Item, ...]
    ignored: int


class Problem(NamedTuple):
    """A file that cannot be used, and why."""

    path: str
    reason: str
    detail: str

    def error(self) -> TlperfError:
        """What is told about it."""
        return TlperfError(
            ExitCode.DATA,
            self.reason,
            path=self.path,
            found=self.detail,
            remedy="mend or remove it",
        )


class Prediction(NamedTuple):
    """What a network says about a file: probability is float32 [C]."""

    path: str
    probability: np.ndarray


class FileBatch(NamedTuple):
    """Decoded files.

    Attributes:
        items: which, at most B.
        images: uint8 [B, S, S, 3]; rows without a file are black.
        problems: of each item, None where it is decoded.
    """

    items: Sequence[Item]
    images: np.ndarray
    problems: Sequence[Problem | None]


def list_images(path: pathlib.Path, *, follow_links: bool = False) -> ImageFiles:
    """A file, whatever it is called, or the images of a folder and of those in it.

    Args:
        path: a file or a folder.
        follow_links: whether symbolic links to what is inside the folder are read.

    Raises:
        TlperfError: 66 where nothing is there, or no image by its name.
    """
    root = os.fsencode(path)
    if not os.path.lexists(root):
        raise _no_input("missing_images", path, "no such file or folder")
    if not path.is_dir():
        # Named by the user, so a link is followed.
        return ImageFiles((_item(root, FileOrigin(os.path.realpath(root))),), 0)
    tree = read_tree(path, follow_links=follow_links)
    names = [name for name in sorted(tree.files) if _is_image_name(name)]
    ignored = tree.ignored + len(tree.files) - len(names)
    if not names:
        raise _no_input("no_images", path, f"{ignored} files, none called as an image")
    items = (_item(os.path.join(root, name), tree.files[name]) for name in names)
    return ImageFiles(tuple(items), ignored)


def _is_image_name(name: bytes) -> bool:
    return named_format(text_of_path(name)) not in ("", *_DOCUMENTS)


def _item(path: bytes, origin: Origin) -> Item:
    return Item(text_of_path(path), path, class_name="", origin=origin)


def _no_input(reason: str, path: pathlib.Path, found: str) -> TlperfError:
    return TlperfError(
        ExitCode.NO_INPUT,
        reason,
        path=path,
        found=found,
        remedy="give --images an image file, or a folder of them",
    )


class FilePixels:
    """Image files to the pixels that training had of such files; a context manager.

    Args:
        recipe: of the training.
        data: what is refused: limits of headers, and how far an image is read.
        settings: batch size and memory.

    Raises:
        TlperfError: exit code 71, where the batches alone take more memory than input
            may have.
    """

    def __init__(self, recipe: PixelRecipe, *, data: DataConfig, settings: InputConfig):
        self._limits = Limits(
            max_pixels=data.max_pixels,
            min_side=data.min_side,
            max_jpeg_scans=data.max_jpeg_scans,
            image_check=data.image_check,
        )
        self._max_file_bytes = data.max_file_bytes
        self._batch_size = settings.batch_size
        self._layout = Layout(recipe.encoding, recipe.stored_size, recipe.exif)
        is_source = recipe.encoding is Encoding.SOURCE
        self._decoder = Decoder(
            image_size=recipe.image_size,
            decode=recipe.decode,
            raw_size=self._layout.raw_size,
            turns=is_source and recipe.exif is Exif.APPLY,
        )
        memory_bytes = plan_memory(settings, image_size=recipe.image_size)
        self._bench = Workbench(threads=usable_cores(), memory_bytes=memory_bytes)

    def load(self, item: Item, out: np.ndarray) -> Problem | None:
        """Fills `out`, uint8 [S, S, 3]; says what is wrong with a file that cannot be
        used. Safe from any thread.

        All limits are checked before anything is decoded, and the memory that decoding
        takes is waited for.
        """
        data = read_item(item, max_bytes=self._max_file_bytes)
        if isinstance(data, Refusal):
            return Problem(item.id, data.reason, data.detail)
        header = dataclasses.replace(self._limits, image_check=ImageCheck.HEADER)
        try:
            facts = check_image(data, limits=header, name=item.id)
            with self._bench.budget.held(self._scratch_bytes(data, facts)):
                check_image(data, limits=self._limits, name=item.id)
                view = self._view(data, facts)
                self._decoder.decode_into(view, out, self._bench.scratch)
        except RefusedError as error:
            return Problem(item.id, error.reason, error.detail)
        except RecordError as error:
            return Problem(item.id, "undecodable", str(error))
        except TlperfError as error:  # larger than all memory that input may have
            return Problem(item.id, error.reason, error.found)
        return None

    def _view(self, data: bytes, facts: ImageFacts) -> RecordView:
        """The file as a record of the training's data would hold it."""
        made = encode_payload(data, facts, layout=self._layout)
        encoded = np.frombuffer(made.encoded, np.uint8)
        return RecordView(encoded, -1, made.orientation, made.height, made.width)

    def _scratch_bytes(self, data: bytes, facts: ImageFacts) -> int:
        if self._layout.encoding is not Encoding.SOURCE:
            return _ENCODING_BYTES * facts.height * facts.width + 2 * len(data)
        return self._decoder.scratch_bytes(self._view(data, facts))

    def batches(self, items: Sequence[Item]) -> Iterator[FileBatch]:
        """All items in order; one batch is decoded while the one before is used.

        Every batch has the same number of rows, so that a runtime prepares once.
        """
        size = min(self._batch_size, len(items))
        begun: deque[tuple[Sequence[Item], np.ndarray, list]] = deque()
        for start in range(0, len(items), size):
            begun.append(self._begin(items[start : start + size], size))
            if len(begun) > 1:
                yield _finished(*begun.popleft())
        while begun:
            yield _finished(*begun.popleft())

    def _begin(
        self, part: Sequence[Item], size: int
    ) -> tuple[Sequence[Item], np.ndarray, list]:
        side = self._decoder.image_size
        images = self._bench.arena((size, side, side, 3)).take()
        submit = self._bench.pool.submit
        loads = [submit(self.load, *pair) for pair in zip(part, images, strict=False)]
        return part, images, loads

    def close(self) -> None:
        """Ends the threads."""
        self._bench.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _finished(
    part: Sequence[Item],
    images: np.ndarray,
    loads: Sequence[concurrent.futures.Future[Problem | None]],
) -> FileBatch:
    problems = [load.result() for load in loads]
    for row, problem in enumerate(problems):
        if problem is not None:
            images[row] = 0
    images[len(part) :] = 0
    return FileBatch(part, images, problems)


def plan_memory(settings: InputConfig, *, image_size: int) -> int:
    """Bytes left for files being decoded, when batches have theirs.

    Raises:
        TlperfError: exit code 71, where nothing is left.
    """
    budget = budget_bytes(settings.ram_budget)
    batches = _BATCHES_HELD * settings.batch_size * 3 * image_size**2
    if batches >= budget:
        raise TlperfError(
            ExitCode.MEMORY,
            "ram_budget",
            found=f"batches take {batches} bytes; input may have {budget}",
            remedy="give a smaller --batch_size or more --ram_budget",
        )
    return budget - batches


def predict_files(
    items: Sequence[Item],
    classify: Classify,
    pixels: FilePixels,
    *,
    classes: Sequence[str],
    on_problem: Callable[[Problem], None],
) -> list[Prediction]:
    """Predictions of the files that can be used, in order.

    Args:
        items: the files.
        classify: what computes probabilities.
        pixels: what decodes.
        classes: C names.
        on_problem: called with each file that cannot be used, in order.

    Raises:
        TlperfError: 65 where what `classify` gives are no probabilities of `classes`.
    """
    predictions: list[Prediction] = []
    with progress_bar(total=len(items), unit="img", title="predict") as bar:
        for batch in pixels.batches(items):
            good = [
                row for row, problem in enumerate(batch.problems) if problem is None
            ]
            for problem in filter(None, batch.problems):
                on_problem(problem)
            if good:
                probability = classify(batch.images)
                check_probabilities(probability, (len(batch.images), len(classes)))
                predictions += [
                    Prediction(batch.items[row].id, probability[row]) for row in good
                ]
            bar.update(len(batch.items))
    return predictions


def check_probabilities(probability: np.ndarray, shape: tuple[int, int]) -> None:
    """Refuses what are no probabilities, float32 [B, C] of that shape (exit code
    65)."""
    if probability.shape != shape:
        found = f"expected shape {shape}, got {probability.shape}"
    elif not np.all(np.isfinite(probability)):
        found = "some are not finite"
    else:
        return
    raise TlperfError(
        ExitCode.DATA,
        "bad_probabilities",
        found=f"what the model computes are no probabilities: {found}",
        remedy="train or export it again",
    )
