"""What people say to a study counts, or is refused in words: nothing is noted that would not hold."""

import datetime
from pathlib import Path

import pytest
from tests.federation.playing import World, make_study

from primum.errors import InputError, Refused
from primum.federation.desk import Desk
from primum.federation.runs import Run
from primum.journal import read


def put(world: World, **changes: object) -> tuple[Run, Desk]:
    """A study that was put before all hospitals and that nobody has agreed to, and the desk of the first."""
    for hospital in world.hospitals.values():
        path = hospital.state.folder / "policy.toml"
        path.write_text(path.read_text() + 'decide = "ask"\n')
    run = world.submit(make_study(world.members, deadlines={"consent": 0.5}, **changes))  # type: ignore[arg-type]
    with pytest.raises(Refused):
        world.rounds(run).run_all()
    return run, Desk.open(world.hospitals[1].state.folder)


def decisions(desk: Desk) -> list[str]:
    entries = read(desk.folder / "journal.jsonl")
    return [entry["details"]["answer"] for entry in entries if entry["kind"] == "decision"]


def test_a_yes_that_would_have_ended_already_is_refused_and_not_noted(three: World) -> None:
    _, desk = put(three)
    before = decisions(desk)
    with pytest.raises(InputError, match="would end on 2020-01-01"):
        desk.answer("tiny", "yes", datetime.date(2020, 1, 1), None)
    assert desk.find("tiny").standing.answer == "waiting"
    assert decisions(desk) == before
    assert desk.answer("tiny", "yes", datetime.date.today(), None).standing.answer == "yes"
    assert read(desk.folder / "journal.jsonl")[-1]["details"]["until"] == datetime.date.today().isoformat()


def test_a_study_that_the_policy_refuses_is_no_and_nobody_can_agree_to_it(three: World) -> None:
    _, desk = put(three)
    path: Path = desk.folder / "policy.toml"
    path.write_text(path.read_text() + "epsilon_cap = 1.0\n")
    case = desk.find("tiny")
    assert case.standing.answer == "no"
    assert "epsilon_cap" in case.standing.words
    with pytest.raises(Refused, match="epsilon_cap"):
        desk.answer("tiny", "yes", None, None)
    assert desk.answer("tiny", "no", None, None).standing.words.startswith("declined by")
