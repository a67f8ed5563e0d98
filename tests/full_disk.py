"""Runs a sharder on a small disk that fills; a program, not a test.

    unshare --mount python full_disk.py FOLDER "3 50" python -m tlperf shard ...

Mounts 8 MiB on FOLDER, where the sharder writes into FOLDER/data. At each level the
sharder is stopped once it has checked the free space, the disk is filled until so many
hundredths of its output fit, and it goes on. Prints a list of what became of it.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

# `tests` is a package of the checkout, whose path the caller gives.
from tests.promises import environment, tree


def main(folder: pathlib.Path, levels: list[int], command: list[str]) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True
    )
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    output = sum(path.stat().st_size for path in files)
    results = []
    for level in levels:
        shutil.rmtree(folder / "data")
        results.append(fill(folder, output * level // 100, command))
    print(json.dumps(results))


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
    again = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False
    )
    return {
        "code": process.returncode,
        "stderr": stderr,
        "visible_partials": visible,
        "code_after": again.returncode,
        "tree": tree(data_dir),
    }


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), [int(x) for x in sys.argv[2].split()], sys.argv[3:])
