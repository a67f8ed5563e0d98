"""Per-epoch rows: history.jsonl and TensorBoard scalars with Keras' names.

    with Telemetry(folder) as telemetry:
        telemetry.write_epoch(row)

Scalars go through `tf.summary.write`: TensorFlow 2.21 no longer brings TensorBoard, and
its `tf.summary.scalar` is TensorBoard's.
"""

import pathlib
from typing import Any, Self

import tensorflow as tf

from tlperf.core import files

_TRAIN_TAGS = {
    "loss": "epoch_loss",
    "accuracy": "epoch_accuracy",
    "learning_rate": "epoch_learning_rate",
    "steps_per_sec": "epoch_steps_per_second",
    "images_per_sec": "examples/sec",
    "input_wait_fraction": "input_wait_fraction",
}
_VALIDATION_TAGS = {"val_loss": "epoch_loss", "val_accuracy": "epoch_accuracy"}


def write_scalar(tag: str, value: float, *, step: int) -> None:
    """Writes one scalar to the default writer, for TensorBoard's scalars plugin."""
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    )
    tf.summary.write(
        tag, tf.constant(value, tf.float32), step=step, metadata=metadata, name=tag
    )


class Telemetry:
    """Writes the rows of one training; starts its files anew."""

    def __init__(self, folder: pathlib.Path):
        self._history = folder / "history.jsonl"
        self._history.unlink(missing_ok=True)
        board = folder / "tensorboard"
        for old in board.glob("*/events.out.tfevents.*"):
            old.unlink()
        self._train = tf.summary.create_file_writer(str(board / "train"))
        self._validation = tf.summary.create_file_writer(str(board / "validation"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._train.close()
        self._validation.close()

    def write_epoch(self, row: dict[str, Any]) -> None:
        """Appends the row of an epoch (1-based); Keras counts epochs from 0 here."""
        files.append_json_line(self._history, row)
        step = row["epoch"] - 1
        for writer, tags in (
            (self._train, _TRAIN_TAGS),
            (self._validation, _VALIDATION_TAGS),
        ):
            with writer.as_default():
                for key, tag in tags.items():
                    write_scalar(tag, row[key], step=step)
            writer.flush()
