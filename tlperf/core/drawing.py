"""What every picture of the project has in common: ink, sizes, and texts that fit.

with drawing_style({"axes.grid": True}):
    figure = ...                         # matplotlib with these settings alone
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from tlperf.core.errors import escape_text

INK = "#1f2329"
_RC = {
    # Class names are data: a `$` in one is no formula.
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def short_text(text: str, limit: int = 24) -> str:
    """`text` printable and at most `limit` characters long."""
    plain = escape_text(text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def name_log_ticks(axis: Any) -> None:
    """Plain numbers along a logarithmic axis on which all is drawn: matplotlib's own
    labels are formulas, which none of our pictures sets."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@contextlib.contextmanager
def drawing_style(settings: Mapping[str, Any]) -> Iterator[None]:
    """The common settings and these; a user's matplotlibrc changes no picture."""
    import matplotlib  # half a second that figures alone do not need

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A class name may be in a script that the built-in font lacks: a PNG shows
        # boxes, and of an SVG the reader's browser draws the text.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_RC, **settings})
        yield
