"""Ports of this machine that nobody uses: for demonstrations, tests and processes that only speak to each other."""

import secrets
import socket
from contextlib import closing
from typing import Final

from primum.errors import MachineError

_FIRST: Final = 10_000
_LAST: Final = 32_767
"""Below what Linux (32768), macOS and Windows (49152) lend to outgoing connections: a port that the system has just
named free is often lent to the next connection, before the process that was told of it listens there."""

_TRIES: Final = 200


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody uses now and that no outgoing connection is given. MachineError if none is found."""
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST + 1)
        with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise MachineError(f"No free port was found at {host}.", "Name the ports yourself, or stop what uses so many.")
