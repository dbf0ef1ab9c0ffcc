"""Exact figures of several classes and of grades: those of scikit-learn, and intervals that know patients and classes."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from primum.rng import Stream
from primum.tasks.metrics import auc_interval, grade_figures, mean_auc_interval, several_figures, share_interval

CLASSES = ("a", "b", "rare")


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities [count, 3]; nobody has the third class."""
    stream = Stream.public(f"several {seed}")
    labels = (np.asarray(stream.uniform((count, 3))) < [0.3, 0.5, 0.0]).astype(np.int64)
    return labels, np.clip(0.25 * labels + 0.75 * np.asarray(stream.uniform((count, 3))), 0, 1)


def test_figures_of_several_classes() -> None:
    labels, chances = drawn(120)
    told = several_figures(labels, chances, CLASSES, tuple(str(place // 2) for place in range(120)))
    areas = [roc_auc_score(labels[:, place], chances[:, place]) for place in (0, 1)]
    assert [told["by_class"][name]["auc"] for name in "ab"] == pytest.approx(areas)
    assert told["auc"] == pytest.approx(np.mean(areas)) and "auc" not in told["by_class"]["rare"]
    assert told["accuracy"] == pytest.approx(((chances > 0.5) == labels).mean())
    assert told["by_class"]["a"]["f1"] == pytest.approx(f1_score(labels[:, 0], chances[:, 0] > 0.5))
    assert (told["images"], told["patients"], told["by_class"]["a"]["images"]) == (120, 60, labels[:, 0].sum())
    assert told["auc_low"] < told["auc"] < told["auc_high"]


def test_the_interval_of_one_class_is_that_of_its_area_and_copies_of_a_patient_add_nothing() -> None:
    labels, chances = drawn(150)
    one, alone = mean_auc_interval(labels[:, :1], chances[:, :1]), auc_interval(labels[:, 0], chances[:, 0])
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high), abs=2e-3)
    twin = mean_auc_interval(labels[:, [0, 0]], chances[:, [0, 0]])
    assert (twin.low, twin.high) == pytest.approx((one.low, one.high))
    names = tuple(str(place) for place in np.repeat(np.arange(150), 3))
    thrice = mean_auc_interval(np.repeat(labels[:, :2], 3, 0), np.repeat(chances[:, :2], 3, 0), names)
    once = mean_auc_interval(labels[:, :2], chances[:, :2])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert once.high - once.low < 0.85 * (one.high - one.low)  # two classes that go apart say more than one
    perfect = mean_auc_interval(labels[:, :2], labels[:, :2].astype(np.float64))
    assert perfect.value == perfect.high == 1 and 0.9 < perfect.low < 1


def test_the_interval_of_the_mean_area_covers() -> None:
    truth = np.mean([roc_auc_score(*(part[:, place] for part in drawn(40_000))) for place in (0, 1)])
    found = [mean_auc_interval(*(part[:, :2] for part in drawn(120, seed))) for seed in range(1, 301)]
    assert 0.91 < np.mean([one.low <= truth <= one.high for one in found]) < 0.985


def test_figures_of_grades() -> None:
    stream = Stream.public("grades")
    labels = (4 * np.asarray(stream.uniform(200))).astype(np.int64)
    called = np.clip(labels + (3 * np.asarray(stream.uniform(200))).astype(np.int64) - 1, 0, 3)
    told = grade_figures(labels, called, 4, tuple(map(str, range(200))))
    assert told["kappa"] == pytest.approx(cohen_kappa_score(labels, called, weights="quadratic"))
    assert told["mae"] == pytest.approx(np.abs(labels - called).mean())
    assert told["kappa_low"] < told["kappa"] < told["kappa_high"] and told["mae_low"] < told["mae"] < told["mae_high"]
    twice = grade_figures(
        *(np.repeat(part, 2) for part in (labels, called)), 4, tuple(map(str, np.repeat(range(200), 2)))
    )
    assert twice["kappa_high"] == pytest.approx(told["kappa_high"]) and twice["mae_low"] == pytest.approx(
        told["mae_low"]
    )
    assert "kappa" not in grade_figures(np.ones(5, np.int64), np.ones(5, np.int64), 3)


def test_an_interval_of_shares_is_wilsons_for_whole_ones() -> None:
    right = share_interval((np.arange(100) < 80).astype(np.float64))
    assert right.value == 0.8 and (right.low, right.high) == pytest.approx((0.711, 0.866), abs=2e-3)
    assert share_interval(np.ones(20)).low == pytest.approx(0.839, abs=2e-3)
