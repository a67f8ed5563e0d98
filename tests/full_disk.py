"""Runs a sharder on a small disk; a program, not a test.

    unshare --mount python full_disk.py fill FOLDER "3 50" python -m tlperf shard ...
    unshare --mount python full_disk.py refuse FOLDER 262144 python -m tlperf shard ...

Mounts a disk on FOLDER, where the sharder writes into FOLDER/data, and prints what
became of it.

fill: of 8 MiB. At each level the sharder is stopped once it has checked the free space,
the disk is filled until so many hundredths of its output fit, and it goes on.
refuse: of so many bytes, too few; then larger by what was said to be missing.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

# `tests` is a package of the checkout, whose path the caller gives.
from tests.promises import environment, run, tree


def mount(folder: pathlib.Path, size_bytes: int, *, again: bool = False) -> None:
    options = f"{'remount,' if again else ''}size={size_bytes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def fill_at(folder: pathlib.Path, levels: list[int], command: list[str]) -> list[dict]:
    mount(folder, 8 << 20)
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    output = sum(path.stat().st_size for path in files)
    results = []
    for level in levels:
        shutil.rmtree(folder / "data")
        results.append(fill(folder, output * level // 100, command))
    return results


def refuse(folder: pathlib.Path, size_bytes: int, command: list[str]) -> dict:
    mount(folder, size_bytes)
    done = run(command)
    left = tree(folder / "data")
    free_bytes = shutil.disk_usage(folder).free
    needed, free = map(
        int, re.findall(r"(\d+) (?:bytes are needed|are free)", done.stderr)
    )
    mount(folder, size_bytes + needed - free, again=True)
    return {
        "code": done.returncode,
        "stderr": done.stderr,
        "left": sorted(left),
        "needed": needed,
        "free": free,
        "free_after": free_bytes,
        "code_after": run(command).returncode,
    }


def fill(folder: pathlib.Path, left_bytes: int, command: list[str]) -> dict:
    """One run with so many bytes left, and one with the disk free again."""
    process = subprocess.Popen(
        command,
        env=environment("space_checked=stop"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.waitpid(process.pid, os.WUNTRACED)
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    # tmpfs counts whole pages.
    filler.write_bytes(bytes(free - left_bytes // 4096 * 4096))
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate()
    data_dir = folder / "data"
    visible = [
        path.name
        for path in data_dir.iterdir()
        if ".partial" in path.name or path.name in ("manifest.json", "COMPLETE")
    ]
    filler.unlink()
    return {
        "code": process.returncode,
        "stderr": stderr,
        "visible_partials": visible,
        "code_after": run(command).returncode,
        "tree": tree(data_dir),
    }


def main(what: str, folder: str, numbers: str, *command: str) -> None:
    disk, words = pathlib.Path(folder), list(command)
    if what == "fill":
        levels = [int(number) for number in numbers.split()]
        print(json.dumps(fill_at(disk, levels, words)))
    else:
        print(json.dumps(refuse(disk, int(numbers), words)))


if __name__ == "__main__":
    main(*sys.argv[1:])
