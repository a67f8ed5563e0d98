"""A table, or values by name, as text for a terminal.

print(render_table(["backbone", "p50"], [["vgg16", "4.16 ms"]]))
print(render_values({"images": 400}))
"""

from collections.abc import Sequence
from typing import Any

from tlperf.core.errors import escape_text
from tlperf.core.units import NOT_AVAILABLE


def render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks apart."""
    table = [list(columns), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in table
    )


def render_values(result: dict[str, Any]) -> str:
    """`name: value` lines; nested objects in one line each."""
    return "\n".join(f"{name}: {_plain(value)}" for name, value in result.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        items = [f"{escape_text(str(k))} {_plain(v)}" for k, v in value.items()]
        return ", ".join(items) or "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return NOT_AVAILABLE if value is None else escape_text(str(value))
