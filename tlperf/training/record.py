"""What a training leaves in WORKDIR/BACKBONE, beside the rows of its epochs.

    record = Record(folder, is_chief=True)
    record.save(checkpoint); record.load()
    record.save_best(model, row)           # the weights of the best epoch so far
    record.publish_best(rows)              # weights.h5

Of several processes the chief alone writes weights and checkpoints.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import keras

from tlperf.core import files
from tlperf.core.progress import log
from tlperf.model.facts import describe_architecture
from tlperf.model.weights import WEIGHTS_NAME, save_keras_weights
from tlperf.training.checkpoint import Checkpoint, Checkpoints
from tlperf.training.passes import Sums
from tlperf.training.result import best


class Record:
    """The files of one training.

    Args:
        folder: WORKDIR/BACKBONE.
        is_chief: whether this process writes weights and checkpoints.

    Attributes:
        folder: as given.
        weights: sha256 of the kept weights by file name.
    """

    def __init__(self, folder: pathlib.Path, *, is_chief: bool):
        self.folder, self._is_chief = folder, is_chief
        self._checkpoints = Checkpoints(folder / "checkpoints")
        self.weights: dict[str, str] = {}

    def write_architecture(
        self, whole: keras.Model, frozen_names: tuple[str, ...]
    ) -> None:
        """architecture.json."""
        described = describe_architecture(whole, frozen_names)
        files.write_json(self.folder / "architecture.json", described)

    def begin_anew(self, name: str) -> None:
        """Lets go of the checkpoints of the training before."""
        if self._checkpoints.names():
            log(f"{name}: begins anew; --resume would have gone on")
        self._checkpoints.clear()

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint; None where there is none, or this process is not
        the chief.

        Raises:
            TlperfError: 76 where there are some, and each is damaged.
        """
        if not self._is_chief:
            return None
        self._checkpoints.tidy()
        return self._checkpoints.load(self._check_weights)

    def _check_weights(self, found: Checkpoint) -> None:
        """Raises ValueError or OSError where the best weights of then are damaged."""
        if not found.state["rows"]:
            return
        path = self._best_path(best(found.state["rows"]))
        if files.sha256_file(path) != found.state["weights"][path.name]:
            raise ValueError(f"{path.name} is not what it says")

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; TlperfError 74 where the disk does not take it."""
        if self._is_chief:
            self._checkpoints.save(checkpoint)

    def save_best(self, model: keras.Model, row: dict[str, Any]) -> None:
        """Keeps the weights of an epoch that is the best so far."""
        if self._is_chief:
            path = self._best_path(row)
            save_keras_weights(model, path)
            self.weights[path.name] = files.sha256_file(path)

    def let_go(self, rows: Sequence[dict[str, Any]]) -> None:
        """Removes the weights that no checkpoint needs: the one before the newest may
        need the best before."""
        needed = [best(rows), best(rows[:-1] or rows)]
        kept = {self._best_path(row) for row in needed}
        for path in {*self._checkpoints.folder.glob("weights-*.h5")} - kept:
            path.unlink()
            self.weights.pop(path.name, None)

    def publish_best(self, rows: Sequence[dict[str, Any]]) -> None:
        """weights.h5 is the best epoch's file, under another name: a training that
        failed before this leaves the one before it whole."""
        if not self._is_chief:
            return
        path = self._best_path(best(rows))
        with files.atomic_path(self.folder / WEIGHTS_NAME) as partial:
            partial.unlink(missing_ok=True)
            try:
                os.link(path, partial)
            except OSError:  # a file system without links
                shutil.copyfile(path, partial)

    def _best_path(self, row: dict[str, Any]) -> pathlib.Path:
        return self._checkpoints.folder / f"weights-{row['epoch']:05d}.h5"

    def append_steps(self, epoch: int, sums: Sequence[Sums]) -> None:
        """steps.jsonl: the mean loss of each step, a line an epoch (from 1)."""
        path = self.folder / "steps.jsonl"
        known = [one for one in files.read_json_lines(path) if one["epoch"] < epoch]
        losses = [loss / max(count, 1.0) for loss, _, count in sums]
        lines = [*known, {"epoch": epoch, "losses": losses}]
        files.write_text(path, "".join(f"{files.to_json(one)}\n" for one in lines))
