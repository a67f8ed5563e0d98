"""Numbers as people read them. Seconds and bytes inside, other units only here.

format_secs(0.0042)  # '4.20 ms'
"""

import math

NOT_AVAILABLE = "n/a"


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def format_secs(secs: float | None) -> str:
    """Seconds as `µs`, `ms`, `s`, or `m:ss min` from 100 s on.

    >>> [format_secs(s) for s in (None, 0.0000042, 0.0042, 4.2, 252.0)]
    ['n/a', '4.20 µs', '4.20 ms', '4.20 s', '4:12 min']
    """
    if secs is None or _is_missing(secs):
        return NOT_AVAILABLE
    if secs >= 100:
        return f"{int(secs) // 60}:{int(secs) % 60:02d} min"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if secs * scale >= 1 or secs == 0:
            return f"{secs * scale:.2f} {unit}"
    return f"{secs * 1e6:.2f} µs"


def format_bytes(count: float | None) -> str:
    """Bytes in binary units.

    >>> [format_bytes(b) for b in (None, 512, 1536, 3 * 1024**3)]
    ['n/a', '512 B', '1.5 KiB', '3.0 GiB']
    """
    if count is None or _is_missing(count):
        return NOT_AVAILABLE
    if count < 1024:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def format_count(count: int, one: str, many: str = "") -> str:
    """How many of something.

    >>> format_count(1, "row"), format_count(3, "row")
    ('1 row', '3 rows')
    >>> format_count(2, "process", "processes")
    '2 processes'
    """
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def format_amount(steps: int, least_secs: float, most_secs: float | None) -> str:
    """How much of something is timed; a limit of None or 0 is none.

    >>> format_amount(300, 10.0, None), format_amount(300, 0.0, 15.0)
    ('300 steps and 10 s of steps', '300 steps, at most 15 s')
    """
    least = f" and {least_secs:g} s of steps" if least_secs else ""
    most = f", at most {most_secs:g} s" if most_secs else ""
    return f"{format_count(steps, 'step')}{least}{most}"


def format_number(value: float | None, digits: int = 3) -> str:
    """A plain number with `digits` decimals, or `n/a`.

    >>> format_number(0.96751), format_number(None), format_number(math.inf)
    ('0.968', 'n/a', 'n/a')
    """
    if value is None or _is_missing(value):
        return NOT_AVAILABLE
    return f"{value:.{digits}f}"


def format_ratio(numerator: float | None, denominator: float | None) -> str:
    """`numerator / denominator` as `1.25x`; `n/a` where either is missing or zero.

    >>> format_ratio(5, 4), format_ratio(5, 0), format_ratio(None, 4)
    ('1.25x', 'n/a', 'n/a')
    """
    value = ratio(numerator, denominator)
    return NOT_AVAILABLE if value is None else f"{value:.2f}x"


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The ratio, or None where it would be nonsense (missing, zero or not finite)."""
    if numerator is None or denominator is None:
        return None
    if _is_missing(numerator) or _is_missing(denominator):
        return None
    if numerator == 0 or denominator == 0:
        return None
    return numerator / denominator
