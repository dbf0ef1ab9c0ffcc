"""A hospital's own rules."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.federation.playing import make_study

from primum.errors import Refused, StudyError
from primum.federation.policy import Policy
from primum.keys.identity import Identity, list_fingerprint
from primum.study import Study

TODAY = datetime.date(2027, 5, 1)
ASKER = b"a" * 32
MEMBERS = [bytes([place]) * 32 for place in range(1, 5)]


def study(**changes: Any) -> Study:
    return make_study(MEMBERS, **changes)


def with_hospitals(**changes: Any) -> Study:
    base = study()
    return base.model_copy(update={"hospitals": base.hospitals.model_copy(update=changes)})


def test_a_study_within_the_policy_is_let_in() -> None:
    Policy(members=list_fingerprint(MEMBERS), askers=(ASKER.hex(),)).check(study(), ASKER, TODAY)


@pytest.mark.parametrize(
    ("rule", "policy", "asked"),
    [
        ("expires", {"expires": datetime.date(2027, 4, 30)}, study),
        ("askers", {"askers": ("00" * 32,)}, study),
        ("tasks", {"tasks": ("segmentation",)}, study),
        ("hospitals_min", {"hospitals_min": 5}, study),
        ("members", {"members": list_fingerprint([Identity.generate().public])}, study),
        ("colluding_min", {"colluding_min": 2}, study),
        ("vanish_min", {"vanish_min": 1}, study),
        ("without_privacy", {}, lambda: study(private=False)),
        ("delta_max", {"delta_max": 1e-6}, study),
        ("epsilon_cap", {"epsilon_cap": 2.9}, study),
    ],
)
def test_what_breaks_a_rule_is_refused_by_its_name(
    rule: str, policy: dict[str, Any], asked: Callable[[], Study]
) -> None:
    with pytest.raises(Refused, match=rf"\({rule}\)"):
        Policy(**policy).check(asked(), ASKER, TODAY)


def test_the_last_day_is_still_allowed() -> None:
    Policy(expires=TODAY).check(study(), ASKER, TODAY)


def test_a_list_of_members_in_another_order_is_the_same_list() -> None:
    Policy(members=list_fingerprint(reversed(MEMBERS))).check(study(), ASKER, TODAY)


def test_one_more_or_one_other_member_is_another_list() -> None:
    pinned = Policy(members=list_fingerprint(MEMBERS))
    for others in (MEMBERS[:3], [*MEMBERS[:3], b"z" * 32]):
        with pytest.raises(Refused, match="other members"):
            pinned.check(make_study(others), ASKER, TODAY)


def test_no_file_is_no_policy(tmp_path: Path) -> None:
    assert Policy.read(tmp_path / "policy.toml") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epsilon_capp = 3", "unknown key epsilon_capp. Did you mean epsilon_cap"),
        ("hospitals_min = 2", "at least 3"),
        ("epsilon_cap = inf", "finite"),
        ("epsilon_cap = nan", "epsilon_cap"),
        ('decide = "always"', "decide"),
        ("epsilon_cap = ", "not valid TOML"),
        ("delta_max = 0.5", "delta_max"),
    ],
)
def test_a_wrong_policy_is_refused_and_names_its_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        Policy.read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_binary_file_is_no_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="not a text file"):
        Policy.read(path)
