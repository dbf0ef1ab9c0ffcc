"""Journals that were seen: neither side can write its past anew alone."""

import json
from pathlib import Path

import pytest
from tests.federation.playing import World, make_study

from primum.errors import InputError, PeerError
from primum.federation.messages import JournalHead
from primum.federation.runs import Run
from primum.federation.witness import FIELD, compare, head_of, kept, read_verified, seen_in
from primum.journal import Journal
from primum.keys.identity import Identity
from primum.secagg.messages import sign

ROUNDS = 3 + 1  # and one look


@pytest.fixture
def trained(three: World) -> Run:
    return three.train(make_study(three.members))


def journals(world: World) -> tuple[Path, Path]:
    """The coordinator's, and that of hospital 1."""
    return world.folder / "journal.jsonl", world.hospitals[1].state.folder / "journal.jsonl"


def test_every_round_leaves_each_sides_head_with_the_other(three: World, trained: Run) -> None:
    hub, node = journals(three)
    theirs, ours = read_verified(hub, three.coordinator.public), read_verified(node, three.members[0])
    assert compare(theirs, three.coordinator.public, ours) == ROUNDS
    assert compare(ours, three.members[0], theirs) == ROUNDS
    assert len(seen_in(theirs)) == ROUNDS * 3


def rewritten(path: Path, owner: Identity, line: int, folder: Path) -> Path:
    """The journal anew without one line, its chain and signatures right: what only its owner can do."""
    path_of_new = folder / "new.jsonl"
    new = Journal(path_of_new, owner)
    for number, text in enumerate(path.read_text().splitlines()):
        entry = json.loads(text)["entry"]
        if number != line:
            new.write(entry["kind"], **entry["details"])
    return path_of_new


@pytest.mark.parametrize("side", ["coordinator", "hospital"])
def test_a_side_that_writes_its_past_anew_is_found_by_the_other(
    three: World, trained: Run, tmp_path: Path, side: str
) -> None:
    hub, node = journals(three)
    if side == "coordinator":
        liar, changed, other, witness = three.coordinator, hub, node, three.members[0]
    else:
        liar, changed, other, witness = three.hospitals[1].identity, node, hub, three.coordinator.public
    lines = changed.read_text().splitlines()
    for line in range(len(lines)):
        anew = read_verified(rewritten(changed, liar, line, tmp_path), liar.public)
        (tmp_path / "new.jsonl").unlink()
        last = max(
            n for n, text in enumerate(lines) if f'"kind":"{"round" if side == "coordinator" else "vector"}"' in text
        )
        if line <= last - (side == "coordinator"):  # what comes after the last head that was shown nobody has seen
            with pytest.raises(InputError, match="not in the other journal"):
                compare(anew, liar.public, read_verified(other, witness))


def test_heads_of_two_runs_may_overtake_each_other_and_those_of_one_may_not(tmp_path: Path) -> None:
    hub, node = Identity.generate(), Identity.generate()
    theirs, ours = Journal(tmp_path / "hub.jsonl", hub), Journal(tmp_path / "node.jsonl", node)
    shown = []
    for number, run in enumerate((b"a" * 16, b"b" * 16, b"b" * 16)):
        theirs.write("round", number=number)
        shown.append(kept(head_of(theirs, run, hub), run, hub.public, "the coordinator"))
    for head in (shown[1], shown[0], shown[2]):
        ours.write("vector", **{FIELD: [head]})
    there = read_verified(tmp_path / "hub.jsonl", hub.public)
    assert compare(there, hub.public, read_verified(tmp_path / "node.jsonl", node.public)) == 3
    ours.write("vector", **{FIELD: [shown[1]]})
    with pytest.raises(InputError, match="entry 4"):
        compare(there, hub.public, read_verified(tmp_path / "node.jsonl", node.public))


def test_a_journal_of_another_owner_or_with_a_changed_line_is_refused(three: World, trained: Run) -> None:
    _, node = journals(three)
    with pytest.raises(PeerError, match="signature"):
        read_verified(node, three.members[1])
    with pytest.raises(InputError, match="is not there"):
        read_verified(node.parent / "nothing.jsonl", three.members[0])


@pytest.mark.parametrize("wrong", ["of another run", "signed by somebody else", "too short"])
def test_a_head_that_is_not_the_peers_own_of_this_run_is_refused(wrong: str) -> None:
    owner, run = Identity.generate(), b"r" * 16
    signer = Identity.generate() if wrong == "signed by somebody else" else owner
    statement = JournalHead(
        b"s" * 16 if wrong == "of another run" else run, b"h" * (31 if wrong == "too short" else 32)
    )
    with pytest.raises(PeerError, match="hospital 2"):
        kept(sign(signer, statement), run, owner.public, "hospital 2")
