"""Some mutated messages at each receiver: a named refusal, no crash, nothing taken for good. More: `scripts/bench faults`."""

from pathlib import Path

import pytest
from tests.fuzz.coordinators import fuzz_sums
from tests.fuzz.counts import Counts
from tests.fuzz.diagnoses import Stage, fuzz_answers, fuzz_greetings, fuzz_requests
from tests.fuzz.fronts import fuzz_front
from tests.fuzz.nodes import fuzz_nodes

from primum.federation.messages import DealOrder, PairOrder, RoundOrder, StudyOrder, UnmaskOrder

MOST_IN_THE_FRAME = 0.1
"""Share of the mutants that may be refused before a field is looked at; of few, chance has it that they are more."""


def held(counts: Counts) -> None:
    assert counts.crashes == []
    assert counts.accepted == []
    assert counts.past >= (1 - MOST_IN_THE_FRAME) * counts.sent


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.federation.rounds._RETRY_PAUSE", 0.0)


def test_orders_at_hospitals(tmp_path: Path) -> None:
    counts = fuzz_nodes(tmp_path, 150, "a test", (RoundOrder, UnmaskOrder, PairOrder, DealOrder, StudyOrder))
    held(counts)
    assert len(counts.refusals) >= 20, "many kinds of refusal were met"


def test_answers_of_hospitals_at_the_coordinator() -> None:
    counts = fuzz_sums(50, "a test")
    held(counts)
    assert counts.refusals["the sum is exact"]


def test_requests_at_the_front(tmp_path: Path) -> None:
    held(fuzz_front(tmp_path, 150, "a test"))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("deployment"))


@pytest.mark.parametrize("part", [fuzz_requests, fuzz_answers, fuzz_greetings])
def test_diagnosis(stage: Stage, part: object) -> None:
    held(part(stage, 60, "a test"))  # type: ignore[operator]
