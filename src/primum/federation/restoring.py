"""What a state folder that comes from a backup must not forget: what was done after the backup was made.

A node's old state believes in budget that is spent and in round numbers that are used. So what was spent since is
charged before the folder gets its name, and every study that was signed before is refused (`Memory.refuse_older`). A
coordinator's old state would repeat rounds: its unfinished runs are failed. Dealer and servers need nothing: their
numbers go on above the highest of the three, and masks come from keys that are made anew (docs/threat-model.md).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primum.archive import COORDINATOR, DIAGNOSIS, NODE, Manifest
from primum.dp import account
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.errors import InputError
from primum.federation.enrolment import Register
from primum.federation.memory import Memory
from primum.federation.messages import EVALUATE, SURVEY
from primum.federation.policy import Policy
from primum.federation.runs import FAILED, OVER, Run
from primum.journal import Journal, read_chain
from primum.keys.identity import Identity, verify
from primum.study import Study
from primum.tasks.plan import Plan, resolve

_SAY: tuple[str, str] = (
    "Nothing says what this node spent after the backup was made.",
    "--journal FILE (journal.jsonl of the lost folder), --study FILE for each study that ran since, or --nothing-since.",
)


@dataclass(frozen=True)
class Since:
    """What happened at a node after its backup was made: exactly one of the three is said."""

    journal: Path | None = None
    studies: tuple[Path, ...] = ()
    nothing: bool = False

    def check(self) -> None:
        """InputError unless one of them, and only one, is there."""
        if sum((self.journal is not None, bool(self.studies), self.nothing)) != 1:
            raise InputError(*_SAY)


def finish(folder: Path, manifest: Manifest, since: Since) -> list[str]:
    """Bring a restored folder of whatever role into a state that repeats nothing; returns what to tell its operator."""
    if manifest.role == NODE:
        return _finish_node(folder, manifest, since)
    if since != Since():
        raise InputError("--journal, --study and --nothing-since are about a node.", f"This is a {manifest.role}'s.")
    if manifest.role == COORDINATOR:
        return _finish_coordinator(folder)
    if manifest.role == DIAGNOSIS:
        return ["Tokens that were used since the backup can be used again, up to their number: make new ones if not."]
    raise InputError(f"The backup is that of a {manifest.role[:40]!r}.", "Use the release that made it.")


def _finish_node(folder: Path, manifest: Manifest, since: Since) -> list[str]:
    since.check()
    identity = Identity.load_or_make(folder / "identity.pem")
    policy = Policy.read(folder / "policy.toml") or Policy()
    ledger = Ledger(folder / "ledger.sqlite", policy.cap)
    if since.journal is not None:
        charged = _charge_journal(ledger, folder / "journal.jsonl", since.journal, identity, policy)
    else:
        charged = sum(_charge_study(ledger, number, path, policy) for number, path in enumerate(since.studies))
    Memory(folder / "memory.sqlite").note_restored(time.time())
    journal = Journal(folder / "journal.jsonl", identity)
    journal.write("restored", backup=round(manifest.made), charged=charged, said=_said(since))
    return [
        f"{charged} steps that were answered since the backup are charged to the ledger.",
        "Studies that were signed before now are refused; submitted again they are new ones.",
        *(["If a study did run since the backup, its epsilon is missing in the ledger."] if since.nothing else []),
    ]


def _said(since: Since) -> str:
    return "journal" if since.journal else "studies" if since.studies else "nothing was spent"


def _charge_journal(ledger: Ledger, kept: Path, newest: Path, identity: Identity, policy: Policy) -> int:
    """Take over the newer journal, and charge what it says and the ledger does not know."""

    def check(purpose: str, data: bytes, signature: bytes) -> None:
        verify(identity.public, purpose, data, signature, f"the owner of {newest}")

    if not newest.is_file():
        raise InputError(f"{newest} is not there.", _SAY[1])
    text = newest.read_bytes()
    text = text[: text.rfind(b"\n") + 1]
    if not text.startswith(kept.read_bytes() if kept.exists() else b""):
        raise InputError(f"{newest} does not go on from the journal in the backup.", "It is another node's, or older.")
    kept.write_bytes(text)
    try:
        entries = [link.entry for link in read_chain(kept, check)]
    except InputError as error:
        raise InputError(error.message.replace(str(kept), str(newest)), error.hint) from None
    return sum(_charge_entry(ledger, entry["details"], policy) for entry in entries if entry["kind"] == "vector")


def _charge_entry(ledger: Ledger, details: Mapping[str, Any], policy: Policy) -> int:
    try:
        run, number, spent = str(details["run"]), int(details["round"]), details["spent"]
        divergence, order = float(spent["rdp"]), int(spent["order"])
    except (KeyError, TypeError, ValueError):
        raise InputError("The journal is of a release that wrote no costs into it.", "Use --study FILE.") from None
    if order != policy.rdp_order:
        raise InputError(
            f"The journal adds up at order {order}, the ledger at {policy.rdp_order}.", "Use --study FILE."
        )
    population = EVALUATION if details["what"] in (EVALUATE, SURVEY) else TRAINING
    return int(divergence > 0 and ledger.charge_spent("after the backup", run, number, population, divergence))


def _charge_study(ledger: Ledger, number: int, path: Path, policy: Policy) -> int:
    """All rounds and looks of a study, as if none of them were in the ledger yet: rather too much."""
    study = Study.read(path)
    if study.privacy is None:
        return 0
    plan = Plan(study if study.privacy.noise_multiplier else resolve(study))
    run, charged = f"{number + 1}. study after the backup", 0
    for population, count, steps in (
        (TRAINING, study.training.rounds, plan.training_steps(1)),
        (EVALUATION, plan.looks, plan.evaluation_steps(1)),
    ):
        cost = account.rdp(steps, policy.rdp_order)
        charged += sum(ledger.charge_spent(study.study.name, run, n, population, cost) for n in range(1, count + 1))
    return charged


def _finish_coordinator(folder: Path) -> list[str]:
    failed = []
    for path in sorted((folder / "runs").glob("*")):
        run = Run(path)
        if run.status().get("state") not in OVER:
            run.set_status(FAILED, "the coordinator's state was restored from a backup: submit the study again")
            failed.append(run.name)
    register = Register(folder)
    taken_back = register.forget_invitations()
    names = ", ".join(member.name for member in register.members())
    return [
        *(f"Run {name} is failed: it would repeat rounds. Submit its study again." for name in failed),
        *(
            [f"{taken_back} unused invitations are worthless now: one of them may have been used."]
            if taken_back
            else []
        ),
        f"Members: {names or 'none'}. Revoke again whoever was taken out since the backup; invite again who came since.",
    ]
