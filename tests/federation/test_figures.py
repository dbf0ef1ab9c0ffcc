"""What whoever watches a node or a dealer sees: what the journal and the ledger say, and nothing about images."""

import re
from pathlib import Path

import pytest

from primum.diagnosis.metrics import DealerFigures
from primum.diagnosis.numbers import note
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.federation.contact import Contact
from primum.federation.figures import NodeFigures
from primum.federation.policy import Policy
from primum.journal import Journal
from primum.keys.certificate import load_or_make
from primum.keys.identity import Identity
from primum.watch import as_text, is_address


def values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


def test_a_nodes_figures_follow_its_journal_and_ledger_and_name_no_count_of_images(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("epsilon_cap = 4.0\nrdp_order = 8\n")
    certificate, contact = load_or_make(tmp_path, "127.0.0.1").pem(), Contact()
    figures = NodeFigures(tmp_path, contact, lambda: certificate)
    before = values(as_text(figures()))
    assert (before["primum_connected"], before["primum_rounds_total"], before["primum_epsilon_cap"]) == (0, 0, 4)
    contact.note()
    journal = Journal(tmp_path / "journal.jsonl", Identity.generate())
    for run, number in (("aa", 1), ("aa", 2), ("bb", 1)):
        journal.write("vector", run=run, round=number, what="train", participants=[1, 2, 3], bytes=100)
        journal.write("shares", run=run, included=[1, 2, 3])
    policy = Policy.read(tmp_path / "policy.toml")
    assert policy is not None
    ledger = Ledger(tmp_path / "ledger.sqlite", policy.cap)
    ledger.reserve("tiny", "aa", 1, TRAINING, policy.cap.budget)
    for _ in range(2):  # asked twice, counted once
        after = values(as_text(figures()))
        assert after["primum_connected"] == 1 and after["primum_last_seen_seconds"] == contact.at > 0
        assert (after["primum_runs_total"], after["primum_rounds_total"]) == (2, 3)
        assert after["primum_vector_bytes_total"] == 300
        assert after[f'primum_epsilon_spent{{population="{TRAINING}"}}'] == pytest.approx(4.0)
        assert after[f'primum_epsilon_spent{{population="{EVALUATION}"}}'] == 0
    contact.lost()
    names = {re.split(r"[{ ]", line)[0].removeprefix("primum_") for line in values(as_text(figures()))}
    assert names == {
        *("build_info", "connected", "last_seen_seconds", "runs_total", "rounds_total"),
        *("vector_bytes_total", "certificate_days", "epsilon_cap", "epsilon_spent"),
    }
    assert values(as_text(figures()))["primum_connected"] == 0


def test_a_dealers_figures_follow_its_journal(tmp_path: Path) -> None:
    figures = DealerFigures(tmp_path)
    assert values(figures()) == {"primum_dealt_total": 0}
    journal = Journal(tmp_path / "journal.jsonl", Identity.generate())
    note(journal, "dealt", b"request", 1, 3)
    note(journal, "dealt", b"other", 4, 1)
    assert values(figures()) == values(figures()) == {"primum_dealt_total": 4}


def test_an_address_is_told_from_a_file() -> None:
    assert all(map(is_address, ("127.0.0.1:9464", ":9464", "localhost:1")))
    assert not any(map(is_address, ("metrics.prom", "/run/a:9464", "9464", "host:", "host:70000", "host:x")))
