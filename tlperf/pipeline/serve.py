"""A dispatcher or a worker of the tf.data service, in this process.

    server = start_server(ServeConfig(port=5050, allow_public_bind=True))
    server.facts          # {"role": "dispatcher", "address": "grpc://localhost:5050"}
    server.wait()         # until SIGTERM or SIGINT

The dispatcher deals the steps of an epoch to the workers, which read the data directory
themselves: it must be there under the same path.
"""

import dataclasses
import os
import pathlib
import re
import signal
import sys
import threading
from typing import Any, NoReturn

from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.network import check_private
from tlperf.core.quiet import quiet_stderr
from tlperf.core.setting_checks import is_host_and_port
from tlperf.pipeline.endpoint import check_dispatcher

# How often a worker tells the dispatcher that it is there, and finds a restarted one.
_HEARTBEAT_SECS = 2.0


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """One server.

    Attributes:
        dispatcher: HOST:PORT of the dispatcher that a worker is for; "" makes a
            dispatcher.
        port: to listen on; 0 takes a free one.
        worker_host: the name by which others reach this machine.
        journal_dir: where a dispatcher keeps what it needs to go on after a restart;
            "" keeps nothing.
        allow_public_bind: listen although other machines can reach this one.
    """

    dispatcher: str = ""
    port: int = 0
    worker_host: str = "localhost"
    journal_dir: str = ""
    allow_public_bind: bool = False

    def __post_init__(self) -> None:
        for is_good, name, value, remedy in (
            (
                not self.dispatcher or is_host_and_port(self.dispatcher),
                "dispatcher",
                self.dispatcher,
                "give HOST:PORT",
            ),
            (0 <= self.port <= 65535, "port", self.port, "give 0 to 65535"),
            (
                bool(re.fullmatch(r"[^\s/]+", self.worker_host)),
                "worker_host",
                self.worker_host,
                "give a host name",
            ),
            (
                not (self.journal_dir and self.dispatcher),
                "journal_dir",
                self.journal_dir,
                "give it to the dispatcher: workers have no journal",
            ),
        ):
            if not is_good:
                raise SettingsError(f"{name} is {value!r}", remedy)

    @property
    def role(self) -> str:
        """What it is in the service."""
        return "worker" if self.dispatcher else "dispatcher"


class Server:
    """A server that runs.

    Attributes:
        facts: its role and address.
    """

    def __init__(self, running: Any, facts: dict[str, Any]):
        self._running = running
        self.facts = facts
        self._asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())

    def wait(self) -> NoReturn:
        """Ends the process with exit code 0 once it is asked to."""
        self._asked.wait()
        sys.stdout.flush()
        # TensorFlow's own end waits for peers that may be gone. What a worker was
        # making is made by the client; a journal is on disk before it is acted upon.
        os._exit(ExitCode.OK)


def start_server(config: ServeConfig) -> Server:
    """Starts a dispatcher, or a worker that is known to its dispatcher.

    Raises:
        TlperfError: 78 where others would reach it, 69 where there is no dispatcher or
            the port is taken.
    """
    check_private(allow_public_bind=config.allow_public_bind)
    if config.dispatcher:
        check_dispatcher(config.dispatcher)
    with quiet_stderr():
        import tensorflow as tf

    try:
        if config.dispatcher:
            return _start_worker(config, tf.data.experimental.service)
        return _start_dispatcher(config, tf.data.experimental.service)
    except (tf.errors.OpError, RuntimeError) as error:  # gRPC's has no other name
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "no_server",
            found=f"the {config.role} does not start on port {config.port} ({error})",
            remedy="give another --port; 0 takes a free one",
        ) from error


def _start_dispatcher(config: ServeConfig, service: Any) -> Server:
    if config.journal_dir:
        pathlib.Path(config.journal_dir).mkdir(parents=True, exist_ok=True)
    running = service.DispatchServer(
        service.DispatcherConfig(
            port=config.port,
            protocol="grpc",
            work_dir=config.journal_dir or None,
            fault_tolerant_mode=bool(config.journal_dir),
        )
    )
    port = running.target.rpartition(":")[2]
    address = f"grpc://{config.worker_host}:{port}"
    return Server(running, {"role": config.role, "address": address})


def _start_worker(config: ServeConfig, service: Any) -> Server:
    running = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=config.dispatcher.removeprefix("grpc://"),
            worker_address=f"{config.worker_host}:%port%",
            port=config.port,
            protocol="grpc",
            heartbeat_interval_ms=int(_HEARTBEAT_SECS * 1000),
            data_transfer_address=f"{config.worker_host}:%dts_port%",
        )
    )
    port = running._address.rpartition(":")[2]  # there is no public name of it
    return Server(
        running, {"role": config.role, "address": f"{config.worker_host}:{port}"}
    )
