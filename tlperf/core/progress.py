"""Progress bars on stderr; silent where stderr is not a terminal.

with progress_bar(total=1200, unit="img", title="xception epoch 1") as bar:
    bar.update(32)
"""

import sys
import time
from collections.abc import Callable
from typing import Self

import tqdm


def progress_bar(*, total: int, unit: str, title: str) -> tqdm.tqdm:
    """A tqdm bar with rate and remaining time; `bar.set_postfix` adds figures."""
    return tqdm.tqdm(
        total=total,
        unit=unit,
        desc=title,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
        mininterval=0.5,
    )


class ImageBar:
    """A bar in images that also tells MB/s; a context manager.

    Args:
        total: images.
        title: what is done with them.
        clock: seconds, monotonic.
    """

    def __init__(
        self, total: int, title: str, *, clock: Callable[[], float] = time.monotonic
    ):
        self._bar = progress_bar(total=total, unit="images", title=title)
        self._clock = clock
        self._start = clock()
        self._bytes = 0

    def add(self, images: int, size: int = 0) -> None:
        """So many images of so many bytes more."""
        self._bytes += size
        secs = self._clock() - self._start
        if secs > 0:
            rate = f"{self._bytes / secs / 1e6:.0f} MB/s"
            self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(images)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def log(text: str) -> None:
    """One line of what is going on, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)


def log_above_bars(text: str) -> None:
    """As `log`, while a bar may be shown: it stays below."""
    tqdm.tqdm.write(text, file=sys.stderr)
