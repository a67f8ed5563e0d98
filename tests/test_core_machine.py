"""Facts of the machine: what this process may use of its memory."""

import sys

import pytest

from tests.promises import run
from tlperf.core.machine import has_tf32, memory_bytes, memory_limit_bytes

GIB = 1 << 30
V1, V2 = "4:memory:/job/step", "0::/job/step"


@pytest.mark.L7
@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (V2, {"memory.max": "1073741824"}, GIB),  # a container that sees its own as top
        (V2, {"job/step/memory.max": "max", "job/memory.max": "1073741824"}, GIB),
        (
            V2,
            {"job/memory.max": "2147483648", "job/step/memory.max": "1073741824"},
            GIB,
        ),
        (V1, {"memory/memory.limit_in_bytes": "1073741824"}, GIB),
        (V1, {"memory/job/step/memory.limit_in_bytes": "1073741824"}, GIB),
        ("3:cpu,memory:/", {"memory/memory.limit_in_bytes": "1073741824"}, GIB),
        (V1, {"memory/other/memory.limit_in_bytes": "1073741824"}, None),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("3:cpu:/job", {"memory.max": "max"}, None),
        (None, {}, None),
    ],
)
def test_the_limit_of_every_control_group_around_counts(tmp_path, groups, files, limit):
    if groups:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"7:pids:/x\n{groups}\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert memory_limit_bytes(tmp_path) == (limit or memory_bytes())


@pytest.mark.L7
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_limit_of_the_process_itself_counts(kind):
    code = (
        "import resource; from tlperf.core.machine import memory_limit_bytes\n"
        f"resource.setrlimit(resource.{kind}, (2**30, 2**30))\n"
        "print(memory_limit_bytes())"
    )
    assert run([sys.executable, "-c", code]).stdout == f"{GIB}\n"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([], False),
        ([None], False),  # not every device tells
        ([(7, 5)], False),
        ([(8, 0)], True),
        ([[8, 6], [12, 0]], True),  # as JSON has them
        ([(7, 5), (12, 0)], False),  # a cell on the first one would have none
    ],
)
def test_which_gpus_have_tf32(capabilities, expected):
    gpus = [{"compute_capability": one} if one else {} for one in capabilities]
    assert has_tf32(gpus) is expected
