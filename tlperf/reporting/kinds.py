"""What a value of a result row has to be.

list(find_unlike({"p50_ms": -1.0}, {"p50_ms": POSITIVE, "seed": WHOLE}))
# ["p50_ms: expected a number above 0, got -1.0", "seed: missing"]
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# More is no second, byte or operation of ours, and sums of such would overflow.
_MOST = 1e18


class Kind(NamedTuple):
    """A kind of value, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that can be reckoned with."""
    is_any = isinstance(value, int | float) and not isinstance(value, bool)
    return is_any and -_MOST < value < _MOST


def _is_whole(value: Any) -> bool:
    return is_number(value) and isinstance(value, int)


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_amount(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _all_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and bool(value) and all(map(test, value))
    )


TEXT = Kind("a text", _is_text)
TEXTS = Kind("texts", _all_of(_is_text))
DIGEST = Kind(
    "a commit",
    lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{40}", value)),
)
SHA256 = Kind(
    "a sha256",
    lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
COUNTS = Kind("whole numbers from 1", _all_of(COUNT.holds))
WHOLE = Kind("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
POSITIVE = Kind("a number above 0", _is_positive)
POSITIVES = Kind("numbers above 0", _all_of(_is_positive))
AMOUNT = Kind("a number from 0", _is_amount)
AMOUNTS = Kind(
    "numbers from 0 by name",
    lambda value: isinstance(value, Mapping) and all(map(_is_amount, value.values())),
)
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
WORDS = Kind(
    "texts or none",
    lambda value: isinstance(value, list) and all(map(_is_text, value)),
)
SOME = Kind(
    "a list of at least one", lambda value: isinstance(value, list) and bool(value)
)


def one_of(words: Iterable[Any]) -> Kind:
    """One of a few words."""
    known = [str(word) for word in words]
    return Kind(
        ", ".join(known), lambda value: isinstance(value, str) and value in known
    )


def or_none(kind: Kind) -> Kind:
    """That kind, or null."""
    return Kind(
        f"{kind.words} or null", lambda value: value is None or kind.holds(value)
    )


def find_unlike(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], prefix: str = ""
) -> Iterator[str]:
    """A line for each value that is missing or of another kind.

    Args:
        values: by name.
        kinds: what each has to be.
        prefix: of the names in the lines.
    """
    for name, kind in kinds.items():
        if name not in values:
            yield f"{prefix}{name}: missing"
        elif not kind.holds(values[name]):
            got = short_text(values[name])
            yield f"{prefix}{name}: expected {kind.words}, got {got}"


def short_text(value: Any) -> str:
    """A value for a line; what is long is cut."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
