"""What the replicas of one network share, and what each has for itself.

    average = build_averaging(classifier.active, compute)   # inside the train step
    average()
    separate_dropout(classifier.active, compute)            # once, and after restoring

Keras 3 lets each replica move its own copy of BatchNormalization's statistics, and
draws the same dropout masks on all of them. So without this the replicas' networks
would drift apart, a checkpoint would hold the first one's alone, and a batch split over
N replicas would see a mask N times.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tlperf.device.setup import Compute

# Between the seeds of two replicas.
_SEED_STRIDE = 1_000_003


def build_averaging(active: keras.Model, compute: Compute) -> Callable[[], None]:
    """What a replica does after its step: its moving statistics become the mean of all
    replicas', by one collective operation.

    Variances stay those within a replica's part of the batch, as they are with
    gradients; only replicas that share a batch's statistics would do otherwise.
    """
    moved = [
        variable
        for layer in active.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for variable in (layer.moving_mean, layer.moving_variance)
    ]

    def average() -> None:
        flat = tf.concat([tf.reshape(one.value, [-1]) for one in moved], axis=0)
        mean = tf.distribute.get_replica_context().all_reduce("MEAN", flat)
        parts = tf.split(mean, [one.shape.num_elements() for one in moved])
        for variable, part in zip(moved, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))

    if compute.replicas == 1 or not moved:
        return lambda: None
    return average


def separate_dropout(active: keras.Model, compute: Compute) -> None:
    """Gives each replica seeds of its own, the first one those that there are."""
    if compute.replicas == 1:
        return
    states = [
        variable
        for variable in active.non_trainable_variables
        if variable.path.endswith("seed_generator_state")
    ]

    def of_replica() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            shift = tf.stack([replica * _SEED_STRIDE, 0])
            state.assign(state.value + tf.cast(shift, state.dtype))

    @tf.function(autograph=False)
    def separate() -> None:
        compute.strategy.run(of_replica)

    separate()
