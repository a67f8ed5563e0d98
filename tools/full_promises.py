"""Runs the promises' tests at their full figures and prints what they counted.

    python tools/full_promises.py                # all; two hours on two cores
    python tools/full_promises.py D1 I2          # some
    python tools/full_promises.py --reduced      # as the fast suite does, minutes

A row a test: promise, outcome, seconds, test; below it its figures, or why it was
skipped. Exit code 1 where pytest fails, and where no test of a promise passed.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parents[1]
_PREFIXES = ("D", "I", "L", "T", "B")


class Row(NamedTuple):
    """One test of a promise; `told` is its figures, or why it was skipped."""

    promise: str
    outcome: str
    secs: float
    test: str
    told: str


def read_promises(root: pathlib.Path) -> list[str]:
    """The ids of all promises, as pyproject.toml registers them for pytest."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    markers = settings["tool"]["pytest"]["ini_options"]["markers"]
    names = [marker.partition(":")[0] for marker in markers]
    return [n for n in names if n[0] in _PREFIXES and n[1:].isdigit()]


def run_promise(
    promise: str, *, figures: str, root: pathlib.Path
) -> tuple[list[Row], int]:
    """Runs one promise's tests in a pytest of its own: the rows, its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder, "junit.xml")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", promise, f"--figures={figures}", f"--junitxml={results}"),
        ]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stdout, done.stderr, sep="", file=sys.stderr)
        rows = read_rows(promise, results) if results.exists() else []
        return rows, done.returncode


def read_rows(promise: str, results: pathlib.Path) -> list[Row]:
    """The rows of a JUnit file."""
    rows = []
    for case in ElementTree.parse(results).iter("testcase"):
        told = [
            item.get("value", "")
            for item in case.iter("property")
            if item.get("name") == "figures"
        ]
        outcome = "passed"
        if (skipped := case.find("skipped")) is not None:
            outcome, told = "skipped", [skipped.get("message", "")]
        if any(case.find(kind) is not None for kind in ("failure", "error")):
            outcome = "failed"
        secs, name = float(case.get("time", 0)), case.get("name", "")
        rows.append(Row(promise, outcome, secs, name, "; ".join(told)))
    return rows


def find_problem(rows: Sequence[Row], returncode: int) -> str:
    """Why a promise is not shown to hold; "" where it is."""
    if returncode:
        return f"pytest ended with exit code {returncode}"
    return "" if any(row.outcome == "passed" for row in rows) else "no test passed"


def main(arguments: Sequence[str], root: pathlib.Path = ROOT) -> int:
    """Prints the table as it grows."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = read_promises(root)
    parser.add_argument("promises", nargs="*", default=known)
    parser.add_argument("--reduced", action="store_true")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.promises) - set(known)):
        parser.error(f"no promise {', '.join(unknown)}; there are {', '.join(known)}")
    figures = "reduced" if given.reduced else "full"
    failed = False
    for promise in given.promises:
        rows, returncode = run_promise(promise, figures=figures, root=root)
        for row in rows:
            print(f"{promise:<4} {row.outcome:<8} {row.secs:7.1f} s  {row.test}")
            print(f"     {row.told}\n" if row.told else "", end="", flush=True)
        if problem := find_problem(rows, returncode):
            failed = True
            print(f"{promise:<4} FAILED   {problem}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
