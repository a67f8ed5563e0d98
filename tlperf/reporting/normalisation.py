"""What a training did to the pixels, in words.

name_preprocessing("caffe")     # "caffe (BGR minus the mean)"
used_normalisation(results)     # "tf", or None where nothing is known
"""

from tlperf.core.choices import Preprocess
from tlperf.reference.backbones import (
    BACKBONES,
    KERAS_BACKBONES,
    PAPER_MODE,
    normalisation_name,
)
from tlperf.reporting.rows import BackboneRows

_WORDS = {
    "tf": "-1 to 1",
    "caffe": "BGR minus the mean",
    "torch": "RGB, mean 0 and deviation 1",
    "raw": "0 to 255",
    "paper": "x / 255",
}
# The study's, most plausibly, for all six.
STUDY_NORMALISATION = normalisation_name(PAPER_MODE)
# What the ImageNet weights of a backbone expect.
EXPECTED = {
    spec.name: normalisation_name(spec.normalisation)
    for spec in (*BACKBONES, *KERAS_BACKBONES)
}


def name_preprocessing(word: object) -> str:
    """`tf (-1 to 1)`: a row's word with what it does to pixels, where that is known."""
    text = str(word)
    return f"{text} ({_WORDS[text]})" if text in _WORDS else text


def used_normalisation(results: BackboneRows) -> object:
    """The word for what the training was given; None where it does not tell. A check of
    the input may be of another training, that never ended."""
    word = results.train.get("preprocess")
    if word == Preprocess.PAPER:
        return STUDY_NORMALISATION
    return EXPECTED.get(results.name, word) if word else None
