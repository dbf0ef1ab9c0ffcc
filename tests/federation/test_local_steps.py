"""Local steps, weights and few bits through the whole federation: consent, rounds, ledgers, summary and words."""

import json
import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from tests.federation.playing import World, make_study, once
from tests.federation.test_rounds import charges, finished_rounds, ledger
from tests.tasks.test_update import by_hand

from primum.dp import account
from primum.dp.ledger import TRAINING
from primum.errors import Refused, StudyError
from primum.federation.explain import explain, update_figures
from primum.federation.messages import Order, UnmaskOrder, VectorAnswer
from primum.federation.participant import describe
from primum.federation.probe import LENGTH
from primum.federation.runs import Run
from primum.models.card import load_model
from primum.report import write_report
from primum.study import Study
from primum.tasks.plan import Plan, resolve
from primum.tasks.update import WeightDifference

LOCAL = {"local_steps": 5, "local_learning_rate": 2.0, "learning_rate": 1.0, "momentum": 0.0}


def private(world: World, **changes: Any) -> Study:
    """Five local steps a round, with the noise that three rounds of them need (as `resolve` finds it)."""
    return make_study(world.members, privacy={"noise_multiplier": 2.934}, **{"training": LOCAL, **changes})


def plain(world: World, **changes: Any) -> Study:
    world.allow(without_privacy=True)
    return make_study(world.members, private=False, **changes)


def summary_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "summary.json").read_text())
    return found


@pytest.mark.parametrize("weighting", ["equal", "images"])
def test_the_server_applies_the_mean_of_what_the_hospitals_would_do_by_hand(three: World, weighting: str) -> None:
    """q = 1: nothing is random but rounding. One hospital has fewer images, so that weights matter."""
    for path in sorted((three.hospitals[2].folder / "images").rglob("*.png"))[3:10]:
        path.unlink()
    training = LOCAL | {"sampling": 1.0, "proximal": 0.1, "clipping_norm": 0.1}
    study = plain(three, rounds=2, training=training, aggregation={"weighting": weighting})
    run, plan = three.submit(study), Plan(study)
    cohorts = [three.hospitals[place].process.images.cohorts(plan, 0.0).training for place in (1, 2, 3)]
    counts = [len(cohort.patients) for cohort in cohorts]
    assert counts == [12, 5, 12]
    weights = np.zeros(plan.dimension)
    three.rounds(run).run_all()
    for _ in range(2):
        start = torch.from_numpy(weights.astype(np.float32))
        differences = [by_hand(cohort, start, study.training).numpy() for cohort in cohorts]
        weights = weights + np.average(differences, axis=0, weights=counts if weighting == "images" else None)
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    assert isinstance(plan.update, WeightDifference)
    rounding = 3 / plan.update.layout.parts[0].scale / (sum(counts) if weighting == "images" else 3)
    assert np.abs(checkpoint["weights"] - weights).max() < 2 * rounding + 1e-5
    assert np.abs(weights).max() > 20 * rounding
    assert finished_rounds(run) == [1, 2]
    assert load_model(run.folder).card.classes == ("clear", "shadow")


def test_a_round_of_private_local_steps_is_charged_as_so_many_steps(three: World) -> None:
    study = private(three)
    run, plan = three.train(study), Plan(study)
    assert study.privacy is not None
    sigma = study.privacy.noise_multiplier * math.sqrt(1 - 1.6**2 / 64**2)
    for hospital in three.hospitals.values():
        entries = [entry for entry in ledger(hospital).entries() if entry.population == TRAINING]
        assert [entry.round for entry in entries] == [1, 2, 3]
        for entry in entries:
            assert entry.reserved == pytest.approx(5 * account.rdp(account.Steps(1, 0.5, sigma), 8))
            assert entry.settled == entry.reserved, "the noise of the others does not count"
    assert summary_of(run)["privacy"]["steps"] == 15
    lines = [line for line in run.lines("ledger.jsonl") if line["population"] == "training"]
    assert [(line["round"], line["steps"]) for line in lines] == [(1, 5), (2, 5), (3, 5)]
    assert plan.k_min == 2


def test_the_reported_epsilon_is_that_of_an_accountant_of_ones_own(three: World) -> None:
    study = private(three)
    run, privacy = three.train(study), study.privacy
    assert privacy is not None
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    gaussian = dp_accounting.GaussianDpEvent(privacy.noise_multiplier * math.sqrt(1 - 1.6**2 / 64**2))
    for _ in range(3 * 5):
        accountant.compose(dp_accounting.PoissonSampledDpEvent(0.5, gaussian))
    epsilon = accountant.get_epsilon(1e-5 - 1e-9)
    spent = summary_of(run)["privacy"]
    assert spent["epsilon"] == pytest.approx(epsilon, abs=1e-3)
    assert 2.97 < spent["epsilon"] <= 3.0
    assert spent["epsilon_all_others_collude"] == spent["epsilon"]
    assert [line["epsilon"] for line in run.lines("metrics.jsonl")][-1] == spent["epsilon"]


def test_with_four_hospitals_settling_changes_nothing_either(four: World) -> None:
    study = private(four, may_vanish=1)
    four.train(study)
    for hospital in four.hospitals.values():
        entries = [entry for entry in ledger(hospital).entries() if entry.population == TRAINING]
        assert [entry.settled for entry in entries] == [entry.reserved for entry in entries]


def test_one_of_four_that_is_away_is_not_in_the_mean(four: World) -> None:
    four.wires.before = lambda place, order: False if place == 4 else None
    run = four.train(private(four, may_vanish=1, deadlines={"consent": 1.0}))
    assert {line["participants"] for line in run.lines("metrics.jsonl")} == {3}


def test_a_round_that_fails_stays_charged_with_all_its_local_steps(three: World) -> None:
    victim = three.hospitals[3]

    def condition(place: int, order: Order) -> bool:
        return place == 3 and isinstance(order, UnmaskOrder)

    def die() -> bool:
        victim.start()
        return False

    three.wires.before = once(condition, die)
    run = three.train(private(three))
    assert finished_rounds(run) == [1, 2]
    assert summary_of(run)["privacy"]["steps"] == 15
    whole = account.rdp(Plan(private(three)).training_steps(3), 8)
    for hospital in three.hospitals.values():
        assert charges(hospital) == [1, 2, 3]
        assert ledger(hospital).spent(TRAINING) == pytest.approx(whole)


def test_a_budget_for_the_rounds_but_not_for_their_local_steps_refuses_the_study(three: World) -> None:
    study = private(three)
    steps = Plan(study).training_steps(3)
    alone = account.rdp(account.Steps(3, steps.q, steps.sigma), 8)
    for hospital in three.hospitals.values():
        book = ledger(hospital)
        book.reserve("other", "00" * 16, 1, TRAINING, book.left(TRAINING) - 2 * alone)
    with pytest.raises(Refused, match="privacy budget"):
        three.train(study)
    assert not three.wires.of(VectorAnswer)


@pytest.mark.parametrize(
    ("changes", "bits"),
    [({"aggregation": {"bits": 8}}, 8), ({"aggregation": {"bits": 10}}, 10), ({"training": LOCAL}, 13)],
    ids=["8 bits", "10 bits", "local steps"],
)
def test_what_travels_is_what_was_announced(three: World, changes: dict[str, Any], bits: int) -> None:
    study = make_study(three.members, privacy={"noise_multiplier": 2.934}, **changes)
    run, figures = three.train(study), update_figures(Plan(study))
    assert figures["bits"] == bits
    sizes = {len(reply.vector.vector) for _, reply in three.wires.of(VectorAnswer)[:9]}
    assert sizes == {figures["bytes"]} == {math.ceil((195 + LENGTH) * bits / 8)}
    assert summary_of(run)["update"] == figures
    assert finished_rounds(run) == [1, 2, 3]


def test_a_study_whose_bits_do_not_fit_its_hospitals_is_refused_before_it_is_signed(four: World) -> None:
    with pytest.raises(StudyError, match=r"aggregation\.bits = 8 leaves no room"):
        resolve(make_study(four.members, may_vanish=1, aggregation={"bits": 8}))


def test_the_words_for_few_bits_say_what_they_cost(three: World) -> None:
    study = make_study(three.members, aggregation={"bits": 8})
    plan, figures = Plan(study), update_figures(Plan(study))
    assert plan.training.share_width == 3.0
    assert figures["extra_noise"] == pytest.approx(1 / math.sqrt(1 - 1.6**2 / (2 * 9)) - 1, abs=1e-6)
    assert figures["clamp"] == pytest.approx(plan.training.clamp / study.training.clipping_norm, abs=1e-3)
    figures = update_figures(Plan(resolve(study)))  # what `explain` says is of the noise that would be signed
    for text in (explain(study), describe(Plan(resolve(study)), b"\0" * 32)["Updates"]):
        assert "8 bits a coordinate, 203 bytes an update" in text
        assert "noise multiplier is 8.0% above what is accounted for" in text
        assert f"cut at {figures['clamp']:.2f} clipping norms" in text


def test_the_words_for_local_steps_say_whose_noise_it_is_and_what_the_server_does(three: World) -> None:
    study = private(three, training=LOCAL | {"learning_rate": 4.0, "momentum": 0.9})
    words = explain(study)
    assert "each of 5 local steps at every hospital with 50% of the patients a step" in words
    assert "each with the hospital's own full noise" in words
    assert "by 4 of the mean difference, in the long run 40 (FedAvg is 1)" in words
    told = describe(Plan(study), b"\0" * 32)
    assert "5 local steps" in told["Rounds"]
    assert "own full noise" not in explain(plain(three, training=LOCAL))


def test_the_words_for_weights_say_what_they_reveal(three: World) -> None:
    study = plain(three, training=LOCAL, aggregation={"weighting": "images"})
    reveals = "two rounds whose sets differ by one hospital reveal its number"
    assert reveals in explain(study)
    assert reveals in describe(Plan(study), b"\0" * 32)["Updates"]
    assert reveals not in explain(plain(three, training=LOCAL))
    run = three.train(study)
    assert summary_of(run)["update"]["weighting"] == "images"
    assert reveals in write_report(run.folder).read_text()


def test_a_coordinator_that_is_killed_goes_on_with_local_steps(three: World) -> None:
    """The checkpoint carries momentum and average as before."""

    class Stop(BaseException):
        pass

    def die() -> bool:
        raise Stop

    run = three.submit(plain(three, training=LOCAL | {"momentum": 0.5}))
    three.wires.before = once(
        lambda place, order: isinstance(order, UnmaskOrder) and len(three.wires.of(UnmaskOrder)) > 3, die
    )
    with pytest.raises(Stop):
        three.rounds(run).run_all()
    three.rounds(run).run_all()
    assert finished_rounds(run) == [1, 2]
    assert load_model(run.folder)
