"""The data scientist's side: sign a study, submit it, follow it, fetch what came out.

All of it through the coordinator's front, over TLS with the pinned certificate, each request signed and used once.
"""

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import tomli_w
from pydantic import BaseModel, ConfigDict

from primum import wire
from primum.disk import write
from primum.errors import InputError, PeerError, PrimumError, Refused, Unavailable
from primum.federation.pins import learn
from primum.federation.runs import FAILED, FINISHED, RESULTS, STOPPED
from primum.federation.way import PROXY_HINT, Way
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import Key, SignedStudy, Study, parse_toml, read_text, sign_study

_POLL: Final = 0.3
_AWAY: Final = 60.0
_LASTS: Final = 90  # days that a study lasts which names no end


class Desk(BaseModel):
    """What a scientist must know of a coordinator (`coordinator.toml`): address, identity, certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    coordinator: Key
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
    """Train this study, or look at the finished model whose weights (float32, little endian) come with it. Answer: Submitted."""

    study: SignedStudy
    weights: bytes = b""


class FollowRequest(wire.Message, frozen=True):
    """How far is it? Answer: Followed with the lines of metrics from `line` and those of faults from `fault` on."""

    run: str
    line: int
    fault: int


class FetchRequest(wire.Message, frozen=True):
    """What came out? Answer: RunFiles."""

    run: str


class StatusRequest(wire.Message, frozen=True):
    """Where does this run stand, or all of them (an empty name)? Answer: StatusAnswer."""

    run: str


class StopRequest(wire.Message, frozen=True):
    """Let this run end. Answer: Submitted."""

    run: str


class ResumeRequest(wire.Message, frozen=True):
    """Let this run go on. Answer: Submitted."""

    run: str


class MembersRequest(wire.Message, frozen=True):
    """Who is enrolled? Answer: MembersAnswer."""


class Submitted(wire.Message, frozen=True):
    """The name of the new run (or of the enrolled hospital)."""

    name: str


class Awaited(wire.Message, frozen=True):
    """A hospital that has not answered: its place in the study, its name, when it was last connected (0: not known)."""

    place: int
    name: str
    last_seen: float


class RunStatus(wire.Message, frozen=True):
    """Where a run stands: rounds that were finished `of` how many; the stage it is in, since and until when (seconds since
    1970), and who has not answered yet."""

    name: str
    state: str
    message: str
    at: float
    rounds: int
    of: int
    stage: str
    since: float
    until: float
    awaited: tuple[Awaited, ...]
    stopping: bool


class StatusAnswer(wire.Message, frozen=True):
    """All runs that were asked for, the oldest first."""

    runs: tuple[RunStatus, ...]


class Followed(wire.Message, frozen=True):
    """Where a run stands; new lines of metrics, and what hospitals could not do since."""

    state: str
    message: str
    lines: tuple[str, ...]
    faults: tuple[str, ...]


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

    def submit(self, study: Study, weights: bytes = b"") -> str:
        """Sign `study` and hand it in; returns the run's name.

        Filled in are its noise multipliers and, where it names none, a day on which it ends. `weights`: of the finished
        model that it looks at.
        """
        from primum.tasks.plan import Plan, resolve  # brings torch, which no other request needs

        resolved = resolve(_dated(study))
        Plan(resolved).check()
        return self._ask(SubmitRequest(sign_study(resolved, self.identity), weights), Submitted).name

    def status(self, run: str = "") -> tuple[RunStatus, ...]:
        """Where that run stands, or all of them; the oldest first."""
        return self._ask(StatusRequest(run), StatusAnswer).runs

    def stop(self, run: str) -> None:
        """Let a run end after what it is doing now; once more does no harm."""
        self._ask(StopRequest(run), Submitted)

    def resume(self, run: str) -> None:
        """Let a run that was stopped, or that failed, go on after its last finished round."""
        self._ask(ResumeRequest(run), Submitted)

    def follow(
        self,
        run: str,
        show: Callable[[str, dict[str, Any]], None],
        fault: Callable[[dict[str, Any]], None] = lambda fault: None,
    ) -> str:
        """Until it is over: show(message, metrics of one round or {}), and fault(...) for what a hospital could not do.

        Returns finished or stopped; raises what ended it otherwise.
        """
        line, faults, last, away = 0, 0, "", time.monotonic()
        while True:
            try:
                answer = self._ask(FollowRequest(run, line, faults), Followed)
            except Unavailable:
                if time.monotonic() - away > _AWAY:
                    raise
                time.sleep(1)
                continue
            away = time.monotonic()
            for text in answer.faults:
                fault(msgspec.json.decode(text))
            for text in answer.lines:
                show(answer.message, msgspec.json.decode(text))
            line, faults = line + len(answer.lines), faults + len(answer.faults)
            if answer.message != last and answer.state != FAILED:
                show(answer.message, {})
                last = answer.message
            if answer.state in (FINISHED, STOPPED):
                return answer.state
            if answer.state == FAILED:
                raise Refused(
                    f"The study did not come to its end: {answer.message}",
                    f"`primum resume {run}` goes on after the last finished round, once what it says is mended.",
                )
            time.sleep(_POLL)

    def fetch(self, run: str, into: Path) -> Path:
        """Copy the run's files to `into`/<run>; returns that folder."""
        folder = into / Path(run).name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._ask(FetchRequest(run), RunFiles).files:
            if name in RESULTS:  # no other path is written
                (folder / name).parent.mkdir(exist_ok=True)
                write(folder / name, data)
        return folder

    def _ask(self, body: wire.Message, kind: type[wire.MessageType]) -> wire.MessageType:
        request = ScientistRequest(time.time(), os.urandom(16), wire.encode(body))
        data = post(self.desk, "/primum/scientist", wire.encode(sign(self.identity, request)))
        envelope = wire.decode(data, Signed, "the coordinator")
        return open_signed(envelope, kind, bytes.fromhex(self.desk.coordinator), "the coordinator")


def _dated(study: Study) -> Study:
    expires = study.study.expires or datetime.date.today() + datetime.timedelta(days=_LASTS)
    about = study.study.model_copy(update={"expires": expires, "asked": int(time.time())})
    return study.model_copy(update={"study": about})


def post(desk: Desk, path: str, body: bytes, way: Way | None = None) -> bytes:
    """POST to the front; the coordinator's refusals as errors here, Unavailable if it is away.

    `way`: through a hospital's proxy; without it the shortest.
    """
    way = replace(way or Way(desk.address, desk.certificate), certificate=desk.certificate)
    try:
        with way.client() as client:
            answer = client.post(path, content=body)
    except httpx.ProxyError as error:
        raise Unavailable(f"The proxy does not let through to {desk.address}: {error}.", PROXY_HINT) from None
    except httpx.ConnectError as error:
        if "certificate" in str(error).lower():
            return post(_with_new_certificate(desk, way), path, body, way)
        raise Unavailable(f"The coordinator at {desk.address} cannot be reached.", "Is it running?") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"The coordinator at {desk.address} does not answer: {type(error).__name__}.") from None
    if answer.status_code == 200:
        return answer.content
    raise _refusal(answer, desk.address)


def _with_new_certificate(desk: Desk, way: Way) -> Desk:
    """The desk with the certificate that the coordinator's identity has signed since; PeerError if it has signed none."""
    shown = learn(way, bytes.fromhex(desk.coordinator))
    return desk.model_copy(update={"certificate": "".join(shown.certificates)})


def _refusal(answer: httpx.Response, address: str) -> PrimumError:
    try:
        said = answer.json()
        kind = Refused if answer.status_code == 403 else PeerError
        return kind(str(said["error"])[:500], str(said["hint"])[:500])
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"The coordinator at {address} answers {answer.status_code}.", "Is it Primum's front?")
