"""D4, D6-D9: a sharder that is killed, raced, starved of disk or moved elsewhere.

Each run is a process of its own. `--figures=full` does what the promises state.
"""

import fnmatch
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
from tests.promises import (
    RENAMES,
    environment,
    find_unsafe,
    read_trace,
    run,
    shard_command,
    traced,
    tree,
)
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.dataset.manifest import COMPLETE, MANIFEST, OWNER, QUARANTINE
from tlperf.dataset.shard import _METADATA_BYTES
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
    """The folder of an uninterrupted run, and its tree, by format."""
    made = {}
    for name in FORMATS:
        data_dir = tmp_path_factory.mktemp("reference")
        done = run(shard_command(pets, data_dir, f"--format={name}"))
        assert done.returncode == 0, done.stderr
        made[name] = data_dir, tree(data_dir)
    return made


def finish(command, data_dir, reference):
    """Runs to the end; the summary, where the tree is that of an undisturbed run."""
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert tree(data_dir) == reference
    return json.loads(done.stdout)


def noted_shards(data_dir):
    """Shards that an unfinished run says are finished."""
    return {path.stem for path in (data_dir / ".work").glob("pets-*.json")}


SHARDS = "pets-*[0-9]"  # of both formats, no sidecar


def begun_shards(data_dir, reference):
    """Shards of which there is a file, under its name or not yet."""
    found = os.listdir(data_dir) if data_dir.exists() else []
    shards = fnmatch.filter(reference, SHARDS)
    return {name for name in shards if any(name in file for file in found)}


def resume(command, data_dir, reference, *, workers):
    """Runs on after a kill: at most one shard a worker is done again."""
    noted, begun = noted_shards(data_dir), begun_shards(data_dir, reference)
    kept = finish(command, data_dir, reference)["shards_kept"]
    assert kept >= max(len(noted), len(begun) - workers)


@pytest.mark.D4
@pytest.mark.parametrize(
    ("file_format", "begin"),
    # HDF5 is written in a child, which comes first to every step: those of the parent
    # are seen where it has nothing to write.
    [("tfrecord", "nothing"), ("hdf5", "nothing"), ("hdf5", "all shards")],
)
def test_killed_at_every_step(
    file_format, begin, pets, references, tmp_path, figures, record_property
):
    """Killed right after each write, fsync, rename and publication in turn."""
    whole, reference = references[file_format]

    def command_into(name):
        data_dir = tmp_path / name
        if begin == "all shards":
            shutil.copytree(whole, data_dir)
            (data_dir / QUARANTINE).unlink()  # sealed, but damaged
        return shard_command(pets, data_dir, "--workers=1", f"--format={file_format}")

    counted = run(command_into("count"), "*=print")
    steps = counted.stderr.count("hit ")
    assert steps > 20
    kills = 0
    for step in range(1, steps + 1, figures.pick(steps // 2 - 1, 1)):
        command, data_dir = command_into(str(step)), tmp_path / str(step)
        done = run(command, f"*:{step}=kill")
        if done.returncode == 0:
            break  # parent and child each have fewer steps than both together
        # With the child dies the shard, not the program.
        assert done.returncode in (-signal.SIGKILL, ExitCode.RETRY)
        kills += 1
        resume(command, data_dir, reference, workers=1)
        shutil.rmtree(data_dir)
    assert kills >= 2
    record_property("figures", f"{kills} of {steps} steps: trees byte-identical")


@pytest.mark.D4
@pytest.mark.parametrize("file_format", FORMATS)
def test_killed_at_any_time(
    file_format, pets, references, tmp_path, figures, record_property
):
    """Killed at moments all over a run of two workers, while a reader looks on. In each
    other run they are counted from its first shard, which comes late."""
    _, reference = references[file_format]
    flags = ("--workers=2", f"--format={file_format}")
    lengths = []
    for number in range(figures.pick(1, 3)):
        data_dir = tmp_path / f"whole{number}"
        run_watched(shard_command(pets, data_dir, *flags), data_dir)
        lengths.append([secs_to_the_end(data_dir, begin) for begin in BEGINNINGS])
    kills, looks = figures.pick(2, 50), 0
    killed = [0, 0]  # before the first shard, and after it
    for number in range(kills):
        data_dir = tmp_path / str(number)
        command = shard_command(pets, data_dir, *flags)
        secs = min(one[number % 2] for one in lengths) * (number + 0.5) / kills
        begin = BEGINNINGS[number % 2]
        code, looked = run_watched(command, data_dir, begin=begin, kill_after_secs=secs)
        looks += looked
        if (data_dir / COMPLETE).exists():  # too late: shorter than the one measured
            lengths.append([secs_to_the_end(data_dir, begin) for begin in BEGINNINGS])
        elif code == -signal.SIGKILL:
            killed[any(data_dir.glob(SHARDS))] += 1
        resume(command, data_dir, reference, workers=2)
    assert sum(killed) >= figures.pick(1, 40)
    record_property(
        "figures",
        f"{kills} runs, {killed[0]} killed before the first shard and {killed[1]} "
        "between it and COMPLETE: trees byte-identical, <= 1 shard a worker redone; "
        f"{looks} looks meanwhile, 0 at something partial",
    )


BEGINNINGS = (OWNER, SHARDS)


def secs_to_the_end(data_dir, begin):
    """From the first file so named to COMPLETE, by when they got their names."""
    first = min(path.stat().st_ctime for path in data_dir.glob(begin))
    return (data_dir / COMPLETE).stat().st_ctime - first


def run_watched(command, data_dir, *, begin=OWNER, kill_after_secs=None):
    """Runs it, and looks all the time; kills it so long after its first file is there.
    Its exit code, and the number of looks."""
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: any(data_dir.glob(begin)))
    timer = threading.Timer(kill_after_secs or 0, process.kill)
    if kill_after_secs is not None:
        timer.start()
    looks = 0
    while process.poll() is None:
        looks += check_look(data_dir)
    timer.cancel()
    # Workers end with it, but not in the same instant.
    wait_for(lambda: not running_in(process.pid))
    return process.returncode, looks


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
    return process_facts(pid)[0] != "Z"


def is_stopped(pid):
    return process_facts(pid)[0] == "T"


def running_in(session):
    """Whether a process of the session is there still."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    facts = [process_facts(pid) for pid in pids]
    return any(one[0] != "Z" and one[3] == str(session) for one in facts)


def process_facts(pid):
    """State, parent, group, session; of a process that is gone as if it were dead."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "", "", ""]
    return text.rpartition(")")[2].split()[:4]


def wait_for(condition, secs=30.0):
    """The condition's value once it is true."""
    end = time.monotonic() + secs
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.005)
    pytest.fail("waited in vain")


@pytest.mark.D6
@pytest.mark.parametrize(
    ("size", "flags", "least_shards"),
    [
        ("small", ("--format=tfrecord",), 16),
        ("small", ("--format=hdf5",), 3),
        ("large", ("--format=tfrecord", "--shard_bytes=20000000"), 3),
    ],
)
def test_data_are_on_disk_before_they_have_their_name(
    size, flags, least_shards, pets, tmp_path, record_property
):
    """By the system calls of a whole run: write, fsync, rename, fsync of the folder."""
    need("strace")
    source, data_dir = pets, tmp_path / "data"
    if size == "large":  # shards that are sent to disk while they are written
        source = make_large(tmp_path / "pets")
    command = shard_command(source, data_dir, "--workers=2", *flags)
    done = run(traced(command, tmp_path / "trace"))
    assert done.returncode == 0, done.stderr
    calls = list(read_trace((tmp_path / "trace").read_text()))
    assert list(find_unsafe(calls, str(data_dir))) == []
    targets = [one.paths[1] for one in calls if one.name in RENAMES]
    names = [
        os.path.relpath(path, data_dir)
        for path in targets
        if path.startswith(f"{data_dir}/")
    ]
    assert names[-2:] == [MANIFEST, COMPLETE]
    stored = set(tree(data_dir)) - {".lock"}
    assert stored <= set(names)
    shards = begun_shards(data_dir, stored)
    assert len(shards) >= least_shards
    early = sum(one.name == "fdatasync" for one in calls)
    assert (early > 0) == (size == "large")
    record_property(
        "figures",
        f"{len(shards)} shards, {len(names)} renames, {early} fdatasyncs meanwhile: "
        "0 of a file that was not on disk",
    )


def make_large(root):
    """12 PNGs of 3 MB each, which are not compressed."""
    for number in range(12):
        path = root / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = image_bytes(number, "PNG", size=(1000, 1000), compress_level=0)
        path.write_bytes(data)
    return root


SAFE = """\
1  write(3</d/.a>, ""..., 9) = 9
1  fsync(3</d/.a>) = 0
1  rename("/d/.a", "/d/a") = 0
1  fsync(3</d>) = 0
1  fsync(3</d/.b>) = 0
1  rename("/d/.b", "/d/b") = 0
1  fsync(3</d>) = 0
"""


@pytest.mark.D6
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", ""),
        ("fsync(3</d/.a>) = 0", "fdatasync(3</d/.a>) = 0", ""),
        ("fsync(3</d/.a>) = 0", "fsync(3</d/.a>) = -1 EIO (x)", "a: renamed before"),
        (
            '1  rename("/d/.a"',
            '2  pwrite64(3</d/.a>, ""..., 1, 0) = 1\n1  rename("/d/.a"',
            "a: renamed before",
        ),
        (  # a thread's write that ends after the fsync began
            "9) = 9\n1  fsync(3</d/.a>) = 0",
            "9 <unfinished ...>\n2  fsync(3</d/.a>) = 0\n1  <... write resumed>) = 9",
            "a: renamed before",
        ),
        (  # an fsync that ends after the rename
            '1  fsync(3</d/.a>) = 0\n1  rename("/d/.a", "/d/a") = 0',
            '2  fsync(3</d/.a> <unfinished ...>\n1  rename("/d/.a", "/d/a") = 0\n'
            "2  <... fsync resumed>) = 0",
            "a: renamed before",
        ),
        (
            '"/d/a") = 0',
            '"/d/a") = 0\n2  write(4</d/a>, ""..., 1) = 1',
            "a: written to",
        ),
        ("1  fsync(3</d>) = 0\n1  fsync", "1  fsync", "a: its name is not on disk"),
        ('"/d/b") = 0\n1  fsync(3</d>) = 0', '"/d/b") = 0', "b: its name is never on"),
    ],
)
def test_an_order_that_is_not_safe_is_seen(old, new, problem):
    assert old in SAFE
    calls = list(read_trace(SAFE.replace(old, new, 1)))
    found = list(find_unsafe(calls, "/d"))
    assert [one.startswith(f"/d/{problem}") for one in found] == [True] * bool(problem)


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


TIMED = """
import sys, time
from tlperf.cli import main
start = time.monotonic()
code = main(sys.argv[1:])
print(time.monotonic() - start)
sys.exit(code)
"""


@pytest.mark.D8
def test_the_second_writer_is_told_whose_turn_it_is(
    pets, references, tmp_path, record_property
):
    """Within two seconds of its own, without Python's start; before anything is listed,
    so that a source that is not there is not missed."""
    command = shard_command(pets, tmp_path, "--workers=1")
    owner = subprocess.Popen(
        command, env=environment("written:3=stop"), stdout=subprocess.DEVNULL
    )
    wait_for(lambda: is_stopped(owner.pid))
    second = [*command[3:], "--source=nowhere"]  # the last one counts
    done = run([sys.executable, "-c", TIMED, *second])  # without -m tlperf
    assert done.returncode == ExitCode.RETRY
    secs = float(done.stdout)
    assert secs < 2
    assert re.search(
        rf"E75 locked: .*\(pid {owner.pid} on \S+ since \d+\); wait", done.stderr
    )
    owner.send_signal(signal.SIGCONT)
    assert owner.wait(60) == 0
    assert tree(tmp_path) == references["tfrecord"][1]
    record_property("figures", f"told after {secs:.2f} s")


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
        assert tree(data_dir) == references["tfrecord"][1]
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
        finish(command, data_dir, references["tfrecord"][1])
    record_property("figures", f"{kills} owners killed: 0 stale locks")


def run_on_small_disk(what, folder, number, command):
    """What tests/full_disk.py says of it."""
    folder.mkdir()
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["-r"])]
    if run([*namespace, "true"]).returncode and not os.environ.get("CI"):
        pytest.skip("no mount namespaces here")
    script = pathlib.Path(__file__).with_name("full_disk.py")
    driver = [sys.executable, str(script), what, str(folder), str(number)]
    done = run([*namespace, *driver, *command], most_secs=1200)  # a run a size of disk
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.D9
@pytest.mark.parametrize("file_format", FORMATS)
def test_disk_full(file_format, pets, tmp_path, references, figures, record_property):
    """A disk that fills while shards are written, at every hundredth of the output."""
    levels = figures.pick([40], range(1, 100))
    flags = ("--workers=1", f"--format={file_format}")
    disk = tmp_path / "disk"
    command = shard_command(pets, disk / "data", *flags)
    results = run_on_small_disk("fill", disk, " ".join(map(str, levels)), command)
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
        assert result["tree"] == references[file_format][1]
    record_property(
        "figures", f"{len(results)} full disks: exit 74, 0 partial files, all resumed"
    )


@pytest.mark.D9
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_disk_that_is_too_small(file_format, pets, tmp_path, record_property):
    """Told before a shard is begun; with what is said to be missing it goes on."""
    disk = tmp_path / "disk"
    # The disk's blocks are not forecast: few shards, where they count little.
    flags = ("--workers=1", f"--format={file_format}", "--shard_bytes=1000000")
    command = shard_command(pets, disk / "data", *flags)
    planned = json.loads(run([*command, "--dry_run"]).stdout)
    shutil.rmtree(disk, ignore_errors=True)
    result = run_on_small_disk("refuse", disk, 256 * 1024, command)
    needed, free = result["needed"], result["free"]
    assert result["code"] == ExitCode.IO
    assert result["stderr"] == (
        f"tlperf shard: E74 disk_full: {disk}/data: {needed} bytes are needed, {free} "
        "are free; free space, or give a --data_dir on another disk, and run again\n"
    )
    assert needed == planned["forecast_bytes"] + _METADATA_BYTES
    # The owner's line in .lock, a page, is gone since then.
    assert free == result["free_after"] - os.sysconf("SC_PAGESIZE")
    assert not fnmatch.filter(result["left"], "*pets-*")
    assert COMPLETE not in result["left"]
    assert result["code_after"] == 0
    record_property("figures", f"{needed} bytes needed, {free} free: exit 74")


@pytest.mark.D9
def test_a_limit_on_the_size_of_files(pets, tmp_path):
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
