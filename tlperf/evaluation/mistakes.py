"""The worst mistakes of an evaluation, as facts and small pictures.

mistakes = write_mistakes(predictions, dataset.split("test"), manifest, folder)
mistakes["count"], mistakes["worst"][0]["file"]

The worst are those whose true class got the least probability.
"""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from tlperf.core import files
from tlperf.dataset.examples import RecordError
from tlperf.dataset.manifest import Manifest
from tlperf.dataset.store import StoredSplit
from tlperf.dataset.thumbnails import make_thumbnail
from tlperf.pipeline.load import name_record

MISTAKES_FOLDER = "mistakes"
# What fits into two rows of a page.
MOST_SHOWN = 12


class Mistake(NamedTuple):
    """An image that was taken for another class.

    Attributes:
        place: in the split.
        label, predicted: classes by number.
        label_probability, predicted_probability: that were given to them.
    """

    place: int
    label: int
    predicted: int
    label_probability: float
    predicted_probability: float


def find_worst(
    index: np.ndarray, label: np.ndarray, probability: np.ndarray
) -> list[Mistake]:
    """All mistakes, the worst first; of equals the one stored first.

    Args:
        index: int [N], in the split.
        label: int [N], true classes.
        probability: float [N, C]; one that is no number comes last.
    """
    predicted = np.argmax(probability, axis=-1)
    wrong = np.flatnonzero(predicted != label)
    rows = np.arange(len(label))
    given, taken = probability[rows, label], probability[rows, predicted]
    order = wrong[np.lexsort((index[wrong], given[wrong]))]
    columns = (index, label, predicted, given, taken)
    return [Mistake(*(column[row].item() for column in columns)) for row in order]


def write_mistakes(
    mistakes: list[Mistake],
    split: StoredSplit,
    manifest: Manifest,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes the pictures of the worst to FOLDER/mistakes, in place of older ones.

    Args:
        mistakes: the worst first.
        split: that they are of.
        manifest: of its dataset.
        folder: WORKDIR/BACKBONE.

    Returns:
        `count` of all mistakes, and `worst`, the first few: `index label predicted` and
        their probabilities, `id file sha256 width height`.

    Raises:
        TlperfError: 65 or 76 at a bad record.
    """
    target = folder / MISTAKES_FOLDER
    worst = []
    with files.staging_folder(target) as staging:
        made = staging / MISTAKES_FOLDER
        made.mkdir()
        for number, mistake in enumerate(mistakes[:MOST_SHOWN]):
            (example,) = split.read([mistake.place])
            try:
                picture = make_thumbnail(example, manifest)
            except RecordError as error:
                raise name_record(split, mistake.place, error) from error
            file = f"{number + 1:02d}.jpg"
            (made / file).write_bytes(picture.jpeg)
            worst.append({**_facts(mistake, manifest), **picture.facts(example, file)})
        files.publish_all([MISTAKES_FOLDER], staging)
    return {"count": len(mistakes), "worst": worst}


def _facts(mistake: Mistake, manifest: Manifest) -> dict[str, Any]:
    """Classes by name; a probability that is no number is None."""
    return {
        "index": mistake.place,
        "label": manifest.classes[mistake.label],
        "predicted": manifest.classes[mistake.predicted],
        "label_probability": _finite(mistake.label_probability),
        "predicted_probability": _finite(mistake.predicted_probability),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
