"""Several classes an image, and ordered ones: the loss, what a look counts, and studies that learn them, private and plain."""

import numpy as np
import pytest
import torch
from tests.tasks.studies import study
from torch import Tensor, nn

from primum.models.learned import write_weights
from primum.rng import Stream
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import look, outputs_of, patient_cells
from primum.tasks.ordered import Ordered
from primum.tasks.plan import Plan
from primum.tasks.selftest import check_clipping
from primum.tasks.several import Several
from primum.tasks.simulation import Quality, quality, train, train_without_noise

NOISE = {"noise_multiplier": 3.3, "evaluation_noise_multiplier": 0.61}
"""What epsilon 8 needs for these 30 rounds and one look; `Plan.check` says so below."""


def plan(labels: str, classes: int = 4, **changes: object) -> Plan:
    training = {"rounds": 30, "sampling": 1.0, "learning_rate": 15.0 if labels == "several" else 6.0, "momentum": 0.5}
    changes = changes or {"epsilon": 8.0, "looks": 1, **NOISE}
    return Plan(study(labels=labels, classes=classes, training=training, **changes))  # type: ignore[arg-type]


def cohort(plan: Plan, patients: int, seed: int) -> Cohort:
    """Features of length below 1, the first of them constant. Several: a place for each class. Ordered: one that rises."""
    generator, classes = torch.Generator().manual_seed(seed), len(plan.study.study.classes)
    features = 0.05 * torch.randn(patients, plan.front_end.dimension, generator=generator)
    if isinstance(plan.task, Several):
        labels = (torch.rand(patients, classes, generator=generator) < 0.4).long()
        features[:, 1 : classes + 1] += 0.5 * (labels - 0.5)
    else:
        labels = torch.arange(patients) % classes
        features[:, 1:3] += (0.8 * (labels / (classes - 1) - 0.5))[:, None]
    features[:, 0] = 0.5
    features /= features.norm(dim=1, keepdim=True).clamp(min=1)
    return Cohort(features, labels, tuple(f"{seed}-{place}" for place in range(patients)))


def learned(plan: Plan, private: bool) -> tuple[np.ndarray, Quality]:
    cohorts, test = [cohort(plan, 100, seed) for seed in (1, 2, 3)], cohort(plan, 200, 4)
    weights = train(plan, cohorts, 300) if private else train_without_noise(plan, cohorts, 300, True)
    return weights, quality(plan, weights, test.features, test.labels)


def test_several_classes_are_learned_and_looked_at_privately() -> None:
    some = plan("several")
    some.check()
    weights, found = learned(some, private=True)
    assert found.auc is not None and found.auc > 0.9 and found.accuracy > 0.8
    check_clipping(some, Learner(some, cohort(some, 20, 1)), cohort(some, 20, 1))
    looks = sum(look(some, cohort(some, 100, seed), weights, Stream.from_os()) for seed in (5, 6, 7))
    counts = some.evaluation.restore(np.asarray(looks)).reshape(some.task.table)
    figures = some.task.figures(counts, some.evaluation.restored_sigma(3))
    assert figures["auc_low"] - 0.05 <= found.auc <= figures["auc_high"] + 0.05
    assert set(figures["by_class"]) == {"a", "b", "c", "d"}


def test_several_classes_are_learned_without_privacy() -> None:
    _, found = learned(plan("several", privacy=None), private=False)
    assert found.auc is not None and found.auc > 0.99 and found.accuracy > 0.95


def test_grades_are_learned_and_looked_at_privately() -> None:
    some = plan("ordered")
    weights, found = learned(some, private=True)
    assert found.kappa is not None and found.kappa > 0.8 and found.auc is None
    looks = sum(look(some, cohort(some, 100, seed), weights, Stream.from_os()) for seed in (5, 6, 7))
    counts = some.evaluation.restore(np.asarray(looks)).reshape(some.task.table)
    figures = some.task.figures(counts, some.evaluation.restored_sigma(3))
    assert figures["kappa_low"] - 0.05 <= found.kappa <= figures["kappa_high"] + 0.05
    assert figures["mae"] < 1 and figures["accuracy"] > 0.4


def test_grades_are_learned_without_privacy() -> None:
    _, found = learned(plan("ordered", privacy=None), private=False)
    assert found.kappa is not None and found.kappa > 0.95 and found.accuracy > 0.85


def test_the_losses_are_those_of_each_class_and_threshold() -> None:
    outputs, labels = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1, 0, 1]])
    p = torch.sigmoid(outputs[0]).tolist()
    several = -(np.log(p[0]) + np.log(1 - p[1]) + np.log(p[2])) / 3
    assert Several(("a", "b", "c")).loss(outputs, labels).tolist() == pytest.approx([several])
    grade_two = -(np.log(p[0]) + np.log(p[1]) + np.log(1 - p[2]))
    assert Ordered(4).loss(outputs, torch.tensor([2])).tolist() == pytest.approx([grade_two])


def cells_of(
    some: Plan, outputs: list[list[float]], labels: Tensor, patients: str
) -> tuple[list[object], list[object]]:
    """Through the model: a feature for each image, whose outputs the weights are."""
    features = torch.zeros(len(outputs), some.front_end.dimension)
    features[range(len(outputs)), range(len(outputs))] = 1
    weights = np.zeros((some.outputs, some.front_end.dimension), np.float32)
    weights[:, : len(outputs)] = np.array(outputs).T
    rows, columns = patient_cells(some, Cohort(features, labels, tuple(patients)), weights.reshape(-1))
    return rows.tolist(), columns.tolist()


def test_a_patient_has_a_class_that_any_image_has_and_the_mean_probability() -> None:
    some = plan("several", classes=2)
    outputs = [[9.0, -9.0], [-9.0, -9.0], [9.0, 9.0]]
    rows, columns = cells_of(some, outputs, torch.tensor([[1, 0], [0, 0], [0, 1]]), "xxy")
    assert rows == [[1, 0], [0, 1]]
    assert columns == [[4, 0], [7, 7]]  # half of eight bins: the mean of nearly 1 and nearly 0
    labels = torch.zeros((0, 2), dtype=torch.int64)
    empty = Cohort(torch.zeros(0, some.front_end.dimension), labels, ())
    assert look(some, empty, np.zeros(some.dimension, np.float32), Stream.from_os()).shape == (2 * 2 * 8,)


def test_a_patients_grade_is_what_more_than_half_of_the_images_reach_on_both_sides() -> None:
    some = plan("ordered")
    outputs = [[9.0, 9.0, -9.0], [9.0, -9.0, -9.0], [9.0, 9.0, 9.0], [-1.0, 2.0, -9.0]]
    rows, columns = cells_of(some, outputs, torch.tensor([2, 1, 3, 0]), "xxxy")
    assert rows == [2, 0] and columns == [2, 1]  # of y one threshold is above 1/2, which is the first


@pytest.mark.parametrize(("labels", "outputs"), [("several", 2), ("ordered", 3)])
def test_a_study_has_as_many_outputs_as_its_labels_need(labels: str, outputs: int) -> None:
    some = plan(labels, classes=2 if labels == "several" else 4, privacy=None)
    module = some.module()
    write_weights(module, np.ones(some.dimension, np.float32))
    assert some.outputs == outputs
    assert outputs_of(module, torch.ones(5, some.front_end.dimension)).shape == (5, outputs)
    assert isinstance(module, nn.Module)
