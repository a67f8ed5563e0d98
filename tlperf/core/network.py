"""Who reaches the servers that TensorFlow starts: they listen on every interface.

find_public_interfaces()                         # ["eth0"]: servers are open there
check_private(allow_public_bind=False)           # raises there
"""

import os
import pathlib
import socket

from tlperf.core.errors import ExitCode, TlperfError

# Bits of an interface's flags (netdevice(7)).
_UP, _LOOPBACK = 0x1, 0x8
# A folder for each interface, as Linux shows them.
_INTERFACES = pathlib.Path("/sys/class/net")


def find_public_interfaces(root: pathlib.Path = _INTERFACES) -> list[str]:
    """Network interfaces that are up, without loopback: who reaches one of them reaches
    a server that listens on all."""
    folders = [path for path in root.glob("*") if path.is_dir()]
    if not folders:  # another system: what is there may be up
        names = [name for _, name in socket.if_nameindex()]
        return sorted(name for name in names if not name.startswith("lo"))
    return sorted(path.name for path in folders if is_public(_flags_of(path)))


def _flags_of(folder: pathlib.Path) -> int:
    try:
        return int((folder / "flags").read_text(), 16)
    except (OSError, ValueError):
        return _UP  # not known: taken for one that is


def is_public(flags: int) -> bool:
    """Whether an interface of these flags is up, and not loopback.

    >>> is_public(0x1003), is_public(0x82), is_public(0x9)
    (True, False, False)
    """
    return bool(flags & _UP) and not flags & _LOOPBACK


def check_private(*, allow_public_bind: bool, root: pathlib.Path = _INTERFACES) -> None:
    """Stops a server that others on the network would reach, unless that is allowed.

    Raises:
        TlperfError: exit code 78.
    """
    public = find_public_interfaces(root)
    if public and not allow_public_bind:
        raise TlperfError(
            ExitCode.CONFIG,
            "public_bind",
            found="TensorFlow's servers listen on every interface, here also on "
            f"{', '.join(public)}, and whoever reaches one can run programs and read "
            f"files as user {os.getuid()}",
            remedy="close the port to others and give --allow_public_bind",
        )
