"""Stop, resume and status, in every state of a run; once more does no harm."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.federation.playing import World, make_study, once

from primum.errors import PeerError
from primum.federation.aggregation import Halted
from primum.federation.control import Control
from primum.federation.enrolment import Member
from primum.federation.messages import (
    Consent,
    DealOrder,
    EndOrder,
    KeysOrder,
    Order,
    PairOrder,
    RoundOrder,
    StudyOrder,
    UnmaskOrder,
)
from primum.federation.runs import FAILED, FINISHED, QUEUED, STOPPED, Run
from primum.federation.scientist import StatusRequest
from primum.federation.server_app import carry_out
from primum.journal import Journal, read
from primum.models.card import load_model

STAGES = (StudyOrder, KeysOrder, PairOrder, DealOrder, RoundOrder, UnmaskOrder)


@pytest.fixture
def control(three: World) -> Control:
    members = [Member(f"Hospital {place}", identity, b"") for place, identity in enumerate(three.members, start=1)]
    journal = Journal(three.folder / "journal.jsonl", three.coordinator)
    return Control(three.folder / "runs", lambda: members, journal, lambda transport: 5.0)


def go(world: World, run: Run) -> str:
    """The server program once; the state after it."""
    carry_out(world.rounds(run), run, world.said.append)
    return str(run.status()["state"])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_run_stops_at_any_stage_and_goes_on_later(three: World, control: Control, stage: type) -> None:
    run = three.submit(make_study(three.members))
    rounds_begun = 6 if stage in (RoundOrder, UnmaskOrder) else 0

    def here(place: int, order: Order) -> bool:
        return isinstance(order, stage) and len(three.wires.of(RoundOrder)) >= rounds_begun

    def ask() -> None:
        control.stop(run.name)
        control.stop(run.name)

    three.wires.before = once(here, ask)
    assert go(three, run) == STOPPED
    done = len(run.lines("metrics.jsonl"))
    assert done < 3
    assert (run.folder / "model.safetensors").exists() == (done > 0)
    assert [order.outcome for _, order in three.wires.of(EndOrder)] == ["stopped"] * 3
    control.resume(run.name)
    assert (run.status()["state"], run.stop_asked) == (QUEUED, False)
    assert go(three, run) == FINISHED
    assert load_model(run.folder)
    lines = run.lines("metrics.jsonl")
    charged = sum(line["charged"] for line in run.lines("attempts.jsonl"))
    assert [line["round"] for line in lines] == list(range(1, 4 - charged))


def test_a_queued_run_is_stopped_before_it_begins(three: World, control: Control) -> None:
    run = three.submit(make_study(three.members))
    control.stop(run.name)
    assert run.status()["state"] == STOPPED


@pytest.mark.parametrize("state", [FINISHED, FAILED, STOPPED])
def test_what_is_over_stays_as_it_is(three: World, control: Control, state: str) -> None:
    run = three.submit(make_study(three.members))
    run.set_status(state, "so")
    control.stop(run.name)
    assert (run.status()["state"], run.stop_asked) == (state, False)
    control.resume(run.name)
    assert run.status()["state"] == (FINISHED if state == FINISHED else QUEUED)


def test_a_run_that_nobody_handed_in_is_named(three: World, control: Control) -> None:
    run = three.submit(make_study(three.members))
    for name in (
        "20990101-nothing",
        "",
        ".",
        "..",
        "/",
        f"./{run.name}",
        f"x/{run.name}",
        "../../etc",
        "x" * 300,
        "\0",
    ):
        with pytest.raises(PeerError, match="There is no run"):
            control.stop(name)


def test_status_names_who_is_waited_for(three: World, control: Control) -> None:
    run = three.submit(make_study(three.members))
    seen: list[tuple[str, list[str]]] = []

    def look(place: int, order: Order) -> None:
        [status] = control.status(StatusRequest(run.name)).runs
        seen.append((status.stage, [awaited.name for awaited in status.awaited]))
        assert status.since <= status.until
        assert {awaited.last_seen for awaited in status.awaited} <= {5.0}
        run.heard(place)

    three.wires.before = look
    go(three, run)
    everybody = [f"Hospital {place}" for place in (1, 2, 3)]
    for stage in ("consent", "setup", "vectors", "shares"):
        assert (stage, everybody) in seen
        assert (stage, everybody[1:]) in seen
        assert (stage, everybody[2:]) in seen
    [status] = control.status(StatusRequest("")).runs
    assert (status.state, status.rounds, status.of, status.awaited) == (FINISHED, 3, 3, ())


def test_who_stopped_and_let_go_on_stands_in_the_journal(three: World, control: Control) -> None:
    run = three.submit(make_study(three.members))
    control.stop(run.name)
    control.resume(run.name)
    kinds = [entry["kind"] for entry in read(three.folder / "journal.jsonl")]
    assert kinds == ["stop", "resume"]


def test_a_hospital_that_does_not_answer_is_waited_for_until_a_stop(three: World, control: Control) -> None:
    """While people think about a consent, too."""
    run = three.submit(make_study(three.members))
    three.hospitals[2].allow(decide="ask")

    def thinking() -> bool:
        answers = [reply.answer for _, reply in three.wires.of(Consent)]
        return answers.count("waiting") > 1

    three.wires.before = once(lambda place, order: thinking(), lambda: run.ask_to_stop())
    with pytest.raises(Halted):
        three.rounds(run).run_all()
    assert not three.wires.of(KeysOrder)


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("primum.federation.rounds._RETRY_PAUSE", 0.1)
    yield


def test_a_node_lives_on_after_a_fault_of_its_own_and_tells_where_but_nothing_of_its_data(
    three: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("patient 4711 has a shadow")

    run = three.submit(make_study(three.members))
    monkeypatch.setattr("primum.tasks.learner.Learner.step", explode)
    monkeypatch.setattr("primum.federation.rounds._MOST_FAILURES", 1)
    assert go(three, run) == FAILED
    faults = run.lines("faults.jsonl")
    assert {fault["hospital"] for fault in faults} == {1, 2, 3}
    assert {fault["code"] for fault in faults} == {"Unexpected.RuntimeError"}
    assert all("in participant.py, line" in fault["message"] for fault in faults)
    assert b"4711" not in b"".join(three.wires.recorded)
    assert any("patient 4711" in line for line in three.hospitals[1].said), "the hospital's own screen has it all"
