"""A study in one process: hospitals share no patient, noise is there, and taking it away shows where accuracy goes."""

import numpy as np
import pytest
import torch
from tests.tasks.studies import LOCAL, study

from primum.errors import StudyError
from primum.imaging.dataset import Dataset
from primum.tasks.plan import Plan, resolve
from primum.tasks.simulation import ablate, deal, study_of, train, train_without_noise


def images(patients: int, size: int, seed: int) -> Dataset:
    """Pictures of stripes: the class is their direction."""
    torch.manual_seed(seed)
    labels = torch.arange(patients) % 2
    wave = torch.sin(torch.arange(size) * 1.2)
    pictures = torch.stack([wave.expand(size, size) if label else wave.expand(size, size).T for label in labels])
    noisy = (0.5 + 0.15 * pictures + 0.25 * torch.randn(patients, size, size)).clamp(0, 1)
    names = tuple(f"{seed}-{patient}" for patient in range(patients))
    return Dataset(noisy.unsqueeze(1).float(), labels, names, names, ("NORMAL", "PNEUMONIA"))


def plan(**changes: object) -> Plan:
    return Plan(resolve(study(**changes)))  # type: ignore[arg-type]


def test_hospitals_share_no_patient_and_lose_none() -> None:
    data = images(200, 16, 1)
    cohorts = deal(torch.zeros(200, 3), data, 4, bytes(32))
    names = [set(cohort.patients) for cohort in cohorts]
    assert sum(map(len, names)) == len(set().union(*names)) == 200
    assert all(30 <= len(mine) <= 70 for mine in names)


def test_ablation_orders_the_three() -> None:
    some = plan(training={"rounds": 15, "sampling": 0.5, "learning_rate": 8.0})
    size = some.study.images.size
    result = ablate(some, images(150, size, 2), images(150, size, 3), bytes(32))
    assert result.neither.auc is not None and result.neither.auc > 0.95
    assert result.private.auc is not None and 0.4 < result.private.auc <= 1
    assert result.epsilon == pytest.approx(some.study.privacy.epsilon if some.study.privacy else 0, rel=0.01)


def test_noise_is_what_makes_two_trainings_differ() -> None:
    some = plan(training={"rounds": 3, "sampling": 1.0})
    data = images(60, some.study.images.size, 4)
    cohorts = deal(some.front_end.features(data.images), data, 3, bytes(32))
    without = [train_without_noise(some, cohorts, 60, True) for _ in range(2)]
    assert np.allclose(*without, rtol=1e-4, atol=1e-7)
    with_noise = [train(some, cohorts, 60) for _ in range(2)]
    assert np.linalg.norm(with_noise[0] - with_noise[1]) > np.linalg.norm(without[0])
    unclipped = train_without_noise(some, cohorts, 60, False)
    assert np.linalg.norm(unclipped) > 1.5 * np.linalg.norm(without[0])


def test_what_cannot_be_ablated_is_refused() -> None:
    data = images(10, 16, 5)
    with pytest.raises(StudyError, match="no privacy to take away"):
        ablate(Plan(study(privacy=None)), data, data, bytes(32))
    local = plan(training=LOCAL)
    with pytest.raises(StudyError, match="local_steps"):
        train(local, [], 1)


def test_more_patients_than_the_study_says() -> None:
    one = study()
    assert one.privacy is not None
    assert study_of(one, 10) == one
    grown = study_of(one, 10 * one.privacy.patients)
    assert grown.privacy == replace_patients(one.privacy, 10)


def replace_patients(privacy: object, times: int) -> object:
    return privacy.model_copy(update={"patients": privacy.patients * times})  # type: ignore[attr-defined]
