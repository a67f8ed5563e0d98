"""What one sample times, protocol by protocol; one table picks.

timed = PROTOCOLS[Protocol.COMPILED](subject, settings, compute)
placed = timed.place(timed.make_images(seed))
timing = measure(timed.steps(placed), plan, keep=keeper.offer)
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlperf.core.batch import Batch
from tlperf.core.choices import Protocol, Runtime
from tlperf.core.settings import TrainConfig
from tlperf.device.deliver import check_batch_size, place_batch
from tlperf.device.setup import Compute
from tlperf.latency.runtimes import RUNTIMES, Loaded
from tlperf.latency.timer import Clock, Keep, Steps, repeat
from tlperf.model.build import Classifier
from tlperf.model.deploy import with_preprocessing
from tlperf.model.optimizer import build_optimizer
from tlperf.model.preprocess import normalise
from tlperf.model.steps import StepConfig, build_train_step
from tlperf.reference.backbones import BackboneSpec, Normalisation

# Of the images, and of the choice of outputs that are compared.
SEED = 0
# Along a side of a made-up image.
_PATCHES = 8
_REFERENCE_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to time.

    Attributes:
        spec: row of the backbone table.
        kind: `imagenet` (1000 classes, native size) or `finetuned`.
        model: preprocessed images float32 [B, S, S, 3] to probabilities [B, C].
        image_size: S.
        normalisation: what it expects of the pixels.
        classifier: the network with its cut, for steps of training.
        weights_sha256: of the file of a training's weights; None of random ones.
    """

    spec: BackboneSpec
    kind: str
    model: keras.Model
    image_size: int
    normalisation: Normalisation
    classifier: Classifier | None = None
    weights_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Timed:
    """A protocol, ready for a subject.

    Attributes:
        make_images: a seed to a batch of its own, in the host's memory; 0 is that of
            the timed steps.
        place: that batch to where steps take it from; not timed. With `lead` steps, as
            many batches more, a step each.
        steps: what was placed to the steps on it.
        traces: how often the network was traced so far.
        reference: the output for a batch in the host's memory by Keras' own call; None
            where steps change the network.
        prepare_secs: export, trace, load.
        version: of the runtime.
        winograd: convolutions that take a quarter of the products.
        lead: first steps of a call that carry its set-up.
    """

    make_images: Callable[[int], np.ndarray]
    place: Callable[..., Any]
    steps: Callable[[Any], Steps]
    traces: Callable[[], int]
    reference: Callable[[np.ndarray], np.ndarray] | None
    prepare_secs: dict[str, float]
    version: str
    winograd: int = 0
    lead: int = 0


def float_images(
    batch_size: int, image_size: int, normalisation: Normalisation, seed: int
) -> np.ndarray:
    """Preprocessed pixels: float32 [B, S, S, 3], those of `pixel_images` as a network
    of that normalisation expects them."""
    with tf.device("CPU:0"):  # the host's memory
        pixels = tf.constant(pixel_images(batch_size, image_size, seed))
        return normalise(pixels, normalisation).numpy()


def pixel_images(batch_size: int, image_size: int, seed: int) -> np.ndarray:
    """Pixels: uint8 [B, S, S, 3]. Each image has a colour, patches and grain of its
    own: to a network, images of mere noise are all alike."""
    generator = np.random.default_rng(seed)
    side = -(-image_size // _PATCHES)
    colours = generator.uniform(0, 255, (batch_size, 1, 1, 3))
    patches = generator.uniform(-128, 128, (batch_size, _PATCHES, _PATCHES, 3))
    patches = patches.repeat(side, axis=1).repeat(side, axis=2)
    shape = (batch_size, image_size, image_size, 3)
    grain = generator.uniform(-32, 32, shape)
    values = colours + patches[:, :image_size, :image_size] + grain
    return np.clip(values, 0, 255).astype(np.uint8)


class _BatchClock(keras.callbacks.Callback):
    """Times every batch of a predict call up to its result on the host."""

    def __init__(self, clock: Clock, limit_secs: float, keep: Keep):
        super().__init__()
        self._clock, self._keep = clock, keep
        self._limit_secs = limit_secs
        self._start = self._mark = clock()
        self.samples: list[float] = []

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None):
        del batch
        (output,) = [np.asarray(x) for x in keras.tree.flatten((logs or {})["outputs"])]
        now = self._clock()
        self.samples.append(now - self._mark)
        self._keep(output)
        if now - self._start >= self._limit_secs:
            self.model.stop_predicting = True
        self._mark = self._clock()


def prepare_keras_predict(
    subject: Subject,
    batch_size: int,
    compute: Compute,
    *,
    runtime: Runtime = Runtime.TF,
    clock: Clock = time.perf_counter,
) -> Timed:
    """`model.predict`, which only TensorFlow has."""
    del runtime
    model = subject.model
    model.jit_compile = compute.jit_compile
    options = tf.data.Options()
    # Nothing to tune; and its thread can hold up the end of a predict call for seconds.
    options.autotune.enabled = False

    def place(*batches: np.ndarray) -> tf.data.Dataset:
        first, *others = map(tf.data.Dataset.from_tensors, batches)
        return functools.reduce(tf.data.Dataset.concatenate, others, first)

    def steps_on(batches: tf.data.Dataset) -> Steps:
        def steps(count: int, limit_secs: float, keep: Keep) -> list[float]:
            callback = _BatchClock(clock, limit_secs, keep)
            repeated = batches.repeat().take(count).with_options(options)
            model.predict(repeated, callbacks=[callback], verbose=0)
            return callback.samples

        return steps

    return Timed(
        make_images=functools.partial(
            float_images, batch_size, subject.image_size, subject.normalisation
        ),
        place=place,
        steps=steps_on,
        traces=lambda: model.predict_function.experimental_get_tracing_count(),
        reference=_reference_of(model),
        prepare_secs={},
        version=tf.__version__,
        lead=1,
    )


def _reference_of(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Keras' own call, a few images at a time: a batch that fits in the optimised graph
    may not fit in it."""

    def reference(images: np.ndarray) -> np.ndarray:
        parts = [
            network(images[start : start + _REFERENCE_IMAGES], training=False)
            for start in range(0, len(images), _REFERENCE_IMAGES)
        ]
        return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])

    return reference


def _time_loaded(
    network: keras.Model,
    loaded: Loaded,
    *,
    make_images: Callable[[int], np.ndarray],
    place: Callable[[np.ndarray], Any],
    clock: Clock,
) -> Timed:
    """Steps of a runtime."""
    return Timed(
        make_images=make_images,
        place=place,
        steps=lambda placed: repeat(lambda: loaded.run(placed), clock=clock),
        traces=loaded.traces,
        reference=_reference_of(network),
        prepare_secs=loaded.prepare_secs,
        version=loaded.version,
        winograd=loaded.winograd,
    )


def prepare_compiled(
    subject: Subject,
    batch_size: int,
    compute: Compute,
    *,
    runtime: Runtime = Runtime.TF,
    clock: Clock = time.perf_counter,
) -> Timed:
    """The runtime alone."""
    shape = (batch_size, subject.image_size, subject.image_size, 3)
    loaded = RUNTIMES[runtime](subject.model, shape, compute)
    return _time_loaded(
        subject.model,
        loaded,
        make_images=functools.partial(
            float_images, batch_size, subject.image_size, subject.normalisation
        ),
        place=loaded.place,
        clock=clock,
    )


def prepare_transfer(
    subject: Subject,
    batch_size: int,
    compute: Compute,
    *,
    runtime: Runtime = Runtime.TF,
    clock: Clock = time.perf_counter,
) -> Timed:
    """The runtime on pixels in the host's memory."""
    shape = (batch_size, subject.image_size, subject.image_size, 3)
    network = with_preprocessing(subject.model, subject.normalisation)
    loaded = RUNTIMES[runtime](network, shape, compute)
    return _time_loaded(
        network,
        loaded,
        make_images=functools.partial(pixel_images, batch_size, subject.image_size),
        place=lambda images: images,
        clock=clock,
    )


def prepare_train_step(
    subject: Subject,
    batch_size: int,
    compute: Compute,
    *,
    runtime: Runtime = Runtime.TF,
    clock: Clock = time.perf_counter,
) -> Timed:
    """A step of the fine-tuning with the backbone's own optimiser (Table 4), on all
    devices of `compute`; the frozen part is not taken from a cache.

    Raises:
        TlperfError: 78 where the devices cannot share the batch evenly.
    """
    del runtime
    classifier = subject.classifier
    if classifier is None:
        raise ValueError("expected a subject with a classifier")
    check_batch_size(batch_size, compute.replicas, flag="latency_batch_size")
    with compute.strategy.scope():
        optimizer = build_optimizer(
            subject.spec, TrainConfig(), precision=compute.precision
        )
        optimizer.build(classifier.active.trainable_variables)
    config = StepConfig(subject.normalisation, batch_size=batch_size)
    train = build_train_step(classifier, optimizer, config, compute=compute)

    def place(images: np.ndarray) -> Batch:
        with tf.device("CPU:0"):  # the host's memory
            numbers = tf.range(batch_size)
            batch = Batch(
                image=tf.constant(images),
                label=numbers % 2,
                weight=tf.ones(batch_size),
                index=tf.cast(numbers, tf.int64),
                draw=tf.zeros([batch_size, 4]),
            )
        return place_batch(batch, compute)

    return Timed(
        make_images=lambda seed: pixel_images(batch_size, subject.image_size, seed),
        place=place,
        steps=lambda batch: repeat(lambda: train.step(batch).loss.numpy(), clock=clock),
        traces=train.traces,
        reference=None,
        prepare_secs={},
        version=tf.__version__,
    )


PROTOCOLS: dict[Protocol, Callable[..., Timed]] = {
    Protocol.KERAS_PREDICT: prepare_keras_predict,
    Protocol.COMPILED: prepare_compiled,
    Protocol.TRANSFER: prepare_transfer,
    Protocol.STREAM: prepare_transfer,
    Protocol.TRAIN_STEP: prepare_train_step,
}
