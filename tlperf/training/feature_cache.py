"""Whether the frozen part is computed once, where its features go, and batches of them.

    plan = plan_features(config, has_frozen=True, nbytes=..., room=..., is_there=...)
    store = FeatureStore.open(config.features_path, facts, layouts, views=1)
    store.fill(pipeline, extract, ...)                 # what is not there yet
    for batch in store.training(plan, epoch=0).distribute(compute): ...
    store.close()

An entry is a folder whose name is a hash of all that its numbers depend on: the frozen
weights, the boundary, image size, preprocessing, decoding, the data and the views. So
runs with another learning rate, head or number of epochs use it again, several at a
time: who makes or fills an entry holds its lock alone, who reads it shares the lock,
and what is locked is not removed.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tlperf.core import files
from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.choices import Augment, FeatureCache
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.locks import FolderLock
from tlperf.core.progress import progress_bar
from tlperf.core.settings import RunConfig
from tlperf.core.units import format_bytes
from tlperf.device.deliver import check_batch_size, one_ahead, place_batch
from tlperf.device.setup import Compute
from tlperf.pipeline.input import Batches, InputPipeline
from tlperf.pipeline.order import BatchPlan, plan_view
from tlperf.training.features import FeatureSplit, Layout

# Training and validation are seen every epoch; the test split once.
SPLITS = ("train", "validation")
_FACTS = "facts.json"
# Digits of the hash that name an entry.
_NAME_DIGITS = 16
# Rows are made durable after so many bytes: what a killed run computes again.
_FLUSH_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class FeaturePlan:
    """Whether features are kept.

    Attributes:
        is_on: whether.
        why: in words, for people.
        views: of each training image.
        nbytes: on the disk, all splits.
    """

    is_on: bool
    why: str
    views: int = 1
    nbytes: int = 0


def count_views(config: RunConfig) -> int:
    """Views of each training image; 0 where each epoch has another one."""
    if config.input.augment is Augment.NONE:
        return 1
    return config.features.feature_views


def plan_features(
    config: RunConfig,
    *,
    has_frozen: bool,
    nbytes: int,
    room: Callable[[], int],
    is_there: Callable[[], bool],
    workers: int = 1,
) -> FeaturePlan:
    """Decides.

    Args:
        config: of the run.
        has_frozen: whether anything is frozen.
        nbytes: that all features take.
        room: bytes that features may take there.
        is_there: whether an entry of these features is on the disk; asked last, for it
            takes a hash of the frozen weights.
        workers: that train together, each of which computes all images once instead of
            its part of them in each epoch.

    Raises:
        SettingsError: --feature_cache=on where there is nothing to keep.
        TlperfError: 74 where it is on and there is no room.
    """
    mode, views = config.features.feature_cache, count_views(config)
    if mode is FeatureCache.OFF:
        return FeaturePlan(False, "--feature_cache=off")
    against = ""
    if not has_frozen:
        against = "nothing is frozen"
    elif not views:
        against = "every epoch augments anew; --feature_views=K would keep K views"
    elif config.input.data_service:
        against = "a data service makes the batches"
    if against and mode is FeatureCache.ON:
        raise SettingsError(f"--feature_cache=on, but {against}", "use auto or off")
    if against:
        return FeaturePlan(False, against)
    if nbytes > (left := room()):
        if mode is FeatureCache.ON:
            raise TlperfError(
                ExitCode.IO,
                "no_room_for_features",
                path=config.features_path,
                found=f"features take {nbytes} bytes, there is room for {left}",
                remedy="free space, raise --feature_budget, or use --feature_cache=off "
                "or --feature_dtype=float16",
            )
        what = f"it takes {format_bytes(nbytes)}, there is room for {left} bytes"
        return FeaturePlan(False, what)
    was_made = is_there()
    is_used_again = config.training.epochs > views * workers
    if mode is FeatureCache.AUTO and not was_made and not is_used_again:
        return FeaturePlan(False, "no epoch would use it again")
    return FeaturePlan(True, "is there" if was_made else "is made", views, nbytes)


def find_room(folder: pathlib.Path, budget: int) -> int:
    """Bytes that features may take in `folder`, older ones let go."""
    with files.io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ours = sum(_entry_bytes(entry) for entry in _entries(folder))
    free = shutil.disk_usage(folder).free
    return min(budget or (free + ours) // 2, free + ours)


def entry_name(facts: Mapping[str, Any]) -> str:
    """Of the folder that holds the features of these facts."""
    digest = files.sha256_bytes(files.to_json(facts).encode())[:_NAME_DIGITS]
    return f"{facts['backbone']}-{digest}"


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """The least recently used first."""
    used: dict[pathlib.Path, float] = {}
    for path in folder.glob(f"*/{_FACTS}"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            used[path.parent] = path.stat().st_mtime
    return sorted(used, key=used.__getitem__)


def _entry_bytes(entry: pathlib.Path) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for path in entry.iterdir():
            size += path.stat().st_size
    return size


def make_room(folder: pathlib.Path, needed: int, *, room: int, keep: str) -> list[str]:
    """Removes the least recently used entries until `needed` bytes fit into `room`;
    gives their names. Those that another process fills or reads stay."""
    entries = [entry for entry in _entries(folder) if entry.name != keep]
    used, removed = sum(map(_entry_bytes, entries)), []
    for entry in entries:
        if used + needed <= room:
            break
        lock = FolderLock.take(entry, alone=True) if entry.is_dir() else None
        if lock is None:
            continue
        used -= _entry_bytes(entry)
        with files.io_errors(entry):
            shutil.rmtree(entry)
        lock.let_go()
        removed.append(entry.name)
    return removed


@dataclasses.dataclass(frozen=True)
class FeatureBatches:
    """The batches of one pass over kept features, with their plan.

    Attributes:
        split: the features.
        plan: which images make which batch.
        first_row: of the view.
    """

    split: FeatureSplit
    plan: BatchPlan
    first_row: int = 0

    def __iter__(self) -> Iterator[FeatureBatch]:
        shape = (self.plan.steps, self.plan.batch_size)
        pairs = zip(
            self.plan.index.reshape(shape), self.plan.weight.reshape(shape), strict=True
        )
        for index, weight in pairs:
            features, label, kept = self.split.read(self.first_row + index)
            # Else TensorFlow puts the whole batch on the first GPU, to be split there.
            with tf.device("CPU:0"):
                batch = FeatureBatch(
                    features=tuple(map(tf.convert_to_tensor, features)),
                    label=tf.convert_to_tensor(label),
                    weight=tf.convert_to_tensor(weight * kept),
                    index=tf.convert_to_tensor(index),
                )
            yield batch

    def distribute(self, compute: Compute) -> Generator[FeatureBatch]:
        """Each batch on its device, or split evenly over the replicas."""
        check_batch_size(self.plan.batch_size, len(compute.devices))
        return one_ahead(place_batch(batch, compute) for batch in self)

    def service_counts(self) -> None:
        """No data service makes them."""


# A Batch, in the host's memory, to the crossing tensors, each [B, ...].
Extract = Callable[[Batch], list[np.ndarray]]


def _is_filled(entry: pathlib.Path) -> TlperfError:
    return TlperfError(
        ExitCode.RETRY,
        "features_locked",
        path=entry,
        found="another process fills these features",
        remedy="wait for it and run again, or use --feature_cache=off",
    )


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """The features of one entry.

    Attributes:
        folder: of the entry.
        splits: train and validation.
        counts: images of each.
        views: of each training image.
        lock: of the entry, until the store is closed.
    """

    folder: pathlib.Path
    splits: dict[str, FeatureSplit]
    counts: dict[str, int]
    views: int
    lock: FolderLock

    @classmethod
    def open(
        cls,
        folder: pathlib.Path,
        facts: Mapping[str, Any],
        layouts: Mapping[str, Layout],
        *,
        views: int,
    ) -> "FeatureStore":
        """The entry in `folder`, made where it is not there.

        Raises:
            TlperfError: 74 where the disk cannot hold it, 75 where another process
                makes or fills it.
        """
        entry = folder / entry_name(facts)
        lock = FolderLock.take(entry, alone=True) or FolderLock.take(entry, alone=False)
        if lock is None:
            raise _is_filled(entry)
        try:
            # First, so that what a full disk leaves unmade counts as an entry.
            if not (entry / _FACTS).exists():
                files.write_json(entry / _FACTS, dict(facts))
            os.utime(entry / _FACTS)  # it is used now
            # Files are made by whoever holds it alone: those that read it find them.
            splits = {name: FeatureSplit(entry, name, layouts[name]) for name in SPLITS}
        except BaseException:
            lock.let_go()
            raise
        counts = {
            "train": layouts["train"].rows // views,
            "validation": layouts["validation"].rows,
        }
        return cls(entry, splits, counts, views, lock)

    def close(self) -> None:
        """Lets others fill or remove it."""
        self.lock.let_go()

    def fill(
        self,
        pipeline: InputPipeline,
        extract: Mapping[str, Extract],
        *,
        batch_size: int,
        seed: int,
        title: str,
        check_stop: Callable[[], None] = lambda: None,
    ) -> int:
        """Computes what is missing; gives the images computed. A run that is killed
        goes on where it was.

        Args:
            pipeline: of the images.
            extract: by split.
            batch_size: of the pipeline.
            seed: of the views.
            title: of the progress bar.
            check_stop: raises where computing is to end; what is there is kept.

        Raises:
            TlperfError: 75 where another process fills the same entry.
        """
        missing = {name: split.missing() for name, split in self.splits.items()}
        total = sum(map(len, missing.values()))
        if total and not self.lock.is_alone():
            raise _is_filled(self.folder)
        with progress_bar(total=total, unit="img", title=title) as bar:
            for name, rows in missing.items():
                for view in range(self.views if name == "train" else 1):
                    first = view * self.counts[name]
                    own = rows[(rows >= first) & (rows < first + self.counts[name])]
                    plan = plan_view(
                        own - first, batch_size=batch_size, seed=seed, view=view
                    )
                    batches = pipeline.planned(name, plan, in_order=True)
                    for images in self._fill(name, first, extract[name], batches):
                        bar.update(images)
                        check_stop()
        self.lock.share()
        return total

    def _fill(
        self, name: str, first: int, extract: Extract, batches: Batches
    ) -> Generator[int]:
        """Keeps the features of batches; yields how many images they are of."""
        split, plan, unsafe = self.splits[name], batches.plan, 0
        made = one_ahead((batch, extract(batch)) for batch in batches)
        weights = plan.weight.reshape(plan.steps, plan.batch_size)
        try:
            for (batch, features), planned in zip(made, weights, strict=True):
                # The rest is padding, or was skipped: that is read again by each run,
                # which then tells of it or fails.
                kept = batch.weight.numpy()
                counts = (planned > 0) & (kept > 0)
                split.write(
                    first + batch.index.numpy()[counts],
                    [x[counts] for x in features],
                    label=batch.label.numpy()[counts],
                    weight=kept[counts],
                )
                unsafe += sum(x.nbytes for x in features)
                if unsafe > _FLUSH_BYTES:
                    split.flush()
                    unsafe = 0
                yield int((planned > 0).sum())
        finally:
            split.flush()

    def training(self, plan: BatchPlan, *, epoch: int) -> FeatureBatches:
        """The batches of a training plan, of the epoch's view."""
        first = epoch % self.views * self.counts["train"]
        return FeatureBatches(self.splits["train"], plan, first)

    def validation(self, plan: BatchPlan) -> FeatureBatches:
        """The batches of an evaluation plan."""
        return FeatureBatches(self.splits["validation"], plan)
