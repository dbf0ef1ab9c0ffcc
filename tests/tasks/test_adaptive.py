"""A clipping norm that follows the gradients: a hospital's vector by hand, its sensitivity, and where the norm settles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks.studies import study

from primum.clipping.factors import MARGIN
from primum.errors import StudyError
from primum.study import Study
from primum.tasks import simulation
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan, resolve
from primum.tasks.training import Optimiser


def adaptive(norm: float = 0.25, **training: object) -> Study:
    asked = {"clipping": "adaptive", "clipping_norm": norm, "sampling": 1.0, **training}
    return study(training=asked, patients=300, epsilon=8.0)


def cohort(plan: Plan, patients: int, seed: int = 0, images: int = 1) -> Cohort:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(patients) % 2).repeat_interleave(images)
    features = torch.randn(patients * images, plan.front_end.dimension, generator=generator)
    features[:, :5] += 2.0 * (2.0 * labels[:, None] - 1)
    features *= torch.rand(patients * images, 1, generator=generator) / features.norm(dim=1, keepdim=True)
    return Cohort(features, labels, tuple(f"{seed}-{place // images}" for place in range(patients * images)))


def by_hand(plan: Plan, patients: Cohort, weights: np.ndarray, norm: float) -> np.ndarray:
    """Sum in norms, then 2 kappa (short - half): single examples in double precision."""
    rows = patients.features.numpy().astype(np.float64)
    chance = 1 / (1 + np.exp(-(rows @ weights)))
    each = (chance - patients.labels.numpy())[:, None] * rows
    lengths = np.linalg.norm(each, axis=1)
    clipped = each * np.minimum(1, norm * (1 - MARGIN) / lengths)[:, None]
    return np.append(clipped.sum(0) / norm, 0.2 * ((lengths <= norm).sum() - len(rows) / 2))


@pytest.mark.parametrize("norm", [0.05, 0.2, 0.4])
def test_a_hospitals_vector_is_that_of_the_norm_it_was_sent(norm: float) -> None:
    plan = Plan(resolve(adaptive()))
    patients = cohort(plan, 31)
    weights = np.full(plan.dimension, 0.01, np.float32)
    found = Learner(plan, patients).gradient(np.append(weights, np.float32(norm)))
    wanted = by_hand(plan, patients, weights.astype(np.float64), norm)
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


@settings(max_examples=25, deadline=None)
@given(norm=st.floats(0.01, 1.0), seed=st.integers(0, 1000), images=st.integers(1, 3))
def test_a_patient_moves_it_by_at_most_the_sensitivity_that_noise_was_made_for(
    norm: float, seed: int, images: int
) -> None:
    plan = Plan(resolve(adaptive(images_a_patient=images)))
    patients = cohort(plan, 6, seed, images)
    fewer = Cohort(patients.features[images:], patients.labels[images:], patients.patients[images:])
    weights = np.append(np.zeros(plan.dimension, np.float32), np.float32(norm))
    moved = Learner(plan, patients).gradient(weights) - Learner(plan, fewer).gradient(weights)
    assert np.linalg.norm(moved) <= plan.training.sensitivity == math.sqrt(1.01)


def test_without_patients_noise_alone_is_sent() -> None:
    plan = Plan(resolve(adaptive()))
    nobody = Cohort(torch.zeros(0, plan.front_end.dimension), torch.zeros(0, dtype=torch.int64), ())
    sent = Learner(plan, nobody).step(np.append(plan.first_weights(), np.float32(0.25)))
    assert len(sent) == plan.dimension + 1 == plan.update.shape.length
    assert sent.std() == pytest.approx(plan.training.share_sigma, rel=0.2)


@pytest.mark.parametrize("quantile", [0.3, 0.7])
@pytest.mark.parametrize("start", [0.02, 3.0])
def test_the_norm_settles_at_the_quantile_whatever_it_began_at(quantile: float, start: float) -> None:
    """The learning rate is nearly 0, so that norms stay what they are at weights of 0: half of a feature's length."""
    asked = adaptive(start, clipping_quantile=quantile, rounds=60, learning_rate=1e-6)
    plan = Plan(resolve(asked))
    cohorts = [cohort(plan, 100, seed) for seed in range(3)]
    optimiser, mean = Optimiser.start(plan.study.training, plan.first_weights()), None
    learners = [Learner(plan, one) for one in cohorts]
    for _ in range(60):
        total = np.sum([learner.step(optimiser.sent).astype(np.int64) for learner in learners], 0)
        mean = plan.update.mean_gradient(total.astype(np.int32), 3)
        optimiser.step(mean)
    lengths = np.concatenate([one.features.norm(dim=1).numpy() / 2 for one in cohorts])
    assert optimiser.norm is not None
    assert (lengths <= optimiser.norm).mean() == pytest.approx(quantile, abs=0.12)


def test_it_learns_from_a_norm_that_is_far_off() -> None:
    accuracies = []
    for clipping in ("adaptive", "flat"):
        plan = Plan(resolve(adaptive(3.0, rounds=100, clipping=clipping, average_last=0.3, learning_rate=1.0)))
        cohorts = [cohort(plan, 100, seed) for seed in range(3)]
        weights = simulation.train(plan, cohorts, 300)
        said = [one.features.numpy() @ weights > 0 for one in cohorts]
        accuracies.append(np.mean([said[place] == one.labels.numpy() for place, one in enumerate(cohorts)]))
    assert accuracies[0] > 0.94 > accuracies[1]


def test_epsilon_is_that_of_a_fixed_norm_and_a_half_percent_more_noise_is_what_it_costs() -> None:
    follows, fixed = Plan(resolve(adaptive())), Plan(resolve(adaptive(clipping="flat")))
    assert follows.study.privacy is not None and fixed.study.privacy is not None
    assert follows.study.privacy.noise_multiplier == pytest.approx(fixed.study.privacy.noise_multiplier, rel=1e-4)
    widths = [plan.training.restored_sigma(2) for plan in (follows, fixed)]
    assert widths[0] * 0.25 / widths[1] == pytest.approx(math.sqrt(1.01), rel=1e-3)


def test_a_restart_goes_on_with_the_norm() -> None:
    plan = Plan(resolve(adaptive()))
    first, second = (Optimiser.start(plan.study.training, plan.first_weights()) for _ in range(2))
    first.step(np.append(np.zeros(plan.dimension), 0.1))
    assert first.norm is not None and first.norm < 0.25
    second.restore(first.state())
    assert second.sent.tobytes() == first.sent.tobytes()


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"clipping_quantile": 0.5, "clipping": "flat"}, "clipping_quantile = 0.5 does nothing"),
        ({"local_steps": 2, "local_learning_rate": 0.1}, 'clipping = "adaptive" does not go with local_steps = 2'),
        ({"clipping_quantile": 1.5}, "clipping_quantile"),
    ],
)
def test_settings_that_contradict_it_are_named(training: dict[str, object], words: str) -> None:
    with pytest.raises((StudyError, ValueError), match=words):
        adaptive(**training)


def test_without_privacy_it_is_refused() -> None:
    with pytest.raises((StudyError, ValueError), match=r"needs \[privacy\]"):
        study(training={"clipping": "adaptive"}, privacy=None)
