"""The data protection officer's page: made at the hospital, signed, true to journal and ledger, and it names no file."""

import json
import math
from pathlib import Path

import pytest
from tests.command import run_command
from tests.federation.playing import World, build, make_study

from primum.errors import InputError
from primum.federation.messages import VectorAnswer
from primum.keys.identity import verify
from primum.report.record import PURPOSE, Record, posterior, record_page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = build(tmp_path_factory.mktemp("record"), 3)
    made.train(make_study(made.members))
    return made


@pytest.fixture
def state(world: World) -> Path:
    return world.hospitals[1].state.folder


def test_what_it_says_is_what_left_and_what_was_charged(world: World, state: Path) -> None:
    facts = Record.of(state, "tiny").facts()
    vectors = [len(answer.vector.vector) for place, answer in world.wires.of(VectorAnswer) if place == 1]
    assert facts["rounds"] == len(vectors) == 4
    assert facts["sent_bytes"]["masked vectors"] == sum(vectors)
    assert set(facts["sent_bytes"]) == {"masked vectors", "shares that remove masks", "keys and sealed shares"}
    assert 0 < facts["epsilon"]["training"] <= 3.0
    assert facts["epsilon"]["training"] < facts["epsilon_of_all_studies"]["training"] <= 4.0
    assert facts["hospital"] == world.members[0].hex()


def test_the_page_is_signed_by_the_hospital_and_says_nothing_of_files_or_others(world: World, state: Path) -> None:
    record = Record.of(state, "tiny")
    page = record_page(record)
    signed = page.split("<pre>")[1].split("</pre>")[0].replace("&quot;", '"')
    signature = page.split("Signature of this record</dt><dd>")[1].split("</dd>")[0]
    verify(record.identity.public, PURPOSE, signed.encode(), bytes.fromhex(signature), "the hospital")
    assert json.loads(signed)["study"] == record.case.digest
    for place in (2, 3):
        assert world.members[place - 1].hex() not in page
    for image in (state.parent / "images").rglob("*.png"):
        assert image.name not in page
    for words in ("A study of the tests.", "policy.toml", "Members", "odds grow", "Limits", "1 to 4"):
        assert words in page


def test_posterior_odds_grow_by_e_to_the_epsilon_at_most() -> None:
    for prior in (0.01, 0.5, 0.9):
        after = posterior(prior, 1.5)
        assert after / (1 - after) == pytest.approx(math.exp(1.5) * prior / (1 - prior))
    assert posterior(0.5, 1e9) == 1.0


def test_a_study_that_was_never_asked_is_named(state: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No study is called 'nothing'"):
        Record.of(state, "nothing")
    with pytest.raises(InputError, match="not a node's state folder"):
        Record.of(tmp_path, "tiny")


def test_the_command_writes_a_private_page(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run_command("record", "tiny", "--state", state, "--out", out)
    assert done.returncode == 0, done
    assert out.stat().st_mode & 0o777 == 0o600
    done = run_command("record", "tiny", "--state", state, "--json")
    assert json.loads(done.stdout)["name"] == "tiny"
