"""The ledger: reserves first, refuses before it overspends, and keeps its word through kill -9 and two processes."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from primum.dp import account
from primum.dp.account import Steps
from primum.dp.ledger import EVALUATION, TRAINING, Cap, Ledger
from primum.errors import BudgetError, InputError

CAP = Cap(3.0, 1e-5, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_the_cap_is_one_renyi_order_with_its_budget() -> None:
    assert account.epsilon_of_rdp(CAP.budget, CAP.order, CAP.delta) == pytest.approx(CAP.epsilon)


def test_an_order_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"rdp_order = 2 .*larger rdp_order"):
        _ = Cap(1.0, 1e-6, 2).budget


def test_reserves_before_and_is_on_disk_when_it_returns(path: Path) -> None:
    Ledger(path, CAP).reserve("s", "r", 1, TRAINING, 0.25)
    rows = sqlite3.connect(path).execute("select rdp_reserved, rdp_settled from entry").fetchall()
    assert rows == [(0.25, None)]
    assert Ledger(path, CAP).spent(TRAINING) == 0.25


def test_refuses_before_overspending_and_writes_nothing(path: Path) -> None:
    ledger = Ledger(path, CAP)
    ledger.reserve("s", "r", 1, TRAINING, CAP.budget * 0.9)
    with pytest.raises(BudgetError, match="is left"):
        ledger.reserve("s", "r", 2, TRAINING, CAP.budget * 0.2)
    assert len(ledger.entries()) == 1
    ledger.reserve("s", "r", 2, TRAINING, ledger.left(TRAINING))
    with pytest.raises(BudgetError):
        ledger.reserve("s", "r", 3, TRAINING, 1e-9)


@pytest.mark.parametrize("divergence", [float("inf"), float("nan")])
def test_a_step_without_a_guarantee_never_fits(path: Path, divergence: float) -> None:
    ledger = Ledger(path, CAP)
    with pytest.raises(BudgetError):
        ledger.reserve("s", "r", 1, TRAINING, divergence)
    assert ledger.entries() == []


def test_a_negative_cost_is_refused(path: Path) -> None:
    """It would hand budget back."""
    ledger = Ledger(path, CAP)
    with pytest.raises(ValueError, match="negative"):
        ledger.reserve("s", "r", 1, TRAINING, -1.0)
    ledger.reserve("s", "r", 1, TRAINING, 0.5)
    with pytest.raises(ValueError, match="negative"):
        ledger.settle("r", 1, TRAINING, -1.0)
    assert ledger.spent(TRAINING) == 0.5


def test_the_same_round_twice_is_refused(path: Path) -> None:
    ledger = Ledger(path, CAP)
    ledger.reserve("s", "r", 1, TRAINING, 0.1)
    with pytest.raises(BudgetError, match="already charged"):
        ledger.reserve("s", "r", 1, TRAINING, 0.1)
    ledger.reserve("s", "r", 1, EVALUATION, 0.1)
    ledger.reserve("s", "other run", 1, TRAINING, 0.1)
    assert ledger.spent(TRAINING) == pytest.approx(0.2)


def test_training_and_evaluation_patients_each_have_the_whole_cap(path: Path) -> None:
    ledger = Ledger(path, CAP)
    for population in (TRAINING, EVALUATION):
        ledger.reserve("s", "r", 1, population, CAP.budget)
        assert ledger.left(population) == 0


def test_settling_lowers_once_and_never_raises(path: Path) -> None:
    ledger = Ledger(path, CAP)
    ledger.reserve("s", "r", 1, TRAINING, 0.5)
    ledger.settle("r", 1, TRAINING, 0.9)
    assert ledger.spent(TRAINING) == 0.5
    ledger.settle("r", 1, TRAINING, 0.1)  # settled already
    assert ledger.spent(TRAINING) == 0.5
    ledger.reserve("s", "r", 2, TRAINING, 0.5)
    ledger.settle("r", 2, TRAINING, 0.2)
    assert ledger.spent(TRAINING) == 0.7
    ledger.settle("r", 99, TRAINING, 0.2)  # unknown: nothing happens
    assert ledger.spent(TRAINING) == 0.7


def test_a_changed_order_is_refused_and_a_lower_cap_holds_at_once(path: Path) -> None:
    Ledger(path, CAP).reserve("s", "r", 1, TRAINING, 0.5)
    with pytest.raises(InputError, match="rdp_order = 8"):
        Ledger(path, Cap(3.0, 1e-5, 16))
    lower = Ledger(path, Cap(2.0, 1e-5, 8))
    assert lower.left(TRAINING) == pytest.approx(Cap(2.0, 1e-5, 8).budget - 0.5)


def test_a_second_accountant_replays_the_ledger(path: Path) -> None:
    """Google's RDP accountant at the ledger's order, from the noise of each entry: the same sum and the same epsilon."""
    ledger = Ledger(path, CAP)
    history = [Steps(1, 0.5, 4.6)] * 20 + [Steps(1, 0.5, 6.0)] * 7 + [Steps(1, 1.0, 30.0)]
    for number, steps in enumerate(history, 1):
        ledger.reserve("study", "run", number, TRAINING, account.rdp(steps, CAP.order))
    for number in range(21, 28):  # more hospitals were there than the worst case
        ledger.settle("run", number, TRAINING, account.rdp(Steps(1, 0.5, 6.0 * 1.5**0.5), CAP.order))
    theirs = RdpAccountant([float(CAP.order)])
    theirs.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(4.6)), 20))
    theirs.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(6.0 * 1.5**0.5)), 7))
    theirs.compose(GaussianDpEvent(30.0))
    entries = ledger.entries()
    total = sum(entry.reserved if entry.settled is None else entry.settled for entry in entries)
    assert total == pytest.approx(ledger.spent(TRAINING)) == pytest.approx(float(theirs._rdp[0]), rel=1e-9)
    epsilon = account.epsilon_of_rdp(total, CAP.order, CAP.delta)
    assert epsilon == pytest.approx(float(theirs.get_epsilon(CAP.delta)), rel=1e-9)
    assert epsilon <= CAP.epsilon
    assert [entry.round for entry in entries] == list(range(1, 29))


@given(st.lists(st.floats(0, 1.5), max_size=12))
def test_whatever_is_asked_the_cap_is_kept(tmp_path_factory: pytest.TempPathFactory, asked: list[float]) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db", CAP)
    granted = 0.0
    for number, divergence in enumerate(asked):
        try:
            ledger.reserve("s", "r", number, TRAINING, divergence)
        except BudgetError:
            assert granted + divergence > CAP.budget - 1e-12
        else:
            granted += divergence
    assert ledger.spent(TRAINING) == pytest.approx(granted)
    assert ledger.spent(TRAINING) <= CAP.budget


CHILD = """
import sys, pathlib
from primum.dp.ledger import Cap, Ledger, TRAINING
from primum.errors import BudgetError
ledger = Ledger(pathlib.Path(sys.argv[1]), Cap(3.0, 1e-5, 8))
"""
RESERVE_AND_HANG = (
    CHILD
    + """
ledger.reserve("s", "r", 1, TRAINING, 0.5)
print("reserved", flush=True)
sys.stdin.read()
"""
)
HANG_INSIDE = (
    CHILD
    + """
with ledger._transaction() as db:
    db.execute("insert into entry (at, study, run, round, population, rdp_reserved) values (0, 's', 'r', 2, ?, 0.5)", (TRAINING,))
    print("inside", flush=True)
    sys.stdin.read()
"""
)
GREEDY = (
    CHILD
    + """
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for number in range(60):
    try:
        ledger.reserve("s", sys.argv[2], number, TRAINING, 0.04)
        granted += 1
    except BudgetError:
        pass
print(granted, flush=True)
"""
)


@pytest.fixture
def start(path: Path) -> "Callable[..., subprocess.Popen[str]]":
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, str(path), *arguments]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run  # type: ignore[misc]
    for process in started:
        process.kill()
        process.communicate()


Start = Callable[..., "subprocess.Popen[str]"]


def test_survives_kill_9_between_reserve_and_settle(path: Path, start: Start) -> None:
    """The worst case stays charged, and the round cannot be answered a second time."""
    child = start(RESERVE_AND_HANG)
    assert child.stdout and child.stdout.readline() == "reserved\n"
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    ledger = Ledger(path, CAP)
    assert ledger.spent(TRAINING) == 0.5
    with pytest.raises(BudgetError, match="already charged"):
        ledger.reserve("s", "r", 1, TRAINING, 0.5)
    ledger.settle("r", 1, TRAINING, 0.4)
    assert ledger.spent(TRAINING) == 0.4


def test_kill_9_inside_a_reservation_leaves_all_of_it_or_nothing(path: Path, start: Start) -> None:
    child = start(HANG_INSIDE)
    assert child.stdout and child.stdout.readline() == "inside\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    ledger = Ledger(path, CAP)
    assert ledger.entries() == []
    ledger.reserve("s", "r", 2, TRAINING, 0.5)  # not locked for ever
    assert ledger.spent(TRAINING) == 0.5


def test_two_processes_at_once_never_overspend(path: Path, start: Start) -> None:
    children = [start(GREEDY, name) for name in ("a", "b")]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    granted = [int(child.stdout.readline()) for child in children if child.stdout]
    most = int(CAP.budget / 0.04)
    assert sum(granted) == most
    assert Ledger(path, CAP).spent(TRAINING) == pytest.approx(0.04 * most)
