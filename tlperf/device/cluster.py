"""The worker processes of one training, as `TF_CONFIG` names them; needs no TensorFlow.

    cluster = find_cluster(os.environ)     # None where this process trains alone
    cluster.worker, cluster.addresses
    meet(cluster, {"backbone": "xception"}, timeout_secs=120)   # all are there, alike

`TF_CONFIG` is what TensorFlow's own tools read:
`{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}`.

TensorFlow waits for ever for a worker that never comes, and does not notice one that
trains something else. So workers meet first: the chief listens on its own port, which
TensorFlow takes over afterwards, and each of the others tells it what it is about to
do.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.setting_checks import is_host_and_port

VARIABLE = "TF_CONFIG"

# A worker asks for its chief again after so long.
_RETRY_SECS = 0.3
# Who connects says what it is within this time, and who listens answers.
_ANSWER_SECS = 5.0
# Longest line of a greeting.
_LINE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train together.

    Attributes:
        addresses: HOST:PORT of each; the first is the chief's, who writes checkpoints.
        worker: which of them this process is, from 0.
    """

    addresses: tuple[str, ...]
    worker: int

    @property
    def is_chief(self) -> bool:
        """Whether this process is the first worker."""
        return self.worker == 0

    def named(self, workers: Sequence[int]) -> str:
        """Workers with their addresses, for people."""
        return ", ".join(f"worker {one} ({self.addresses[one]})" for one in workers)


def find_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The workers of `TF_CONFIG`; None where there are fewer than two.

    Raises:
        TlperfError: exit code 78, where it is not of the form above.
    """
    text = environment.get(VARIABLE, "")
    if not text.strip():
        return None
    try:
        values = json.loads(text)
        tasks = values.get("cluster", {})
        addresses = [*tasks.get("chief", []), *tasks.get("worker", [])]
        others = sorted(set(tasks) - {"chief", "worker"})
        if others:
            raise ValueError(f"its tasks {', '.join(others)} are none of tlperf's")
        if len(addresses) < 2:
            return None
        task = values["task"]
        worker = int(task["index"])
        if task["type"] == "worker":
            worker += len(tasks.get("chief", []))
        elif task["type"] != "chief":
            raise ValueError(f"task type {task['type']!r} is neither chief nor worker")
        _check_addresses(addresses, worker)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        missing = isinstance(error, KeyError)
        raise TlperfError(
            ExitCode.CONFIG,
            "bad_tf_config",
            found=f"{VARIABLE}: {f'it has no {error}' if missing else error}",
            remedy='give {"cluster": {"worker": ["HOST:PORT", ...]}, '
            '"task": {"type": "worker", "index": 0}}',
        ) from error
    return Cluster(tuple(addresses), worker)


def _check_addresses(addresses: Sequence[str], worker: int) -> None:
    bad = [one for one in addresses if not is_host_and_port(one)]
    if bad:
        raise ValueError(f"{bad[0]!r} is no HOST:PORT")
    twice = sorted({one for one in addresses if addresses.count(one) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    if not 0 <= worker < len(addresses):
        raise ValueError(f"there is no worker {worker} among {len(addresses)}")


def meet(cluster: Cluster, facts: Mapping[str, Any], *, timeout_secs: float) -> None:
    """Waits until all workers are there, about to do the same.

    Args:
        cluster: who.
        facts: plain values by name that have to be equal everywhere.
        timeout_secs: at most this long.

    Raises:
        TlperfError: 69 where workers are missing, which are named, or the chief's port
            is taken; 78 where facts differ.
    """
    plain = json.loads(json.dumps(facts))
    way = _host if cluster.is_chief else _join
    asyncio.run(way(cluster, plain, timeout_secs))


class _Lobby:
    """Who has come to the chief."""

    def __init__(self, cluster: Cluster, facts: dict[str, Any]):
        self._cluster, self._facts = cluster, facts
        self._present: dict[int, asyncio.StreamWriter] = {}
        self._different: TlperfError | None = None
        self._greetings: set[asyncio.Task[None] | None] = set()
        self.is_settled = asyncio.Event()

    async def greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Takes a connection; who is no worker (a health check, a scanner) is let
        go."""
        self._greetings.add(asyncio.current_task())
        try:
            line = await asyncio.wait_for(reader.readline(), _ANSWER_SECS)
            hello = json.loads(line)
            worker, facts = int(hello["worker"]), dict(hello["facts"])
            if not 0 < worker < len(self._cluster.addresses):
                raise ValueError(f"no worker {worker}")
        except (OSError, KeyError, TypeError, ValueError, TimeoutError):
            writer.close()
            return
        self._present[worker] = writer
        differing = _differing(self._facts, facts)
        if differing:
            self._different = TlperfError(
                ExitCode.CONFIG,
                "workers_differ",
                found=f"{self._cluster.named([worker])} differs from worker 0: "
                f"{'; '.join(differing)}",
                remedy="start all workers with the same command and the same data",
            )
        if len(self._present) == len(self._cluster.addresses) - 1:
            self.is_settled.set()
        with contextlib.suppress(OSError):
            await reader.read()  # until it has its answer, or goes away
        if not self.is_settled.is_set() and self._present.get(worker) is writer:
            del self._present[worker]

    def failure(self, timeout_secs: float) -> TlperfError | None:
        """What is wrong; None where all is well."""
        everybody = range(1, len(self._cluster.addresses))
        missing = [one for one in everybody if one not in self._present]
        if self._different or not missing:
            return self._different
        return _missing(self._cluster.named(missing), timeout_secs)

    async def answer(self, failure: TlperfError | None) -> None:
        """Tells those that are there."""
        told = None
        if failure is not None:
            names = ("reason", "found", "remedy")
            told = {name: getattr(failure, name) for name in names}
            told["code"] = int(failure.code)
        self.is_settled.set()  # from now on who goes away stays counted
        for writer in [*self._present.values()]:
            with contextlib.suppress(OSError):
                writer.write(json.dumps({"failure": told}).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), _ANSWER_SECS)
            writer.close()
        tasks = [one for one in self._greetings if one is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_ANSWER_SECS)


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [
        f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _missing(names: str, timeout_secs: float) -> TlperfError:
    return TlperfError(
        ExitCode.UNAVAILABLE,
        "workers_missing",
        found=f"{names} did not come within {timeout_secs:g} s",
        remedy="start every worker of TF_CONFIG, see that they reach each other, or "
        "give a longer --startup_timeout",
    )


async def _host(cluster: Cluster, facts: dict[str, Any], timeout_secs: float) -> None:
    lobby = _Lobby(cluster, facts)
    address = cluster.addresses[0]
    port = int(address.rpartition(":")[2])
    try:
        server = await asyncio.start_server(lobby.greet, port=port, limit=_LINE_BYTES)
    except OSError as error:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "port_taken",
            found=f"worker 0 cannot listen on {address} ({error.strerror or error})",
            remedy="end what listens there, or name another port in TF_CONFIG",
        ) from error
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lobby.is_settled.wait(), timeout_secs)
        failure = lobby.failure(timeout_secs)
        await lobby.answer(failure)
    finally:
        server.close()
    if failure is not None:
        raise failure


async def _join(cluster: Cluster, facts: dict[str, Any], timeout_secs: float) -> None:
    host, _, port = cluster.addresses[0].rpartition(":")
    end = time.monotonic() + timeout_secs
    was_there = False
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(host.strip("[]"), int(port), limit=_LINE_BYTES),
                left,
            )
            was_there = True
            try:
                hello = {"worker": cluster.worker, "facts": facts}
                writer.write(json.dumps(hello).encode() + b"\n")
                # The chief may have come later, and gives up later.
                line = await asyncio.wait_for(reader.readline(), left + timeout_secs)
            finally:
                writer.close()
            with contextlib.suppress(ValueError):  # another program's answer, or none
                if (failure := json.loads(line)["failure"]) is not None:
                    _raise(**failure)
                return
        await asyncio.sleep(_RETRY_SECS)
    if was_there:
        raise _missing("other workers", timeout_secs)
    raise _missing(cluster.named([0]), timeout_secs)


def _raise(code: int, reason: str, found: str, remedy: str) -> NoReturn:
    """What the chief found."""
    raise TlperfError(ExitCode(code), reason, found=found, remedy=remedy)
