"""docs/commands.md and docs/promises.md, made from what they tell of.

    python -m tools.reference            # writes both; a test says when they are stale

The commands and their flags are those of `tlperf COMMAND --help`; the promises are the
markers of pyproject.toml, with the tests that bear them.
"""

import argparse
import ast
import enum
import pathlib
import tomllib
from collections.abc import Iterator, Sequence

from tlperf.commands import COMMANDS
from tlperf.flags import FLAGS, Flag

ROOT = pathlib.Path(__file__).parents[1]
_MADE = "Made by `python -m tools.reference`."


def render_commands() -> str:
    """docs/commands.md."""
    lines = ["# Commands", "", f"`tlperf COMMAND [--flag=value ...]`. {_MADE}"]
    for name, command in COMMANDS.items():
        lines += ["", f"## {name}", "", f"{command.help.capitalize()}.", ""]
        lines += ["| flag | default | what it is |", "|---|---|---|"]
        lines += [_flag_row(FLAGS[flag]) for flag in command.flags]
    return "\n".join(lines) + "\n"


def _flag_row(flag: Flag) -> str:
    words = ""
    if issubclass(flag.kind, enum.StrEnum):
        words = " or ".join(f"`{member.value}`" for member in flag.kind) + ": "
    default = "" if flag.default in (None, "") else f"`{flag.default}`"
    if flag.kind is bool:
        default = f"`{str(flag.default).lower()}`"
    return f"| `--{flag.name}` | {default} | {words}{_cell(flag.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def render_promises() -> str:
    """docs/promises.md."""
    found = dict(_find_tests())
    lines = [
        "# Promises, and the tests that show them",
        "",
        f"`pytest -m D4` runs those of one; `python tools/full_promises.py D4` at full "
        f"figures. {_MADE}",
        "",
        "| promise | what is promised | tests |",
        "|---|---|---|",
    ]
    for name, text in _promises():
        tests = found.get(name, {})
        cells = [f"{path} ({count})" for path, count in sorted(tests.items())]
        lines.append(f"| {name} | {text} | {', '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _promises() -> Iterator[tuple[str, str]]:
    """Names and texts of the markers that are promises."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for marker in settings["tool"]["pytest"]["ini_options"]["markers"]:
        name, _, text = marker.partition(": ")
        if name[0].isupper():
            yield name, text


def _find_tests() -> Iterator[tuple[str, dict[str, int]]]:
    """Of each marker, how many test functions of which file bear it."""
    counts: dict[str, dict[str, int]] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        module = ast.parse(path.read_text())
        shared = [
            name
            for node in module.body
            if isinstance(node, ast.Assign) and _is_named(node, "pytestmark")
            for name in _markers(node.value)
        ]
        for markers in _tests_in(module.body, shared):
            for name in markers:
                files = counts.setdefault(name, {})
                files[path.name] = files.get(path.name, 0) + 1
    yield from counts.items()


def _tests_in(
    body: Sequence[ast.stmt], shared: Sequence[str]
) -> Iterator[frozenset[str]]:
    """The markers of each test function, those of its class and file among them."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        own = [name for one in node.decorator_list for name in _markers(one)]
        if isinstance(node, ast.ClassDef):
            yield from _tests_in(node.body, [*shared, *own])
        elif node.name.startswith("test_"):
            yield frozenset([*shared, *own])


def _is_named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in node.targets)


def _markers(node: ast.AST) -> list[str]:
    """Names X of every `pytest.mark.X` in an expression."""
    return [
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.value, ast.Attribute)
        and one.value.attr == "mark"
    ]


PAGES = {"commands.md": render_commands, "promises.md": render_promises}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, render in PAGES.items():
        (out / name).write_text(render())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
