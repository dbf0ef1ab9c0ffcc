"""The people's side of a node's approval record: which studies wait here, and what somebody says to them.

Works beside a node that runs, from another process: both read the same record and write into the same journal.
"""

import datetime
import getpass
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from primum.errors import InputError, Refused
from primum.federation.approval import NO, YES, Approval, Approvals, Request, Standing, end_of, signed_answer
from primum.federation.participant import describe
from primum.federation.policy import Policy
from primum.journal import Journal
from primum.keys.identity import Identity
from primum.study import Study
from primum.tasks.plan import Plan


@dataclass(frozen=True)
class Case:
    """One study, everybody's answers, and what they say together."""

    digest: str
    run: str
    study: Study
    asker: str
    at: float
    answers: tuple[Approval, ...]
    standing: Standing

    def described(self) -> Mapping[str, str]:
        """What it asks for, in words."""
        return describe(Plan(self.study), bytes.fromhex(self.asker))

    def withdrawn_by(self, answer: str) -> bool:
        """Whether this answer takes back a yes that stands."""
        return answer == NO and self.standing.answer == YES


@dataclass(frozen=True)
class Desk:
    """A node's state folder, as its people see it."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Desk":
        """InputError where no node has ever worked with that folder."""
        if not (folder / "identity.pem").is_file():
            raise InputError(f"{folder} is not a node's state folder.", "Give --state, as to `primum node`.")
        return cls(folder)

    @property
    def _record(self) -> Approvals:
        return Approvals(self.folder / "memory.sqlite")

    def cases(self) -> list[Case]:
        """All studies that were put before this hospital, the oldest first."""
        policy = Policy.read(self.folder / "policy.toml")
        return [self._case(request, policy) for request in self._record.requests()]

    def find(self, study: str) -> Case:
        """The one study whose digest begins so, or that has this name; InputError where there is none, or several."""
        wanted = study.lower()
        found = [case for case in self.cases() if case.digest.startswith(wanted) or case.study.study.name == study]
        if len(found) != 1:
            what = "No study" if not found else "More than one study"
            raise InputError(
                f"{what} is called {study!r} here.", "`primum consent list` shows them with their digests."
            )
        return found[0]

    def answer(self, study: str, answer: str, until: datetime.date | None, key: Path | None) -> Case:
        """Write down a person's answer; returns how things stand now.

        A no counts from anybody. A yes that would not count is an error and not noted: InputError where it would end in
        the past, Refused where the policy forbids the study or counts the signatures of its signers only.
        """
        case = self.find(study)
        policy = Policy.read(self.folder / "policy.toml")
        last = until or case.study.study.expires or datetime.date.today()
        if key is not None:
            approval = signed_answer(bytes.fromhex(case.digest), answer, last, _signer(key))
        else:
            approval = Approval(getpass.getuser(), answer, time.time(), end_of(last))
        if answer == YES:
            _require_that_it_counts(approval, policy, case)
        self._record.answer(bytes.fromhex(case.digest), approval)
        journal = Journal(self.folder / "journal.jsonl", Identity.load_or_make(self.folder / "identity.pem"))
        words = "withdrawn" if case.withdrawn_by(answer) else ""
        about = {"run": case.run, "study": case.digest, "name": case.study.study.name}
        about |= {"until": last.isoformat()} if answer == YES else {}
        journal.write("decision", **about, answer=answer, by=approval.who, reason=words)
        return self.find(case.digest)

    def _case(self, request: Request, policy: Policy | None) -> Case:
        signers, needed = (policy.signers, policy.signers_needed) if policy else (None, 1)
        record, study = self._record, Study.parse(request.text, f"the study {request.study.hex()[:12]}")
        standing, rule = (
            record.standing(request.study, signers, needed, time.time()),
            _rule(policy, study, request.asker),
        )
        return Case(
            request.study.hex(),
            request.run.hex(),
            study,
            request.asker.hex(),
            request.at,
            tuple(record.answers(request.study)),
            Standing(NO, rule) if rule and standing.answer != NO else standing,
        )


def _require_that_it_counts(approval: Approval, policy: Policy | None, case: Case) -> None:
    if approval.until < time.time():
        last = datetime.date.fromtimestamp(approval.until)
        raise InputError(f"The yes would end on {last}, which is past.", "Give another --until; nothing was noted.")
    if policy is not None and policy.signers is not None and approval.who not in policy.signers:
        raise Refused(
            "This hospital's policy counts the signatures of its signers only.",
            "Give --key with the key of one of them (policy.toml: signers).",
        )
    if rule := _rule(policy, case.study, bytes.fromhex(case.asker)):
        raise Refused(f"This hospital's policy refuses the study: {rule}", "Nothing was noted.")


def _rule(policy: Policy | None, study: Study, asker: bytes) -> str:
    """Which rule refuses it, in words; empty where none does."""
    try:
        if policy is not None:
            policy.check(study, asker, datetime.date.today())
    except Refused as error:
        return error.message
    return ""


def _signer(path: Path) -> Identity:
    if not path.is_file():
        raise InputError(f"{path} is not there.", "Make a signer's key with `primum consent key FILE`.")
    return Identity.load_or_make(path)
