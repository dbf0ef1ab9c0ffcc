"""Free ports: nobody listens there, and no outgoing connection is given one between the asking and the listening."""

import socket

import pytest

import primum.ports
from primum.errors import MachineError
from primum.ports import free_port


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] < 32_768


def test_a_port_in_use_is_never_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(primum.ports, "_FIRST", taken)
        monkeypatch.setattr(primum.ports, "_LAST", taken)
        with pytest.raises(MachineError, match="No free port"):
            free_port()
