"""What is asked before the first round: sums that one patient moves by a bounded amount, and weights that follow."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.studies import study

from primum.clipping import Clipper
from primum.errors import StudyError
from primum.models.learned import first_weights
from primum.models.pixels import Pixels
from primum.rng import Stream
from primum.study import Statistics, Study
from primum.tasks import simulation
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan, resolve
from primum.tasks.segmentation import Segmentation
from primum.tasks.several import Several
from primum.tasks.survey import SPREAD, Sheet, Survey

COUNTS = st.lists(st.floats(-50, 1e6), min_size=2, max_size=6)


def with_statistics(network: bool = False, **settings: Any) -> dict[str, Any]:
    data = study(members=3, privacy=None).model_dump(exclude_none=True)
    data["statistics"] = settings
    if network:
        data["model"] = {"kind": "small-network", "widths": (4, 8)}
    return data


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    kind=st.sampled_from(["one", "several", "masks"]),
    channels=st.sampled_from([0, 1, 3]),
    asked=st.booleans(),
)
def test_one_patient_moves_the_sums_by_at_most_the_norm(
    labels: list[int], kind: str, channels: int, asked: bool
) -> None:
    count = len(labels)
    images = torch.rand(count, max(1, channels), 8, 8, generator=torch.Generator().manual_seed(count)).round()
    truth = torch.tensor(labels)
    if kind == "several":
        truth = (torch.arange(3)[None] <= truth[:, None]).long()
    elif kind == "masks":
        truth = truth[:, None, None].expand(count, 8, 8).to(torch.uint8)
    sheet = Sheet(3 * asked, kind == "several", channels)
    moved = sheet.sums(truth, images, ["a patient"] * count)
    assert moved.shape == (sheet.dimension,) and (np.abs(moved) <= 1).all()
    assert np.linalg.norm(moved) <= sheet.norm + 1e-9
    other = sheet.sums(truth, images, [f"patient {place}" for place in range(count)])
    assert other[0] == count and (kind != "one" or not asked or abs(other[1:4].sum() - count) < 1e-9)


def test_exact_sums_tell_what_is_there() -> None:
    images = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    labels, patients = torch.tensor([0] * 30 + [1] * 10), [str(place // 2) for place in range(40)]
    sheet = Sheet(2, False, 2)
    mechanism = sheet.mechanism(0.0, 2, 3, 1_000_000)
    total = sum(
        mechanism.share(sheet.sums(labels[part], images[part], patients[part]), Stream.from_os()).astype(np.int64)
        for part in (slice(0, 20), slice(20, 40))
    )
    survey = sheet.read(mechanism.restore(np.asarray(total).astype(np.int32)).astype(np.float64), 0.0)
    assert (survey.patients, survey.noise) == (20, 0) and survey.classes == pytest.approx((15, 5))
    assert survey.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=2e-3)
    assert survey.deviation == pytest.approx(images.std((0, 2, 3)).tolist(), abs=5e-3)
    assert survey.class_weights("balanced") == pytest.approx((1 / 3, 1))
    assert survey.class_weights("root") == pytest.approx((3**-0.5, 1))
    assert survey.mean_weight("balanced") == pytest.approx((15 / 3 + 5) / 20)


@given(counts=COUNTS, noise=st.floats(0, 100), patients=st.floats(1, 1e6), how=st.sampled_from(["root", "balanced"]))
def test_weights_are_bounded_whatever_noise_does(counts: list[float], noise: float, patients: float, how: Any) -> None:
    survey = Survey(patients, tuple(counts), (), (), noise)
    weights = survey.class_weights(how)
    assert max(weights) == 1 and min(weights) >= 1 / SPREAD and 1 / SPREAD <= survey.mean_weight(how) <= 1
    assert all(1 / SPREAD <= one <= SPREAD for one in survey.presence_weights(how))
    known, pixels = survey.known, survey.pixel_weights(how)
    assert sum(n * w for n, w in zip(known, pixels, strict=True)) == pytest.approx(sum(known))


def test_what_is_noise_weighs_nothing_and_is_refused_beforehand() -> None:
    few = Sheet(2, False, 1).read(np.array([20.0, 19.0, 1.0, 18.0, -5.0]), noise=2.1)
    assert few.too_few and few.vague and few.class_weights("balanced") == (1, 1) == few.presence_weights("root")
    assert (few.mean, few.deviation) == ((0.5,), (0.25,))
    known = Sheet(2, False, 1).read(np.array([22.0, 19.0, 1.0, 18.0, -5.0]), noise=2.1)
    assert not known.too_few and known.class_weights("balanced") == pytest.approx((4.2 / 19, 1))
    data = study(patients=100, epsilon=0.5).model_dump(exclude_none=True)
    asked = resolve(Study.model_validate(data | {"statistics": {"class_weights": "root"}}))
    with pytest.raises(
        StudyError, match=r"asks about 18 evaluation patients, with noise of \d+\.\d: that tells nothing"
    ):
        Plan(asked).check()


def test_pixels_that_noise_hides_are_the_usual_ones_though_counts_are_known() -> None:
    exact = np.array([100.0, 80.0, 20.0, 14.0, 14.0])  # of u: mean 0.14, square 0.14, so a deviation of 0.173 of pixels
    for noise, vague in ((0.0, False), (3.0, False), (9.0, True)):
        survey = Sheet(2, False, 1).read(exact, noise)
        assert not survey.too_few and survey.vague is vague
        assert survey.deviation == pytest.approx((0.25 if vague else 0.1735,), abs=1e-3)


def test_shares_of_pixels_are_no_patients() -> None:
    drawn = Sheet(3, False, 0, masks=True).read(np.array([10.0, 9.7, 0.2, 0.1]), 0.0)
    assert drawn.class_weights("balanced") == pytest.approx((0.05, 0.5, 1))


@pytest.mark.parametrize("totals", [np.zeros(4), np.full(3, np.nan), np.zeros((3, 1))])
def test_a_survey_that_is_none_is_refused(totals: np.ndarray) -> None:
    with pytest.raises(ValueError, match="3 numbers"):
        Sheet(2, False, 0).read(totals, 0.0)


def test_a_survey_is_one_look_more_and_keeps_the_promise() -> None:
    asked = Study.model_validate(
        study(patients=3000, delta=1e-6).model_dump(exclude_none=True) | {"statistics": {"class_weights": "balanced"}}
    )
    made, plain = resolve(asked), resolve(study(patients=3000, delta=1e-6))
    plan, privacy = Plan(made), made.privacy
    plan.check()
    assert privacy and plain.privacy and plan.looks == 2
    assert privacy.noise_multiplier == plain.privacy.noise_multiplier
    assert privacy.evaluation_noise_multiplier > 1.2 * plain.privacy.evaluation_noise_multiplier
    assert plan.surveying.accounted_multiplier == pytest.approx(plan.evaluation.accounted_multiplier)
    assert plan.surveying.sensitivity == plan.sheet.norm  # type: ignore[union-attr]
    cheated = privacy.model_copy(update={"evaluation_noise_multiplier": plain.privacy.evaluation_noise_multiplier})
    with pytest.raises(StudyError, match="its evaluation costs"):
        Plan(made.model_copy(update={"privacy": cheated})).check()


def test_nothing_is_weighed_or_standardised_before_it_is_known() -> None:
    plan = Plan(Study.model_validate(with_statistics(True, class_weights="balanced", pixels="hospitals")))
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    assert plan.counting is None and plan.mean_counting == 1
    assert torch.equal(plan.front_end.features(images), images)
    known = plan.surveyed(np.array([10.0, 8.0, 2.0, -2.0, 2.0]))  # u: mean -0.2, square 0.2
    assert known.counting == pytest.approx((0.25, 1)) and known.mean_counting == pytest.approx(0.4)
    assert torch.allclose(known.front_end.features(images), (images - 0.4) / 0.2, atol=1e-5)
    assert known.front_end_card.feature_map() == Pixels(16, 1, None, (0.4,), (0.2,))
    assert (known.first_weights() == plan.first_weights()).all()


@pytest.mark.parametrize("labels", ["several", "masks"])
def test_where_an_image_has_several_classes_the_loss_weighs_them(labels: str) -> None:
    data = with_statistics(class_weights="balanced")
    data["study"] |= {"task": "segmentation"} if labels == "masks" else {"labels": "several"}
    data["model"] = {"kind": "pixel-linear"} if labels == "masks" else data["model"]
    plan = Plan(Study.model_validate(data)).surveyed(np.array([10.0, 8.0, 2.0]))
    assert plan.counting is None and plan.mean_counting == 1
    task = plan.task
    if isinstance(task, Several):
        assert task.presence == pytest.approx((0.25, 4))
        outputs, target = torch.zeros(1, 2), torch.tensor([[1, 1]])
        assert float(task.loss(outputs, target)) == pytest.approx(float(np.log(2)) * 4.25 / 2)
    else:
        assert isinstance(task, Segmentation) and task.weights == pytest.approx((0.625, 2.5))
        mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
        plain = Segmentation(("none", "disc")).loss(torch.zeros(1, 1, 4, 4), mask)
        assert float(task.loss(torch.zeros(1, 1, 4, 4), mask) - plain) == pytest.approx(float(np.log(2)) * (0.625 - 1))


def test_a_unit_counts_after_it_was_clipped() -> None:
    """A weight in the loss would be clipped away: the sum of a gradient above the norm would stay as it is."""
    model = torch.nn.Linear(3, 2, bias=False)
    torch.nn.init.zeros_(model.weight)
    images, labels = torch.eye(3)[[0, 1, 2, 0]] * 100, torch.tensor([0, 1, 0, 1])
    counting = torch.tensor([0.25, 1.0, 0.25, 1.0])

    def clipped(**settings: Any) -> torch.Tensor:
        clipper = Clipper(model, torch.nn.CrossEntropyLoss(reduction="none"), 0.5, rows=2)
        clipper.add(images, labels, **settings)
        return clipper.take()

    alone = []
    for place in range(4):
        clipper = Clipper(model, torch.nn.CrossEntropyLoss(reduction="none"), 0.5)
        clipper.add(images[[place]], labels[[place]])
        alone.append(clipper.take())
    weighed = sum(float(counting[place]) * alone[place] for place in range(4))
    assert torch.allclose(clipped(counting=counting), weighed.to(clipped().dtype), atol=1e-6)
    assert all(float(one.norm()) > 0.49 for one in alone)
    with pytest.raises(ValueError, match="between 0 and 1"):
        clipped(counting=torch.tensor([1.5, 1.0, 1.0, 1.0]))


def test_several_images_of_a_unit_count_as_their_mean() -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    images, labels = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 0, 0])
    weights = torch.tensor([0.5, 0.5, 1.0, 0.0])
    plain, weighed = (
        Clipper(model, torch.nn.CrossEntropyLoss(reduction="none"), 0.1, images_per_unit=2) for _ in range(2)
    )
    plain.add(images[:2], labels[:2], weights[:2])
    first = plain.take()
    plain.add(images[2:], labels[2:], weights[2:])
    second = plain.take()
    weighed.add(images, labels, weights, counting=torch.tensor([0.2, 1.0, 0.2, 1.0]))
    assert torch.allclose(weighed.take(), 0.6 * first + 0.2 * second, atol=1e-6)


def test_learning_finds_the_rare_class_when_it_counts_more() -> None:
    """19 of 20 pictures are alike in class; an unweighed model calls nobody rare, a balanced one does."""
    stream = Stream.public("rare")
    images = torch.from_numpy(stream.uniform((400, 1, 16, 16))).float() * 0.5
    labels = torch.tensor([int(place % 20 == 0) for place in range(400)])
    images[labels == 1] += 0.5 * torch.from_numpy(stream.uniform((20, 1, 16, 16))).float() * (torch.arange(16) < 8)
    found = {}
    for how in ("equal", "balanced"):
        data = with_statistics(class_weights=how)
        data["training"] |= {"rounds": 12, "sampling": 1.0, "learning_rate": 2.0}
        plan = Plan(Study.model_validate(data))
        names = tuple(map(str, range(400)))
        features = plan.front_end.features(images)
        plan, cohorts = simulation.surveyed(plan, [Cohort(features, labels, names)])
        weights = simulation.train(plan, cohorts, 400)
        module = plan.module()
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights), module.parameters())
        found[how] = int((module(features)[labels == 1, 0] > 0).sum())
    assert found["equal"] < 10 < 16 < found["balanced"]


@pytest.mark.parametrize(
    ("settings", "changes", "named"),
    [
        ({"mean": (0.5,)}, {}, "go together"),
        ({"mean": (0.5, 0.5), "deviation": (0.2, 0.2)}, {}, "a number for each of 1 channel"),
        ({"mean": (0.5,), "deviation": (0.2,), "pixels": "hospitals"}, {}, "keep one of them"),
        ({"pixels": "hospitals"}, {"model": {"kind": "scattering-linear"}}, "sees fixed features"),
        (
            {"class_weights": "root"},
            {"training": {"local_steps": 2, "local_learning_rate": 1.0}},
            "training.local_steps = 2",
        ),
        ({"class_weights": "root"}, {"training": {"rounds": 0}, "evaluation": {"model": "0" * 64}}, "rounds = 0"),
        (
            {"class_weights": "root"},
            {"privacy": {"patients": 300, "delta": 1e-6, "evaluation_share": 0}},
            "there are none",
        ),
    ],
)
def test_statistics_that_do_not_go_with_the_rest_are_named(
    settings: dict[str, Any], changes: dict[str, Any], named: str
) -> None:
    data = with_statistics(network=True, **settings)
    with pytest.raises(ValueError, match=named):
        Study.model_validate(data | changes)


def test_known_pixels_are_taken_as_they_are() -> None:
    plan = Plan(Study.model_validate(with_statistics(True, mean=(0.3,), deviation=(0.1,))))
    assert plan.sheet is None and plan.looks == 0
    images = torch.full((1, 1, 16, 16), 0.35)
    assert torch.allclose(plan.front_end.features(images), torch.tensor(0.5), atol=1e-5)
    assert Statistics(mean=(0.3,), deviation=(0.1,)).asked is False
    assert first_weights(plan.module(), "x").shape == (plan.dimension,)
    assert Learner(plan, Cohort(images, torch.zeros(1, dtype=torch.int64), ("a",))).images == 1
