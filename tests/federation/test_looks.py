"""Evaluation-only studies, exact sums without privacy, looks in the middle, the best model, and an early end."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command import run_command
from tests.federation.playing import Killed, World, make_study, once
from tests.federation.test_rounds import charges

from primum.dp.ledger import EVALUATION, TRAINING
from primum.errors import StudyError, Unavailable
from primum.federation.evaluation import finished_weights, study_of
from primum.federation.looks import Looks, figure_of
from primum.federation.messages import EVALUATE, TRAIN, RoundOrder
from primum.federation.runs import Run
from primum.models.card import load_model
from primum.study import Study
from primum.tasks.plan import Plan, resolve


@pytest.fixture(autouse=True)
def generous(three: World) -> None:
    three.allow(epsilon_cap=50.0)


@pytest.fixture
def trained(three: World) -> Run:
    return three.train(make_study(three.members))


def evaluated(world: World, study: Study, weights: bytes) -> Run:
    about = study.study.model_copy(update={"expires": make_study(world.members).study.expires})
    run = world.submit(resolve(study.model_copy(update={"study": about})))
    (run.folder / "weights.bin").write_bytes(weights)
    world.rounds(run).run_all()
    return run


def figures_of(run: Run) -> dict[str, float]:
    summary = json.loads((run.folder / "summary.json").read_text())
    found: dict[str, float] = summary["hospitals_private"]
    return found


def test_a_finished_model_is_looked_at_and_nothing_is_trained(three: World, trained: Run) -> None:
    study = make_study(three.members)
    weights = finished_weights(trained.folder, study)
    three.wires.carried.clear()
    run = evaluated(three, study_of(study, weights), weights)
    assert [order.what for _, order in three.wires.of(RoundOrder)] == [EVALUATE] * 3
    assert not (run.folder / "model.safetensors").exists()
    assert figures_of(run)
    for hospital in three.hospitals.values():
        assert len(charges(hospital, EVALUATION)) == 2
        assert len(charges(hospital, TRAINING)) == 3


def counted(world: World, run: Path) -> float:
    """The accuracy over all patients of all hospitals, in the clear."""
    model, right, number = load_model(run), 0, 0
    for hospital in world.hospitals.values():
        data = hospital.process.images.intake(_preparation(), model.card.classes).dataset
        found = model.logits(data.images).argmax(1)
        right, number = right + int((found == data.labels).sum()), number + len(data.labels)
    return right / number


def _preparation() -> object:
    from tests.federation.playing import SIDE

    from primum.imaging import Preparation

    return Preparation(size=SIDE)


def test_without_privacy_the_figures_are_the_exact_ones_of_all_patients(three: World) -> None:
    three.allow(without_privacy=True)
    study = make_study(three.members, private=False, training={"learning_rate": 1.0})
    trained = three.train(study)
    weights = finished_weights(trained.folder, study)
    run = evaluated(three, study_of(study, weights), weights)
    assert figures_of(run)["accuracy"] == pytest.approx(counted(three, trained.folder), abs=1e-4)


@pytest.mark.parametrize("said", [{"share": 0.3}, {}])
def test_without_privacy_patients_who_were_held_back_are_looked_at_and_no_others(
    three: World, said: dict[str, float]
) -> None:
    three.allow(without_privacy=True)
    about = make_study(three.members, private=False).model_dump() | {"evaluation": said}
    study = Study.model_validate(about)
    trained = three.train(study)
    looked = study_of(study, finished_weights(trained.folder, study))
    assert looked.evaluation_share == said.get("share", 0.15) and not looked.looks_at_learners
    run = evaluated(three, looked, finished_weights(trained.folder, study))
    assert figures_of(run) == figures_of(trained), "the look at the end of the training was at the same patients"


def test_the_coordinator_can_neither_train_nor_send_another_model(three: World, trained: Run) -> None:
    study = make_study(three.members)
    weights = finished_weights(trained.folder, study)
    run = three.submit(resolve(study_of(study, weights).model_copy(update={"study": study.study})))
    other = np.frombuffer(weights, "<f4") + 1
    (run.folder / "weights.bin").write_bytes(weights)
    rounds = three.rounds(run)
    rounds._optimiser.weights = other.astype(np.float64)
    with pytest.raises(Unavailable, match="figures could not be had"):
        rounds.run_all()
    assert {fault["message"] for fault in run.lines("faults.jsonl")} == {
        "The coordinator sent another model than the study names."
    }


def test_a_study_says_clearly_what_does_not_go_together(three: World) -> None:
    for changes, words in (
        ({"rounds": 0}, "trains nothing"),
        ({"training": {"look_every": 2}, "privacy": {"looks": 0}}, "takes no look"),
        ({"training": {"patience": 2}}, "set training.look_every"),
    ):
        with pytest.raises(ValueError, match=words):
            make_study(three.members, **changes)
    text = make_study(three.members).text() + '\n[evaluation]\nmodel = "' + "0" * 64 + '"\n'
    with pytest.raises(StudyError, match="set it to 0"):
        Study.parse(text, "a study")


# -- looks in the middle ------------------------------------------------------------------------------------------------


def looking(world: World, **training: int) -> Study:
    return make_study(
        world.members,
        training={"rounds": 6, "look_every": 2, **training},
        privacy={"looks": 3, "noise_multiplier": 3.0, "evaluation_noise_multiplier": 3.0},
    )


def order_of_work(world: World) -> list[str]:
    orders = [order.what for _, order in world.wires.of(RoundOrder)]
    return orders[:: len(world.hospitals)]


def test_looks_come_after_so_many_rounds_and_the_best_model_is_kept(three: World) -> None:
    run = three.train(looking(three))
    assert order_of_work(three) == [TRAIN, TRAIN, EVALUATE] * 3
    looks = Looks(run, looking(three))
    assert [line["round"] for line in looks.lines] == [2, 4, 6]
    kept = looks.best()
    if kept is not None:  # a table with much noise may have no figure
        weights, rounds = kept
        assert rounds in (2, 4, 6)
        best = load_model(run.folder / "best")
        assert best.card.trained["rounds"] == rounds
        assert torch.equal(torch.from_numpy(weights), torch.nn.utils.parameters_to_vector(best.module.parameters()))


def test_a_coordinator_killed_at_a_look_takes_no_more_looks_than_the_study_has(three: World) -> None:
    run = three.submit(looking(three))

    def kill() -> None:
        raise Killed

    three.wires.before = once(lambda place, order: isinstance(order, RoundOrder) and order.what == EVALUATE, kill)
    with pytest.raises(Killed):
        three.rounds(run).run_all()
    three.rounds(run).run_all()
    assert len(run.lines("metrics.jsonl")) + sum(line["charged"] for line in run.lines("attempts.jsonl")) == 6
    for hospital in three.hospitals.values():
        assert len(charges(hospital, EVALUATION)) <= 3


def looks_with(folder: Path, figures: list[float | None], patience: int) -> Looks:
    folder.mkdir()
    study = make_study(
        [bytes([n]) * 32 for n in (1, 2, 3)], training={"rounds": 50, "look_every": 5, "patience": patience}
    )
    looks = Looks(Run(folder), study)
    for number, figure in enumerate(figures, start=1):
        found = {"too_few": True} if figure is None else {"auc": figure}
        looks.note(5 * number, number, found, np.full(3, number, np.float32))
    return looks


@pytest.mark.parametrize(
    ("figures", "enough", "best"),
    [
        ([0.6, 0.7, 0.8], False, 3),
        ([0.8, 0.7, 0.75], True, 1),
        ([0.7, 0.8, 0.75], False, 2),
        ([0.8, 0.8, 0.8], True, 1),
        ([0.8], False, 1),
        ([None, None, None], False, None),
        ([0.6, None, 0.7], False, 3),
    ],
)
def test_training_ends_when_two_looks_bring_nothing_better(
    tmp_path: Path, figures: list[float | None], enough: bool, best: int | None
) -> None:
    looks = looks_with(tmp_path / "run", figures, 2)
    assert looks.enough == enough
    kept = looks.best()
    assert (None if kept is None else int(kept[0][0])) == best


def test_models_are_compared_by_dice_then_auc_then_accuracy() -> None:
    assert figure_of({"accuracy": 0.5, "auc": 0.7}) == 0.7
    assert figure_of({"accuracy": 0.5, "auc": 0.7, "dice": 0.2}) == 0.2
    assert figure_of({"text": "none"}) is None


def test_the_digest_is_that_of_the_weights(three: World, trained: Run) -> None:
    study = make_study(three.members)
    weights = finished_weights(trained.folder, study)
    made = study_of(study, weights)
    assert made.evaluation is not None
    assert made.evaluation.model == hashlib.sha256(weights).hexdigest()
    assert len(weights) == 4 * Plan(study).dimension


def test_the_command_refuses_a_model_that_the_study_does_not_describe(
    three: World, trained: Run, tmp_path: Path
) -> None:
    other = tmp_path / "study.toml"
    other.write_text(make_study(three.members).text().replace("shadow", "light"))
    done = run_command("evaluate", trained.folder, "--study", other, "--state", tmp_path, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not the one that the study describes" in done.stderr
