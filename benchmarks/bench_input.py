"""The input path beside its peers: photos to shuffled uint8 batches, one process.

    pip install '.[test,peers]'
    pytest benchmarks/bench_input.py --benchmark-only --source=FOLDER --rounds=5 -s

Every side gives batches of 32 images, uint8 224 x 224, from the same folder of JPEG
files, page cache warm; each is written as its users would. tlperf's batches come in an
exact order with ids; its shards are made before, from the same files. Sides in turn,
medians over `--rounds`; a turn is as many whole passes over all images as take a
second, and the first pass of a side is not counted. The limit is libjpeg-turbo alone in
its fast mode, on a thread a core, bytes in memory. `input.md` and `input.svg` in the
working directory show all of it.

A peer that is not installed is left out and named. FFCV's published rates (a
p3dn.24xlarge of 96 vCPUs: raw 256 x 256 172,801 images/s, JPEG of 512 pixels 31,278;
docs/benchmarks.rst) are of another machine, and stand per vCPU beside ours per core.
"""

import concurrent.futures
import importlib.util
import io
import os
import pathlib
import statistics
import sys
import time
from typing import Any

import keras
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from tlperf.core.choices import Cache, Decode, Encoding, Format
from tlperf.core.machine import usable_cores
from tlperf.core.settings import DataConfig, InputConfig
from tlperf.dataset.framing import INDEX_SUFFIX, masked_crc, parse_index, seal_of
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.model.steps import StepSums
from tlperf.pipeline.input import InputPipeline
from tlperf.pipeline.order import training_order
from tlperf.pipeline.rates import measure_whole, stored_bytes
from tlperf.training.passes import run_pass

SIDE, BATCH = 224, 32
TURN_SECS, ROUNDS = 1.0, 3
# Nearly all images are of one split here: a pass is a pass over the folder.
SPLIT = (98, 1, 1)
_FFCV_VCPUS = 96
FFCV_RAW_256 = 172_801 / _FFCV_VCPUS
FFCV_JPEG_512 = 31_278 / _FFCV_VCPUS


def count_images(batches, *, image=0, side=SIDE):
    """Images of all batches, each of the right shape; the last may be a smaller one."""
    images = 0
    for batch in batches:
        size, *shape = batch[image].shape
        assert shape == [side, side, 3]
        images += size
    return images


class Tlperf:
    """tlperf over shards of its own: every image once, ids checked."""

    def __init__(self, work, source, *, side=SIDE, stored=None, **settings):
        data = {
            "encoding": Encoding.SOURCE,
            "format": Format.TFRECORD,
            **(stored or {}),
        }
        data_dir = work / f"{data['encoding']}-{data['format']}-{side}"
        if not data_dir.exists():
            to_store = DataConfig(
                source=str(source), split=SPLIT, image_size=side, workers=1, **data
            )
            write_dataset(to_store, data_dir)
        self.dataset = open_dataset(data_dir)
        self.split = self.dataset.split("train")
        config = InputConfig(batch_size=BATCH, **settings)
        self.pipeline = InputPipeline(self.dataset, config, image_size=side)
        self.side, self.epoch = side, 0

    def __call__(self):
        batches = self.pipeline.training(self.epoch)
        self.epoch += 1
        ids = []

        def seen():
            for batch in batches:
                ids.append(np.asarray(batch.index))
                yield batch

        images = count_images(seen(), side=self.side)
        assert len(np.unique(np.concatenate(ids))) == images
        return images


class Limit:
    """libjpeg-turbo alone, fast mode, on a thread a core, bytes in memory."""

    def __init__(self, source):
        self.data = [path.read_bytes() for path in sorted(source.glob("*/*"))]

    def __call__(self):
        def decode(data):
            simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)

        on_threads(decode, self.data)
        return len(self.data)


class ReadAndCheck:
    """Records of a split read and CRC-checked, in the order of an epoch."""

    def __init__(self, side):
        self.split, self.epoch = side.split, 0
        paths = [
            side.dataset.data_dir / shard.file
            for shard in side.dataset.manifest.shards_of("train")
        ]
        self.places = []
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            index = path.with_name(path.name + INDEX_SUFFIX).read_bytes()
            self.places += [(descriptor, *row) for row in parse_index(index).tolist()]

    def __call__(self):
        order = training_order(count=self.split.count, seed=0, epoch=self.epoch)
        self.epoch += 1

        def check(index):
            descriptor, offset, size = self.places[index]
            payload = os.pread(descriptor, size - 12, offset + 12)
            assert masked_crc(payload[:-4]) == seal_of(payload)

        on_threads(check, order)
        return len(order)


def on_threads(work, items):
    """Does the work for all items, on a thread a core."""
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        parts = [items[start : start + 32] for start in range(0, len(items), 32)]
        list(pool.map(lambda part: [work(item) for item in part], parts))


def keras_loader(source):
    """Keras' own loader."""
    dataset = keras.utils.image_dataset_from_directory(
        source,
        image_size=(SIDE, SIDE),
        batch_size=BATCH,
        shuffle=True,
        seed=0,
        verbose=0,
    )
    return lambda: count_images(dataset)


def plain_tf_data(source):
    """A parallel map over files, as TensorFlow's guide has it."""
    paths = [str(path) for path in sorted(source.glob("*/*"))]

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.cast(tf.image.resize(image, [SIDE, SIDE]), tf.uint8), path

    dataset = (
        tf.data.Dataset.from_tensor_slices(paths)
        .shuffle(len(paths))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: count_images(dataset)


def dali_cpu(source):
    """NVIDIA DALI on the CPU."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=usable_cores(), device_id=None)
    def build():
        data, label = fn.readers.file(
            file_root=str(source), random_shuffle=True, name="reader"
        )
        image = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        return fn.resize(image, resize_x=SIDE, resize_y=SIDE), label

    pipe = build()
    pipe.build()
    batches = pipe.epoch_size("reader") // BATCH

    def run():
        return count_images(
            (np.asarray(pipe.run()[0].as_tensor()),) for _ in range(batches)
        )

    return run


def open_with_pillow(path):
    """An image as users of NumPy loaders read it."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE)))


def grain_loader(source):
    """Grain, Pillow in its threads."""
    import grain

    paths = sorted(map(str, source.glob("*/*")))
    dataset = (
        grain.MapDataset.source(paths)
        .shuffle(seed=0)
        .map(open_with_pillow)
        .batch(BATCH, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=usable_cores()))
    )
    return lambda: count_images((batch,) for batch in dataset)


def web_dataset(source, work):
    """WebDataset over a tar, Pillow in this process."""
    import webdataset

    path = work / "photos.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for number, file in enumerate(sorted(source.glob("*/*"))):
            sink.write({"__key__": f"{number:06d}", "jpg": file.read_bytes()})
    dataset = (
        webdataset.WebDataset(str(path), shardshuffle=False)
        .shuffle(1000)
        .map(lambda sample: open_with_pillow(io.BytesIO(sample["jpg"])))
        .batched(BATCH, collation_fn=np.stack, partial=False)
    )
    return lambda: count_images((batch,) for batch in dataset)


def torch_loader(source):
    """PyTorch's DataLoader with a process a core, Pillow in each."""
    import torch

    paths = sorted(map(str, source.glob("*/*")))

    class Photos(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return np.array(open_with_pillow(paths[index]))  # torch wants it writable

    loader = torch.utils.data.DataLoader(
        Photos(), BATCH, shuffle=True, num_workers=usable_cores(), drop_last=True
    )
    return lambda: count_images((batch,) for batch in loader)


# Module that a peer needs, and how to make a pass of it.
PEERS: dict[str, tuple[str, Any]] = {
    "Keras loader": ("keras", keras_loader),
    "tf.data map": ("tensorflow", plain_tf_data),
    "DALI CPU": ("nvidia.dali", dali_cpu),
    "Grain": ("grain", grain_loader),
    "WebDataset": ("webdataset", web_dataset),
    "torch DataLoader": ("torch", torch_loader),
}


def is_installed(module):
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def measure(sides, rounds):
    """Median images/s of each side over rounds in turn; one pass each before."""
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            rates[name].append(rate_of_turn(sides[name]))
    return {name: statistics.median(values) for name, values in rates.items()}


def rate_of_turn(run):
    """Images/s of as many passes as take a second: one of raw pixels takes a tenth, and
    its first batches find caches that hold another side's data."""
    start, images, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < TURN_SECS:
        images += run()
        elapsed = time.perf_counter() - start
    return images / elapsed


@pytest.fixture(scope="module")
def source(request):
    """The folder of photos."""
    folder = pathlib.Path(request.config.getoption("--source"))
    if not folder.is_dir():
        pytest.fail("give --source=FOLDER of JPEG files, a sub-folder a class")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Where shards go."""
    return tmp_path_factory.mktemp("input")


# WebDataset leaves its tar to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_input(source, work, request, benchmark):
    """All sides in one interleaved run."""
    jpeg, raw = {"encoding": Encoding.JPEG}, {"encoding": Encoding.RAW}
    hdf5 = {"format": Format.HDF5}
    fast = {"decode": Decode.FAST}
    ours = {
        "tlperf source": Tlperf(work, source, **fast),
        "tlperf source exact": Tlperf(work, source),
        "tlperf source hdf5": Tlperf(work, source, stored=hdf5, **fast),
        "tlperf jpeg": Tlperf(work, source, stored=jpeg, **fast),
        "tlperf jpeg exact": Tlperf(work, source, stored=jpeg),
        "tlperf jpeg hdf5": Tlperf(work, source, stored={**jpeg, **hdf5}, **fast),
        "tlperf raw": Tlperf(work, source, stored=raw),
        "tlperf raw hdf5": Tlperf(work, source, stored={**raw, **hdf5}),
        "tlperf decoded cache": Tlperf(work, source, cache=Cache.DECODED, **fast),
    }
    sides = {
        **ours,
        "limit: libjpeg-turbo": Limit(source),
        "read and CRC of raw": ReadAndCheck(ours["tlperf raw"]),
    }
    for name, (module, make) in PEERS.items():
        if not is_installed(module):
            print(f"left out: {name} ({module} is not installed)", file=sys.stderr)
            continue
        sides[name] = make(source, work) if make is web_dataset else make(source)
    rates = measure(sides, request.config.getoption("--rounds") or ROUNDS)
    benchmark.extra_info["images_per_sec"] = rates
    write_table(
        rates, {name: stored_bytes(side.dataset) for name, side in ours.items()}
    )
    draw_bars(rates)
    benchmark.pedantic(ours["tlperf source"], rounds=1)


def test_per_core_beside_ffcv(source, work, request, benchmark):
    """Stored raw at 256 and JPEG at 512 pixels, a core, beside FFCV's a vCPU."""
    raw = Tlperf(work, source, side=256, stored={"encoding": Encoding.RAW})
    jpeg = Tlperf(
        work, source, side=512, stored={"encoding": Encoding.JPEG}, decode=Decode.FAST
    )
    rates = measure(
        {"raw 256": raw, "jpeg 512": jpeg},
        request.config.getoption("--rounds") or ROUNDS,
    )
    cores = usable_cores()
    for name, published in (("raw 256", FFCV_RAW_256), ("jpeg 512", FFCV_JPEG_512)):
        ours = rates[name] / cores
        print(f"{name}: {ours:.0f} a core, FFCV {published:.0f}", file=sys.stderr)
        benchmark.extra_info[name] = {"per_core": ours, "ffcv_per_vcpu": published}
    benchmark.pedantic(raw, rounds=1)


@pytest.mark.parametrize("encoding", [Encoding.JPEG, Encoding.RAW])
def test_a_step_that_takes_most_of_the_rate(
    encoding, source, work, compute, request, benchmark
):
    """Input wait of a step that takes 0.8 of the rate that `tlperf input` measures; the
    step sleeps, as a host does whose GPU computes."""
    side = Tlperf(work, source, stored={"encoding": encoding}, decode=Decode.FAST)
    config = InputConfig(batch_size=BATCH, decode=Decode.FAST)
    fractions = []
    for epoch in range(request.config.getoption("--rounds") or ROUNDS):
        rate = measure_whole(
            side.dataset, config, image_size=SIDE, compute=compute, secs=2.0
        ).images_per_sec
        step_secs = BATCH / (0.8 * rate)
        busy_until = [0.0]

        def step(batch, step_secs=step_secs, busy_until=busy_until):
            # By the clock: a sleep takes longer than it is asked for.
            busy_until[0] = max(busy_until[0], time.perf_counter()) + step_secs
            time.sleep(max(0.0, busy_until[0] - time.perf_counter()))
            return StepSums(1.0, 1.0, float(BATCH), 0.0)

        batches = side.pipeline.training(epoch, epochs=4)
        found = run_pass(step, batches, compute=compute, title="step")
        fractions.append(found.timed_wait_secs / found.timed_secs)
    wait = statistics.median(fractions)
    print(f"{encoding}: input wait {wait:.1%} of {fractions}", file=sys.stderr)
    benchmark.extra_info[encoding] = fractions
    benchmark.pedantic(side, rounds=1)
    assert wait < 0.10


def write_table(rates, sizes):
    """input.md: each side, a core, its ratio to Keras' loader, bytes an image."""
    keras_rate, cores = rates["Keras loader"], usable_cores()
    lines = [
        "| side | images/s | a core | of Keras' loader | bytes an image |",
        "|---|---|---|---|---|",
    ]
    for name, rate in sorted(rates.items(), key=lambda pair: -pair[1]):
        size = f"{sizes[name]:,.0f}" if name in sizes else ""
        lines.append(
            f"| {name} | {rate:,.0f} | {rate / cores:,.0f} | {rate / keras_rate:.2f} "
            f"| {size} |"
        )
    text = "\n".join(lines) + "\n"
    pathlib.Path("input.md").write_text(text)
    print("\n" + text, file=sys.stderr)


def draw_bars(rates):
    """input.svg: the same as bars, the limit of source JPEGs as a line."""
    limit = rates["limit: libjpeg-turbo"]
    shown = {n: r for n, r in rates.items() if not n.startswith(("limit", "read"))}
    names = sorted(shown, key=shown.__getitem__)
    figure = Figure(figsize=(8, 0.4 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:blue" if name.startswith("tlperf") else "tab:gray" for name in names]
    bars = axes.barh(names, [shown[name] for name in names], color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.axvline(limit, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(f"images/s; dashed: libjpeg-turbo alone, {limit:,.0f}")
    axes.set_xscale("log")
    figure.savefig("input.svg")
