"""What a restored state must not forget: spent epsilon, used rounds, taken back invitations. Real hospitals, real studies."""

import shutil
import time
from pathlib import Path

import pytest
from tests.federation.playing import Hospital, World, build, make_study

from primum import archive
from primum.archive import Manifest
from primum.dp.account import epsilon_of_rdp
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.errors import BudgetError, InputError, PeerError, Refused
from primum.federation.coordinator import State
from primum.federation.memory import Memory
from primum.federation.policy import Policy
from primum.federation.restoring import Since, finish
from primum.federation.runs import FAILED, FINISHED, Run
from primum.journal import read as read_journal
from primum.study import Study, sign_study

NOW = time.time()


def ledger(folder: Path) -> Ledger:
    policy = Policy.read(folder / "policy.toml")
    assert policy is not None
    return Ledger(folder / "ledger.sqlite", policy.cap)


def restore(backup: Path, folder: Path, since: Since) -> list[str]:
    said: list[str] = []

    def last(staging: Path, manifest: Manifest) -> None:
        said.extend(finish(staging, manifest, since))

    archive.restore(backup, folder, last)
    return said


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three hospitals; a backup of the first was made between two studies: `kept.tar.gz` in its folder."""
    made = build(tmp_path_factory.mktemp("world"), 3, epsilon_cap=50.0)
    made.train(make_study(made.members, rounds=1))
    archive.backup(first(made).state.folder, first(made).folder / "kept.tar.gz", "1")
    made.train(make_study(made.members, rounds=1))
    (made.folder / "second.toml").write_text(make_study(made.members, rounds=1).text())
    return made


def first(world: World) -> Hospital:
    return world.hospitals[1]


@pytest.fixture
def backup(world: World) -> Path:
    return first(world).folder / "kept.tar.gz"


def test_with_the_lost_folders_journal_the_ledger_knows_what_was_spent_since(
    world: World, backup: Path, tmp_path: Path
) -> None:
    lost = first(world).state.folder
    said = restore(backup, tmp_path / "state", Since(journal=lost / "journal.jsonl"))
    old, new = ledger(lost), ledger(tmp_path / "state")
    assert said[0].startswith(f"{len(old.entries()) - _before(world)} steps")
    for population in (TRAINING, EVALUATION):
        assert new.spent(population) >= old.spent(population) > 0
    assert {(e.run, e.round, e.population) for e in new.entries()} == {
        (e.run, e.round, e.population) for e in old.entries()
    }
    entries = read_journal(tmp_path / "state" / "journal.jsonl")
    assert entries[-1]["kind"] == "restored" and len(entries) == len(read_journal(lost / "journal.jsonl")) + 1


def _before(world: World) -> int:
    """Steps that stand in the backup: one round and one look of the first study."""
    runs = {entry.run for entry in ledger(first(world).state.folder).entries()}
    assert len(runs) == 2
    return 2


def test_with_the_studies_that_ran_since_the_ledger_knows_at_least_as_much(
    world: World, backup: Path, tmp_path: Path
) -> None:
    restore(backup, tmp_path / "state", Since(studies=(world.folder / "second.toml",)))
    old, new = ledger(first(world).state.folder), ledger(tmp_path / "state")
    for population in (TRAINING, EVALUATION):
        assert new.spent(population) >= old.spent(population) > 0


def test_what_was_spent_is_charged_also_where_it_does_not_fit(world: World, backup: Path, tmp_path: Path) -> None:
    spent = ledger(first(world).state.folder).spent(TRAINING)
    cap = epsilon_of_rdp(spent / 2, 8, Policy().delta_max)

    def finish_with_a_smaller_cap(staging: Path, manifest: Manifest) -> None:
        path = staging / "policy.toml"
        path.write_text(path.read_text().replace("epsilon_cap = 50.0", f"epsilon_cap = {cap}"))
        finish(staging, manifest, Since(studies=(world.folder / "second.toml",)))

    archive.restore(backup, tmp_path / "state", finish_with_a_smaller_cap)
    assert ledger(tmp_path / "state").left(TRAINING) < 0
    with pytest.raises(BudgetError):
        ledger(tmp_path / "state").require(TRAINING, 1e-9)


def test_each_study_that_is_named_is_charged(world: World, backup: Path, tmp_path: Path) -> None:
    spent = []
    for count in (1, 2):
        restore(backup, tmp_path / f"{count}", Since(studies=(world.folder / "second.toml",) * count))
        spent.append(ledger(tmp_path / f"{count}").spent(TRAINING))
    restore(backup, tmp_path / "0", Since(nothing=True))
    before = ledger(tmp_path / "0").spent(TRAINING)
    assert spent[1] - spent[0] == pytest.approx(spent[0] - before) and spent[0] > before


def test_without_a_word_about_what_was_spent_nothing_is_restored(backup: Path, tmp_path: Path) -> None:
    for since in (Since(), Since(journal=tmp_path / "journal.jsonl", nothing=True)):
        with pytest.raises(InputError, match="Nothing says what this node spent"):
            restore(backup, tmp_path / "state", since)
        assert not (tmp_path / "state").exists()


def test_a_journal_of_another_node_or_an_altered_one_is_refused(world: World, backup: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not go on from the journal in the backup"):
        restore(backup, tmp_path / "state", Since(journal=world.hospitals[2].state.folder / "journal.jsonl"))
    text = (first(world).state.folder / "journal.jsonl").read_text()
    before, _, after = text.rpartition('"rdp":')
    (tmp_path / "altered.jsonl").write_text(f'{before}"rdp":-{after}')
    with pytest.raises(PeerError, match="signature of the owner"):
        restore(backup, tmp_path / "state", Since(journal=tmp_path / "altered.jsonl"))
    assert not (tmp_path / "state").exists()


def test_a_restored_node_refuses_studies_that_were_signed_before_and_takes_new_ones(
    backup: Path, tmp_path: Path
) -> None:
    restore(backup, tmp_path / "state", Since(nothing=True))
    memory = Memory(tmp_path / "state" / "memory.sqlite")
    for asked in (None, NOW - 1e6, time.time(), time.time() + 60):
        with pytest.raises(Refused, match="restored from a backup"):
            memory.refuse_older(asked)
    memory.refuse_older(time.time() + 3600)
    Memory(tmp_path / "other.sqlite").refuse_older(None)


def test_a_restored_hospital_answers_no_run_that_was_signed_before(world: World, backup: Path) -> None:
    hospital = first(world)
    run = world.submit(asked_at(time.time(), world))
    shutil.rmtree(hospital.state.folder)
    restore(backup, hospital.state.folder, Since(nothing=True))
    hospital.start()
    with pytest.raises(Refused, match="restored from a backup"):
        world.rounds(run).run_all()
    assert world.train(asked_at(time.time() + 3600, world)).lines("metrics.jsonl")


def asked_at(at: float, world: World) -> Study:
    """As `primum train` fills in."""
    study = make_study(world.members, rounds=1)
    return study.model_copy(update={"study": study.study.model_copy(update={"asked": int(at)})})


def test_a_restored_coordinator_fails_unfinished_runs_and_takes_invitations_back(world: World, tmp_path: Path) -> None:
    state = State.open(tmp_path / "coordinator")
    signed = sign_study(make_study(world.members), state.scientist)
    runs = {name: Run.create(state.runs, signed, name) for name in ("queued", "done")}
    runs["done"].set_status(FINISHED)
    token = state.register.invite("North")
    archive.backup(state.folder, tmp_path / "kept.tar.gz", "1")
    said = restore(tmp_path / "kept.tar.gz", tmp_path / "new", Since())
    assert {
        run.name.split("-")[2]: run.status()["state"] for run in map(Run, (tmp_path / "new" / "runs").iterdir())
    } == {
        "queued": FAILED,
        "done": FINISHED,
    }
    assert "1 unused invitations are worthless" in " ".join(said)
    assert token  # it is in nobody's list now
    with pytest.raises(InputError, match="never invited"):
        State.open(tmp_path / "new").register.revoke("North")
    with pytest.raises(InputError, match="are about a node"):
        restore(tmp_path / "kept.tar.gz", tmp_path / "other", Since(nothing=True))
