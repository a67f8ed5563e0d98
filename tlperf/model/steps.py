"""The compiled steps: device half of input, forward pass, train step.

    train_step = build_train_step(classifier, optimizer, compute=compute, ...)
    sums = train_step(batch)              # StepSums of this batch, over all replicas
    predict = build_predict_step(classifier.whole, compute=compute, ...)
    probabilities, losses = predict(batch)
    sums = build_evaluate_step(predict, compute=compute)(batch)

A step is one `tf.function`; inside it `strategy.run` runs the replica's part. Values
stay on the device: reading a StepSums is what makes the host wait.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tlperf.core.batch import Batch
from tlperf.core.choices import Augment
from tlperf.device.setup import Compute
from tlperf.model.build import Classifier
from tlperf.model.preprocess import build_device_half
from tlperf.reference.backbones import Normalisation


class StepSums(NamedTuple):
    """Sums over the images of a step that count; scalars float32."""

    loss: Any
    correct: Any
    count: Any


def cross_entropy(label: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each image, float32 [B]; from the logits where Keras finds them.

    Args:
        label: int32 [B].
        probability: float32 [B, C], the output of a softmax.
    """
    return keras.ops.sparse_categorical_crossentropy(label, probability)


def _sums(batch: Batch, probability: tf.Tensor, loss: tf.Tensor) -> StepSums:
    predicted = tf.argmax(probability, axis=-1, output_type=tf.int32)
    hit = tf.cast(tf.equal(predicted, batch.label), tf.float32)
    return StepSums(
        loss=tf.reduce_sum(loss * batch.weight),
        correct=tf.reduce_sum(hit * batch.weight),
        count=tf.reduce_sum(batch.weight),
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


def build_train_step(
    classifier: Classifier,
    optimizer: keras.optimizers.Optimizer,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    batch_size: int,
) -> Callable[[Batch], StepSums]:
    """The train step; updates the active variables and returns the batch's sums.

    The loss is the mean over the global batch: each replica divides its sum by
    `batch_size` and the optimiser sums gradients over replicas. The frozen part runs in
    inference mode outside the gradient tape, so its activations are not kept and its
    dropout and drop-connect layers pass everything; Keras' `fit` drops there.

    Args:
        classifier: built in the strategy's scope.
        optimizer: built in the strategy's scope for `active.trainable_variables`.
        compute: strategy and XLA policy.
        normalisation: of the device half of input.
        augmentation: of the device half of input.
        batch_size: global batch.
    """
    replica_step = build_replica_step(
        classifier,
        optimizer,
        compute=compute,
        normalisation=normalisation,
        augmentation=augmentation,
        batch_size=batch_size,
    )
    compiled = tf.function(replica_step, jit_compile=compute.jit_compile)

    @tf.function
    def train_step(batch: Batch) -> StepSums:
        sums = compute.strategy.run(compiled, args=(batch,))
        return _reduce_sum(compute.strategy, sums)

    return train_step


def build_replica_step(
    classifier: Classifier,
    optimizer: keras.optimizers.Optimizer,
    *,
    compute: Compute,
    normalisation: Normalisation,
    augmentation: Augment,
    batch_size: int,
) -> Callable[[Batch], StepSums]:
    """What one replica does in a train step, with the device half of input; arguments
    as of `build_train_step`, which compiles it."""
    variables = classifier.active.trainable_variables
    device_half = build_device_half(
        compute, normalisation=normalisation, augmentation=augmentation
    )

    def replica_step(batch: Batch) -> StepSums:
        x = device_half(batch.image, batch.draw)
        if classifier.frozen is not None:
            x = classifier.frozen(x, training=False)
        with tf.GradientTape() as tape:
            probability = classifier.active(x, training=True)
            losses = cross_entropy(batch.label, probability)
            sums = _sums(batch, probability, losses)
            loss = optimizer.scale_loss(sums.loss / batch_size)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(_agree_on_overflow(gradients, optimizer, compute), variables)
        return sums

    return replica_step


def _agree_on_overflow(
    gradients: list[tf.Tensor],
    optimizer: keras.optimizers.Optimizer,
    compute: Compute,
) -> list[tf.Tensor]:
    """Under loss scaling, one replica's overflow makes every replica skip the step.

    Keras 3.15's LossScaleOptimizer takes the first replica's word for all, before the
    gradients are summed: an overflow elsewhere would reach the weights.
    """
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if compute.replicas == 1 or not is_scaled:
        return gradients
    finite = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
    )
    context = tf.distribute.get_replica_context()
    bad = context.all_reduce("SUM", 1.0 - tf.cast(finite, tf.float32))
    return [
        tf.where(bad > 0, tf.constant(float("nan"), gradient.dtype), gradient)
        for gradient in gradients
    ]


def build_predict_step(
    model: keras.Model, *, compute: Compute, normalisation: Normalisation
) -> Callable[[Batch], tuple[Any, Any]]:
    """The inference step: `(probabilities [B, C], losses [B])`, float32 per replica."""
    device_half = build_device_half(
        compute, normalisation=normalisation, augmentation=Augment.NONE
    )

    def replica_step(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        x = device_half(batch.image, batch.draw)
        probability = model(x, training=False)
        return probability, cross_entropy(batch.label, probability)

    compiled = tf.function(replica_step, jit_compile=compute.jit_compile)

    @tf.function
    def predict_step(batch: Batch) -> tuple[Any, Any]:
        return compute.strategy.run(compiled, args=(batch,))

    return predict_step


def build_evaluate_step(
    predict: Callable[[Batch], tuple[Any, Any]], *, compute: Compute
) -> Callable[[Batch], StepSums]:
    """The sums of a predict step, for validation; `predict` is traced once for both."""

    def replica_sums(batch: Batch, probability: tf.Tensor, loss: tf.Tensor) -> StepSums:
        return _sums(batch, probability, loss)

    @tf.function
    def add_up(batch: Batch, probability: Any, loss: Any) -> StepSums:
        sums = compute.strategy.run(replica_sums, args=(batch, probability, loss))
        return _reduce_sum(compute.strategy, sums)

    def evaluate_step(batch: Batch) -> StepSums:
        return add_up(batch, *predict(batch))

    return evaluate_step


def _reduce_sum(strategy: tf.distribute.Strategy, sums: StepSums) -> StepSums:
    return StepSums(*(strategy.reduce("SUM", value, axis=None) for value in sums))
