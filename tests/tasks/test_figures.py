"""Figures from noisy counts: exact without noise, unbiased with it, and intervals that cover."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from primum.dp import histogram
from primum.rng import Stream
from primum.tasks.agreement import f1, matthews, weighted_kappa
from primum.tasks.classification import Classification
from primum.tasks.figures import (
    binary_figures,
    confusion_figures,
    mean_figure,
    ordered_figures,
    several_figures,
)
from primum.tasks.metrics import (
    auc_interval,
    calibration_figures,
    called_figures,
    classification_figures,
    grade_figures,
    points_figures,
    wilson,
)
from primum.tasks.metrics import several_figures as metrics_of_several
from primum.tasks.points import Points

BINS = 8
NEGATIVE = np.array([0.45, 0.25, 0.12, 0.08, 0.05, 0.03, 0.02, 0.0])
POSITIVE = NEGATIVE[::-1]


def normal(stream: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Box and Muller: float noise is good enough to test arithmetic with."""
    radius = np.sqrt(-2 * np.log1p(-stream.uniform(shape)))
    return radius * np.cos(2 * np.pi * stream.uniform(shape))


def sample(stream: Stream, chances: np.ndarray, count: int) -> np.ndarray:
    cells = np.searchsorted(np.cumsum(chances)[:-1], stream.uniform(count), "right")
    return np.bincount(cells, minlength=len(chances)).astype(np.float64)


def binned_auc(negative: np.ndarray, positive: np.ndarray) -> float:
    """The slow twin: every pair of bins."""
    wins = sum(
        positive[i] * negative[j] * (1.0 if i > j else 0.5 if i == j else 0.0)
        for i in range(len(positive))
        for j in range(len(negative))
    )
    return float(wins / (negative.sum() * positive.sum()))


def test_without_noise_the_figures_are_those_of_the_patients() -> None:
    stream = Stream.public("figures")
    counts = np.array([sample(stream, NEGATIVE, 60), sample(stream, POSITIVE, 80)])
    scores = np.repeat(np.tile(np.arange(BINS), 2), counts.reshape(-1).astype(int))
    labels = np.repeat([0, 1], [60, 80])
    figures = binary_figures(counts, 0.0)
    assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert figures["accuracy"] == pytest.approx(((scores >= 4) == labels).mean(), abs=1e-4)
    assert figures["auc_low"] < figures["auc"] < figures["auc_high"]
    assert not figures["too_few"]


@pytest.mark.parametrize(("negatives", "positives", "noise"), [(200, 200, 1.5), (70, 70, 1.0), (150, 450, 3.0)])
def test_the_intervals_cover_about_95_percent_and_the_figures_are_not_biased(
    negatives: int, positives: int, noise: float
) -> None:
    stream = Stream.public("coverage of noisy figures")
    auc = binned_auc(NEGATIVE, POSITIVE)
    accuracy = (NEGATIVE[:4].sum() * negatives + POSITIVE[4:].sum() * positives) / (negatives + positives)
    table = np.array([NEGATIVE.reshape(2, 4).sum(1) * negatives, POSITIVE.reshape(2, 4).sum(1) * positives])
    truths = {"auc": auc, "accuracy": accuracy, "f1": f1(table)[0], "mcc": matthews(table)[0]}
    runs, found, covered = 1500, [], dict.fromkeys(truths, 0)
    for _ in range(runs):
        counts = np.array([sample(stream, NEGATIVE, negatives), sample(stream, POSITIVE, positives)])
        figures = binary_figures(counts + noise * normal(stream, counts.shape), noise)
        found.append((figures["auc"], figures["accuracy"]))
        for name, truth in truths.items():
            covered[name] += figures[f"{name}_low"] <= truth <= figures[f"{name}_high"]
    for name in truths:
        assert 0.92 < covered[name] / runs < 0.985, name
    spread = np.std(found, 0) / np.sqrt(runs)
    assert np.all(np.abs(np.mean(found, 0) - (auc, accuracy)) < 5 * spread + 0.002)


def test_cutting_negative_counts_would_bias_the_auc() -> None:
    """Why counts below zero stay: the same simulation with them cut is off by more than the test above allows."""
    stream = Stream.public("cut figures")
    cut, kept = [], []
    for _ in range(600):
        counts = np.array([sample(stream, NEGATIVE, 70), sample(stream, POSITIVE, 70)])
        noisy = counts + 3.0 * normal(stream, counts.shape)
        cut.append(binary_figures(np.maximum(noisy, 0), 3.0)["auc"])
        kept.append(binary_figures(noisy, 3.0)["auc"])
    truth = binned_auc(NEGATIVE, POSITIVE)
    assert truth - np.mean(cut) > 0.02
    assert abs(truth - np.mean(kept)) < 0.01


@pytest.mark.parametrize("classes", [2, 4])
def test_confusion_intervals_cover_about_95_percent(classes: int) -> None:
    stream = Stream.public(f"confusion {classes}")
    chances = np.full(classes, 0.2 / (classes - 1))
    covered, runs = 0, 1200
    for _ in range(runs):
        rows = [sample(stream, np.where(np.arange(classes) == i, 0.8, chances), 80) for i in range(classes)]
        counts = np.array(rows) + 2.0 * normal(stream, (classes, classes))
        figures = confusion_figures(counts, 2.0)
        covered += figures["accuracy_low"] <= 0.8 <= figures["accuracy_high"]
    assert 0.92 < covered / runs < 0.985


def test_few_patients_at_a_strict_epsilon_are_said_to_be_too_few() -> None:
    counts = np.array([np.full(BINS, 2.0), np.full(BINS, 2.0)])
    figures = binary_figures(counts, 5.0)
    assert figures["too_few"]
    assert figures["text"] == "too few patients for this epsilon"


def test_few_patients_without_noise_have_figures_and_wide_intervals() -> None:
    """Wilson's interval of 12 of 12 and of 0 of 9; the area against Newcombe's for single patients, where all is right."""
    counts = np.zeros((2, BINS))
    counts[0, 0], counts[1, 7] = 9, 12
    told = binary_figures(counts, 0.0)
    assert not told["too_few"] and "text" not in told
    assert (told["sensitivity"], told["sensitivity_high"]) == (1, 1)
    assert told["sensitivity_low"] == pytest.approx(wilson(1.0, 12, 1.96)[0], abs=2e-4)
    exact = auc_interval(np.repeat([0, 1], [9, 12]), np.repeat([0.1, 0.9], [9, 12]))
    assert told["auc_high"] == 1 and told["auc_low"] == pytest.approx(exact.low, abs=0.02)
    wrong = binary_figures(np.roll(counts, 7, axis=1), 0.0)
    assert wrong["specificity"] == 0 and wrong["specificity_high"] == pytest.approx(wilson(0.0, 9, 1.96)[1], abs=2e-4)
    assert confusion_figures(np.diag([2.0, 3.0, 1.0]), 0.0)["accuracy_low"] == pytest.approx(
        wilson(1.0, 6, 1.96)[0], abs=2e-4
    )
    assert binary_figures(np.array([[3.0] + [0] * 7, [0.0] * 8]), 0.0)["text"] == "too few patients"


@pytest.mark.parametrize(("chance", "count"), [(0.97, 30), (0.9, 15), (0.5, 12)])
def test_intervals_of_few_patients_without_noise_cover(chance: float, count: int) -> None:
    stream, runs, covered = Stream.public(f"few {count}"), 1000, 0
    for _ in range(runs):
        rows = [sample(stream, np.array([1 - chance, chance])[::way], count) for way in (-1, 1)]
        told = binary_figures(np.array(rows), 0.0)
        covered += told["sensitivity_low"] <= chance <= told["sensitivity_high"]
    assert covered / runs > 0.92


@pytest.mark.parametrize("counts", [np.zeros((2, 8)), -np.ones((2, 8)), np.array([[1.0] * 8, [-1.0] * 8])])
def test_nobody_at_all_gives_no_figure(counts: np.ndarray) -> None:
    told = {"too_few": True, "text": "too few patients for this epsilon", "counts": counts.tolist(), "noise": 1.0}
    assert binary_figures(counts, 1.0) == told
    assert confusion_figures(counts[:, :2] * 0, 1.0)["too_few"]


def test_no_figure_leaves_zero_to_one() -> None:
    counts = np.array([[-5.0, 0, 0, 0, 0, 0, 0, 9], [9.0, 0, 0, 0, 0, 0, 0, -5]])
    figures = binary_figures(counts, 4.0)
    assert all(0 <= figures[f"{name}{end}"] <= 1 for name in ("auc", "accuracy") for end in ("", "_low", "_high"))


def test_figures_of_several_classes_are_those_of_each_and_their_means() -> None:
    stream = Stream.public("several figures")
    each = [np.array([sample(stream, NEGATIVE, 300 - n), sample(stream, POSITIVE, n)]) for n in (40, 150)]
    figures = several_figures(np.array([*each, np.array([np.full(BINS, 9.0), np.zeros(BINS)])]), 0.0, ("a", "b", "c"))
    alone = [binary_figures(counts, 0.0) for counts in each]
    for name, one in zip("ab", alone, strict=True):
        assert {key: figures["by_class"][name][key] for key in ("auc", "auc_low", "accuracy")} == {
            key: one[key] for key in ("auc", "auc_low", "accuracy")
        }
    assert figures["by_class"]["c"]["too_few"] and "auc" not in figures["by_class"]["c"]
    assert figures["auc"] == pytest.approx(np.mean([one["auc"] for one in alone]), abs=1e-4)
    assert np.array(figures["counts"]).shape == (3, 2, BINS)
    assert several_figures(np.zeros((2, 2, BINS)), 1.0, ("a", "b"))["too_few"]


def graded(stream: Stream, patients: int) -> np.ndarray:
    """Counts [4, 4]: most are called right, some one grade off."""
    chances = np.array([[0.32, 0.06, 0.01, 0], [0.05, 0.18, 0.06, 0.01], [0.01, 0.04, 0.1, 0.03], [0, 0.01, 0.02, 0.1]])
    return sample(stream, chances.reshape(-1), patients).reshape(4, 4)


def test_figures_of_grades_are_those_of_the_patients() -> None:
    counts = graded(Stream.public("grades"), 500)
    true, called = np.repeat(np.argwhere(counts >= 0), counts.reshape(-1).astype(int), axis=0).T
    figures = ordered_figures(counts, 0.0)
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(true, called, weights="quadratic"), abs=1e-4)
    assert figures["mae"] == pytest.approx(np.abs(true - called).mean(), abs=1e-4)
    assert figures["accuracy"] == pytest.approx((true == called).mean(), abs=1e-4)
    assert np.isnan(weighted_kappa(np.diag([5.0, 0, 0]))[0]) and "kappa" not in ordered_figures(np.diag([5.0, 0, 0]), 0)


def test_the_slopes_of_kappa_are_its_slopes() -> None:
    counts = graded(Stream.public("slopes"), 300)
    kappa, slopes = weighted_kappa(counts)
    for place in np.ndindex(counts.shape):
        more = counts.copy()
        more[place] += 1e-4
        assert (weighted_kappa(more)[0] - kappa) / 1e-4 == pytest.approx(slopes[place], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("figure", [f1, matthews, partial(f1, only=1)])
def test_the_slopes_of_a_figure_of_a_table_are_its_slopes(
    figure: Callable[..., tuple[float, np.ndarray]], classes: int
) -> None:
    counts = 40 * Stream.public(f"slopes {classes}").uniform((classes, classes)) + 1
    value, slopes = figure(counts)
    assert float((counts * slopes).sum()) == pytest.approx(0, abs=1e-9)
    for place in np.ndindex(*counts.shape):
        more = counts.copy()
        more[place] += 1e-4
        assert (figure(more)[0] - value) / 1e-4 == pytest.approx(slopes[place], abs=1e-6)


def test_intervals_of_grades_cover_about_95_percent() -> None:
    truth, stream = ordered_figures(graded(Stream.public("many"), 400_000), 0.0), Stream.public("noisy grades")
    runs, covered = 1000, {"mae": 0, "kappa": 0}
    for _ in range(runs):
        figures = ordered_figures(graded(stream, 300) + 3.0 * normal(stream, (4, 4)), 3.0)
        for name in covered:
            covered[name] += figures[f"{name}_low"] <= truth[name] <= figures[f"{name}_high"]
    assert all(0.92 < count / runs < 0.98 for count in covered.values()), covered


def test_what_noise_adds_to_kappa_on_average_is_taken_off() -> None:
    stream = Stream.public("kappa under noise")
    counts = graded(stream, 300)
    noisy = [counts + 6.0 * normal(stream, (4, 4)) for _ in range(6000)]
    with_care, without = (np.mean([weighted_kappa(table, noise)[0] for table in noisy]) for noise in (6.0, 0.0))
    truth = weighted_kappa(counts)[0]
    assert abs(with_care - truth) < 0.003 < 0.005 < without - truth


def test_the_interval_of_a_mean_over_classes_that_go_together_covers() -> None:
    """The same patients in every table, the worst case: the mean then varies as much as one class does."""
    stream, runs, covered = Stream.public("together"), 500, 0
    for _ in range(runs):
        same = np.array([sample(stream, NEGATIVE, 120), sample(stream, POSITIVE, 80)])
        counts = np.array([same + 0.3 * normal(stream, same.shape) for _ in range(3)])
        figures = several_figures(counts, 0.3, "abc")
        covered += figures["auc_low"] <= binned_auc(NEGATIVE, POSITIVE) <= figures["auc_high"]
    assert 0.92 < covered / runs < 0.99


def test_what_a_table_tells_beside_the_area() -> None:
    """20 ill of whom 15 are called so, 80 well of whom 72 are: by hand, and against the figures of single images."""
    counts = np.zeros((2, 8))
    counts[0, 1], counts[0, 6], counts[1, 6], counts[1, 2] = 72, 8, 15, 5
    told = binary_figures(counts, 0.0)
    assert (told["sensitivity"], told["specificity"]) == (0.75, 0.9)
    labels = np.repeat([0, 0, 1, 1], [72, 8, 15, 5])
    called = np.repeat([0, 1, 1, 0], [72, 8, 15, 5])
    single = called_figures(labels, called, 2)
    assert told["f1"] == pytest.approx(single["f1"], abs=1e-4) and told["mcc"] == pytest.approx(single["mcc"], abs=1e-4)
    chances = np.repeat([1.5 / 8, 6.5 / 8, 6.5 / 8, 2.5 / 8], [72, 8, 15, 5])
    off = abs(72 + 15 - 95 * 6.5 / 8) + abs(0 - 5 * 5.5 / 8)  # of the class that is called
    assert told["calibration_error"] == pytest.approx(off / 100, abs=1e-4)
    of_images = calibration_figures(labels, np.stack([1 - chances, chances], axis=1))
    for end in ("", "_low", "_high"):
        assert told[f"calibration_error{end}"] == pytest.approx(of_images[f"calibration_error{end}"], abs=0.01)
    noisy = binary_figures(counts, 2.0)
    assert "calibration_error" not in noisy
    assert noisy["sensitivity_high"] - noisy["sensitivity_low"] > told["sensitivity_high"] - told["sensitivity_low"]


def test_exact_tables_of_more_classes_tell_what_single_images_do() -> None:
    """Of 400 patients of four classes, through the cells of a look; chances within a bin are as good as equal."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 4, 400)
    logits = torch.from_numpy(2.0 * np.eye(4)[labels] + generator.normal(size=(400, 4)))
    task = Classification(4, exact=True)
    rows, columns = task.cells(logits, torch.from_numpy(labels), [[place] for place in range(400)])
    told = task.figures(histogram.counts(rows, columns, task.table).reshape(task.table), 0.0)
    single = classification_figures(labels, torch.softmax(logits, 1).numpy())
    for name in ("accuracy", "f1", "mcc"):
        assert told[name] == pytest.approx(single[name], abs=1e-4), name
    for name in ("auc", "calibration_error"):
        assert told[name] == pytest.approx(single[name], abs=0.01), name
    for name in ("accuracy", "f1", "mcc", "auc", "calibration_error"):
        assert told[f"{name}_low"] < told[name] < told[f"{name}_high"], name
    assert task.figures(np.zeros(task.table), 0.0)["too_few"]
    assert "auc" not in task.figures(np.diag([5.0, 4, 3, 2]), 0.0), "tables of older runs"


def test_a_mean_of_bins_knows_how_wide_they_are() -> None:
    counts = np.zeros(16)
    counts[0] = 10
    told = mean_figure(counts, 0.0, "dice", np.linspace(0, 1, 17))
    assert told["dice_low"] == 0 < told["dice"] < told["dice_high"] == pytest.approx(1 / 16, abs=1e-4)


@given(st.integers(0, 60), st.sampled_from((0.5, 0.8, 0.9, 0.95)))
def test_a_point_is_the_best_that_reaches_what_was_asked(seed: int, least: float) -> None:
    draw = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [60, 40])
    scores = np.clip(draw.normal(0.4 + 0.2 * labels, 0.15), 0, 0.999)
    asked = Points((least,), (least,))
    single = points_figures(labels, scores, asked)["points"]
    tried = [((scores >= t)[labels == 1].mean(), (scores < t)[labels == 0].mean()) for t in [*scores, 2.0]]
    assert single[0]["sensitivity"] == pytest.approx(max(a for a, b in tried if b >= least))
    assert single[1]["specificity"] == pytest.approx(max(b for a, b in tried if a >= least))
    assert [point["asked"] for point in single] == ["specificity", "sensitivity"]
    counts = np.stack([np.histogram(scores[labels == kind], 64, (0, 1))[0] for kind in (0, 1)]).astype(float)
    looked = binary_figures(counts, 0.0, asked)["points"]
    edges = np.arange(65) / 64
    coarse = [((scores >= t)[labels == 1].mean(), (scores < t)[labels == 0].mean()) for t in edges]
    assert looked[0]["sensitivity"] == pytest.approx(max(a for a, b in coarse if b >= least), abs=1e-4)
    assert looked[1]["specificity"] == pytest.approx(max(b for a, b in coarse if a >= least), abs=1e-4)
    for point in looked:
        called = scores >= point["threshold"]
        assert called[labels == 1].mean() == pytest.approx(point["sensitivity"], abs=1e-4)
        assert (~called)[labels == 0].mean() == pytest.approx(point["specificity"], abs=1e-4)
        assert point[point["asked"]] >= least - 1e-9


def test_points_are_not_told_of_noise_nor_of_one_side() -> None:
    asked = Points((0.9,))
    assert "points" not in binary_figures(np.full((2, 8), 9.0), 1.0, asked)
    assert points_figures(np.ones(4, np.int64), np.ones(4), asked) == {}
    told = several_figures(np.full((2, 2, 64), 9.0), 0.0, ("a", "b"), asked)
    assert len(told["by_class"]["b"]["points"]) == 1


def test_grades_without_a_mistake_have_no_empty_interval() -> None:
    told = ordered_figures(np.diag([12.0, 9, 6]), 0.0)
    assert (told["mae"], told["kappa"], told["kappa_high"]) == (0, 1, 1)
    assert 0.05 < told["mae_high"] < 0.5 and 0 < told["kappa_low"] < 0.6
    single = grade_figures(np.repeat([0, 1, 2], [12, 9, 6]), np.repeat([0, 1, 2], [12, 9, 6]), 3)
    for name in ("mae_high", "kappa_low"):
        assert single[name] == pytest.approx(told[name], abs=1e-4), name


def test_f1_of_several_classes_is_the_mean_of_having_each() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, (300, 3))
    chances = np.clip(0.25 + 0.5 * labels + 0.2 * generator.normal(size=labels.shape), 0, 0.999)
    tables = np.zeros((3, 2, 64))
    for place in range(3):
        np.add.at(tables[place], (labels[:, place], (chances[:, place] * 64).astype(int)), 1)
    told = several_figures(tables, 0.0, ("a", "b", "c"))
    single = metrics_of_several(labels, chances, ("a", "b", "c"))
    assert told["f1"] == pytest.approx(single["f1"], abs=1e-4)
    assert told["f1_low"] <= single["f1_low"] + 1e-3 and told["f1_high"] >= single["f1_high"] - 1e-3
    for name in ("a", "b", "c"):
        of_class = told["by_class"][name]
        assert of_class["f1"] == pytest.approx(single["by_class"][name]["f1"], abs=1e-4)
        assert of_class["f1_low"] == pytest.approx(single["by_class"][name]["f1_low"], abs=0.01)


def test_a_calibrated_model_is_not_told_off_for_fine_tables() -> None:
    """400 patients whose chances come true: over 64 bins their error by chance alone would be three times that over 10."""
    generator = np.random.default_rng(3)
    chances = generator.uniform(size=400)
    labels = (generator.uniform(size=400) < chances).astype(int)
    table = np.zeros((2, 64))
    np.add.at(table, (labels, (chances * 64).astype(int)), 1)
    told = binary_figures(table, 0.0)
    assert told["calibration_error"] < 0.08 and told["calibration_error_low"] == 0
