"""Input in a process of its own, to measure its memory or to kill it. Linux only.

    python -m tests.input_child decode '{"folder": ...}'     # a JSON line a file
    python -m tests.input_child pass '{"passes": [...]}'     # a JSON line a pass
    python -m tests.input_child load '{"data_dir": ..., "threads": 16, ...}'
    python -m tests.input_child cache '{"data_dir": ..., "cache": "decoded"}'

Memory is the peak resident size over the one before, which the kernel is made to forget
(proc(5), clear_refs).
"""

import json
import pathlib
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.passes import load, open_loader
from tlperf.core.choices import Cache, Decode
from tlperf.core.errors import TlperfError
from tlperf.core.settings import InputConfig, from_plain
from tlperf.dataset.examples import RecordView
from tlperf.dataset.store import open_dataset
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.memory import Scratch
from tlperf.pipeline.order import plan_evaluation, plan_training


def _status_bytes(name: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in /proc/self/status")


def grown_bytes(work: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What the work gives, and how much memory it took at its peak."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    result = work(*arguments)
    return result, _status_bytes("VmHWM") - before


def decode_all(*, folder: str) -> Iterator[dict[str, Any]]:
    """Each image file of a folder decoded in every way, beside what was planned."""
    views = {
        path.name: view_of(path) for path in sorted(pathlib.Path(folder).iterdir())
    }
    for view in views.values():  # the decoders' own pages are no image's
        out = np.ones((64, 64, 3), np.uint8)
        Decoder(64, Decode.EXACT, None, turns=False).decode_into(view, out, Scratch(0))
    for name, view in views.items():
        for decode in Decode:
            for side, turns in ((64, False), (64, True), (600, False)):
                decoder = Decoder(side, decode, None, turns)
                out = np.ones((side, side, 3), np.uint8)
                _, grown = grown_bytes(decoder.decode_into, view, out, Scratch(0))
                yield {
                    "name": f"{name} {decode} {side} {'turned' * turns}".strip(),
                    "grown_bytes": grown,
                    "planned_bytes": decoder.scratch_bytes(view) - len(view.encoded),
                }


def view_of(path: pathlib.Path) -> RecordView:
    """An image file as if it were stored, to be turned upside down."""
    with Image.open(path) as image:
        height, width = image.height, image.width
    return RecordView(np.frombuffer(path.read_bytes(), np.uint8), 0, 6, height, width)


def make_passes(
    *, passes: list[dict[str, Any]], data_bytes: int = 0
) -> Iterator[dict[str, Any]]:
    """Epochs of training input, one after the other.

    Args:
        passes: of each `data_dir`, `image_size`, `epochs` and `input`, an InputConfig.
        data_bytes: most private memory this process may have (RLIMIT_DATA).
    """
    if data_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    from tlperf.pipeline.input import InputPipeline

    def run(one: dict[str, Any]) -> int:
        config, images = from_plain(InputConfig, one["input"]), 0
        with (
            open_dataset(pathlib.Path(one["data_dir"])) as dataset,
            InputPipeline(dataset, config, image_size=one["image_size"]) as pipeline,
        ):
            for epoch in range(one.get("epochs", 1)):
                for batch in pipeline.training(epoch):
                    images += int(batch.weight.numpy().sum())
        return images

    for one in passes:
        try:
            images, grown = grown_bytes(run, one)
        except TlperfError as error:
            yield {"code": int(error.code), "reason": error.reason}
        else:
            peak = _status_bytes("VmHWM")
            yield {"images": images, "grown_bytes": grown, "peak_bytes": peak}


def load_once(
    *, data_dir: str, threads: int, memory_bytes: int
) -> Iterator[dict[str, Any]]:
    """One pass of a loader alone."""
    with open_dataset(pathlib.Path(data_dir)) as dataset:
        count = dataset.split("train").count
        # The decoders' own pages are no image's.
        with open_loader(dataset, threads=1, memory_bytes=memory_bytes) as loader:
            next(load(loader, plan_evaluation(count=2, batch_size=2)))
        with open_loader(dataset, threads=threads, memory_bytes=memory_bytes) as loader:
            plan = plan_evaluation(count=count, batch_size=count)
            (image, *_), grown = grown_bytes(next, load(loader, plan))
            yield {"images": len(image), "grown_bytes": grown}


def fill_cache(*, data_dir: str, cache: str) -> Iterator[dict[str, Any]]:
    """Fills a cache and goes on for ever; says when it begins."""
    with (
        open_dataset(pathlib.Path(data_dir)) as dataset,
        open_loader(dataset, cache=Cache(cache)) as loader,
    ):
        count = dataset.split("train").count
        yield {"images": count}
        while True:
            plan = plan_training(count=count, batch_size=4, seed=0, epoch=0)
            for _ in load(loader, plan):
                pass


_MODES: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "cache": fill_cache,
    "decode": decode_all,
    "load": load_once,
    "pass": make_passes,
}

if __name__ == "__main__":
    for row in _MODES[sys.argv[1]](**json.loads(sys.argv[2])):
        print(json.dumps(row), flush=True)
