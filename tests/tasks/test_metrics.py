"""Metrics against scikit-learn, definitions, published numbers, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, recall_score, roc_auc_score, roc_curve

from primum.rng import Stream
from primum.tasks.metrics import (
    accuracy_interval,
    auc,
    auc_interval,
    calibration_figures,
    called_figures,
    classification_figures,
    confusion,
    roc,
    wilson,
)

SCORED = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def _arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in rows]), np.array([float(score) for _, score in rows])


@given(SCORED)
def test_auc_equals_scikit_learn_and_counting_pairs(rows: list[tuple[int, int]]) -> None:
    labels, scores = _arrays(rows)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(labels, scores) == pytest.approx(np.mean(pairs)) == pytest.approx(roc_auc_score(labels, scores))


@given(SCORED)
def test_roc_equals_scikit_learn_and_has_the_area(rows: list[tuple[int, int]]) -> None:
    labels, scores = _arrays(rows)
    false, true = roc(labels, scores)
    theirs = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(false, theirs[0]) and np.allclose(true, theirs[1])
    assert np.trapezoid(true, false) == pytest.approx(auc(labels, scores))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_confusion_equals_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column) for column in zip(*rows, strict=True))
    assert np.array_equal(confusion(labels, predicted, 4), confusion_matrix(labels, predicted, labels=range(4)))


def _slow_delong(labels: np.ndarray, scores: np.ndarray) -> float:
    """Variance of DeLong et al. 1988, equation 5, from the kernel of all pairs."""
    ill, well = scores[labels == 1], scores[labels == 0]
    kernel = (ill[:, None] > well[None]) + 0.5 * (ill[:, None] == well[None])
    return kernel.mean(axis=1).var(ddof=1) / len(ill) + kernel.mean(axis=0).var(ddof=1) / len(well)


def test_interval_of_single_images_is_delongs() -> None:
    stream = Stream.public("delong")
    labels = np.arange(80) % 2
    scores = stream.uniform(80) + 0.4 * labels
    found = auc_interval(labels, scores)
    logit = math.log(found.value / (1 - found.value))
    half = 1.959964 * math.sqrt(_slow_delong(labels, scores)) / (found.value * (1 - found.value))
    assert found.low == pytest.approx(1 / (1 + math.exp(half - logit)), abs=1e-4)
    assert found.high == pytest.approx(1 / (1 + math.exp(-half - logit)), abs=1e-4)


def test_repeating_every_image_of_a_patient_adds_nothing() -> None:
    stream = Stream.public("clusters")
    labels = np.arange(60) % 2
    scores = stream.uniform(60) + 0.5 * labels
    names = tuple(f"p{number}" for number in range(60))
    once = auc_interval(labels, scores, names)
    thrice = auc_interval(np.repeat(labels, 3), np.repeat(scores, 3), tuple(np.repeat(names, 3)))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-3)
    blind = auc_interval(np.repeat(labels, 3), np.repeat(scores, 3))
    assert blind.high - blind.low < 0.65 * (once.high - once.low)
    correct = scores > 0.7
    once_accuracy = accuracy_interval(correct, names)
    thrice_accuracy = accuracy_interval(np.repeat(correct, 3), tuple(np.repeat(names, 3)))
    assert (thrice_accuracy.low, thrice_accuracy.high) == pytest.approx(
        (once_accuracy.low, once_accuracy.high), abs=0.01
    )


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """300 studies of 60 patients with 1 to 3 images; the true AUC of N(1, 1) against N(0, 1) plus patients' own N(0, 1)."""
    stream = Stream.public("coverage")

    def normal(count: int) -> np.ndarray:
        u = stream.uniform((2, count))
        return np.sqrt(-2 * np.log1p(-u[0])) * np.cos(2 * np.pi * u[1])

    truth = 0.5 * (1 + math.erf(1 / 2 / math.sqrt(2)))  # difference N(1, 4): P(> 0) = Phi(1 / 2)
    covered = blind = 0
    for _ in range(300):
        sizes = 1 + (stream.uint32(60) % 3).astype(int)
        who = np.repeat(np.arange(60), sizes)
        labels = who % 2
        scores = labels + normal(60)[who] + normal(len(who))
        names = tuple(str(number) for number in who)
        found, without = auc_interval(labels, scores, names), auc_interval(labels, scores)
        covered += found.low <= truth <= found.high
        blind += without.low <= truth <= without.high
    assert 0.91 * 300 < covered < 0.99 * 300
    assert blind < covered


def test_perfect_separation_has_no_empty_interval() -> None:
    found = auc_interval(np.array([0] * 10 + [1] * 10), np.arange(20.0))
    assert (found.value, found.high) == (1.0, 1.0) and 0.75 < found.low < 0.95
    more = auc_interval(np.array([0] * 100 + [1] * 100), np.arange(200.0))
    assert found.low < more.low < 1
    worst = auc_interval(np.array([1] * 10 + [0] * 10), np.arange(20.0))
    assert worst.low == 0 and worst.high == pytest.approx(1 - found.low, abs=1e-4)


def test_wilson_has_the_published_numbers() -> None:
    """Newcombe, Statistics in Medicine 17, 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    table = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (hits, count), (low, high) in table.items():
        assert wilson(hits / count, count, 1.959964) == pytest.approx((low, high), abs=1e-4)
        found = accuracy_interval(np.arange(count) < hits)
        assert (found.value, found.low, found.high) == pytest.approx((hits / count, low, high), abs=1e-4)


def test_wrong_input_is_refused() -> None:
    for labels, scores in (([1, 1], [0.0, 1.0]), ([0, 2], [0.0, 1.0]), ([0, 1], [0.0, math.nan]), ([0], [0.0, 1.0])):
        with pytest.raises(ValueError, match=r"classes|labels|finite"):
            auc(np.array(labels), np.array(scores))
    with pytest.raises(ValueError, match="at least one"):
        accuracy_interval(np.array([], bool))


def test_figures_of_test_images() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    told = classification_figures(labels, chances, ("a", "b", "c", "d", "d"))
    assert (told["auc"], told["accuracy"]) == (pytest.approx(5 / 6), 0.6)
    assert (told["images"], told["patients"]) == (5, 4) and told["auc_low"] < told["auc"] < told["auc_high"]
    assert classification_figures(np.array([0, 1, 2]), np.eye(3))["auc"] == 1
    assert "auc" not in classification_figures(labels * 0, chances)


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_what_is_called_and_how_sure_agree_with_scikit_learn(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, 40)])
    chances = generator.dirichlet(np.ones(classes), len(labels))
    told = classification_figures(labels, chances)
    called = chances.argmax(1)
    assert told["f1"] == pytest.approx(f1_score(labels, called, average="macro", zero_division=0))
    assert told["mcc"] == pytest.approx(matthews_corrcoef(labels, called))
    truth = np.eye(classes)[labels]
    assert told["brier"] == pytest.approx(((chances - truth) ** 2).sum(1).mean())
    if classes == 2:
        assert told["sensitivity"] == pytest.approx(recall_score(labels, called))
        assert told["specificity"] == pytest.approx(recall_score(labels, called, pos_label=0))
        assert told["sensitivity_low"] <= told["sensitivity"] <= told["sensitivity_high"]
    else:
        rest = roc_auc_score(labels, chances, average="macro", multi_class="ovr")
        assert told["auc"] == pytest.approx(rest) and told["auc_low"] < told["auc"] < told["auc_high"]
        assert "sensitivity" not in told


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    chances = np.array([[0.25, 0.75]] * 4)
    assert calibration_figures(np.array([1, 1, 1, 0]), chances)["calibration_error"] == pytest.approx(0)
    assert calibration_figures(np.array([0, 0, 0, 0]), chances)["calibration_error"] == pytest.approx(0.75)


@pytest.mark.parametrize(("confidence", "skill"), [(1.0, 1.0), (2.0, 1.5), (0.5, 0.0)])
def test_intervals_of_what_is_called_cover_the_truth(confidence: float, skill: float) -> None:
    """Of 80 patients with 1 to 3 images, whose scores go together, one in four ill; truths from 200,000 such patients.

    A chance of sigmoid(confidence * score): of confidence 1 and skill 1 it is nearly what it says.
    """
    stream = Stream.public(f"called {confidence} {skill}")

    def normal(count: int) -> np.ndarray:
        u = stream.uniform((2, count))
        return np.sqrt(-2 * np.log1p(-u[0])) * np.cos(2 * np.pi * u[1])

    def study(people: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        who = np.repeat(np.arange(people), 1 + (stream.uint32(people) % 3).astype(int))
        ill = (stream.uniform((people,)) < 0.25).astype(np.int64)[who]
        score = skill * (ill - 0.5) - 0.5 + (normal(people)[who] + normal(len(who))) / math.sqrt(2)
        chance = 1 / (1 + np.exp(-confidence * score))
        return ill, np.stack([1 - chance, chance], axis=1), who

    def figures(ill: np.ndarray, chances: np.ndarray, who: np.ndarray) -> dict[str, float]:
        names = tuple(who.astype(str))
        return calibration_figures(ill, chances, names) | called_figures(ill, chances.argmax(1), 2, names)

    truth, runs, covered = figures(*study(200_000)), 300, dict.fromkeys(("f1", "mcc", "calibration_error", "brier"), 0)
    for _ in range(runs):
        found = figures(*study(80))
        for name in covered:
            covered[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    print(covered)
    for name in ("f1", "mcc", "brier"):
        assert 0.91 * runs < covered[name] < 0.985 * runs, name
    assert covered["calibration_error"] > 0.93 * runs


def test_figures_without_a_mistake_have_no_empty_interval() -> None:
    labels = np.repeat([0, 1, 2], [20, 30, 5])
    told = called_figures(labels, labels, 3)
    assert (told["f1"], told["f1_high"]) == (1, 1) and told["f1_low"] == pytest.approx(wilson(1.0, 5)[0])
    assert (told["mcc"], told["mcc_high"]) == (1, 1) and told["mcc_low"] == pytest.approx(2 * wilson(1.0, 5)[0] - 1)
    blind = called_figures(labels, np.zeros(55, np.int64), 3)
    assert blind["mcc"] == 0 and blind["mcc_low"] < -0.3 and blind["mcc_high"] > 0.3
