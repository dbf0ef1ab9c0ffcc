"""One page for a hospital's data protection officer: one study, what was asked of the data, what left, what it costs.

Made at the hospital from the node's own state folder; the journal's chain and signatures are checked on the way. Nothing
on it is about another hospital, and nothing is about a single patient.
"""

import datetime
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from primum import __version__
from primum.dp import account
from primum.dp.account import epsilon_of_rdp
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.federation.desk import Case, Desk
from primum.federation.policy import Policy
from primum.federation.witness import Owned
from primum.keys.identity import Identity, fingerprint, list_fingerprint
from primum.report.document import document, header, notice, section
from primum.report.journal import Sent, of_study, sent, sentence
from primum.report.words import absent, esc, number, pairs, percent, size, table
from primum.tasks.plan import Plan

PURPOSE: Final = "record of a study"
_PRIORS: Final = (0.01, 0.1, 0.5, 0.9)
_LIMITS: Final = (
    "A hospital whose computer is broken into protects nobody; nor does the noise protect images that are copied by hand.",
    "A patient who was treated in two of the hospitals is counted in both: twice the figure.",
    "Pixels are not anonymised on this hospital's disks. They never leave it.",
    "The names of the classes are public; so are the study, the model and this hospital's part in the list of members.",
    "What was in a sum before a withdrawal cannot be taken out of it again.",
)


@dataclass(frozen=True)
class Record:
    """Everything that the page says, gathered from a node's state folder."""

    folder: Path
    case: Case

    @classmethod
    def of(cls, folder: Path, study: str) -> "Record":
        """The study of that name or digest at the node with that state folder; InputError where it was never asked."""
        return cls(folder, Desk.open(folder).find(study))

    @cached_property
    def identity(self) -> Identity:
        """The hospital's."""
        return Identity.load_or_make(self.folder / "identity.pem")

    @cached_property
    def plan(self) -> Plan:
        """What follows from the study."""
        return Plan(self.case.study)

    @cached_property
    def policy(self) -> Policy:
        """The hospital's rules, or the strict ones that stand for none."""
        return Policy.read(self.folder / "policy.toml") or Policy()

    @cached_property
    def journal(self) -> Owned:
        """Checked: chain and signatures."""
        return Owned.open(self.folder, None)

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Those of this study."""
        return of_study((link.entry for link in self.journal.links), self.case.digest)

    @property
    def sent(self) -> Sent:
        """What left in this study."""
        return sent(self.entries)

    def charged(self, population: str) -> int:
        """Sums over these patients that this study is charged for."""
        return sum(entry.run == self.case.run and entry.population == population for entry in self._ledger.entries())

    def epsilon(self, population: str) -> float | None:
        """What this study has cost each of these patients until now; None where it promises nothing."""
        if self.case.study.privacy is None:
            return None
        count, plan = self.charged(population), self.plan
        steps = plan.training_steps(count) if population == TRAINING else plan.evaluation_steps(count)
        return account.epsilon(steps, plan.accounted_delta)

    def epsilon_of_all(self, population: str) -> float:
        """What all studies together have cost each of these patients, at the policy's delta and order."""
        spent = self._ledger.spent(population)
        return epsilon_of_rdp(spent, self.policy.rdp_order, self.policy.delta_max) if spent else 0.0

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.sqlite", self.policy.cap)

    def facts(self) -> dict[str, Any]:
        """What is signed, as plain data."""
        study, left = self.case.study, self.sent
        return {
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hospital": self.identity.public.hex(),
            "study": self.case.digest,
            "name": study.study.name,
            "purpose": study.study.purpose,
            "asker": self.case.asker,
            "members": list_fingerprint(study.hospitals.identities()),
            "stands": self.case.standing.answer,
            "version": __version__,
            "code_sha256": code_digest(),
            "rounds": left.rounds,
            "sent_bytes": left.bytes,
            "epsilon": {name: self.epsilon(name) for name in (TRAINING, EVALUATION)},
            "epsilon_of_all_studies": {name: self.epsilon_of_all(name) for name in (TRAINING, EVALUATION)},
            "epsilon_cap": self.policy.epsilon_cap,
            "journal_entries": len(self.journal.links),
            "journal_head": self.journal.links[-1].hash if self.journal.links else "",
        }


def code_digest() -> str:
    """SHA-256 over the installed program: names and contents of its files, in order."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def posterior(prior: float, epsilon: float) -> float:
    """The most that somebody who gave a fact the probability `prior` can give it after seeing what was published."""
    grown = prior * math.exp(min(epsilon, 700.0))
    return grown / (1 - prior + grown)


def record_page(record: Record) -> str:
    """The HTML of the page."""
    facts = record.facts()
    signature = record.identity.sign(PURPOSE, _canonical(facts).encode()).hex()
    parts = [
        _head(record),
        *_warnings(record),
        _asked(record),
        _people(record),
        _left(record),
        _cost(record),
        _attacker(record),
        section("Limits", f"<ul>{''.join(f'<li>{line}</li>' for line in _LIMITS)}</ul>"),
        _happened(record),
        _proof(record, facts, signature),
    ]
    return document(record.case.study.study.name, "Primum record", parts)


def _canonical(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _head(record: Record) -> str:
    study = record.case.study.study
    stands = {"yes": "agreed", "no": "declined or withdrawn", "waiting": "not decided"}[record.case.standing.answer]
    lead = f"{esc(study.purpose)}<br>Digest {record.case.digest[:16]}… · this hospital: {stands}"
    return header("Record of a study at this hospital", study.name, lead)


def _warnings(record: Record) -> list[str]:
    found = []
    if record.case.study.privacy is None:
        found.append(notice("bad", "No differential privacy.", "Sums of all hospitals are published without noise."))
    if record.policy.members is None:
        found.append(
            notice(
                "warn",
                "Members are not pinned.",
                "policy.toml names no list of members: a coordinator that lies about who takes part is not excluded.",
            )
        )
    return found


def _asked(record: Record) -> str:
    told = [(name, esc(words)) for name, words in record.case.described().items()]
    return section("What was asked", pairs(told))


def _people(record: Record) -> str:
    rows = [
        (
            _day(answer.at),
            esc(answer.who if answer.who != "policy" else "policy.toml"),
            answer.answer,
            _day(answer.until),
        )
        for answer in record.case.answers
    ]
    body = (
        table(("When", "Who", "Answer", "Holds until"), rows, "stack") if rows else absent("Nobody has answered yet.")
    )
    return section("Who decided here", body)


def _left(record: Record) -> str:
    left = record.sent
    if not left.bytes:
        return section("What left the building", absent("Nothing."))
    rows = [(kind, size(amount), _CONTENT[kind]) for kind, amount in left.bytes.items()]
    body = f"<p>In {left.rounds} sums. No image, no label, no name, no count of images or patients.</p>"
    return section("What left the building", body + table(("Kind", "Bytes", "What it is"), rows, "stack"))


_CONTENT: Final = {
    "masked vectors": "numbers under masks: uniformly random to everybody who lacks the masks of this round",
    "shares that remove masks": "shares of the seeds of masks; they open the sum of all hospitals and nothing less",
    "keys and sealed shares": "public keys, and shares sealed to single other hospitals",
}


def _cost(record: Record) -> str:
    privacy = record.case.study.privacy
    rows = []
    for population, who in ((TRAINING, "patients who are trained on"), (EVALUATION, "patients who are looked at")):
        here = record.epsilon(population)
        rows.append(
            (who, str(record.charged(population)), "none promised" if here is None else number(here),
             number(record.epsilon_of_all(population)), number(record.policy.epsilon_cap))
        )  # fmt: skip
    head = ("For each of the", "Sums charged", "ε of this study so far", "ε of all studies", "This hospital's cap")
    unit = ""
    if privacy is not None:
        images = "All images of a patient count as one" if privacy.unit == "patient" else _images_count(record)
        unit = f"<p>{images}; {_colluding(record)}δ is {number(privacy.delta)} (all studies: {number(record.policy.delta_max)}).</p>"
    return section("What it costs each patient", table(head, rows, "stack") + unit)


def _colluding(record: Record) -> str:
    count, plan = record.charged(TRAINING), record.plan
    if not count:
        return ""
    alone = account.epsilon(plan.training_steps(count, honest=1), plan.accounted_delta)
    return f"if all other hospitals worked with the coordinator, ε of this study would be {number(alone)}; "


def _images_count(record: Record) -> str:
    privacy = record.case.study.privacy
    most = privacy.images_per_patient if privacy else 1
    return f"Each image counts by itself: a patient with {most} images, the most that are used, loses up to {most} times it"


def _attacker(record: Record) -> str:
    spent = record.epsilon(TRAINING)
    if spent is None or not record.charged(TRAINING):
        return section(
            "What an attacker could learn", absent("No patient was trained on with a promise that can be stated.")
        )
    rows = [(percent(prior), percent(posterior(prior, spent))) for prior in _PRIORS]
    words = (
        "<p>Somebody who sees the model and everything that was published, who knows all other patients, and who thinks that "
        "one certain patient was in the study (or ill) with the first probability, can come to think so with at most the "
        f"second: the odds grow by a factor of {number(math.exp(spent))} at most. In practice it is far less.</p>"
    )
    return section("What an attacker could learn", words + table(("Thought before", "At most after"), rows))


def _happened(record: Record) -> str:
    shown = [entry for entry in record.entries if entry["kind"] in ("decision", "refused", "end", "self-test")]
    rows = [(_day(entry["at"]), esc(sentence(entry))) for entry in shown]
    rounds = [entry["details"]["round"] for entry in record.entries if entry["kind"] == "vector"]
    body = table(("When", "What"), rows, "stack") if rows else absent("Nothing.")
    took = f"<p>It took part in {len(rounds)} sums: {_ranges(rounds)}.</p>" if rounds else ""
    return section("What happened", took + body)


def _proof(record: Record, facts: dict[str, Any], signature: str) -> str:
    rows = [
        ("Who asks", fingerprint(bytes.fromhex(record.case.asker))),
        ("This hospital", fingerprint(record.identity.public)),
        ("Members of the study", facts["members"]),
        ("Program", f"Primum {esc(__version__)}, SHA-256 of its files {facts['code_sha256']}"),
        ("Journal", f"{facts['journal_entries']} entries, chain and signatures checked; head {facts['journal_head']}"),
        ("Signature of this record", signature),
    ]
    data = f"<details><summary>What is signed</summary><pre>{esc(_canonical(facts))}</pre></details>"
    return section("Proof", pairs(rows) + data)


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for value in sorted(set(numbers)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in parts)


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") if at else "–"
