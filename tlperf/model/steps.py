"""The compiled steps: device half of input, forward pass, train step.

    config = StepConfig(spec.normalisation, batch_size=32)
    train = build_train_step(classifier, optimizer, config, compute=compute)
    sums = train.step(batch)              # StepSums of this batch, over all replicas
    predict = build_predict_step(classifier.whole, compute=compute, ...)
    probabilities, losses = predict(batch)
    sums = build_evaluate_step(predict, compute=compute)(batch)

A batch holds images, or features where the frozen part was computed before; else a step
computes it first, by a function of its own. A step is one `tf.function` then, traced
for what the active part takes; inside it `strategy.run` runs the replica's part.
Values stay on the device: reading a StepSums is what makes the host wait.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from tlperf.core.batch import Batch, FeatureBatch
from tlperf.core.choices import Augment
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier
from tlperf.model.frozen import Encode, build_encoder
from tlperf.model.optimizer import agree_on_overflow
from tlperf.model.preprocess import build_device_half
from tlperf.model.replicas import build_averaging
from tlperf.reference.backbones import Normalisation


class StepSums(NamedTuple):
    """Sums over the images of a step that count; scalars float32.

    Attributes:
        loss, correct, count: over all replicas.
        wishes: replicas whose process wishes to stop; all processes read the same.
    """

    loss: Any
    correct: Any
    count: Any
    wishes: Any


class SumStep(Protocol):
    """A compiled step that gives sums."""

    def __call__(self, batch: Any, wish: tf.Tensor | None = None) -> StepSums:
        """Takes a batch and, of several processes, 1.0 where this one wishes to stop
        (float32)."""


class SumSteps(Protocol):
    """Several steps in one call."""

    def __call__(
        self, batches: Sequence[Any], wish: tf.Tensor | None = None
    ) -> list[StepSums]:
        """Takes batches as SumStep takes one."""


class TrainSteps(NamedTuple):
    """A compiled train step.

    Attributes:
        step: one step.
        steps: several of them in one call of the host: for steps as short as the host's
            work between two of them.
        traces: how often `step` was traced so far.
    """

    step: SumStep
    steps: SumSteps
    traces: Callable[[], int]


def cross_entropy(label: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each image, float32 [B]; from the logits where Keras finds them.

    Args:
        label: int32 [B].
        probability: float32 [B, C], the output of a softmax.
    """
    return keras.ops.sparse_categorical_crossentropy(label, probability)


def _sums(
    batch: Batch | FeatureBatch, probability: tf.Tensor, loss: tf.Tensor
) -> StepSums:
    predicted = tf.argmax(probability, axis=-1, output_type=tf.int32)
    hit = tf.cast(tf.equal(predicted, batch.label), tf.float32)
    return StepSums(
        loss=tf.reduce_sum(loss * batch.weight),
        correct=tf.reduce_sum(hit * batch.weight),
        count=tf.reduce_sum(batch.weight),
        wishes=tf.zeros([]),
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole network with its compiled inference step.

    Attributes:
        model: images [B, S, S, 3] to probabilities float32 [B, C].
        predict: a Batch to `(probabilities [B, C], losses [B])`.
    """

    model: keras.Model
    predict: Callable[[Batch], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a train step does with a batch.

    Attributes:
        normalisation, augmentation: of the device half of input.
        batch_size: global batch.
        accumulate: parts that a replica takes its batch in, one after the other; each
            is a batch of its own for BatchNormalization.
        class_weights: of the loss, a class; None weighs all the same.
    """

    normalisation: Normalisation
    batch_size: int
    augmentation: Augment = Augment.NONE
    accumulate: int = 1
    class_weights: tuple[float, ...] | None = None


def build_train_step(
    classifier: Classifier,
    optimizer: keras.optimizers.Optimizer,
    config: StepConfig,
    *,
    compute: Compute,
    encode: Encode | None = None,
) -> TrainSteps:
    """The train step; updates the active variables and returns the batch's sums.

    The loss is the mean over the global batch: each replica divides its sum by the
    batch size and the optimiser sums gradients over replicas. The frozen part runs in
    inference mode and apart, so its activations are not kept and its dropout and
    drop-connect layers pass everything; Keras' `fit` drops there.

    Args:
        classifier: built in the strategy's scope.
        optimizer: built in the strategy's scope for `active.trainable_variables`.
        config: what the step does.
        compute: strategy and XLA policy.
        encode: the frozen part, where there is one already.
    """
    replica_step = build_replica_step(classifier, optimizer, config, compute=compute)
    compiled = tf.function(replica_step, jit_compile=compute.jit_compile)

    if encode is None and classifier.frozen is not None:
        encode = build_encoder(
            classifier,
            compute=compute,
            normalisation=config.normalisation,
            augmentation=config.augmentation,
            parts=config.accumulate,
        )

    @tf.function
    def train_step(
        batch: Batch | FeatureBatch, wish: tf.Tensor | None = None
    ) -> StepSums:
        sums = compute.strategy.run(compiled, args=(batch,))
        return _add_up(compute, sums, wish)

    @tf.function
    def train_steps(batches: Any, wish: tf.Tensor | None = None) -> list[StepSums]:
        return [train_step(batch, wish) for batch in batches]

    def step(batch: Any, wish: tf.Tensor | None = None) -> StepSums:
        return train_step(_encoded(batch, encode), wish)

    def steps(batches: Sequence[Any], wish: tf.Tensor | None = None) -> list[StepSums]:
        return train_steps([_encoded(batch, encode) for batch in batches], wish)

    return TrainSteps(step, steps, train_step.experimental_get_tracing_count)


def _encoded(batch: Any, encode: Encode | None) -> Any:
    """What a compiled step takes."""
    if encode is None or isinstance(batch, FeatureBatch):
        return batch
    return encode(batch)


def build_replica_step(
    classifier: Classifier,
    optimizer: keras.optimizers.Optimizer,
    config: StepConfig,
    *,
    compute: Compute,
) -> Callable[[Batch | FeatureBatch], StepSums]:
    """What one replica does in a train step, with the device half of input where
    nothing is frozen; arguments as of `build_train_step`, which compiles it."""
    variables = classifier.active.trainable_variables
    update = _build_update(optimizer, variables, compute)
    average = build_averaging(classifier.active, compute)
    device_half = build_device_half(
        compute,
        normalisation=config.normalisation,
        augmentation=config.augmentation,
    )

    def take(batch: Batch | FeatureBatch) -> Any:
        """What the active part is given."""
        if isinstance(batch, FeatureBatch):
            return _features(batch, compute)
        return device_half(batch.image, batch.draw)

    def differentiate(
        batch: Batch | FeatureBatch,
    ) -> tuple[StepSums, list[tf.Tensor]]:
        x = take(batch)
        with tf.GradientTape() as tape:
            probability = classifier.active(x, training=True)
            losses = cross_entropy(batch.label, probability)
            if config.class_weights is not None:
                weights = tf.constant(config.class_weights, tf.float32)
                losses *= tf.gather(weights, batch.label)
            sums = _sums(batch, probability, losses)
            loss = optimizer.scale_loss(sums.loss / config.batch_size)
        return sums, tape.gradient(loss, [variable.value for variable in variables])

    def replica_step(batch: Batch | FeatureBatch) -> StepSums:
        if config.accumulate == 1:
            sums, gradients = differentiate(batch)
        else:
            parts = config.accumulate
            sums, gradients = _accumulated(differentiate, batch, parts=parts)
        update(agree_on_overflow(gradients, optimizer, compute))
        average()
        return sums

    return replica_step


def _build_update(
    optimizer: keras.optimizers.Optimizer, variables: list[Any], compute: Compute
) -> Callable[[list[tf.Tensor]], None]:
    """What moves the variables along their gradients.

    On one CPU `--xla=auto` compiles this alone by XLA, which makes one pass over memory
    of the optimiser's dozen: 6 to 56 ms a step less for the six backbones on two cores,
    of 145 to 432.
    """

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, variables)

    if compute.jit_update:
        compiled: Callable[[list[tf.Tensor]], None] = tf.function(
            update, jit_compile=True, autograph=False
        )
        return compiled
    return update


def _accumulated(
    differentiate: Callable[[Any], tuple[StepSums, list[tf.Tensor]]],
    batch: Batch | FeatureBatch,
    *,
    parts: int,
) -> tuple[StepSums, list[tf.Tensor]]:
    """Sums and gradients of a batch, a part of it after the other."""

    def part(number: tf.Tensor) -> Batch | FeatureBatch:
        def take(values: tf.Tensor) -> tf.Tensor:
            return tf.reshape(values, [parts, -1, *values.shape[1:]])[number]

        return tf.nest.map_structure(take, batch)

    def add(number: tf.Tensor, so_far: Any) -> tuple[tf.Tensor, Any]:
        found = differentiate(part(number))
        return number + 1, tf.nest.map_structure(tf.add, so_far, found)

    _, (sums, gradients) = tf.while_loop(
        lambda number, so_far: number < parts,
        add,
        (tf.constant(1), differentiate(part(tf.constant(0)))),
        parallel_iterations=1,
    )
    return sums, gradients


def _features(batch: FeatureBatch, compute: Compute) -> list[tf.Tensor]:
    """They may be kept in a smaller type than the step computes in."""
    dtype = keras.dtype_policies.get(compute.precision).compute_dtype
    return [tf.cast(x, dtype) for x in batch.features]


def build_predict_step(
    model: keras.Model,
    *,
    compute: Compute,
    normalisation: Normalisation,
    active: keras.Model | None = None,
) -> Callable[[Batch | FeatureBatch], tuple[Any, Any]]:
    """The inference step: `(probabilities [B, C], losses [B])`, float32 per replica.

    Args:
        model: for batches of images.
        compute: strategy and XLA policy.
        normalisation: of the device half of input.
        active: for batches of features, where there are any.
    """
    device_half = build_device_half(
        compute, normalisation=normalisation, augmentation=Augment.NONE
    )

    def classify(batch: Batch | FeatureBatch) -> tf.Tensor:
        if isinstance(batch, FeatureBatch):
            if active is None:
                raise ValueError("expected batches of images, got features")
            return active(_features(batch, compute), training=False)
        return model(device_half(batch.image, batch.draw), training=False)

    def replica_step(batch: Batch | FeatureBatch) -> tuple[tf.Tensor, tf.Tensor]:
        probability = classify(batch)
        return probability, cross_entropy(batch.label, probability)

    compiled = tf.function(replica_step, jit_compile=compute.jit_compile)

    @tf.function
    def predict_step(batch: Batch | FeatureBatch) -> tuple[Any, Any]:
        return compute.strategy.run(compiled, args=(batch,))

    return predict_step


def build_evaluate_step(
    predict: Callable[[Any], tuple[Any, Any]],
    *,
    compute: Compute,
    encode: Encode | None = None,
) -> SumStep:
    """The sums of a predict step, for validation; `predict` is traced once for both.

    Args:
        predict: of `build_predict_step`.
        compute: its strategy.
        encode: the frozen part, if `predict` is to take its features.
    """

    def replica_sums(batch: Any, probability: tf.Tensor, loss: tf.Tensor) -> StepSums:
        return _sums(batch, probability, loss)

    @tf.function
    def add_up(
        batch: Any, probability: Any, loss: Any, wish: tf.Tensor | None
    ) -> StepSums:
        sums = compute.strategy.run(replica_sums, args=(batch, probability, loss))
        return _add_up(compute, sums, wish)

    def evaluate_step(batch: Any, wish: tf.Tensor | None = None) -> StepSums:
        taken = _encoded(batch, encode)
        return add_up(taken, *predict(taken), wish)

    return evaluate_step


def _add_up(compute: Compute, sums: StepSums, wish: tf.Tensor | None) -> StepSums:
    """Over all replicas, by one collective operation."""

    def pack(own: StepSums) -> tf.Tensor:
        wishes = own.wishes if wish is None else wish
        return tf.stack([own.loss, own.correct, own.count, wishes])

    packed = compute.strategy.run(pack, args=(sums,))
    total = compute.strategy.reduce("SUM", packed, axis=None)
    return StepSums(*tf.unstack(total, num=len(StepSums._fields)))
