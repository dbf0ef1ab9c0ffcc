"""A coordinator's own checks: its port, its certificate's dates, Flower's SuperLink."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from primum.doctor.certificate import TIMEOUT, WRONG
from primum.doctor.findings import FAILED, OK, WARNING, Finding
from primum.errors import InputError, MachineError
from primum.federation.scientist import Desk
from primum.federation.way import host_and_port
from primum.keys.certificate import WARN_DAYS, client_context, days_left


def examine_coordinator(state: Path) -> Iterator[Finding]:
    """SuperLink, the port: free, or ours; and its certificate's dates."""
    yield _superlink()
    path = state / "coordinator.toml"
    if not path.exists():
        todo = "It is made at the first start: primum coordinator --state STATE."
        yield Finding("coordinator", WARNING, f"{state} has never been a coordinator's", todo)
        return
    try:
        desk = Desk.read(path)
        host, port = host_and_port(desk.address)
    except InputError as error:
        yield Finding.of_error("coordinator", error)
        return
    yield _port(host, port, desk.certificate)
    left = days_left(desk.certificate)
    state_of, code = (OK, 0) if left >= WARN_DAYS else (WARNING, 0) if left >= 0 else (FAILED, WRONG)
    todo = "" if left >= WARN_DAYS else "Run `primum coordinator rotate`."
    yield Finding("certificate", state_of, f"{left} days left", todo, code)  # type: ignore[arg-type]


def _port(host: str, port: int, certificate: str) -> Finding:
    where, reason = f"{port} of {host}", _bound(host, port)
    if reason is None:
        return Finding("port", OK, f"{where} is free: the coordinator is not running")
    if _is_ours(host, port, certificate):
        return Finding("port", OK, f"{where} is this coordinator's: it is running")
    if reason == errno.EADDRINUSE:
        todo = "Stop what uses it, or start the coordinator with another --port."
        return Finding("port", FAILED, f"{where} is in use, and not by us", todo, MachineError.exit_code)
    todo = (
        "Behind NAT or in a container `--listen` says where it listens; else give --host an address of this computer."
    )
    return Finding("port", WARNING, f"{host} is no address of this computer, and nobody answers there", todo)


def _bound(host: str, port: int) -> int | None:
    """None if one could listen there, else the error's number."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or 0
    return None


def _is_ours(host: str, port: int, certificate: str) -> bool:
    context = client_context(certificate)
    context.check_hostname = False
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT) as line,
            context.wrap_socket(line, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _superlink() -> Finding:
    program = Path(sys.executable).parent / "flower-superlink"
    pinned = next((word for word in requires("primum") or [] if word.startswith("flwr")), "")
    try:
        there = version("flwr")
    except PackageNotFoundError:
        there = "none"
    if not os.access(program, os.X_OK) or not pinned.endswith(there):
        todo = "Install Primum again: pip install --force-reinstall primum."
        return Finding(
            "SuperLink",
            FAILED,
            f"{program} is missing, or Flower is {there}, not {pinned}",
            todo,
            MachineError.exit_code,
        )
    return Finding("SuperLink", OK, f"Flower {there}")
