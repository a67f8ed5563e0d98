"""Each reason an error line of the data rooms can give, and each exit code, is in a
test that names it."""

import ast
import itertools
import pathlib
import re

import pytest

from tlperf.core.errors import ExitCode

ROOT = pathlib.Path(__file__).parents[1]
# Errors whose reason is an argument, and where it stands.
_POSITIONS = {
    "TlperfError": 1,
    "OriginError": 0,
    "RefusedError": 0,
    "Refusal": 0,
}


def reasons_in(path):
    """Reasons written out in a module; of an f-string what stands before its value."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = [word.value for word in node.keywords if word.arg == "reason"]
        position = _POSITIONS.get(name)
        if position is not None and len(node.args) > position:
            given.append(node.args[position])
        for argument in given:
            for part in ast.walk(argument):
                if isinstance(part, ast.Constant) and is_slug(part.value):
                    yield part.value
                    if isinstance(argument, ast.JoinedStr):
                        break


def is_slug(value):
    return isinstance(value, str) and re.fullmatch(r"[a-z_]+(:[a-z]*)?", value)


ROOMS = ("core", "dataset", "pipeline")
FILES = ("cli.py", "job/outcome.py")


def find_reasons():
    found: dict[str, pathlib.Path] = {}
    paths = [(ROOT / "tlperf" / room).rglob("*.py") for room in ROOMS]
    files = [ROOT / "tlperf" / file for file in FILES]
    for path in sorted(itertools.chain(files, *paths)):
        for reason in reasons_in(path):
            found.setdefault(reason, path.relative_to(ROOT))
    return found


TESTS = "".join(
    path.read_text()
    for path in sorted((ROOT / "tests").glob("*.py"))
    if path != pathlib.Path(__file__)
)


@pytest.mark.parametrize(("reason", "path"), find_reasons().items())
def test_each_reason_is_in_a_test(reason, path):
    assert reason in TESTS, f"{reason} of {path} is in no test"


@pytest.mark.parametrize("code", list(ExitCode))
def test_each_exit_code_is_in_a_test(code):
    assert f"ExitCode.{code.name}" in TESTS or f"== {int(code)}" in TESTS
