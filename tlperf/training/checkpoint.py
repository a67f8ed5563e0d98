"""Checkpoints: all that a killed training needs to go on as if nothing had happened.

    checkpoints = Checkpoints(folder)
    checkpoints.save(Checkpoint(epoch=3, step=12, arrays=[...], state={...}))
    checkpoints.load()               # the newest that is whole, or None

A checkpoint is a folder that is renamed to its name when every byte in it is on the
disk; its COMPLETE holds the hash of state.json, and that the hash of arrays.bin. The
last two are kept: where the newest is damaged, the one before is used.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from tlperf.core import faults, files
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.progress import log

KEPT = 2
_NAME = re.compile(r"epoch-(\d{5})-step-(\d{8})")
_FORMER = re.compile(r"\.partial-\d+-(epoch-\d{5}-step-\d{8})-former")
_ARRAYS, _STATE, _COMPLETE = "arrays.bin", "state.json", "COMPLETE"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One moment of a training.

    Attributes:
        epoch: 0-based.
        step: steps of that epoch that are done.
        arrays: values of variables, in an order that the training knows.
        state: everything else, fit for JSON; floats come back bit for bit.
    """

    epoch: int
    step: int
    arrays: list[np.ndarray]
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"epoch-{self.epoch:05d}-step-{self.step:08d}"


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: that holds them.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def names(self) -> list[str]:
        """Of those that have their name, the oldest first."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return sorted(name for name in names if _NAME.fullmatch(name))

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then lets go of those that are no longer kept.

        Raises:
            TlperfError: 74 where the disk does not take it; the others are whole.
        """
        target = self.folder / checkpoint.name
        partial = self.folder / f".partial-{os.getpid()}-{checkpoint.name}"
        with files.io_errors(target):
            partial.mkdir(parents=True)
            try:
                _write(partial, checkpoint)
                faults.hit("checkpoint.written")
                # The same moment, come to once more: there is always one under its name
                # but for an instant, in which the other has a partial one's.
                former = partial.with_name(f"{partial.name}-former")
                if target.exists():
                    target.rename(former)
                partial.rename(target)
                shutil.rmtree(former, ignore_errors=True)
                faults.hit("checkpoint.renamed")
                files.fsync_directory(self.folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        for name in self.names()[:-KEPT]:
            shutil.rmtree(self.folder / name)

    def load(
        self, is_whole: Callable[[Checkpoint], None] = lambda found: None
    ) -> Checkpoint | None:
        """The newest checkpoint that is whole, damaged ones after it removed; None
        where there is none at all.

        Args:
            is_whole: raises ValueError or OSError where what belongs to it is damaged.

        Raises:
            TlperfError: 76 where there are some, and each is damaged.
        """
        names = self.names()[::-1]
        for name in names:
            try:
                found = _read(self.folder / name)
                is_whole(found)
            except (OSError, ValueError, KeyError) as error:
                log(f"warning: checkpoint {self.folder / name} is damaged ({error})")
            else:
                for damaged in names[: names.index(name)]:
                    shutil.rmtree(self.folder / damaged)
                return found
        if not names:
            return None
        raise TlperfError(
            ExitCode.INTEGRITY,
            "damaged_checkpoints",
            path=self.folder,
            found=f"each of {len(names)} checkpoints is damaged",
            remedy="delete that folder and train again",
        )

    def clear(self) -> None:
        """Removes all of them, and what a killed run left unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what a killed run left unfinished; a checkpoint that was being put
        aside gets its name back."""
        for path in self.folder.glob(".partial-*"):
            former = _FORMER.fullmatch(path.name)
            if former and not (self.folder / former[1]).exists():
                path.rename(self.folder / former[1])
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def pack(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    """Its state and its arrays, to be sent to another process."""
    data = b"".join(array.tobytes() for array in checkpoint.arrays)
    return _state_text(checkpoint, files.sha256_bytes(data)).encode(), data


def unpack(text: bytes, data: bytes) -> Checkpoint:
    """What `pack` was given; ValueError where `data` is not what `text` says."""
    stored = json.loads(text)
    if files.sha256_bytes(data) != stored["arrays_sha256"]:
        raise ValueError(f"{_ARRAYS} is not what {_STATE} says")
    arrays, start = [], 0
    for spec in stored["arrays"]:
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(data, dtype, count=count, offset=start)
        arrays.append(array.reshape(shape))
        start += array.nbytes
    return Checkpoint(stored["epoch"], stored["step"], arrays, stored["state"])


def _state_text(checkpoint: Checkpoint, arrays_sha256: str) -> str:
    state = {
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "arrays": [
            {"dtype": array.dtype.str, "shape": list(array.shape)}
            for array in checkpoint.arrays
        ],
        "arrays_sha256": arrays_sha256,
        "state": checkpoint.state,
    }
    return files.to_json(state)


def _write(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
    digest = hashlib.sha256()
    with open(folder / _ARRAYS, "wb") as stream:
        for array in checkpoint.arrays:
            data = array.tobytes()
            stream.write(data)
            digest.update(data)
    text = _state_text(checkpoint, digest.hexdigest())
    (folder / _STATE).write_text(text)
    (folder / _COMPLETE).write_text(files.sha256_bytes(text.encode()))
    for name in (_ARRAYS, _STATE, _COMPLETE):
        files.fsync_file(folder / name)
    files.fsync_directory(folder)


def _read(folder: pathlib.Path) -> Checkpoint:
    """Reads and checks every byte; ValueError says what is wrong."""
    text = (folder / _STATE).read_bytes()
    if (folder / _COMPLETE).read_text() != files.sha256_bytes(text):
        raise ValueError(f"{_STATE} is not what {_COMPLETE} says")
    return unpack(text, (folder / _ARRAYS).read_bytes())
