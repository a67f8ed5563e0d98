"""Sharding beside what bounds it: libjpeg-turbo's decode, a plain copy, tfds' writer.

    pytest benchmarks/bench_shard.py --benchmark-only --source=FOLDER --files=20000

The files are those of the folder over and over, each made distinct by a JPEG comment.
Page cache warm, two processes (threads for the decoder), all of them started before;
sides in turn, medians over `--rounds`. `extra_info` has every second and the ratios:

* `shard` / `decode`: libjpeg-turbo alone decoding the same bytes, held in memory, to
  RGB at full size on two threads;
* `shard_header` (without the decode check) / `copy`: each file read, hashed by sha256
  and written, one output a process, fsynced as shards are;
* `shard_header` / `two_looks`: the same after a first pass that reads and hashes each
  file and writes nothing: what a sharder has to do that looks at every file before it
  decides where the first one goes;
* `shard` / `tfds_checked`: tfds' own writer, fed as its cats_vs_dogs does: each image
  decoded, so that damage shows, and encoded again;
* `shard_header` / `tfds_paths`: the same fed with the files' paths, nothing decoded;
* `verify` / `sha256`: sha256 alone over the shards, two processes.

Each is images a second (bytes a second for the last), so above 1 tlperf is faster.
"""

import collections
import concurrent.futures
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import pytest
import simplejpeg

from tlperf.core.choices import ImageCheck
from tlperf.core.settings import DataConfig
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.verify import verify_dataset
from tlperf.dataset.workers import Workers

PROCESSES, ROUNDS = 2, 3


def make_distinct(source: pathlib.Path, target: pathlib.Path, *, count: int) -> None:
    """`count` JPEG files of `source`'s classes, no two alike."""
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    for number in range(count):
        path = files[number % len(files)]
        folder = target / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        text = f"{number:08d}".encode()
        comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
        data = path.read_bytes()
        (folder / f"{number:06d}.jpg").write_bytes(data[:2] + comment + data[2:])


@pytest.fixture(scope="session")
def folder(request, tmp_path_factory):
    """The distinct files."""
    target = tmp_path_factory.mktemp("files")
    source = pathlib.Path(request.config.getoption("--source"))
    if not source.is_dir():
        pytest.fail("give --source=FOLDER of JPEG files, a sub-folder a class")
    make_distinct(source, target, count=request.config.getoption("--files"))
    return target


@pytest.fixture(scope="session")
def paths(folder):
    """All files, in an order that mixes the classes."""
    return sorted(folder.glob("*/*"), key=lambda path: path.name)


@pytest.fixture(scope="session")
def workers():
    """tlperf's own processes, started and warm; this one has tfds as its own writer."""
    import tensorflow_datasets  # noqa: F401

    with Workers(PROCESSES) as started:
        list(started.map(import_writer, range(8 * PROCESSES)))
        yield started


@pytest.fixture(scope="session")
def processes():
    """Plain processes for the other sides, started and warm."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        list(pool.map(import_writer, range(8 * PROCESSES)))
        yield pool


def import_writer(_: int) -> None:
    """What a worker imports for its first task."""
    import tlperf.dataset.writing  # noqa: F401

    time.sleep(0.05)


def copy_part(task: tuple[list[pathlib.Path], pathlib.Path]) -> str:
    """Reads, hashes and writes files one after the other."""
    part, target = task
    digest = ""
    with open(target, "wb") as stream:
        for path in part:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return digest


def hash_part(part: list[pathlib.Path]) -> int:
    """sha256 of whole files."""
    for path in part:
        with open(path, "rb", buffering=0) as stream:
            hashlib.file_digest(stream, "sha256").hexdigest()
    return len(part)


class Sides:
    """What is compared: each a function of no arguments that does all of the work."""

    def __init__(self, folder, paths, workers, processes, scratch):
        self.folder, self.paths = folder, paths
        self.workers, self.processes = workers, processes
        self.scratch = scratch
        self.bytes = [path.read_bytes() for path in paths]
        self.source_bytes = sum(map(len, self.bytes))
        self.made: collections.Counter[str] = collections.Counter()

    def fresh(self, name):
        """A new folder."""
        self.made[name] += 1
        target = self.folder_of(name)
        target.mkdir()
        return target

    def folder_of(self, name):
        """The newest folder of a side."""
        return self.scratch / f"{name}-{self.made[name]}"

    def tidy(self):
        """Removes all but the newest: outside of what is timed, on disk too."""
        for path in self.scratch.iterdir():
            name, _, number = path.name.rpartition("-")
            if int(number) < self.made[name]:
                shutil.rmtree(path)
        os.sync()

    def _shard(self, check):
        config = DataConfig(
            source=str(self.folder), image_check=check, workers=PROCESSES
        )
        target = self.fresh("shards")
        summary = write_dataset(config, target, workers=self.workers)
        assert summary["accepted"] == len(self.paths), "every file is stored"

    def shard(self):
        """tlperf shard, full decode check."""
        self._shard(ImageCheck.DECODE)

    def shard_header(self):
        """tlperf shard without the decode check."""
        self._shard(ImageCheck.HEADER)

    def decode(self):
        """libjpeg-turbo alone, on two threads."""
        with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
            for start in range(0, len(self.bytes), 256):
                list(pool.map(simplejpeg.decode_jpeg, self.bytes[start : start + 256]))

    def copy(self):
        """A plain copy with sha256, in two processes."""
        target = self.fresh("copies")
        parts = [(self.paths[i::PROCESSES], target / str(i)) for i in range(PROCESSES)]
        list(self.processes.map(copy_part, parts))

    def two_looks(self):
        """Every file read and hashed, and then copied."""
        parts = [self.paths[i::PROCESSES] for i in range(PROCESSES)]
        list(self.processes.map(hash_part, parts))
        self.copy()

    def verify(self):
        """tlperf verify, full, of the last shards."""
        assert verify_dataset(self.folder_of("shards"))["ok"]

    def sha256(self):
        """sha256 alone of the last shards, in two processes."""
        shards = [
            path
            for path in sorted(self.folder_of("shards").glob("*.tfrecord-*"))
            if path.suffix not in (".idx", ".seals")
        ]
        parts = [shards[i::PROCESSES] for i in range(PROCESSES)]
        list(self.processes.map(hash_part, parts))

    def tfds_paths(self):
        """tfds' own writer over the same files, as they are."""
        self._tfds(is_checked=False)

    def tfds_checked(self):
        """tfds' own writer over the same files, each decoded and encoded."""
        self._tfds(is_checked=True)

    def _tfds(self, *, is_checked):
        builder_class = builder_classes(self.folder)[is_checked]
        builder = builder_class(data_dir=self.fresh("tfds"))
        builder.download_and_prepare()
        assert builder.info.splits["train"].num_examples == len(self.paths)


@functools.cache  # tfds registers a name once
def builder_classes(folder):
    """tfds builders: one gives its writer the path of each file, one encodes it anew.

    TensorFlow starts here, so that no round pays for it.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    classes = sorted(path.name for path in folder.iterdir())

    def recode(path):
        image = tf.image.decode_image(path.read_bytes())
        return io.BytesIO(tf.io.encode_jpeg(image).numpy())

    class Plain(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def read(self, path):
            """What tfds' image feature is given."""
            return str(path)

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=classes),
                }
            )
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for path in folder.glob("*/*"):
                key = f"{path.parent.name}/{path.name}"
                yield key, {"image": self.read(path), "label": path.parent.name}

    class Checked(Plain):
        VERSION = tfds.core.Version("1.0.0")

        def read(self, path):
            return recode(path)

    recode(next(folder.glob("*/*")))
    return Plain, Checked


@pytest.fixture(scope="session")
def sides(folder, paths, workers, processes, tmp_path_factory):
    """All sides over the same files."""
    scratch = tmp_path_factory.mktemp("scratch")
    return Sides(folder, paths, workers, processes, scratch)


# (side, what it is compared with)
PAIRS = [
    ("shard", "decode"),
    ("shard_header", "copy"),
    ("shard_header", "two_looks"),
    ("verify", "sha256"),
    ("shard", "tfds_checked"),
    ("shard_header", "tfds_paths"),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_against(sides, ours, theirs, benchmark, request):
    """Both sides in turn; the benchmark's own time is tlperf's."""
    if ours == "verify":
        sides.shard_header()
    if theirs.startswith("tfds"):
        builder_classes(sides.folder)
    secs: dict[str, list[float]] = {ours: [], theirs: []}
    for round_number in range(request.config.getoption("--rounds") or ROUNDS):
        order = (ours, theirs) if round_number % 2 else (theirs, ours)
        for name in order:
            sides.tidy()
            start = time.perf_counter()
            getattr(sides, name)()
            secs[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in secs.items()}
    benchmark.extra_info["secs"] = secs
    benchmark.extra_info["images_per_sec"] = {
        name: len(sides.paths) / value for name, value in medians.items()
    }
    benchmark.extra_info["source_bytes"] = sides.source_bytes
    benchmark.extra_info["ratio"] = medians[theirs] / medians[ours]
    print(f"\n{ours} / {theirs}: {benchmark.extra_info}", file=sys.stderr)
    benchmark.pedantic(getattr(sides, ours), rounds=1)


_MEASURE = r"""
import json, re, resource, sys
from tlperf.core.settings import DataConfig
from tlperf.dataset.shard import write_dataset
import pathlib
if __name__ == "__main__":
    source, data_dir, limit = sys.argv[1:]
    config = DataConfig(source=source, limit=int(limit), workers=2)
    write_dataset(config, pathlib.Path(data_dir))
    # A process inherits getrusage's own peak from the one that started it.
    own = re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([int(own[1]) / 1024, worker / 1024]))
"""


def test_memory(folder, paths, tmp_path, benchmark):
    """Peak of the largest worker and of the parent, MiB, at a tenth and at all."""
    script = tmp_path / "measure.py"
    script.write_text(_MEASURE)
    peaks = {}
    for count in (len(paths) // 10, len(paths)):
        command = [sys.executable, script, folder, tmp_path / str(count), str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        parent, worker = json.loads(done.stdout)
        peaks[count] = {"parent_mib": parent, "worker_mib": worker}
    benchmark.extra_info["peaks"] = peaks
    print(f"\n{peaks}", file=sys.stderr)
    benchmark.pedantic(lambda: None, rounds=1)
