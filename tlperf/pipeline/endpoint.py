"""Where a tf.data service is, and what is refused before anything is built.

    check_service(config, file_format="tfrecord")    # 78 refused, 69 no dispatcher

Without TensorFlow, so that a job is refused before its processes start.
"""

import socket

from tlperf.core.choices import Cache, Decode, Format
from tlperf.core.errors import ExitCode, TlperfError
from tlperf.core.settings import InputConfig

# A dispatcher that is there answers within a network round trip.
_CONNECT_SECS = 3.0
# What TensorFlow's clients ask first; an empty message is asked and a short one comes.
_ASKED = "/tensorflow.data.DispatcherService/GetVersion"


def check_service(config: InputConfig, *, file_format: str) -> None:
    """Stops where `config.data_service` cannot be used.

    Raises:
        TlperfError: exit code 78, where its workers could not make what is asked for;
            69, where no dispatcher answers at its address.
    """
    check_service_settings(config, file_format=file_format)
    check_dispatcher(config.data_service)


def check_service_settings(config: InputConfig, *, file_format: str) -> None:
    """Stops where a service's workers could not make what is asked for.

    Raises:
        TlperfError: exit code 78.
    """
    for is_refused, flag, use in (
        (file_format != Format.TFRECORD, f"--format={file_format}", "tfrecord"),
        (config.cache is not Cache.NONE, f"--cache={config.cache}", "none"),
        (config.decode is not Decode.EXACT, f"--decode={config.decode}", "exact"),
    ):
        if is_refused:
            raise TlperfError(
                ExitCode.CONFIG,
                "service_refused",
                found=f"--data_service does not work with {flag}",
                remedy=f"use {flag.partition('=')[0]}={use}, or no --data_service",
            )


def check_dispatcher(address: str) -> None:
    """Stops where no dispatcher answers at `address`, [grpc://]HOST:PORT.

    Raises:
        TlperfError: exit code 69.
    """
    found = find_unreachable(address)
    if found:
        raise TlperfError(
            ExitCode.UNAVAILABLE,
            "no_dispatcher",
            found=found,
            remedy="start one with tlperf serve --port=PORT",
        )


def find_unreachable(address: str) -> str | None:
    """Why no dispatcher can be reached at [grpc://]HOST:PORT; None where one answers,
    so that TensorFlow, which asks for ever, need not find out."""
    place = address.removeprefix("grpc://")
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection(
            (host.strip("[]"), int(port)), timeout=_CONNECT_SECS
        ).close()
    except (OSError, UnicodeError) as error:  # a name that is none
        why = getattr(error, "strerror", None) or error
        return f"no dispatcher answers at {address} ({why})"
    import grpc  # only where there is somebody to ask

    with grpc.insecure_channel(place) as channel:
        try:
            channel.unary_unary(_ASKED)(b"", timeout=_CONNECT_SECS)
        except grpc.RpcError as error:
            _, why = error.code().value
            return f"what answers at {address} is no dispatcher ({why})"
    return None
