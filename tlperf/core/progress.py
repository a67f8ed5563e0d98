"""Progress bars on stderr; silent where stderr is not a terminal.

with progress_bar(total=1200, unit="img", title="xception epoch 1") as bar:
    bar.update(32)
"""

import sys

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


def log(text: str) -> None:
    """One line of what is going on, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)
