"""Certificates say for whom they are and when they end, in time for somebody to act."""

from pathlib import Path

import pytest

from primum.errors import InputError
from primum.keys import certificate
from primum.keys.certificate import days_left, ending, hosts_of, load_or_make


def test_a_certificate_names_its_hosts(tmp_path: Path) -> None:
    pem = load_or_make(tmp_path, "coordinator.example.org", "127.0.0.1", "127.0.0.1").pem()
    assert hosts_of(pem) == ("coordinator.example.org", "127.0.0.1")


@pytest.mark.parametrize(
    ("days", "words"), [(825, None), (61, None), (60, "ends in 59 days"), (1, "ends in 0 days"), (0, "has ended")]
)
def test_its_end_is_said_sixty_days_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, words: str | None
) -> None:
    monkeypatch.setattr(certificate, "LIFETIME_DAYS", days)
    pem = load_or_make(tmp_path, "127.0.0.1").pem()
    assert days_left(pem) == days - 1  # begun whole days, a moment later
    said = ending(pem, "the coordinator", "Rotate it.")
    assert said == (None if words is None else f"Warning: the certificate of the coordinator {words}. Rotate it.")


def test_what_is_no_certificate_is_refused_by_name() -> None:
    for read in (hosts_of, days_left):
        with pytest.raises(InputError, match="not in PEM form"):
            read("words")
