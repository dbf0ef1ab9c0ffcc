"""The plan: what follows from a study, and that its noise really gives its epsilon."""

import math

import pytest
from tests.tasks.studies import study

from primum.dp import account
from primum.errors import StudyError
from primum.study import Aggregation, Study
from primum.tasks.plan import Plan, resolve


def with_privacy(settled: Study, **changes: float) -> Study:
    assert settled.privacy is not None
    return settled.model_copy(update={"privacy": settled.privacy.model_copy(update=changes)})


def with_training(settled: Study, **changes: float) -> Study:
    return settled.model_copy(update={"training": settled.training.model_copy(update=changes)})


def test_a_resolved_study_passes_and_wastes_little() -> None:
    plan = Plan(resolve(study()))
    plan.check()
    assert 2.98 < plan.epsilon_after(20) <= 3.0
    assert plan.epsilon_after(0) == 0
    assert plan.epsilon_after(5) < plan.epsilon_after(10) < plan.epsilon_after(20)
    looks = account.epsilon(plan.evaluation_steps(plan.looks), plan.accounted_delta)
    assert 2.9 < looks <= 3.0


@pytest.mark.parametrize(("epsilon", "rounds", "q"), [(0.7, 5, 0.5), (3.0, 20, 0.5), (8.0, 12, 1.0)])
def test_every_epsilon_in_a_study_is_verified(epsilon: float, rounds: int, q: float) -> None:
    """Whatever was asked: resolved passes, and with 1 % less noise it is refused."""
    settled = resolve(study(epsilon=epsilon, looks=2, training={"rounds": rounds, "sampling": q}))
    Plan(settled).check()
    assert settled.privacy is not None
    for key in ("noise_multiplier", "evaluation_noise_multiplier"):
        altered = with_privacy(settled, **{key: getattr(settled.privacy, key) * 0.99})
        with pytest.raises(StudyError, match="altered or made for other settings"):
            Plan(altered).check()


@pytest.mark.parametrize(
    "altered",
    [
        lambda settled: with_privacy(settled, noise_multiplier=1.0),
        lambda settled: with_privacy(settled, evaluation_noise_multiplier=0.3),
        lambda settled: with_privacy(settled, epsilon=1.0),
        lambda settled: with_privacy(settled, delta=1e-7),
        lambda settled: with_privacy(settled, looks=5),
        lambda settled: with_training(settled, rounds=40),
        lambda settled: with_training(settled, sampling=0.9),
        lambda settled: with_training(settled, local_steps=2, local_learning_rate=1.0),
        lambda settled: settled.model_copy(update={"aggregation": Aggregation(bits=8)}),
    ],
    ids=["noise", "evaluation noise", "epsilon", "delta", "looks", "rounds", "sampling", "local steps", "bits"],
)
def test_altered_settings_are_refused(altered: object) -> None:
    with pytest.raises(StudyError):
        Plan(altered(resolve(study()))).check()  # type: ignore[operator]


@pytest.mark.parametrize("key", ["noise_multiplier", "evaluation_noise_multiplier"])
def test_a_study_without_its_noise_is_refused(key: str) -> None:
    with pytest.raises(StudyError, match="no noise multiplier"):
        Plan(with_privacy(resolve(study()), **{key: 0.0})).check()


def test_the_clipping_norm_never_changes_what_is_promised() -> None:
    settled = resolve(study())
    for norm in (1e-3, 0.25, 40.0):
        plan = Plan(with_training(settled, clipping_norm=norm))
        plan.check()
        assert math.isclose(plan.training.accounted_multiplier, Plan(settled).training.accounted_multiplier)


def test_noise_is_made_for_the_fewest_honest_hospitals() -> None:
    three, four = Plan(resolve(study())), Plan(resolve(study(members=4, may_vanish=1)))
    assert three.k_min == 2
    assert four.k_min < 3
    for plan in (three, four):
        mechanism = plan.training
        width = mechanism.share_sigma * math.sqrt(plan.k_min)
        assert math.isclose(width, mechanism.noise_multiplier * mechanism.integer_sensitivity)


def test_every_hospital_computes_the_same_from_the_same_text() -> None:
    settled = resolve(study())
    plan, again = Plan(settled), Plan(Study.parse(settled.text(), "the study"))
    assert again.training == plan.training
    assert again.evaluation == plan.evaluation
    assert again.largest_batch == plan.largest_batch
    again.check()


def test_dimensions_follow_the_model_and_the_classes() -> None:
    assert Plan(study()).dimension == Plan(study()).front_end.dimension
    assert Plan(study(classes=4)).dimension == 4 * Plan(study()).front_end.dimension
    assert Plan(study(classes=4)).evaluation.dimension == 16
    assert Plan(study()).evaluation.dimension == 16


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_no_batch_is_larger_than_all_units_of_the_study(unit: str) -> None:
    assert Plan(study(unit=unit, images_per_patient=5, training={"sampling": 1.0})).largest_batch == 300


@pytest.mark.parametrize("rounds", [1, 40, 5000])
def test_a_study_without_privacy_has_a_plan_too(rounds: int) -> None:
    plan = Plan(resolve(study(privacy=None, training={"rounds": rounds})))
    plan.check()
    assert plan.training.bits <= 32
    assert plan.training.share_sigma == 0
    assert plan.looks == 0
    # rounding is far below what one patient can do
    assert math.sqrt(plan.dimension) / plan.training.scale < plan.study.training.clipping_norm


def test_too_few_hospitals_are_refused() -> None:
    with pytest.raises(StudyError):
        Plan(resolve(study(members=2)))


def test_an_epsilon_so_large_that_nothing_of_delta_is_left_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match=r"nothing of privacy\.delta = 1e-05"):
        resolve(study(epsilon=40.0))


def test_the_largest_batch_is_that_of_all_samples_of_the_study() -> None:
    local = {"local_steps": 50, "local_learning_rate": 1.0}
    assert (
        Plan(study(training={"sampling": 0.1})).largest_batch
        < Plan(study(training={"sampling": 0.1, **local})).largest_batch
        == Plan(study(training={"sampling": 0.1, "rounds": 1000})).largest_batch
    )
