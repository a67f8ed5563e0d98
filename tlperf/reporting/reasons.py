"""What is wrong with rows, each reason once with the rows that it holds for.

    group_reasons([["3 samples, fewer than 10"], ["4 samples, fewer than 10"]])
    # [Reason("3 samples, fewer than 10", rows=(0, 1), differs=True)]
    describe_unfinished(3)

Reasons of several rows that are alike but for their numbers are one.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tlperf.core.errors import escape_text
from tlperf.core.units import format_count

# Not the digits of a name such as p50_ms.
_NUMBER = re.compile(r"(?<![\w.])\d[\d.]*(e[+-]\d+)?")
# Rows that are named above what is wrong with them.
_MOST_NAMES = 6


class Reason(NamedTuple):
    """What is wrong with rows.

    Attributes:
        text: with the numbers of the first row.
        rows: places of those that it holds for.
        differs: whether others have other numbers.
    """

    text: str
    rows: tuple[int, ...]
    differs: bool


def group_reasons(reasons: Sequence[Sequence[str]]) -> list[Reason]:
    """The reasons of rows, in the order in which they are first met.

    Args:
        reasons: of each row.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for place, own in enumerate(reasons):
        for text in own:
            found.setdefault(_NUMBER.sub("#", text), []).append((place, text))
    return [
        Reason(
            text=group[0][1],
            rows=tuple(dict.fromkeys(place for place, _ in group)),
            differs=len({text for _, text in group}) > 1,
        )
        for group in found.values()
    ]


def render_invalid(reasons: Sequence[Sequence[str]]) -> list[str]:
    """A line a reason, and how many rows have it too.

    Args:
        reasons: of each row.
    """
    return [
        f"INVALID: {one.text}"
        + (f" (and {len(one.rows) - 1} alike)" if len(one.rows) > 1 else "")
        for one in group_reasons(reasons)
    ]


def render_lacking(names: Sequence[str], reasons: Sequence[Sequence[str]]) -> list[str]:
    """Rows, and below them what holds for just these.

    Args:
        names: of the rows.
        reasons: of each row.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for one in group_reasons(reasons):
        more = " (the others alike)" if one.differs else ""
        groups.setdefault(one.rows, []).append(f"  {escape_text(one.text)}{more}")
    return [
        line
        for places, texts in groups.items()
        for line in (*_head([names[place] for place in places], len(names)), *texts)
    ]


def _head(names: Sequence[str], of: int) -> list[str]:
    """The rows that reasons hold for, a line each."""
    if 1 < len(names) == of:
        return [f"all {of} rows:"]
    lines = list(names[:_MOST_NAMES])
    if more := len(names) - len(lines):
        lines.append(f"and {more} more (--json names all)")
    return [*lines[:-1], f"{lines[-1]}:"]


def describe_unfinished(processes: int) -> str:
    """What is there of rows that were stopped, and how it is gone on with."""
    return (
        f"{format_count(processes, 'process', 'processes')} of rows that are not "
        "finished: on the same code and machine tlperf latency --resume with the same "
        "flags goes on with them"
    )
