"""Training together with other processes: their strategy, and what they tell another.

    strategy = join_strategy(cluster, startup_timeout=120)
    data = share_bytes(strategy, data, is_chief=True)      # the chief's, everywhere
    agree(strategy, is_good)                               # whether it is so everywhere
    with naming_lost_workers(): ...                        # exit code 75 where one went

All workers call `share_bytes` and `agree`, in the same order.
"""

import contextlib
import re
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.device.cluster import Cluster

# A worker that is silent for so long is taken for dead: long enough for a machine that
# swaps, short enough for the others to end within a minute.
HEARTBEAT_SECS = 20.0

# From one question to the other workers to the next.
_CHECK_SECS = 5.0
# Of what the chief tells in one piece.
_PIECE_BYTES = 64 << 20

# What a collective operation raises where a worker went away.
_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def join_strategy(
    cluster: Cluster, *, gpus: int, startup_timeout: float
) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy of all workers, each of which has its visible GPUs, or one CPU.

    Args:
        cluster: they have met.
        gpus: that this process sees.
        startup_timeout: seconds for TensorFlow to connect them.

    Raises:
        TlperfError: 69 where they do not connect.
    """
    # TensorFlow's own choice would wait for an hour for a worker that has gone, and
    # take one for dead that did not answer for ten seconds.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(startup_timeout * 1000),
        heartbeat_timeout_in_ms=int(HEARTBEAT_SECS * 1000),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(
                name="worker", num_tasks=len(cluster.addresses)
            )
        ],
    )
    # Or the timeout would be for reaching the first worker alone.
    context.context().coordination_service.cluster_register_with_barrier = True
    resolver = build_resolver(cluster, gpus=gpus)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "workers_missing",
            found=f"{cluster.named([cluster.worker])} cannot train with the others "
            f"({str(error).splitlines()[0]})",
            remedy="see what the other workers say, and start all of them again",
        ) from error


def build_resolver(
    cluster: Cluster, *, gpus: int
) -> tf.distribute.cluster_resolver.ClusterResolver:
    """The workers as TensorFlow asks for them; it would take the CPU of a worker whose
    number of GPUs is not told."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.worker,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )


class PeerCheck:
    """Notices, while this process computes for itself, that another one is gone.

    Args:
        workers: processes that train together.
        worker: which of them this is.
    """

    def __init__(self, *, workers: int, worker: int):
        self._others = [one for one in range(workers) if one != worker]
        self._next = 0.0

    def look(self) -> None:
        """Asks the others, every few seconds; raises TensorFlow's error where one does
        not answer."""
        if not self._others or time.monotonic() < self._next:
            return
        for worker in self._others:
            context.context().check_collective_ops_peer_health(
                f"/job:worker/replica:0/task:{worker}",
                timeout_in_ms=int(HEARTBEAT_SECS * 1000),
            )
        self._next = time.monotonic() + _CHECK_SECS


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turns TensorFlow's error for a worker that went away into exit code 75."""
    try:
        yield
    except _LOST as error:
        raise TlperfError(
            ExitCode.RETRY,
            "worker_lost",
            found=f"another worker went away ({_find_why(error)})",
            remedy="start all workers again with --resume",
        ) from error


def _find_why(error: Exception) -> str:
    """The part of a graph's error that tells."""
    text = str(error).strip()
    told = re.search(r"Collective ops is aborted by: (.+)", text)
    why = told[1] if told else text.splitlines()[0]
    return why.rstrip(".")


def agree(strategy: tf.distribute.Strategy, is_good: bool, *, workers: int) -> bool:
    """Whether something is so in every process."""
    return bool(_sum(strategy, np.array([is_good], np.int32))[0] == workers)


def share_bytes(
    strategy: tf.distribute.Strategy, data: bytes, *, is_chief: bool
) -> bytes:
    """The chief's bytes; those of the others are not read."""
    own = data if is_chief else b""
    (total,) = _sum(strategy, np.array([len(own)], np.int64)).tolist()
    shared = bytearray()
    for start in range(0, total, _PIECE_BYTES):
        size = min(_PIECE_BYTES, total - start)
        piece = own[start : start + size].ljust(-(-size // 4) * 4, b"\0")
        shared += _sum(strategy, np.frombuffer(piece, np.int32)).tobytes()[:size]
    return bytes(shared)


def _sum(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """The sum over all processes of what each has: int32 or int64 [N]."""

    def of_replica(place: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        is_first = place.replica_id_in_sync_group % local == 0  # of this process
        return tf.constant(values if is_first else np.zeros_like(values))

    def add(own: tf.Tensor) -> tf.Tensor:
        placed = tf.identity(own)  # on the replica's device
        return tf.distribute.get_replica_context().all_reduce("SUM", placed)

    @tf.function(autograph=False)
    def add_up(x: tf.Tensor) -> tf.Tensor:
        return strategy.run(add, args=(x,))

    local = len(strategy.extended.worker_devices)
    total = add_up(strategy.experimental_distribute_values_from_function(of_replica))
    first, *_ = strategy.experimental_local_results(total)
    return np.asarray(first)
