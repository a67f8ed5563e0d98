"""How image files became the pixels that a network was trained on.

    recipe = PixelRecipe(image_size=150, decode=Decode.EXACT)
    PixelRecipe.from_dict(recipe.to_dict()) == recipe

Whoever shows the network other files does the same with them: `tlperf predict`, and the
signature of an exported SavedModel that takes files.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from tlperf.core.choices import Decode, Encoding, Exif
from tlperf.core.errors import SettingsError
from tlperf.core.settings import from_plain

# A network with its preprocessing: images uint8 [B, S, S, 3], RGB, to probabilities
# float32 [B, C], both in the host's memory.
Classify = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class PixelRecipe:
    """From a file to uint8 pixels [S, S, 3], RGB.

    Attributes:
        image_size: S, side in pixels of what the network takes; the last step, bilinear
            without antialiasing, rounded.
        decode: JPEG files to pixels.
        exif: whether the EXIF orientation turns the image.
        encoding: what was stored of an image before it was decoded for training.
        stored_size: side in pixels of what was stored, resized with antialiasing; None
            where the file itself was.
    """

    image_size: int
    decode: Decode = Decode.EXACT
    exif: Exif = Exif.IGNORE
    encoding: Encoding = Encoding.SOURCE
    stored_size: int | None = None

    def __post_init__(self) -> None:
        _check_side("image_size", self.image_size)
        if self.encoding is not Encoding.SOURCE:
            _check_side("stored_size", self.stored_size)
        elif self.stored_size is not None:
            found = f"stored_size is {self.stored_size!r} with encoding source"
            raise SettingsError(found, "give none: files are stored as they are")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The recipe that `to_dict` gave; SettingsError where it is none."""
        return from_plain(cls, values)


def _check_side(name: str, side: int | None) -> None:
    if not (isinstance(side, int) and side > 0):
        raise SettingsError(f"{name} is {side!r}", "give pixels, a positive number")
