"""The accountant: charges before a step, never above the budget, forgets nothing over a restart."""

import copy
import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.dp import account
from primum.dp.account import Budget, Steps
from primum.dp.accountant import Accountant, LedgerPage
from primum.dp.ledger import TRAINING, Cap, Ledger
from primum.errors import BudgetError, InputError, StudyError

BUDGET = Budget(3.0, 1e-5)


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Privacy losses on a wider grid: quicker, and still pessimistic."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account, "_INTERVAL", 2e-3)
        account.epsilon.cache_clear()
        yield
    account.epsilon.cache_clear()


UNLIMITED = Budget(math.inf, 1e-5)


def small(**changes: Any) -> Accountant:
    return Accountant(**{"budget": BUDGET, "sampling": 1.0, "steps": 10, "dimension": 100} | changes)


@pytest.fixture
def page(tmp_path: Path) -> LedgerPage:
    return LedgerPage(tmp_path / "ledger.sqlite", Cap(4.0, 1e-5, 8), "mine", "run 1")


def test_the_noise_is_the_smallest_that_keeps_the_budget() -> None:
    accountant = small()
    assert 2.99 < accountant.epsilon(10) <= 3.0
    assert account.epsilon(Steps(10, 1.0, accountant.noise_multiplier / 1.002), BUDGET.delta) > 3.0


def test_what_is_charged_to_delta_is_taken_off_first() -> None:
    budget = Budget(14.0, 1e-5)
    sigma = small(budget=budget).noise_multiplier
    large = small(budget=budget, dimension=10**9, hospitals=100)
    kept_back = account.delta_overheads(14.0, 10**9, 10, 100)
    assert 1e-6 < kept_back < 6e-6
    assert large.noise_multiplier > sigma * 1.005
    whole = Steps(10, 1.0, large.noise_multiplier)
    assert large.epsilon(10) == account.epsilon(whole, BUDGET.delta - kept_back)
    with pytest.raises(StudyError, match="leave nothing of delta"):
        small(budget=budget, dimension=10**10, hospitals=100)


def test_a_step_is_counted_before_it_happens_and_one_too_many_is_refused() -> None:
    accountant = small(steps=3, noise_multiplier=5.0)
    for number in range(1, 4):
        accountant.charge()
        assert (accountant.charged, accountant.left) == (number, 3 - number)
    with pytest.raises(BudgetError, match=r"All 3 steps .* are charged"):
        accountant.charge()
    assert accountant.charged == 3
    assert accountant.epsilon() <= 3.0


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=4), st.sampled_from([(0.5, 3.0), (1.0, 5.0)]))
def test_epsilon_never_falls_and_never_passes_the_budget(asked: list[int], noise: tuple[float, float]) -> None:
    accountant = small(sampling=noise[0], steps=4, noise_multiplier=noise[1])
    figures = {count: accountant.epsilon(count) for count in asked}
    assert figures == {count: accountant.epsilon(count) for count in asked}
    in_order = [figures[count] for count in sorted(figures)]
    assert in_order == sorted(in_order)
    assert all(0 <= figure <= 3.0 for figure in in_order)
    assert figures.get(0, 0.0) == 0.0 < accountant.epsilon(4)


def test_noise_alone_gives_as_many_steps_as_the_budget_covers() -> None:
    accountant = small(steps=None, noise_multiplier=4.6)
    assert accountant.epsilon(accountant.steps) <= 3.0 < account.epsilon(Steps(accountant.steps + 1, 1.0, 4.6), 1e-5)
    with pytest.raises(BudgetError, match=r"One step .* costs more"):
        small(steps=None, noise_multiplier=0.2)


def test_noise_that_is_too_small_for_the_steps_is_refused_before_the_first() -> None:
    with pytest.raises(BudgetError, match=r"40 steps .* cost more than epsilon 3") as caught:
        small(steps=40, noise_multiplier=3.0)
    most = small(steps=None, noise_multiplier=3.0).steps
    assert caught.value.hint.startswith(f"{most} steps fit")
    assert small(steps=most, noise_multiplier=3.0).epsilon(most) <= 3.0


@pytest.mark.parametrize("settings_", [{"budget": UNLIMITED}, {"noise_multiplier": 0.0}], ids=["unlimited", "no noise"])
def test_without_privacy_every_figure_is_infinite_and_steps_are_counted(settings_: dict[str, Any]) -> None:
    accountant = small(**settings_, images_per_patient=2)
    assert not accountant.private and accountant.noise_multiplier == 0
    accountant.charge()
    figures = (accountant.epsilon(), accountant.epsilon_by_rdp(), accountant.replace_epsilon())
    assert {*figures, accountant.patient_epsilon()} == {math.inf}
    assert "NO PRIVACY" in repr(accountant)
    again = small(**settings_, images_per_patient=2)
    again.restore(json.loads(json.dumps(accountant.state(), allow_nan=False)))
    assert again.charged == 1


def test_noise_without_a_limit_says_what_it_costs() -> None:
    accountant = small(budget=UNLIMITED, noise_multiplier=1.0)
    for _ in range(10):
        accountant.charge()
    exact = account.epsilon(Steps(10, 1.0, 1.0), 1e-5)
    assert exact <= accountant.epsilon() < exact * 1.01
    with pytest.raises(InputError, match="neither from the noise nor from the budget"):
        small(budget=UNLIMITED, noise_multiplier=1.0, steps=None)


def test_the_figures_beside_it() -> None:
    accountant = small(sampling=0.5, steps=4, noise_multiplier=2.5, images_per_patient=2)
    for _ in range(4):
        accountant.charge()
    steps = Steps(4, 0.5, 2.5)
    assert accountant.epsilon() <= accountant.epsilon_by_rdp()
    assert accountant.epsilon_by_rdp() == pytest.approx(account.epsilon_by_rdp(steps, 1e-5), rel=1e-3)
    assert accountant.replace_epsilon() == pytest.approx(account.epsilon(steps, 1e-5, replace=True), rel=0.01)
    assert accountant.patient_epsilon() == pytest.approx(account.patient_epsilon(steps, 1e-5, 2), rel=0.01)
    assert accountant.patient_epsilon() > 1.5 * accountant.epsilon()
    assert small().patient_epsilon() == small().epsilon()


def test_another_accountant_replays_the_events() -> None:
    accountant = small(sampling=0.5, noise_multiplier=2.5)
    for _ in range(7):
        accountant.charge()
    for other, figure in ((PLDAccountant(), accountant.epsilon()), (RdpAccountant(), accountant.epsilon_by_rdp())):
        other.compose(accountant.events())
        assert float(other.get_epsilon(BUDGET.delta)) == pytest.approx(figure, rel=1e-3)


def test_a_state_survives_json_and_lowers_nothing() -> None:
    accountant = small()
    for _ in range(4):
        accountant.charge()
    saved = json.dumps(accountant.state(), allow_nan=False)
    accountant.charge()
    accountant.restore(json.loads(saved))
    assert accountant.charged == 5
    fresh = small()
    fresh.restore(json.loads(saved))
    assert fresh.charged == 4


@given(st.lists(st.integers(0, 10), max_size=8))
def test_no_order_of_restoring_lowers_what_was_spent(saved: list[int]) -> None:
    accountant = small(budget=UNLIMITED)
    state, most = accountant.state(), 0
    for charged in saved:
        accountant.restore({**state, "charged": charged})
        most = max(most, charged)
        assert accountant.charged == most


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": 0.25},
        {"steps": 11},
        {"dimension": 101},
        {"budget": Budget(2.0, 1e-5)},
        {"budget": Budget(3.0, 1e-6)},
        {"hospitals": 3},
        {"images_per_patient": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_state_of_other_settings_is_refused_by_name(change: dict[str, Any]) -> None:
    theirs = small(noise_multiplier=8.0, **change).state()
    different = [name for name, value in small(noise_multiplier=8.0).state().items() if theirs[name] != value]
    with pytest.raises(InputError, match=f"saved state has {different[0]} = "):
        small(noise_multiplier=8.0).restore(theirs)


@pytest.mark.parametrize("charged", [-1, 11, 2.5, True, None, "3", math.nan])
def test_an_impossible_number_of_charges_is_refused(charged: Any) -> None:
    accountant = small(noise_multiplier=5.0)
    with pytest.raises(InputError, match="saved state has charged"):
        accountant.restore({**accountant.state(), "charged": charged})
    with pytest.raises(InputError, match="saved state has delta = None"):
        accountant.restore({name: value for name, value in accountant.state().items() if name != "delta"})


def test_it_is_never_copied() -> None:
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never copied"):
            copied(small(noise_multiplier=5.0))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"budget": Budget(-1.0, 1e-5)}, "epsilon"),
        ({"budget": Budget(math.nan, 1e-5)}, "epsilon"),
        ({"budget": Budget(3.0, 0.0)}, "delta"),
        ({"sampling": 0.0}, "sampling"),
        ({"sampling": 1.5}, "sampling"),
        ({"steps": 0}, "steps"),
        ({"steps": None}, "neither steps"),
        ({"dimension": 0}, "dimension"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"hospitals": 0}, "hospitals"),
        ({"images_per_patient": 0}, "images_per_patient"),
    ],
)
def test_wrong_settings_are_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        small(**change)


def test_every_charge_stands_in_the_ledger_before_it_happens(page: LedgerPage) -> None:
    accountant = small(ledger=page, steps=4, noise_multiplier=4.0)
    accountant.charge()
    accountant.charge()
    one = account.rdp(Steps(1, 1.0, 4.0), 8)
    assert Ledger(page.path, page.cap).spent(TRAINING) == pytest.approx(2 * one)
    assert [entry.round for entry in Ledger(page.path, page.cap).entries()] == [1, 2]
    again = small(ledger=page, steps=4, noise_multiplier=4.0)  # after a crash, without any saved state
    assert again.charged == 2
    again.charge()
    with pytest.raises(BudgetError, match="already charged"):
        accountant.charge()  # the first process comes back to life
    assert accountant.charged == 2
    accountant.restore(accountant.state())
    assert accountant.charged == 3


def test_several_studies_share_one_cap(page: LedgerPage) -> None:
    first = small(ledger=page, steps=40)
    for _ in range(40):
        first.charge()
    with pytest.raises(BudgetError, match="is left"):
        small(ledger=LedgerPage(page.path, page.cap, "theirs", "run 2"), steps=40)
    small(ledger=LedgerPage(page.path, page.cap, "theirs", "run 3", "evaluation"), steps=40)
    other = small(ledger=LedgerPage(page.path, page.cap, "theirs", "run 4"), budget=Budget(1.0, 1e-5), steps=2)
    other.charge()
    ledger = Ledger(page.path, page.cap)
    ledger.reserve("third", "run 5", 1, TRAINING, ledger.left(TRAINING))
    with pytest.raises(BudgetError, match="is left"):
        other.charge()
    assert other.charged == 1


def test_a_ledger_takes_no_step_without_noise(page: LedgerPage) -> None:
    accountant = small(ledger=page, noise_multiplier=0.0)
    with pytest.raises(BudgetError):
        accountant.charge()
    assert accountant.charged == 0


def test_a_generous_budget_does_not_forbid_a_study_that_costs_little() -> None:
    """What is charged to delta grows with e^epsilon: at a budget of 50 nothing would be left, at what is spent all."""
    accountant = Accountant(Budget(50.0, 1e-5), sampling=0.01, dimension=1000, noise_multiplier=1.0, steps=1000)
    assert accountant.epsilon(1000) == pytest.approx(1.83, abs=0.02)
    with pytest.raises(StudyError, match="leave nothing of delta"):
        Accountant(Budget(50.0, 1e-5), sampling=1.0, dimension=1000, noise_multiplier=0.5, steps=1000)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(InputError, match="The saved state is None"):
        Accountant(Budget(3.0, 1e-5), sampling=0.1, dimension=10, steps=10).restore(None)
