"""The process that a cell of `tools.gpu_matrix` runs in.

child = Child(out, most_secs=3600)
child.wait_until_alone()
done = child.run(command, stop=stop)
if done.exit_code: find_reason(done, most_secs=child.most_secs)
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Sequence

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.stopping import Stop
from tlperf.core.units import format_secs
from tlperf.job.children import child_environment


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that ended; `is_late` where it was made to, for its time."""

    exit_code: int
    out: str
    err: str
    secs: float
    is_late: bool


class Child:
    """Runs a command, one at a time, in a group of its own: a terminal's Ctrl-C reaches
    it once, by `stop`.

    Args:
        folder: for what it prints.
        most_secs: a command takes.
        grace_secs: from asking one to end to making it.
    """

    def __init__(
        self, folder: pathlib.Path, *, most_secs: float, grace_secs: float = 30.0
    ):
        self.most_secs = most_secs
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._grace_secs = grace_secs
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], *, stop: Stop) -> Done:
        """Runs it to its end, or to that of its time."""
        start, is_late = time.perf_counter(), False
        # No pipes: what a killed command leaves running would hold them open.
        with self._out.open("wb") as stdout, self._err.open("wb") as stderr:
            # The command has this lock too, and what it starts: see below.
            fcntl.flock(stderr, fcntl.LOCK_SH)
            self._process = subprocess.Popen(
                command,
                stdout=stdout,
                stderr=stderr,
                env=child_environment(),
                process_group=0,
            )
            if stop.wanted:  # the signal came while it was started
                self.stop()
            try:
                self._process.wait(self.most_secs)
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                code = self._end()
        secs = time.perf_counter() - start
        out, err = (path.read_text(errors="replace") for path in (self._out, self._err))
        return Done(code, out, err, secs, is_late)

    def stop(self) -> None:
        """Asks it to end."""
        if self._process is not None:
            self._process.terminate()

    def wait_until_alone(self) -> None:
        """Waits for what an earlier command left running, also that of a tool that was
        killed: two at a time would time each other.

        Raises:
            TlperfError: 75 where it goes on.
        """
        deadline = time.monotonic() + self._grace_secs
        with self._err.open("ab") as stderr:
            while True:
                with contextlib.suppress(BlockingIOError):
                    return fcntl.flock(stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.monotonic() > deadline:
                    raise TlperfError(
                        ExitCode.RETRY,
                        "still_running",
                        path=self._err,
                        found="the command of an earlier cell has not ended",
                        remedy="wait for it or end it, and run again",
                    )
                time.sleep(0.1)

    def _end(self) -> int:
        """Its exit code; it is made to end. The first signal asks, the second has it
        kill the process that trains."""
        process, self._process = self._process, None
        assert process is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self._grace_secs)
        return process.wait()


def find_reason(done: Done, *, most_secs: float) -> str:
    """Why a command failed: its first error line, or what its end looks like."""
    if done.is_late:
        return f"took longer than {format_secs(most_secs)}"
    # That of the parent only points to the lines above it.
    told = re.findall(
        r"^tlperf \w+: E\d+ (?!backbone_failed|cell_failed)(.+)$", done.err, re.M
    )
    told += re.findall(r"^[^:\n]+: (killed by signal .+)$", done.err, re.M)
    return (told or done.err.strip().splitlines()[-1:] or ["it said nothing"])[0]


def known_code(code: int) -> ExitCode:
    """An exit code as one of ours; a bug where it is none."""
    return ExitCode(code) if code in set(ExitCode) else ExitCode.INTERNAL
