"""D4, D6-D9: a sharder that is killed, raced, starved of disk or moved elsewhere.

Each run is a process of its own. `--figures=full` does what the promises state.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.images import image_bytes, make_folder
from tests.promises import environment, run, shard_command, tree
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.verify import verify_dataset

FORMATS = ("tfrecord", "hdf5")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """40 small images: 24 for training, in about 16 shards over all splits."""
    root = tmp_path_factory.mktemp("source") / "pets"
    make_folder(root, {"cats": 20, "dogs": 20})
    return root


@pytest.fixture(scope="module")
def references(pets, tmp_path_factory):
    """The tree of an uninterrupted run, and its seconds, by format."""
    made = {}
    for name in FORMATS:
        data_dir = tmp_path_factory.mktemp("reference")
        start = time.monotonic()
        done = run(shard_command(pets, data_dir, f"--format={name}"))
        assert done.returncode == 0, done.stderr
        made[name] = tree(data_dir), time.monotonic() - start
    return made


def finish(command, data_dir, reference):
    """Runs to the end; the summary, where the tree is that of an undisturbed run."""
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert tree(data_dir) == reference
    return json.loads(done.stdout)


def noted_shards(data_dir):
    return list((data_dir / ".work").glob("pets-*.json"))


@pytest.mark.D4
@pytest.mark.parametrize("file_format", FORMATS)
def test_killed_at_every_step(
    file_format, pets, references, tmp_path, figures, record_property
):
    """Killed right after each write, fsync, rename and publication in turn."""
    flags = ("--workers=1", f"--format={file_format}")
    counted = run(shard_command(pets, tmp_path / "count", *flags), "*=print")
    steps = counted.stderr.count("hit ")
    assert steps > 40
    chosen = range(1, steps + 1, figures.pick(steps // 2, 1))
    kills = 0
    for step in chosen:
        data_dir = tmp_path / str(step)
        command = shard_command(pets, data_dir, *flags)
        done = run(command, f"*:{step}=kill")
        if done.returncode == 0:
            break  # HDF5: parent and child each have fewer steps than both together
        # HDF5 is written in a child; with it dies the shard, not the program.
        assert done.returncode in (-signal.SIGKILL, ExitCode.RETRY)
        kills += 1
        noted = len(noted_shards(data_dir))
        summary = finish(command, data_dir, references[file_format][0])
        # Sealed already, or every shard that was noted is kept.
        assert summary["reused"] or summary["shards_kept"] == noted
        shutil.rmtree(data_dir)
    record_property("figures", f"{kills} of {steps} steps: trees byte-identical")


@pytest.mark.D4
@pytest.mark.parametrize("file_format", FORMATS)
def test_killed_at_random(
    file_format, pets, references, tmp_path, figures, record_property
):
    """Killed at random moments with two workers, while a reader looks on."""
    reference, secs = references[file_format]
    generator = random.Random(11)
    kills, looks = figures.pick(1, 50), 0
    killed = 0
    for number in range(kills):
        data_dir = tmp_path / str(number)
        flags = ("--workers=2", f"--format={file_format}")
        command = shard_command(pets, data_dir, *flags)
        process = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        timer = threading.Timer(generator.uniform(0.3, secs), process.kill)
        timer.start()
        while process.poll() is None:
            looks += check_look(data_dir)
        timer.cancel()
        killed += process.returncode == -signal.SIGKILL
        finish(command, data_dir, reference)
    assert killed > 0 or not figures.full
    record_property(
        "figures",
        f"{kills} runs, {killed} killed: trees byte-identical; "
        f"{looks} looks meanwhile, 0 at something partial",
    )


def check_look(data_dir):
    """What a reader sees while the sharder is at work: nothing yet, or all of it."""
    time.sleep(0.01)
    try:
        report = verify_dataset(data_dir)
    except TlperfError as error:
        if error.reason != "missing_data":
            raise
        return 1
    if not report["ok"]:
        (problem,) = report["problems"]
        assert problem["what"].startswith("unfinished_data: "), problem
    return 1


@pytest.mark.D4
def test_workers_die_with_their_parent(pets, tmp_path):
    """No orphan goes on writing into a folder whose lock is free."""
    command = shard_command(pets, tmp_path, "--workers=2", "--format=hdf5")
    process = subprocess.Popen(
        command, env=environment("written:2=stop"), stderr=subprocess.DEVNULL
    )
    children = wait_for(lambda: worker_pids(process.pid))
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in children))


def worker_pids(parent):
    found = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    names = [(pid, pathlib.Path(f"/proc/{pid}/cmdline")) for pid in found]
    return [int(pid) for pid, path in names if b"spawn_main" in path.read_bytes()]


def is_running(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, secs=30.0):
    """The condition's value once it is true."""
    end = time.monotonic() + secs
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail("waited in vain")


@pytest.mark.D6
def test_data_are_on_disk_before_they_have_their_name(pets, tmp_path, record_property):
    """By the system calls of a whole run: fsync, rename, fsync of the folder."""
    need("strace")
    trace = tmp_path / "trace"
    command = shard_command(pets, tmp_path / "data", "--workers=2")
    calls = "openat,close,fsync,fdatasync,rename,renameat,renameat2"
    # Fewer, bigger shards would be fewer renames: these are about 16.
    done = run(["strace", "-f", "-y", "-e", f"trace={calls}", "-o", trace, *command])
    assert done.returncode == 0, done.stderr
    synced: set[str] = set()
    renamed: list[str] = []
    waiting: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        if match := re.search(r"fsync\(\d+<([^>]+)>", line):
            synced.add(match[1])
            waiting.pop(match[1], None)
        elif match := re.search(r'rename\w*\((?:[^"]*)"([^"]+)".*?"([^"]+)"', line):
            if not match[2].startswith(f"{tmp_path}/data/"):
                continue  # Python's own files
            assert match[1] in synced, f"renamed before it was on disk: {line}"
            renamed.append(match[2])
            waiting[os.path.dirname(match[2])] = match[2]
    names = [os.path.basename(path) for path in renamed]
    assert names[-2:] == ["manifest.json", "COMPLETE"]
    assert not waiting, f"folder not fsynced after {waiting}"
    shards = sum("tfrecord-" in name and name[-1].isdigit() for name in names)
    assert shards >= 16
    record_property(
        "figures", f"{shards} shards, {len(renamed)} renames: 0 of an unsynced file"
    )


def need(tool):
    """Skips where a person has no such tool; CI has it."""
    if shutil.which(tool) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is not installed")
        pytest.skip(f"{tool} is not installed")


TURKISH = "tr_TR.UTF-8"


@pytest.mark.D7
def test_the_turkish_locale_is_there():
    """Its dotless i breaks programs that fold case by locale."""
    code = "import locale; locale.setlocale(locale.LC_ALL, '')"
    done = run([sys.executable, "-c", code], LC_ALL=TURKISH)
    assert done.returncode == 0, (
        f"no locale {TURKISH}: localedef -i tr_TR -f UTF-8 {TURKISH}"
    )


@pytest.mark.D7
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_bytes_everywhere(file_format, tmp_path, figures, record_property):
    """Workers, order of creation, locale, time zone, host name and folder differ."""
    files = {
        f"{name}/{number}{word}.jpg": image_bytes(number * 7 + len(name))
        for name in ("Istanbul", "ısparta", "İzmir")
        for number, word in enumerate(["I", "i", "İ", "ı", "a b", "ß", "é"] * 3)
    }
    places = [
        (workers, locale)
        for workers in (1, 2, 7)
        for locale in ("C", TURKISH)
        for _ in range(figures.pick(1, 3))
    ]
    if not figures.full:  # each other number of workers in each other locale
        places = places[::5] if file_format == "hdf5" else places[::3] + places[2:4]
    trees = set()
    for number, (workers, locale) in enumerate(places):
        root = tmp_path / f"source{number}" / "pets"
        names = sorted(files)
        random.Random(number).shuffle(names)
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        data_dir = tmp_path / f"data{number}"
        flags = (f"--workers={workers}", f"--format={file_format}")
        command = shard_command(root, data_dir, *flags)
        zone = ("UTC", "Asia/Kathmandu")[number % 2]
        done = run(command, LC_ALL=locale, TZ=zone, PYTHONHASHSEED=str(number))
        assert done.returncode == 0, done.stderr
        trees.add(json.dumps(tree(data_dir), sort_keys=True))
    assert len(trees) == 1
    record_property("figures", f"{len(places)} runs: {len(trees)} tree")


@pytest.mark.D8
def test_the_second_writer_is_told_whose_turn_it_is(pets, references, tmp_path):
    command = shard_command(pets, tmp_path, "--workers=1")
    owner = subprocess.Popen(
        command, env=environment("written:3=stop"), stdout=subprocess.DEVNULL
    )
    wait_for(lambda: is_stopped(owner.pid))
    start = time.monotonic()
    done = run(command)
    assert time.monotonic() - start < 2 + 3  # two, and the start of Python
    assert done.returncode == ExitCode.RETRY
    assert re.search(
        rf"E75 locked: .*\(pid {owner.pid} on \S+ since \d+\); wait", done.stderr
    )
    owner.send_signal(signal.SIGCONT)
    assert owner.wait(60) == 0
    assert tree(tmp_path) == references["tfrecord"][0]


def is_stopped(pid):
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0] == "T"


@pytest.mark.D8
def test_races(pets, references, tmp_path, figures, record_property):
    races, refused = figures.pick(1, 200), 0
    for number in range(races):
        data_dir = tmp_path / str(number)
        command = shard_command(pets, data_dir, "--workers=1")
        pair = [
            subprocess.Popen(
                command,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=120) for process in pair]
        codes = sorted(process.returncode for process in pair)
        wrote = [
            not json.loads(text)["reused"]
            for process, (text, _) in zip(pair, outputs, strict=True)
            if process.returncode == 0
        ]
        # One writes; the other is refused, or comes late and finds it done.
        assert wrote.count(True) == 1
        assert codes in ([0, ExitCode.RETRY], [0, 0]), outputs
        refused += codes[1] == ExitCode.RETRY
        assert tree(data_dir) == references["tfrecord"][0]
    record_property(
        "figures", f"{races} races: 1 writer each, {refused} second writers exit 75"
    )


@pytest.mark.D8
def test_a_killed_owner_leaves_no_lock(
    pets, references, tmp_path, figures, record_property
):
    kills = figures.pick(1, 50)
    for number in range(kills):
        data_dir = tmp_path / str(number)
        command = shard_command(pets, data_dir, "--workers=1")
        done = run(command, f"*:{20 + number * 3 % 60}=kill")
        assert done.returncode == -signal.SIGKILL
        finish(command, data_dir, references["tfrecord"][0])
    record_property("figures", f"{kills} owners killed: 0 stale locks")


@pytest.mark.D9
@pytest.mark.parametrize("file_format", FORMATS)
def test_disk_full(file_format, pets, tmp_path, references, figures, record_property):
    """A disk that fills while shards are written, at every hundredth of the output."""
    script = pathlib.Path(__file__).with_name("full_disk.py")
    levels = figures.pick([40], range(1, 100))
    flags = ("--workers=1", f"--format={file_format}")
    command = shard_command(pets, tmp_path / "disk" / "data", *flags)
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["-r"])]
    if run([*namespace, "true"]).returncode and not os.environ.get("CI"):
        pytest.skip("no mount namespaces here")
    driver = [sys.executable, script, tmp_path / "disk", " ".join(map(str, levels))]
    done = run([*namespace, *map(str, driver), *command])
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == len(levels)
    for result in results:
        assert result["code"] == ExitCode.IO, result
        assert re.fullmatch(
            r"tlperf shard: E74 disk_full: \S*/disk/data\S*: No space left on device; "
            r"free space and run again\n",
            result["stderr"],
        )
        assert result["visible_partials"] == []
        assert result["code_after"] == 0
        assert result["tree"] == references[file_format][0]
    record_property(
        "figures", f"{len(results)} full disks: exit 74, 0 partial files, all resumed"
    )


@pytest.mark.D9
def test_too_little_space_is_told_before_anything_is_written(pets, tmp_path):
    """With the limit on a file's size, and on a disk that is too small."""
    command = shard_command(pets, tmp_path / "data", "--workers=1")
    limited = ["prlimit", "--fsize=1500", *command]
    done = run(limited)
    assert done.returncode == ExitCode.IO
    assert "E74 disk_full: " in done.stderr
    assert "File too large; free space and run again" in done.stderr
    assert not list((tmp_path / "data").glob("pets-*"))
    assert run(command).returncode == 0


@pytest.mark.D9
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(pets, tmp_path):
    (tmp_path / "data").mkdir(mode=0o555)
    done = run(shard_command(pets, tmp_path / "data"))
    assert done.returncode == ExitCode.IO
    assert "Permission denied; check the path and its permissions" in done.stderr
