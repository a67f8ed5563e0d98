"""Checks of single settings.

check(workers > 0, "workers", workers, "a positive number")
"""

import re

from tlperf.core.errors import SettingsError


def check(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises SettingsError for a setting's value, unless it is ok."""
    if not ok:
        raise SettingsError(f"{name} is {value!r}", f"give {expected}")


def is_host_and_port(text: str) -> bool:
    """Whether a text is [grpc://]HOST:PORT."""
    match = re.fullmatch(r"(?:grpc://)?(?:[^\s/:]+|\[[\da-fA-F:.]+\]):(\d{1,5})", text)
    return match is not None and 0 < int(match[1]) <= 65535


def check_seed(value: int) -> None:
    """Raises SettingsError for what is no seed."""
    # NumPy's generators, which Keras seeds too, take 32 bits.
    check(0 <= value < 1 << 32, "seed", value, "0 to 4294967295")


def check_image_size(value: int | None) -> None:
    """Raises SettingsError for a side that no image of a training has."""
    check(value is None or 8 <= value <= 4096, "image_size", value, "8 to 4096 pixels")
