"""tools/full_promises.py on a small project: what counts as a promise that holds."""

import re

import pytest

from tools.full_promises import Row, find_problem, main, read_promises

SETTINGS = """
[tool.pytest.ini_options]
markers = ["slow: no promise", "D1: a", "D2: b", "D3: c", "D4: d", "I5: e", "L6: f"]
junit_family = "xunit1"
"""
FIGURES = """
def pytest_addoption(parser):
    parser.addoption("--figures")
"""
TESTS = """
import pytest

@pytest.mark.D1
def test_holds(record_property, request):
    record_property("figures", request.config.getoption("--figures") + ": 7 of 7")

@pytest.mark.D1
@pytest.mark.D2
def test_elsewhere():
    pytest.skip("no strace here")

@pytest.mark.D3
@pytest.mark.parametrize("number", [1, 2])
def test_half(number):
    assert number == 1

@pytest.fixture
def broken():
    yield
    raise OSError("cannot clean up")

@pytest.mark.I5
def test_broken(broken):
    pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "pyproject.toml").write_text(SETTINGS)
    (root / "conftest.py").write_text(FIGURES)
    (root / "test_it.py").write_text(TESTS)
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["D1"], 0, ["passed test_holds", "full: 7 of 7", "no strace here"]),
        (["D1", "--reduced"], 0, ["reduced: 7 of 7", "skipped test_elsewhere"]),
        (["D2"], 1, ["no strace here", "D2 FAILED no test passed"]),
        (["D3", "D1"], 1, ["passed test_half[1]", "failed test_half[2]", "7 of 7"]),
        (["D4"], 1, ["D4 FAILED pytest ended with exit code 5"]),  # no test at all
        (["I5"], 1, ["failed test_broken", "I5 FAILED pytest ended with exit code 1"]),
    ],
)
def test_what_holds(arguments, code, lines, project, capfd):
    assert main(arguments, project) == code
    printed = capfd.readouterr().out
    words = re.sub(r" +([\d.]+ s)? *", " ", printed)
    assert [line for line in lines if line not in words] == [], printed


def test_a_pytest_that_breaks_is_no_success(project, capfd):
    """All tests passed, says the file; the exit code has the last word."""
    rows = [Row("D1", "passed", 0.1, "test_holds", "")]
    assert find_problem(rows, 0) == ""
    assert find_problem(rows, 3) == "pytest ended with exit code 3"
    (project / "conftest.py").write_text("1 / 0")
    assert main(["D1"], project) == 1
    (project / "conftest.py").write_text(FIGURES)
    out, err = capfd.readouterr()
    assert "pytest ended with exit code 4" in out
    assert "ZeroDivisionError" in err


def test_promises_are_what_pyproject_registers(project, capfd):
    assert read_promises(project) == ["D1", "D2", "D3", "D4", "I5", "L6"]
    with pytest.raises(SystemExit):
        main(["D9"], project)
    assert "no promise D9; there are D1, D2, D3, D4, I5, L6" in capfd.readouterr().err
