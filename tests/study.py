"""The study's figures for tests: a figure that is missing fails where it is asked."""

from typing import Any

from tlperf.reference.paper import published


def value(backbone: str, table: str, column: str, row: str | None = None) -> Any:
    """The printed value."""
    figure = published(backbone, table, column, row)
    assert figure is not None, (backbone, table, column, row)
    return figure.value
