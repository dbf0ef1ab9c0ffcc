"""How a coordinator's port gets another certificate while everybody pins the one of the join file.

The coordinator makes the next certificate ahead of time and says at `GET /primum/certificate` which ones it shows, now
and next, signed by its Ed25519 identity, which everybody knows from the join file. Whoever asks over the pinned
certificate learns the next one early. Whoever was away meets a certificate that it does not know, asks over it
unchecked, and takes it if the identity has signed it: an interceptor's is never among those that are signed. Numbers
only grow, so that an old statement does not bring back a certificate that was given up.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Final, TypedDict

import httpx

from primum import wire
from primum.disk import read_json, write
from primum.errors import PeerError, Unavailable
from primum.federation.way import Way
from primum.keys.certificate import CertificateFiles, any_certificate_context, hosts_of, load_or_make
from primum.secagg.messages import Signed, open_signed

PATH: Final = "/primum/certificate"
_LIMIT: Final = 64 * 1024
_PEER: Final = "the coordinator"


_ROTATION: Final = TypedDict("_ROTATION", {"number": int, "from": float | None})
_PINS: Final = TypedDict("_PINS", {"coordinator": str, "number": int, "certificates": list[str]})


class Shown(wire.Message, frozen=True):
    """The certificates (PEM) that the coordinator's port shows or will show; a larger number takes the place of a smaller."""

    number: int
    certificates: tuple[str, ...]


@dataclass(frozen=True)
class Rotation:
    """The coordinator's side: `tls.pem` now, `next/` and `rotation.json` from the order until the day."""

    folder: Path

    def order(self, days: float, host: str) -> float:
        """Make the next certificate, for `host` and the present ones; returns from when on it is shown (since 1970)."""
        at = time.time() + days * 86400
        rmtree(self.folder / "next", ignore_errors=True)
        (self.folder / "next").mkdir(mode=0o700)
        load_or_make(self.folder / "next", host, *hosts_of(self._files(self.folder).pem()))
        self._note(at)
        return at

    def due(self) -> bool:
        """Whether the day of the next certificate has come."""
        at = self._read()["from"]
        return at is not None and time.time() >= at

    def take_over(self) -> None:
        """Show the next certificate from now on; killed in the middle, it is done again at the next start."""
        now, following = self._files(self.folder), self._files(self.folder / "next")
        write(now.private_key, following.private_key.read_bytes(), private=True)
        write(now.certificate, following.certificate.read_bytes(), private=True)
        self._note(None)
        rmtree(self.folder / "next")

    def shown(self) -> Shown:
        """What is said to whoever asks."""
        rotation = self._read()
        folders = [self.folder] if rotation["from"] is None else [self.folder, self.folder / "next"]
        return Shown(int(rotation["number"] or 0), tuple(self._files(folder).pem() for folder in folders))

    def _note(self, at: float | None) -> None:
        number = max(int(time.time()), int(self._read()["number"] or 0) + 1)
        write(self.folder / "rotation.json", json.dumps({"number": number, "from": at}).encode())

    def _read(self) -> dict[str, float | None]:
        return {"number": 0, "from": None, **read_json(self.folder / "rotation.json", _ROTATION)}

    @staticmethod
    def _files(folder: Path) -> CertificateFiles:
        return CertificateFiles(folder / "tls.pem", folder / "tls.key")


@dataclass(frozen=True)
class Pins:
    """A node's side: which certificates it takes for its coordinator's, kept in `file`.

    `way` has the certificate of the join file, which counts until the coordinator has signed another.
    """

    file: Path
    way: Way
    coordinator: bytes

    def trusted(self) -> Way:
        """The way with the certificates that count now; asks the coordinator first whether there is a newer one.

        PeerError if another certificate is shown than those that the coordinator's identity has signed. A coordinator
        that is away changes nothing.
        """
        known = self._known()
        try:
            learned = learn(self._pinning(known), self.coordinator)
        except Unavailable:
            return self._pinning(known)
        if learned.number > known.number:
            kept = {"coordinator": self.coordinator.hex(), "number": learned.number}
            write(self.file, json.dumps({**kept, "certificates": learned.certificates}).encode())
            known = learned
        return self._pinning(known)

    def _pinning(self, shown: Shown) -> Way:
        return replace(self.way, certificate="".join(shown.certificates))

    def _known(self) -> Shown:
        data = read_json(self.file, _PINS)
        if data.get("coordinator") != self.coordinator.hex():  # none yet, or of another coordinator
            return Shown(0, (self.way.certificate,))
        return Shown(data["number"], tuple(data["certificates"]))


def learn(way: Way, coordinator: bytes) -> Shown:
    """What the coordinator says that it shows.

    PeerError if the answer is not signed by `coordinator`, or names no certificate that is shown; Unavailable if it is away.
    """
    try:
        with way.client() as client:
            return _ask(client, way.address, coordinator)
    except httpx.ConnectError as error:
        if "certificate" not in str(error).lower():
            raise Unavailable(f"The coordinator at {way.address} cannot be reached.", "Is it running?") from None
    try:
        with httpx.Client(verify=any_certificate_context(), trust_env=False, proxy=way.proxy_url()) as client:
            said = _ask(client, way.address, coordinator)
        with replace(way, certificate="".join(said.certificates)).client() as client:
            return _ask(client, way.address, coordinator)
    except (httpx.ConnectError, PeerError):
        raise PeerError(
            f"{way.address} shows another certificate than the pinned one.",
            "Somebody stands in between, or the coordinator was set up anew: ask for a new file.",
        ) from None


def _ask(client: httpx.Client, address: str, coordinator: bytes) -> Shown:
    try:
        answer = client.get(f"https://{address}{PATH}")
    except httpx.ConnectError:
        raise
    except httpx.HTTPError as error:
        raise Unavailable(f"The coordinator at {address} does not answer: {type(error).__name__}.") from None
    if answer.status_code != 200:
        raise Unavailable(f"The coordinator at {address} answers {answer.status_code}.", "Is it Primum's front?")
    envelope = wire.decode(answer.content, Signed, _PEER, _LIMIT)
    return open_signed(envelope, Shown, coordinator, _PEER)
