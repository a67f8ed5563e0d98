"""docs/: the pages that are generated are those of this code."""

import pytest

from tlperf.commands import COMMANDS
from tools.reference import PAGES, ROOT, render_commands, render_promises


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_not_stale(name):
    made = (ROOT / "docs" / name).read_text()
    assert made == PAGES[name](), f"docs/{name}: run python -m tools.reference"


def test_every_command_and_flag_is_there():
    text = render_commands()
    for name, command in COMMANDS.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section.count("| `--") == len(command.flags)


def test_every_promise_has_a_test():
    rows = [row for row in render_promises().splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 30
    assert [row for row in rows if "test_" not in row] == []
