"""What a scientist may do with a run that was handed in: see where it stands, stop it, let it go on. In every state."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primum.errors import PeerError
from primum.federation.enrolment import Member
from primum.federation.runs import FINISHED, OVER, QUEUED, STOPPED, Run
from primum.federation.scientist import Awaited, RunStatus, StatusAnswer, StatusRequest
from primum.journal import Journal
from primum.study import Study


@dataclass(frozen=True)
class Control:
    """The runs in the folder `runs`; `members` are those enrolled now, `last_seen` says when one was (0: unknown)."""

    runs: Path
    members: Callable[[], list[Member]]
    journal: Journal = field(repr=False)
    last_seen: Callable[[bytes], float] = field(default=lambda transport: 0.0)

    def find(self, name: str) -> Run:
        """The run of that name; PeerError where there is none."""
        if name not in {folder.name for folder in self.runs.glob("*")}:  # never a path that a name makes
            raise PeerError(f"There is no run {name[:80]!r}.", "`primum status` lists them.")
        return Run(self.runs / name)

    def status(self, request: StatusRequest) -> StatusAnswer:
        """One run, or all of them with the oldest first."""
        folders = sorted(self.runs.glob("*")) if self.runs.exists() else []
        runs = [self.find(request.run)] if request.run else [Run(folder) for folder in folders]
        return StatusAnswer(tuple(self._status(run) for run in runs))

    def stop(self, name: str) -> str:
        """Let it end; returns the run's name. A run that is over stays as it is."""
        run = self.find(name)
        if run.status().get("state") not in OVER:
            run.ask_to_stop()
            self.journal.write("stop", run=run.token.hex())
            if run.status().get("state") == QUEUED:
                run.set_status(STOPPED, "stopped before it began")
        return run.name

    def resume(self, name: str) -> str:
        """Let a run that was stopped or failed go on after its last finished round; returns its name."""
        run = self.find(name)
        run.forget_stop()
        state = run.status().get("state")
        if state in OVER and state != FINISHED:
            self.journal.write("resume", run=run.token.hex())
            run.set_status(QUEUED, "it goes on")
        return run.name

    def named(self, run: Run, text: str) -> str:
        """`text` with the name of each hospital behind its number in the study, as the scientist may know it."""
        if "hospital" not in text:
            return text
        return _with_names(text, self._enrolled(Study.parse(run.signed_study().text, run.name)))

    def _enrolled(self, study: Study) -> dict[int, Member]:
        """The hospitals of the study that are enrolled now, by their number in it."""
        members = {member.identity: member for member in self.members()}
        numbered = enumerate(study.hospitals.identities(), 1)
        return {place: members[identity] for place, identity in numbered if identity in members}

    def _status(self, run: Run) -> RunStatus:
        study, status = Study.parse(run.signed_study().text, run.name), run.status()
        state = str(status.get("state", QUEUED))
        waiting: dict[str, Any] = {} if state in OVER else run.waiting()
        enrolled = self._enrolled(study)
        awaited = [self._awaited(place, enrolled.get(place)) for place in waiting.get("for", [])]
        return RunStatus(
            name=run.name,
            state=state,
            message=_with_names(str(status.get("message", "")), enrolled),
            at=float(status.get("at", 0.0)),
            rounds=len(run.lines("metrics.jsonl")),
            of=study.training.rounds,
            stage=str(waiting.get("stage", "")),
            since=float(waiting.get("since", 0.0)),
            until=float(waiting.get("until", 0.0)),
            awaited=tuple(awaited),
            stopping=run.stop_asked and state not in OVER,
        )

    def _awaited(self, place: int, member: Member | None) -> Awaited:
        if member is None:
            return Awaited(place, "not enrolled any more", 0.0)
        return Awaited(place, member.name, self.last_seen(member.transport))


def _with_names(text: str, enrolled: dict[int, Member]) -> str:
    def name(found: re.Match[str]) -> str:
        member = enrolled.get(int(found[1]))
        return f"{found[0]} ({member.name})" if member else found[0]

    return re.sub(r"\bhospital (\d+)\b", name, text)
