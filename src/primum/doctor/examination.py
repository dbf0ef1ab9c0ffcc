"""What stands between this computer and a federation: one check a line, and the one line that a hospital's IT must allow.

Nothing is changed and nothing is sent but what a first connection sends: no token, no key, no count of images. The
network's checks are in `network.py`, the computer's in `machine.py`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from primum.doctor.coordinator import examine_coordinator
from primum.doctor.findings import FAILED, WARNING, Finding
from primum.doctor.machine import examine_machine
from primum.doctor.network import examine_network
from primum.errors import InputError, PrimumError
from primum.federation.enrolment import JoinFile
from primum.federation.node_settings import NodeSettings, chosen_proxy, read_authority
from primum.federation.scientist import Desk
from primum.federation.way import Way, host_and_port, without_password

_DEFAULT_PORT: Final = 9443
Side = Literal["node", "coordinator"]


@dataclass(frozen=True)
class Examined:
    """All findings, in the order in which they were made; `allow`: what IT must let through, if a coordinator is known."""

    findings: tuple[Finding, ...]
    allow: str | None

    @property
    def exit_code(self) -> int:
        """0 where nothing failed, else the highest of the codes of what did (`primum.errors`)."""
        return max((finding.code for finding in self.findings if finding.state == FAILED), default=0)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "ok": self.exit_code == 0,
            "checks": [asdict(finding) for finding in self.findings],
            "allow": self.allow,
        }


@dataclass(frozen=True)
class Subject:
    """What is to be examined; each part may be missing, and is then left out."""

    state: Path
    side: Side = "node"
    join: Path | None = None
    address: str | None = None
    data: Path | None = None
    proxy: str | None = None
    authority: Path | None = None
    patients: NodeSettings | None = None


def examine(subject: Subject) -> Iterator[Finding]:
    """Findings as they are made: the network's, then the computer's. A check that meets a fault says it and goes on."""
    if subject.side == "coordinator":
        yield from examine_coordinator(subject.state)
    else:
        try:
            way, coordinator = way_of(subject)
        except PrimumError as error:
            yield Finding.of_error("settings", error)
        else:
            if way is None:
                yield Finding("coordinator", WARNING, "no --join and no --address", "The network was not looked at.")
            else:
                yield from examine_network(way, coordinator)
    yield from examine_machine(subject.state, subject.side, subject.data, subject.patients)


def way_of(subject: Subject) -> tuple[Way | None, bytes | None]:
    """The way to the coordinator with this node's settings, and the coordinator's identity where a join file names it.

    InputError for a join file, an address, a proxy or an authority that cannot be used.
    """
    settings = NodeSettings.read(subject.state / "node.toml")
    authority = read_authority(subject.authority) if subject.authority else settings.authority
    proxy = chosen_proxy(subject.proxy, settings)
    if subject.join is not None:
        join = JoinFile.read(subject.join)
        way: Way | None = Way(join.address, join.certificate, proxy, authority)
        coordinator = bytes.fromhex(join.coordinator)
    else:
        way, coordinator = (Way(subject.address, "", proxy, authority) if subject.address else None), None
    if way is not None:
        if subject.address:
            way = replace(way, address=subject.address)
        host_and_port(way.address)
        way.proxy_url()
    return way, coordinator


def what_to_allow(subject: Subject) -> str | None:
    """The one line for a hospital's IT, or for a coordinator's; None where the settings name no coordinator."""
    if subject.side == "coordinator":
        return f"Allow to this computer: inbound TCP to port {_own_port(subject.state)}, TLS 1.3. Nothing else."
    try:
        way, _ = way_of(subject)
    except PrimumError:
        return None
    if way is None:
        return None
    host, port = host_and_port(way.address)
    proxy = way.proxy_url()
    through = f" through the proxy {without_password(proxy)} (CONNECT)" if proxy else ""
    return f"Allow from this computer: outbound TCP to {host} port {port}{through}, TLS 1.3. Nothing inbound, nothing else."


def _own_port(state: Path) -> int:
    try:
        return host_and_port(Desk.read(state / "coordinator.toml").address)[1]
    except InputError:
        return _DEFAULT_PORT


def all_of(subject: Subject) -> Examined:
    """Every check at once."""
    return Examined(tuple(examine(subject)), what_to_allow(subject))
