"""The data scientist's side: sign a study, submit it, follow it, fetch what came out.

All of it through the coordinator's front, over TLS with the pinned certificate, each request signed and used once.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import tomli_w
from pydantic import BaseModel, ConfigDict

from primum import wire
from primum.disk import write
from primum.errors import InputError, PeerError, PrimumError, Refused, Unavailable
from primum.federation.runs import FAILED, FINISHED
from primum.keys.certificate import client_context
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import SignedStudy, Study, parse_toml, read_text, sign_study
from primum.tasks.plan import Plan, resolve

_POLL: Final = 0.3
_AWAY: Final = 60.0


class Desk(BaseModel):
    """What a scientist must know of a coordinator (`coordinator.toml`): address, identity, certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    coordinator: str
    certificate: str

    @classmethod
    def read(cls, path: Path) -> "Desk":
        """From the file that `primum coordinator` writes into its state folder."""
        if not path.exists():
            raise InputError(f"{path} does not exist.", "Start `primum coordinator` first, or give --state its folder.")
        return parse_toml(cls, read_text(path), str(path))

    def text(self) -> str:
        """As TOML."""
        return tomli_w.dumps(self.model_dump(), multiline_strings=True)


class ScientistRequest(wire.Message, frozen=True):
    """Any request, with a time and a number used once."""

    at: float
    nonce: bytes
    body: bytes


class SubmitRequest(wire.Message, frozen=True):
    """Train this study. Answer: Submitted."""

    study: SignedStudy


class FollowRequest(wire.Message, frozen=True):
    """How far is it? Answer: Followed with the lines of metrics from `line` on."""

    run: str
    line: int


class FetchRequest(wire.Message, frozen=True):
    """What came out? Answer: RunFiles."""

    run: str


class MembersRequest(wire.Message, frozen=True):
    """Who is enrolled? Answer: MembersAnswer."""


class Submitted(wire.Message, frozen=True):
    """The name of the new run (or of the enrolled hospital)."""

    name: str


class Followed(wire.Message, frozen=True):
    """Where a run stands."""

    state: str
    message: str
    lines: tuple[str, ...]


class RunFiles(wire.Message, frozen=True):
    """Names and contents."""

    files: tuple[tuple[str, bytes], ...]


class MembersAnswer(wire.Message, frozen=True):
    """Names and identities of the enrolled hospitals."""

    members: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Scientist:
    """Talks to one coordinator with one identity."""

    desk: Desk
    identity: Identity

    @classmethod
    def at(cls, state: Path) -> "Scientist":
        """The scientist whose identity and coordinator.toml are in a coordinator's state folder."""
        return cls(Desk.read(state / "coordinator.toml"), Identity.load_or_make(state / "scientist.pem"))

    def members(self) -> list[tuple[str, bytes]]:
        """Names and identities of the enrolled hospitals."""
        return list(self._ask(MembersRequest(), MembersAnswer).members)

    def submit(self, study: Study) -> str:
        """Sign `study` (its noise multipliers filled in) and hand it in; returns the run's name."""
        resolved = resolve(study)
        Plan(resolved).check()
        return self._ask(SubmitRequest(sign_study(resolved, self.identity)), Submitted).name

    def follow(self, run: str, show: Callable[[str, dict[str, Any]], None]) -> None:
        """Until it is finished, call show(message, metrics of one round or {}); raises what ended it otherwise."""
        line, last, away = 0, "", time.monotonic()
        while True:
            try:
                answer = self._ask(FollowRequest(run, line), Followed)
            except Unavailable:
                if time.monotonic() - away > _AWAY:
                    raise
                time.sleep(1)
                continue
            away = time.monotonic()
            for text in answer.lines:
                show(answer.message, msgspec.json.decode(text))
            line += len(answer.lines)
            if answer.message != last:
                show(answer.message, {})
                last = answer.message
            if answer.state == FINISHED:
                return
            if answer.state == FAILED:
                raise Refused(
                    f"The study did not come to its end: {answer.message}", "The run's folder has the details."
                )
            time.sleep(_POLL)

    def fetch(self, run: str, into: Path) -> Path:
        """Copy the run's files to `into`/<run>; returns that folder."""
        folder = into / Path(run).name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._ask(FetchRequest(run), RunFiles).files:
            write(folder / Path(name).name, data)
        return folder

    def _ask(self, body: wire.Message, kind: type[wire.MessageType]) -> wire.MessageType:
        request = ScientistRequest(time.time(), os.urandom(16), wire.encode(body))
        data = post(self.desk, "/primum/scientist", wire.encode(sign(self.identity, request)))
        envelope = wire.decode(data, Signed, "the coordinator")
        return open_signed(envelope, kind, bytes.fromhex(self.desk.coordinator), "the coordinator")


def post(desk: Desk, path: str, body: bytes) -> bytes:
    """POST to the front; the coordinator's refusals as errors here, Unavailable if it is away."""
    try:
        with httpx.Client(verify=client_context(desk.certificate), timeout=30, trust_env=False) as client:
            answer = client.post(f"https://{desk.address}{path}", content=body)
    except httpx.ConnectError as error:
        if "certificate" in str(error).lower():
            raise PeerError(
                f"{desk.address} shows another certificate than the pinned one.",
                "Somebody stands in between, or the coordinator was set up anew: ask for a new file.",
            ) from None
        raise Unavailable(f"The coordinator at {desk.address} cannot be reached.", "Is it running?") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"The coordinator at {desk.address} does not answer: {type(error).__name__}.") from None
    if answer.status_code == 200:
        return answer.content
    raise _refusal(answer, desk.address)


def _refusal(answer: httpx.Response, address: str) -> PrimumError:
    try:
        said = answer.json()
        kind = Refused if answer.status_code == 403 else PeerError
        return kind(str(said["error"])[:500], str(said["hint"])[:500])
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"The coordinator at {address} answers {answer.status_code}.", "Is it Primum's front?")
