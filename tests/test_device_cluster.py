"""Worker processes: what TF_CONFIG may say, and their meeting before they train."""

import concurrent.futures
import json
import socket
import time

import pytest

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.device.cluster import Cluster, find_cluster, meet


def tf_config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"TF_CONFIG": " "}, None),
        ({"TF_CONFIG": "{}"}, None),
        (tf_config({"worker": ["a:1"]}, {"type": "worker", "index": 0}), None),
        (
            tf_config({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 1}),
            Cluster(("a:1", "b:1"), 1),
        ),
        (
            tf_config(
                {"chief": ["c:1"], "worker": ["a:1"]}, {"type": "worker", "index": 0}
            ),
            Cluster(("c:1", "a:1"), 1),
        ),
        (
            tf_config(
                {"chief": ["c:1"], "worker": ["a:1"]}, {"type": "chief", "index": 0}
            ),
            Cluster(("c:1", "a:1"), 0),
        ),
    ],
)
def test_who_trains_together(environment, found):
    assert find_cluster(environment) == found


TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG: Expecting"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG: 'list' object has no attribute 'get'"),
        ({"TF_CONFIG": json.dumps({"cluster": TWO})}, "it has no 'task'"),
        (tf_config(TWO, {"type": "worker"}), "it has no 'index'"),
        (tf_config(TWO, {"type": "worker", "index": 2}), "no worker 2 among 2"),
        (tf_config(TWO, {"type": "ps", "index": 0}), "'ps' is neither chief nor"),
        (
            tf_config({**TWO, "ps": ["c:1"]}, {"type": "worker", "index": 0}),
            "its tasks ps are none of tlperf's",
        ),
        (
            tf_config({"worker": ["a:1", "a:1"]}, {"type": "worker", "index": 0}),
            "a:1 is named twice",
        ),
        (
            tf_config({"worker": ["a:1", "b"]}, {"type": "worker", "index": 0}),
            "'b' is no HOST:PORT",
        ),
    ],
)
def test_what_is_no_cluster_is_refused(environment, text):
    with pytest.raises(TlperfError, match="bad_tf_config") as caught:
        find_cluster(environment)
    assert caught.value.code == ExitCode.CONFIG
    assert text in str(caught.value)


@pytest.fixture
def addresses():
    """Of four workers on this machine."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    found = tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in holders)
    for one in holders:
        one.close()
    return found


def meet_all(addresses, workers, facts, *, timeout_secs):
    """What each of the workers that come raises, or None."""

    def come(worker):
        try:
            meet(Cluster(addresses, worker), facts[worker], timeout_secs=timeout_secs)
        except TlperfError as error:
            return error
        return None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(come, workers))


SAME = {worker: {"backbone": "xception", "epochs": 3} for worker in range(4)}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_workers_that_are_alike_go_on_together(addresses, order):
    assert meet_all(addresses, order, SAME, timeout_secs=20) == [None] * 4
    # The chief's port is free again: TensorFlow takes it.
    socket.create_server(("", int(addresses[0].rpartition(":")[2]))).close()


def test_a_worker_that_does_not_come_is_named_by_all(addresses):
    found = meet_all(addresses, (0, 2, 3), SAME, timeout_secs=3)
    for error in found:
        assert error.code == ExitCode.UNAVAILABLE
        assert f"worker 1 ({addresses[1]}) did not come within 3 s" in str(error)


def test_a_chief_that_does_not_come_is_named(addresses):
    (error,) = meet_all(addresses[:2], (1,), SAME, timeout_secs=0.5)
    assert error.reason == "workers_missing"
    assert f"worker 0 ({addresses[0]}) did not come within 0.5 s" in str(error)


def test_workers_that_would_train_otherwise_are_told_what_differs(addresses):
    facts = {**SAME, 2: {"backbone": "xception", "epochs": 4}}
    for error in meet_all(addresses[:3], (0, 1, 2), facts, timeout_secs=20):
        assert error.code == ExitCode.CONFIG
        assert f"worker 2 ({addresses[2]}) differs from worker 0" in str(error)
        assert "epochs 4 instead of 3" in str(error)


def test_a_port_that_is_taken_is_named(addresses):
    with socket.create_server(("", int(addresses[0].rpartition(":")[2]))):
        (error,) = meet_all(addresses, (0,), SAME, timeout_secs=5)
    assert error.code == ExitCode.UNAVAILABLE
    assert f"worker 0 cannot listen on {addresses[0]}" in str(error)


def test_who_is_no_worker_is_let_go(addresses):
    host, _, port = addresses[0].rpartition(":")
    two = addresses[:2]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(meet_all, two, (0,), SAME, timeout_secs=20)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"worker": 7}\n', b""):
            with connect(host, int(port)) as stranger:
                stranger.sendall(words)
        assert meet_all(two, (1,), SAME, timeout_secs=20) == [None]
        assert chief.result() == [None]


def connect(host, port):
    """A connection to a server that is about to start."""
    for _ in range(200):
        try:
            return socket.create_connection((host, port))
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens on {host}:{port}")


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_tensorflow_is_told_what_each_worker_has(two_cpus, gpus):
    """Or it takes the CPU of a machine whose GPUs nobody told it of."""
    from tlperf.device.workers import build_resolver

    resolver = build_resolver(Cluster(("a:1", "b:1"), 1), gpus=gpus)
    assert resolver.num_accelerators() == {"GPU": gpus}
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert resolver.cluster_spec().as_dict() == {"worker": ["a:1", "b:1"]}
