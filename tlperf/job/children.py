"""Child processes: fresh ones, one at a time.

child = Child()
code = child.run("tlperf.job.child", [settings, "vgg16", "train", "run"],
                 title="vgg16", stop=stop)
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from tlperf.core.errors import ExitCode
from tlperf.core.progress import log
from tlperf.core.stopping import Stop


class Child:
    """A process, one at a time.

    It has a group of its own, so that the terminal's Ctrl-C reaches it once, by `stop`.

    Attributes:
        has_told: whether the last one failed and said why in an error line of its own.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.has_told = False

    def run(
        self, module: str, arguments: Sequence[str], *, title: str, stop: Stop
    ) -> int:
        """Runs `python -m MODULE ARGUMENTS` to its end; the exit code.

        Args:
            module: to run.
            arguments: of it.
            title: what it does, for the line that says that it was killed.
            stop: the wish to stop.
        """
        command = [sys.executable, "-m", module, *arguments]
        # stdout belongs to the parent's one result.
        with subprocess.Popen(
            command, stdout=sys.stderr, env=child_environment(), process_group=0
        ) as self._process:
            if stop.wanted:  # the signal came while it was started
                self.stop()
            try:
                code = self._process.wait()
            except BaseException:
                self._process.kill()
                raise
        self._process = None
        # Every code of ours comes after an error line (`tlperf.job.outcome`).
        self.has_told = code != ExitCode.OK and code in set(ExitCode)
        if code >= 0:
            return code
        if not stop.wanted:  # else it was asked to end
            log(f"{title}: killed by signal {-code}" + _kill_hint(-code))
        return ExitCode.MEMORY if code == -9 else ExitCode.INTERNAL

    def stop(self) -> None:
        """Asks it to save and to end."""
        if self._process is not None:
            self._process.terminate()


def _kill_hint(signal: int) -> str:
    # SIGKILL that nobody sent comes from the kernel's out-of-memory killer.
    return " (out of memory? give a smaller batch)" if signal == 9 else ""


def child_environment() -> dict[str, str]:
    """This environment; children import the same tlperf, wherever it was started."""
    root = str(pathlib.Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
