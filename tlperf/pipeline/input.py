"""The one visible tf.data recipe: stored examples to uint8 batches.

    with InputPipeline(dataset, config, image_size=150) as pipeline:
        for batch in pipeline.training(epoch=0): ...       # Batch, on one device
        batches = pipeline.evaluation("test")
        for batch in batches.distribute(compute): ...      # per replica

Training and evaluation differ in the plan only: training takes full batches in the
epoch's order, evaluation every image once, padded. Order, load, prefetch are stages of
tf.data; loading a batch (read, decode, resize) is one of them, on threads of its own
(`tlperf.pipeline.load`), so that memory holds a few batches whatever the number of
cores.
"""

import contextlib
import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tlperf.core.batch import Batch
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.machine import usable_cores
from tlperf.core.settings import InputConfig
from tlperf.dataset.store import StoredDataset
from tlperf.device.deliver import check_batch_size, one_ahead, place_batch
from tlperf.device.setup import Compute
from tlperf.pipeline.budget import BATCHES_AT_ONCE, PREFETCH_BATCHES, plan_memory
from tlperf.pipeline.decode import Decoder
from tlperf.pipeline.endpoint import check_service_settings
from tlperf.pipeline.load import Loader
from tlperf.pipeline.memory import Workbench
from tlperf.pipeline.order import (
    DRAWS,
    BatchPlan,
    join_plans,
    plan_evaluation,
    plan_training,
)
from tlperf.pipeline.service import (
    Puller,
    ServiceBatches,
    ServiceCounts,
    add_counts,
)
from tlperf.pipeline.worker import WorkerRecipe

# Images uint8 [B, S, S, 3], labels int32 [B], weights float32 [B].
Loaded = tuple[np.ndarray, np.ndarray, np.ndarray]
# A plan's index, weight and draw, a row a step, to the dataset of its batches.
Recipe = Callable[[np.ndarray, np.ndarray, np.ndarray], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of one pass, with their plan.

    Attributes:
        source: yields Batch with the global batch size.
        plan: which examples make which batch.
        loader: what makes them here.
        pipeline: whose threads do it; it stays open while these are used.
    """

    source: tf.data.Dataset | ServiceBatches
    plan: BatchPlan
    loader: Loader
    pipeline: "InputPipeline"

    def __iter__(self) -> Generator[Batch]:
        # No further than the plan: the end of a dataset is an error inside TensorFlow,
        # and one on this thread has failed an operation that another one had begun on a
        # second device (rarely: "End of sequence" of a slice).
        last = None if isinstance(self.source, ServiceBatches) else self.plan.steps
        batches = self._named_errors(itertools.islice(self.source, last))
        self.pipeline.ends.add(batches)
        return batches

    def distribute(self, compute: Compute) -> Generator[Batch]:
        """Each global batch on its device, or split evenly over the replicas.

        TensorFlow's own distributed datasets are not used: see `input_options`.
        """
        check_batch_size(self.plan.batch_size, len(compute.devices))
        return one_ahead(place_batch(batch, compute) for batch in self)

    def _named_errors(self, iterator: Iterator[Batch]) -> Generator[Batch]:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                failure = self.loader.failure_in(str(error))
                if failure is None:
                    raise  # memory, device: not the data's fault
                raise failure from error
            yield batch

    def service_counts(self) -> dict[str, Any] | None:
        """What became of the steps so far; None where all are made here."""
        if isinstance(self.source, ServiceBatches):
            return dataclasses.asdict(self.source.counts)
        return None


class InputPipeline:
    """Every pass over one data directory at one image size; a context manager.

    Whoever does not close it leaves that to its end, or that of the process: TensorFlow
    would wait for ever for a load that Python no longer runs.

    Args:
        dataset: the data directory.
        config: batch size, order, decoding, cache.
        image_size: side in pixels.
        worker: of the processes that train together; each takes its rows of every
            batch.
        workers: so many processes.

    Attributes:
        batch_size: of this process' part of a batch.
        ends: passes that were begun, to be ended with the pipeline.

    Raises:
        TlperfError: exit code 71, where batches and cache exceed `config.ram_budget`.
    """

    def __init__(
        self,
        dataset: StoredDataset,
        config: InputConfig,
        *,
        image_size: int,
        worker: int = 0,
        workers: int = 1,
    ):
        self._dataset = dataset
        self._config = config
        self._worker, self._workers = worker, workers
        self.batch_size = config.batch_size // workers
        self._image_size = image_size
        self._decoder = Decoder.of(
            dataset.manifest, config.decode, image_size=image_size
        )
        self._bench = Workbench(
            threads=usable_cores(),
            memory_bytes=plan_memory(
                dataset,
                dataclasses.replace(config, batch_size=self.batch_size),
                image_size=image_size,
            ),
        )
        self._loaders: dict[str, Loader] = {}
        self._recipes: dict[tuple[str, int, bool], Recipe] = {}
        self._service_counts: list[ServiceCounts] = []
        self.ends: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()
        self._close = weakref.finalize(
            self, end_passes, self.ends, self._loaders, self._bench
        )

    def training(self, epoch: int, *, step: int = 0, epochs: int = 1) -> Batches:
        """The training split in the order of (seed, epoch), from `step` on.

        Args:
            epoch: the first one.
            step: of that epoch.
            epochs: so many in one pass, with no start between them.

        Raises:
            TlperfError: 65 where the split has fewer images than a batch, 78 where the
                data service cannot make what is asked for, or the pass begins inside of
                an epoch whose order is not the plan's.
        """
        if step and not self._config.deterministic:
            raise TlperfError(
                ExitCode.CONFIG,
                "no_order",
                found=f"step {step} of an epoch in no order: which images are left?",
                remedy="use --deterministic=true, or begin with an epoch",
            )
        plans = [self.training_plan(one) for one in range(epoch, epoch + epochs)]
        plan = join_plans(plans).from_step(step)
        if self._config.data_service:
            source = self._service_batches(plan)
            return Batches(source, plan, self._loader("train"), self)
        return self.planned("train", plan)

    def evaluation(self, split: str) -> Batches:
        """Every image of a split exactly once, in stored order."""
        return self.planned(split, self.evaluation_plan(split))

    def training_plan(self, epoch: int) -> BatchPlan:
        """The order of an epoch; TlperfError 65 where there are too few images."""
        plan = plan_training(
            count=self._dataset.split("train").count,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            epoch=epoch,
        )
        return plan.for_worker(self._worker, workers=self._workers)

    def evaluation_plan(self, split: str) -> BatchPlan:
        """Every image of a split once, padded."""
        count = self._dataset.split(split).count
        plan = plan_evaluation(count=count, batch_size=self._config.batch_size)
        return plan.for_worker(self._worker, workers=self._workers)

    def _service_batches(self, plan: BatchPlan) -> ServiceBatches:
        ask = functools.partial(
            self._worker_recipe.distributed,
            plan,
            address=self._config.data_service,
            options=input_options(deterministic=True),
        )
        counts = ServiceCounts(self._config.data_service)
        self._service_counts.append(counts)
        return ServiceBatches(
            plan,
            functools.partial(Puller, ask),
            local=functools.partial(self.planned, "train"),
            counts=counts,
        )

    @functools.cached_property
    def _worker_recipe(self) -> WorkerRecipe:
        check_service_settings(self._config, file_format=self._dataset.manifest.format)
        return WorkerRecipe.of(self._dataset, "train", decoder=self._decoder)

    def planned(
        self, split: str, plan: BatchPlan, *, in_order: bool = False
    ) -> Batches:
        """The batches of a plan, made here; its batch size is this process'.

        Args:
            split: whose images.
            plan: of the pass.
            in_order: whatever `deterministic` says.
        """
        steps = (plan.steps, plan.batch_size)
        dataset = self._recipe(split, in_order=in_order)(
            plan.index.reshape(steps),
            plan.weight.reshape(steps),
            plan.draw.reshape(*steps, DRAWS),
        )
        return Batches(dataset, plan, self._loader(split), self)

    def _recipe(self, split: str, *, in_order: bool) -> Recipe:
        loader = self._loader(split)
        # Copying is memory's work: two at once would take turns at Python's lock.
        at_once = 1 if loader.is_copying() else BATCHES_AT_ONCE
        # What the service leaves out is put in the plan's order, so it comes in order.
        is_ordered = in_order or self._config.deterministic
        is_ordered = is_ordered or bool(self._config.data_service)
        key = (split, at_once, is_ordered)
        if key not in self._recipes:
            self._recipes[key] = build_recipe(
                functools.partial(load_batch, loader, self._image_size),
                batch_size=self.batch_size,
                at_once=at_once,
                options=input_options(deterministic=is_ordered),
            )
        return self._recipes[key]

    def _loader(self, split: str) -> Loader:
        if split not in self._loaders:
            self._loaders[split] = Loader(
                self._dataset.split(split),
                self._decoder,
                self._bench,
                cache=self._config.cache,
                on_bad_record=self._config.on_bad_record,
            )
        return self._loaders[split]

    def skipped(self) -> list[dict[str, Any]]:
        """Records left out so far: `split index file record found`."""
        return [
            {"split": split, **dataclasses.asdict(one)}
            for split, loader in self._loaders.items()
            for _, one in sorted(loader.skipped.items())
        ]

    def service_totals(self) -> dict[str, Any] | None:
        """What the data service gave so far; None where there is none."""
        return add_counts(self._service_counts) if self._service_counts else None

    def close(self) -> None:
        """Ends the threads and lets go of the cache; what was skipped stays known."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end_passes(
    passes: Iterable[Generator[Batch]], loaders: dict[str, Loader], bench: Workbench
) -> None:
    """Ends what an `InputPipeline` has begun."""
    for loader in loaders.values():
        loader.close()
    for one in [*passes]:
        with contextlib.suppress(ValueError):  # another thread is waiting for it
            one.close()
    bench.close()


def build_recipe(
    load: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Batch],
    *,
    batch_size: int,
    at_once: int,
    options: tf.data.Options,
) -> Recipe:
    """The tf.data recipe, traced once: building it anew for each pass took as long as
    a dozen batches of raw pixels.

    Args:
        load: a step's index, weight and draw to its batch.
        batch_size: rows of a step.
        at_once: batches that are loaded at once.
        options: of the whole.
    """
    signature = (
        tf.TensorSpec([None, batch_size], tf.int64),
        tf.TensorSpec([None, batch_size], tf.float32),
        tf.TensorSpec([None, batch_size, DRAWS], tf.float32),
    )

    @tf.function(input_signature=signature, autograph=False)
    def recipe(index: tf.Tensor, weight: tf.Tensor, draw: tf.Tensor) -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices((index, weight, draw))
        dataset = dataset.map(load, num_parallel_calls=at_once if at_once > 1 else None)
        dataset = dataset.prefetch(PREFETCH_BATCHES)
        return dataset.with_options(options)

    return recipe.get_concrete_function()


def load_batch(
    loader: Callable[[np.ndarray, np.ndarray], Loaded],
    image_size: int,
    index: tf.Tensor,
    weight: tf.Tensor,
    draw: tf.Tensor,
) -> Batch:
    """One batch of the plan, loaded."""
    kinds = (tf.uint8, tf.int32, tf.float32)
    image, label, weight = tf.numpy_function(loader, [index, weight], kinds)
    batch_size = index.shape[0]
    return Batch(
        image=tf.ensure_shape(image, [batch_size, image_size, image_size, 3]),
        label=tf.ensure_shape(label, [batch_size]),
        weight=tf.ensure_shape(weight, [batch_size]),
        index=index,
        draw=draw,
    )


def input_options(*, deterministic: bool) -> tf.data.Options:
    """tf.data options of every recipe, in one place.

    Args:
        deterministic: the order is the plan's, whatever thread ends first.
    """
    options = tf.data.Options()
    # Parallelism is written out in the recipe. TensorFlow 2.21's autotuner keeps a
    # thread that an iterator's destructor waits for: the end of a pass took up to 30 s,
    # in distributed datasets too, whose per-device part does not take these options.
    options.autotune.enabled = False
    options.deterministic = deterministic
    # One process reads the plan: nothing is to be sharded behind its back.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return options
