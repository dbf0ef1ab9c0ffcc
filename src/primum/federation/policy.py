"""A hospital's own rules, in its `policy.toml`. No study and no coordinator can widen them.

decide = "policy"            # or "ask": a study within the policy is still put before a person
signers = ["..."]            # keys of the people whose signatures agree here (`primum consent key`); decide must be "ask"
signers_needed = 2           # so many of them
members = "1a2b-..."         # fingerprint of the list of members, compared by telephone; absent: not pinned
askers = ["..."]             # keys of scientists who may ask; absent: anybody's study is put before the policy
tasks = ["classification"]
epsilon_cap = 4.0            # the most one patient may lose, over all studies together
rdp_order = 8                # how studies are added up; fixed when the ledger is made
delta_max = 1e-5
colluding_min = 1
vanish_min = 0
hospitals_min = 3
expires = 2027-12-31
without_privacy = false      # allow studies that promise nothing
"""

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from primum.dp.ledger import Cap
from primum.errors import Refused
from primum.keys.identity import list_fingerprint
from primum.study import Study, parse_toml, read_text


class Policy(BaseModel):
    """What this hospital allows. The defaults are strict; epsilon_cap and rdp_order have no default that fits all."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decide: Literal["policy", "ask"] = "policy"
    signers: tuple[str, ...] | None = None
    signers_needed: Annotated[int, Field(ge=1, le=10)] = 1
    members: str | None = None
    askers: tuple[str, ...] | None = None
    tasks: tuple[str, ...] = ("classification",)
    epsilon_cap: Annotated[float, Field(gt=0)] = 4.0
    rdp_order: Annotated[int, Field(ge=2, le=512)] = 8
    delta_max: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    colluding_min: Annotated[int, Field(ge=0)] = 1
    vanish_min: Annotated[int, Field(ge=0)] = 0
    hospitals_min: int = 3
    expires: datetime.date | None = None
    without_privacy: bool = False

    @field_validator("hospitals_min")
    @classmethod
    def _at_least_three(cls, value: int) -> int:
        if value < 3:
            raise ValueError("must be at least 3: with two, each learns the other's update from the sum")
        return value

    @model_validator(mode="after")
    def _enough_signers(self) -> "Policy":
        signers = self.signers or ()
        if self.signers is not None and self.decide != "ask":
            raise ValueError('signers go with decide = "ask": with "policy" nobody is asked')
        if any(len(key) != 64 or not all(c in "0123456789abcdef" for c in key) for key in signers):
            raise ValueError("signers: a key is 64 hex digits, as `primum consent key` shows")
        if self.signers_needed > max(1, len(set(signers))):
            raise ValueError(f"signers_needed = {self.signers_needed}, but {len(set(signers))} signers are named")
        return self

    @classmethod
    def read(cls, path: Path) -> "Policy | None":
        """The policy in `path`; None where there is no such file; StudyError for a wrong one."""
        if not path.exists():
            return None
        return parse_toml(cls, read_text(path), str(path))

    @property
    def cap(self) -> Cap:
        """The ledger's cap."""
        return Cap(self.epsilon_cap, self.delta_max, self.rdp_order)

    def check(self, study: Study, asker: bytes, today: datetime.date) -> None:
        """Refused, naming the rule, unless the study is within this policy."""
        hospitals, privacy = study.hospitals, study.privacy
        rules: list[tuple[bool, str, str]] = [
            (self.expires is not None and today > self.expires, "expires", f"it expired on {self.expires}"),
            (study.study.task not in self.tasks, "tasks", f"{study.study.task} is not among {list(self.tasks)}"),
            (
                self.askers is not None and asker.hex() not in self.askers,
                "askers",
                f"{asker.hex()[:16]}... is not among those who may ask",
            ),
            (
                len(hospitals.members) < self.hospitals_min,
                "hospitals_min",
                f"{len(hospitals.members)} hospitals take part, {self.hospitals_min} are asked for",
            ),
            (
                self.members is not None and self.members != list_fingerprint(hospitals.identities()),
                "members",
                "the study names other members than those this hospital pinned",
            ),
            (hospitals.colluding < self.colluding_min, "colluding_min", f"colluding = {hospitals.colluding}"),
            (hospitals.may_vanish < self.vanish_min, "vanish_min", f"may_vanish = {hospitals.may_vanish}"),
            (privacy is None and not self.without_privacy, "without_privacy", "it promises no privacy"),
            (
                privacy is not None and privacy.delta > self.delta_max,
                "delta_max",
                f"delta = {privacy.delta if privacy else 0:g}, at most {self.delta_max:g} is allowed",
            ),
            (
                privacy is not None and privacy.epsilon > self.epsilon_cap,
                "epsilon_cap",
                f"epsilon = {privacy.epsilon if privacy else 0:g}, at most {self.epsilon_cap:g} is allowed",
            ),
        ]
        for broken, rule, why in rules:
            if broken:
                raise Refused(f"The study does not fit this hospital's policy ({rule}): {why}.", "See policy.toml.")
