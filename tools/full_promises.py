"""Runs the promises' tests at their full figures and prints what they counted.

    python tools/full_promises.py                # all; about an hour on two cores
    python tools/full_promises.py D1 I2          # some
    python tools/full_promises.py --reduced      # as the fast suite does, a minute

A row a test: promise, test, outcome, seconds, figures. Exit code 1 where one failed, or
where a promise has no test.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import tomllib
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parents[1]
_PREFIXES = ("D", "I")


class Row(NamedTuple):
    """One test of a promise."""

    promise: str
    test: str
    outcome: str
    secs: float
    figures: str


def read_promises() -> list[str]:
    """The ids of all promises, as pyproject.toml registers them for pytest."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = settings["tool"]["pytest"]["ini_options"]["markers"]
    names = [marker.partition(":")[0] for marker in markers]
    return [n for n in names if n[0] in _PREFIXES and n[1:].isdigit()]


def run_promise(promise: str, *, figures: str) -> list[Row]:
    """Runs one promise's tests in a pytest of its own."""
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder, "junit.xml")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", promise, f"--figures={figures}", f"--junitxml={results}"),
        ]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if not results.exists():
            return [Row(promise, "pytest", "failed", 0.0, done.stdout[-200:])]
        if done.returncode:
            print(done.stdout, file=sys.stderr)
        return read_rows(promise, results)


def read_rows(promise: str, results: pathlib.Path) -> list[Row]:
    """The rows of a JUnit file."""
    rows = []
    for case in ElementTree.parse(results).iter("testcase"):
        bad = [kind for kind in ("failure", "error") if case.find(kind) is not None]
        outcome = "skipped" if case.find("skipped") is not None else "passed"
        told = [
            item.get("value", "")
            for item in case.iter("property")
            if item.get("name") == "figures"
        ]
        rows.append(
            Row(
                promise,
                case.get("name", ""),
                "failed" if bad else outcome,
                float(case.get("time", 0)),
                "; ".join(told),
            )
        )
    return rows


def main(arguments: list[str]) -> int:
    """Prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = read_promises()
    parser.add_argument("promises", nargs="*", default=known)
    parser.add_argument("--reduced", action="store_true")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.promises) - set(known)):
        parser.error(f"no promise {', '.join(unknown)}; there are {', '.join(known)}")
    figures = "reduced" if given.reduced else "full"
    failed = False
    for promise in given.promises:
        rows = run_promise(promise, figures=figures)
        failed |= not rows or any(row.outcome == "failed" for row in rows)
        for row in rows or [Row(promise, "no test", "failed", 0.0, "")]:
            print(
                f"{row.promise:<4} {row.outcome:<8} {row.secs:7.1f} s  {row.test}"
                + (f"\n     {row.figures}" if row.figures else ""),
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
