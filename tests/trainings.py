"""Trainings of the one-block backbone in processes of their own, and what they made."""

import concurrent.futures
import dataclasses
import json
import socket
import subprocess
import sys
import time

from tests.promises import ROOT, environment
from tlperf.core import files
from tlperf.training.checkpoint import Checkpoints

BATCH = 4
INPUT = {"image_size": 16, "batch_size": BATCH}


def command(
    data_dir, workdir, *, epochs, features="off", device=None, dropout=True, **values
):
    """A training with dropout, Adam and momentum of its own."""
    training = {"epochs": epochs, "learning_rate": 0.01, **values}
    given = {
        "data_dir": str(data_dir),
        "workdir": str(workdir),
        "input": INPUT,
        "training": training,
        "features": {"feature_cache": features},
        "device": device or {},
        "dropout": dropout,
    }
    return [sys.executable, "-m", "tests.training_child", json.dumps(given)]


def train(*arguments, faults=None, **values):
    return subprocess.run(
        command(*arguments, **values),
        cwd=ROOT,
        env=environment(faults),
        capture_output=True,
        text=True,
        timeout=300,
    )


def outcome(workdir):
    """What a training made: each step's loss to the last bit, and its weights."""
    folder = workdir / "tiny"
    steps = files.read_json_lines(folder / "steps.jsonl")
    rows = files.read_json_lines(folder / "history.jsonl")
    kept = ("loss", "accuracy", "val_loss", "val_accuracy")
    checkpoint = Checkpoints(folder / "checkpoints").load()
    assert checkpoint is not None
    return {
        "losses": [loss.hex() for row in steps for loss in row["losses"]],
        "rows": [[float(row[name]).hex() for name in kept] for row in rows],
        "state": [array.tobytes() for array in checkpoint.arrays],
        "best": best_weights(folder / "weights.h5"),
    }


def best_weights(path):
    """HDF5 files of equal contents need not be equal."""
    import h5py

    found = {}
    with h5py.File(path) as stored:
        stored.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def at_once(work, cases):
    """The work for all cases, two processes at a time: most of each is TensorFlow's
    start on one core."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda case: work(*case), cases))


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        code: exit code.
        text: what it said on stderr.
        at: when, by `time.monotonic`.
    """

    code: int
    text: str
    at: float


def train_together(count, data_dir, workdir, *, faults=None, absent=(), **how):
    """A training by worker processes on this machine: how each of them ended.

    Args:
        count: workers that TF_CONFIG names.
        data_dir, workdir: shared by all.
        faults: planned ones, by worker.
        absent: workers that are not started.
        how: of `command`.
    """
    device = {"allow_public_bind": True, **how.pop("device", {})}
    words = command(data_dir, workdir, device=device, **how)
    return run_together(count, words, faults=faults, absent=absent)


def run_together(count, words, *, faults=None, absent=()):
    """A command as each of several workers; see `train_together`."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]

    def run(worker):
        task = {"type": "worker", "index": worker}
        named = json.dumps({"cluster": {"worker": addresses}, "task": task})
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=environment((faults or {}).get(worker), TF_CONFIG=named),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        return Ended(done.returncode, done.stderr, time.monotonic())

    present = [worker for worker in range(count) if worker not in absent]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return dict(zip(present, pool.map(run, present), strict=True))


def free_ports(count):
    """Ports that nothing listens on."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in holders]
    for one in holders:
        one.close()
    return ports
