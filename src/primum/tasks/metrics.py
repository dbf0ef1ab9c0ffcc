"""How good a classifier is, with confidence intervals that know that images of one patient are not independent.

| symbol | meaning |
|---|---|
| theta | area under the ROC curve: P(score of an ill patient's image > score of a well one's) + P(equal) / 2 |
| V10, V01 | structural components of DeLong et al. 1988: each image's share of theta |
| z | quantile of the normal distribution for the level |

Of several classes a figure is given for each, and the mean over classes; of ordered ones also the mean absolute error in
grades and Cohen's kappa with quadratic weights. The intervals of these means and of kappa sum each patient's part (its
influence on the figure) before it is squared: images of a patient, and classes of an image, go together.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; Obuchowski, Biometrics 53, 1997 (clustered by patient);
Hanley and McNeil, Radiology 143, 1982; Newcombe, Statistics in Medicine 25, 2006, method 5.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from primum.models.answers import CALLED
from primum.tasks.agreement import f1, matthews, weighted_kappa
from primum.tasks.intervals import CALIBRATION_BINS, LEVEL, Interval, of_correlation, of_distances, of_share, wilson
from primum.tasks.points import NO_POINTS, Points

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve of scores for label 1 against label 0; ties count one half.

    Raises ValueError where one of the two labels is missing.
    """
    positive, _ = _components(*_split(labels, scores))
    return float(positive.mean())


def auc_interval(
    labels: Labels, scores: Floats, patients: tuple[str, ...] | None = None, level: float = LEVEL
) -> Interval:
    """AUC with a confidence interval: DeLong's variance, clustered by patient (Obuchowski), on the logit scale.

    `patients`: who each image is of; without it each image is its own patient. Where the classes are separated
    perfectly that variance is zero, and Newcombe's interval for the number of patients is given instead.
    """
    well, ill = _split(labels, scores)
    v10, v01 = _components(well, ill)
    theta = float(v10.mean())
    names = _names(patients, len(labels))
    variance = _clustered_variance(theta, v10, v01, names[labels == 1], names[labels == 0])
    z = NormalDist().inv_cdf((1 + level) / 2)
    if theta in (0.0, 1.0) or variance < 1e-12:
        ill_count, well_count = (len(set(names[labels == label])) for label in (1, 0))
        return _newcombe(theta, well_count, ill_count, z)
    middle = math.log(theta / (1 - theta))
    half = z * math.sqrt(variance) / (theta * (1 - theta))
    return Interval(theta, _logistic(middle - half), _logistic(middle + half))


def _names(patients: Sequence[str] | None, count: int) -> npt.NDArray[np.str_]:
    """Whose each image is; without patients each is its own."""
    return np.array(patients) if patients is not None else np.arange(count).astype(str)


def _split(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError("labels are 0 or 1, one for each score")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    well, ill = scores[labels == 0], scores[labels == 1]
    if not len(well) or not len(ill):
        raise ValueError("an AUC needs images of both classes")
    return well, ill


def _components(well: Floats, ill: Floats) -> tuple[Floats, Floats]:
    """V10 of each ill image and V01 of each well one; the mean of either is theta."""

    def below(these: Floats, those: Floats) -> Floats:
        ordered = np.sort(those)
        both = np.searchsorted(ordered, these, "left") + np.searchsorted(ordered, these, "right")
        share: Floats = both / (2 * len(those))
        return share

    return below(ill, well), 1 - below(well, ill)


def _clustered_variance(
    theta: float, v10: Floats, v01: Floats, ill: npt.NDArray[np.str_], well: npt.NDArray[np.str_]
) -> float:
    """Variance of theta (Obuchowski 1997, section 2): sums of components by patient, and their covariance."""
    names, index = np.unique(np.concatenate([ill, well]), return_inverse=True)
    count = len(names)
    of_ill = np.bincount(index[: len(ill)], v10 - theta, count)
    of_well = np.bincount(index[len(ill) :], v01 - theta, count)
    ill_patients, well_patients = len(set(ill)), len(set(well))
    m, n = len(v10), len(v01)
    s10 = _ratio(ill_patients) * float((of_ill**2).sum()) / m**2
    s01 = _ratio(well_patients) * float((of_well**2).sum()) / n**2
    s11 = _ratio(count) * float((of_ill * of_well).sum()) / (m * n)
    return s10 + s01 + 2 * s11


def _ratio(count: int) -> float:
    return count / (count - 1) if count > 1 else 1.0


def _newcombe(theta: float, well: int, ill: int, z: float) -> Interval:
    """All values t with abs(t - theta) <= z * sqrt(V(t)), V by Hanley and McNeil with Newcombe's common N* = (m+n)/2-1."""
    t = np.linspace(0, 1, 100_001)
    common = (well + ill) / 2 - 1
    bracket = 1 + common * (1 - t) / (2 - t) + common * t / (1 + t)
    inside = t[np.abs(t - theta) <= z * np.sqrt(t * (1 - t) * bracket / (well * ill)) + 1e-12]
    return Interval(theta, float(inside.min()), float(inside.max()))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def accuracy_interval(
    correct: npt.NDArray[np.bool_], patients: tuple[str, ...] | None = None, level: float = LEVEL
) -> Interval:
    """Share of correct answers with Wilson's interval; the number of images is reduced by the design effect of patients.

    The design effect is the clustered variance over the binomial one (Rao and Scott 1992), at least 1.
    """
    count = len(correct)
    if count == 0:
        raise ValueError("an accuracy needs at least one image")
    share = float(np.mean(correct))
    z = NormalDist().inv_cdf((1 + level) / 2)
    low, high = wilson(share, count / _design_effect(correct, patients), z)
    return Interval(share, low, high)


def _design_effect(correct: npt.NDArray[np.bool_], patients: tuple[str, ...] | None) -> float:
    if patients is None:
        return 1.0
    names, index = np.unique(np.array(patients), return_inverse=True)
    share, count = float(np.mean(correct)), len(correct)
    if share in (0.0, 1.0) or len(names) == 1:
        return count / len(names)  # nothing can be estimated: each patient counts once
    sums = np.bincount(index, correct - share)
    clustered = _ratio(len(names)) * float((sums**2).sum()) / count**2
    return max(1.0, clustered / (share * (1 - share) / count))


def classification_figures(
    labels: Labels,
    probabilities: npt.NDArray[np.floating[Any]],
    patients: tuple[str, ...] | None = None,
    points: Points = NO_POINTS,
) -> dict[str, Any]:
    """What a report tells of test images: AUC and accuracy with intervals, images and patients.

    `probabilities`: [n, classes]. Keys: accuracy, accuracy_low, accuracy_high, images, patients (if given), those of
    `calibration_figures` and `called_figures`; auc, auc_low, auc_high where there are images of two classes, of more than
    two the mean over classes of each one's area against the rest; and of two `points_figures`.
    """
    right = accuracy_interval(probabilities.argmax(axis=1) == labels, patients)
    told: dict[str, Any] = right.named("accuracy") | {"images": len(labels)}
    if patients is not None:
        told["patients"] = len(set(patients))
    told |= calibration_figures(labels, probabilities.astype(np.float64), patients)
    told |= called_figures(labels, probabilities.argmax(axis=1), probabilities.shape[1], patients)
    seen = np.unique(labels)
    if probabilities.shape[1] > 2 and len(seen) > 1:
        against_rest = (labels[:, None] == seen).astype(np.int64)
        told |= mean_auc_interval(against_rest, probabilities[:, seen].astype(np.float64), patients).named("auc")
    elif len(seen) == 2:
        scores = probabilities[:, 1].astype(np.float64)
        told |= auc_interval(labels, scores, patients).named("auc") | points_figures(labels, scores, points, patients)
    return told


def several_figures(
    labels: Labels,
    probabilities: Floats,
    classes: Sequence[str],
    patients: tuple[str, ...] | None = None,
    points: Points = NO_POINTS,
) -> dict[str, Any]:
    """What a report tells of test images that may have several classes.

    `labels`: 0 or 1, [n, classes]; `probabilities` [n, classes], called above `CALLED`. Keys: `auc` (mean over the
    classes that some images have and some have not), `accuracy` and `f1` (means over all) with intervals, images,
    patients (if given), and `by_class`: auc where it is known, accuracy, f1, sensitivity and specificity with intervals,
    and `points_figures`.
    """
    called = (probabilities > CALLED).astype(np.int64)
    by_class = {
        name: _of_one_class(labels[:, place], probabilities[:, place], patients, points)
        for place, name in enumerate(classes)
    }
    right = called == labels
    told: dict[str, Any] = share_interval(right.mean(axis=1), patients).named("accuracy") | {"images": len(labels)}
    if patients is not None:
        told["patients"] = len(set(patients))
    told |= f1_interval(labels, called, patients).named("f1")
    known = [place for place in range(len(classes)) if len(np.unique(labels[:, place])) == 2]
    if known:
        told |= mean_auc_interval(labels[:, known], probabilities[:, known], patients).named("auc")
    return {**told, "by_class": by_class}


def _of_one_class(labels: Labels, chances: Floats, patients: tuple[str, ...] | None, points: Points) -> dict[str, Any]:
    called = (chances > CALLED).astype(np.int64)
    told: dict[str, Any] = accuracy_interval(called == labels, patients).named("accuracy")
    told["images"] = int(labels.sum())
    told |= f1_interval(labels[:, None], called[:, None], patients).named("f1") | sides(labels, called, patients)
    if len(np.unique(labels)) == 2:
        told |= auc_interval(labels, chances, patients).named("auc") | points_figures(labels, chances, points, patients)
    return told


def f1_interval(labels: Labels, called: Labels, patients: tuple[str, ...] | None = None) -> Interval:
    """Mean over classes of F1 of having each, with its interval; both 0 or 1, [n, classes]."""
    parts, values, names = np.zeros(len(labels)), [], _names(patients, len(labels))
    for truth, said in zip(labels.T, called.T, strict=True):
        value, slopes = f1(confusion(truth, said, 2).astype(np.float64), only=1)
        values.append(value)
        parts += slopes[truth, said] / labels.shape[1]
    fewest = min(_fewest(truth, names) for truth in labels.T)
    return of_share(float(np.mean(values)), _by_patient(parts, names), fewest)


def _fewest(labels: Labels, names: npt.NDArray[np.str_]) -> int:
    """Patients of the class that fewest have, of those that somebody has."""
    return min(len(set(names[labels == kind])) for kind in set(labels.tolist()))


def mean_auc_interval(labels: Labels, scores: Floats, patients: tuple[str, ...] | None = None) -> Interval:
    """Mean of the areas of several classes, [n, classes] each, with its interval on the logit scale.

    Raises ValueError where a class has images on one side only. Where nothing varies: Newcombe's interval for the class
    with the fewest patients.
    """
    names = _names(patients, len(labels))
    areas, parts = [], np.zeros(len(labels))
    for truth, score in zip(labels.T, scores.T, strict=True):
        v10, v01 = _components(*_split(truth, score))
        areas.append(theta := float(v10.mean()))
        parts[truth == 1] += (v10 - theta) / len(v10)
        parts[truth == 0] += (v01 - theta) / len(v01)
    mean, variance = float(np.mean(areas)), _by_patient(parts / len(areas), names)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    if variance < 1e-12 or not 0 < mean < 1:
        sides = [(len(set(names[truth == 0])), len(set(names[truth == 1]))) for truth in labels.T]
        return _newcombe(mean, *min(sides, key=min), z)
    middle, half = math.log(mean / (1 - mean)), z * math.sqrt(variance) / (mean * (1 - mean))
    return Interval(mean, _logistic(middle - half), _logistic(middle + half))


def _by_patient(parts: Floats, names: npt.NDArray[np.str_]) -> float:
    """Variance of a figure to which image i contributes parts[i], with the mean 0: images of a patient go together."""
    _, index = np.unique(names, return_inverse=True)
    sums = np.bincount(index, parts)
    return _ratio(len(sums)) * float((sums**2).sum())


def share_interval(shares: Floats, patients: tuple[str, ...] | None = None) -> Interval:
    """Mean of numbers between 0 and 1 with Wilson's interval, for as many trials as would vary as much."""
    names, mean = _names(patients, len(shares)), float(shares.mean())
    return of_share(mean, _by_patient((shares - mean) / len(shares), names), len(set(names)))


def grade_figures(
    labels: Labels, called: Labels, classes: int, patients: tuple[str, ...] | None = None
) -> dict[str, float]:
    """What a report tells of test images whose classes are ordered, from true and called grades [n].

    Keys: accuracy, `mae` (mean absolute error in grades) and `kappa` (quadratically weighted; not where all images are of
    one grade) with intervals, images, patients (if given), f1 and mcc.
    """
    names = _names(patients, len(labels))
    told = accuracy_interval(called == labels, patients).named("accuracy") | {"images": len(labels)}
    if patients is not None:
        told["patients"] = len(set(patients))
    off = np.abs(labels - called).astype(np.float64)
    told |= share_interval(off / (classes - 1), patients).stretched(classes - 1).named("mae")
    kappa, slopes = weighted_kappa(confusion(labels, called, classes).astype(np.float64))
    if math.isfinite(kappa):
        variance = _by_patient(slopes[labels, called], names)
        told |= of_correlation(kappa, variance, _fewest(labels, names)).named("kappa")
    return told | called_figures(labels, called, classes, patients)


def calibration_figures(
    labels: Labels, probabilities: Floats, patients: tuple[str, ...] | None = None
) -> dict[str, float]:
    """How far probabilities [n, classes] may be taken at their word, with intervals.

    `calibration_error`: of the most probable class, the mean distance of its probability from how often it is right, over
    bins of probability (Guo et al., ICML 2017, section 2). `brier`: mean squared distance from the truth (Brier 1950).
    """
    names, count, bins = _names(patients, len(labels)), len(labels), CALIBRATION_BINS
    chance, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    off = (right - chance) / count
    gaps = np.bincount(place, off, bins).astype(np.float64)
    spreads = [math.sqrt(_by_patient(np.where(place == b, off, 0.0), names)) for b in range(bins)]
    parts = np.sign(gaps)[place] * off
    least = float((chance * (1 - chance)).sum()) / count**2  # where all are alike: what chance would do if it said so
    error = of_distances(gaps, np.array(spreads), max(least, _by_patient(parts - parts.mean(), names)))
    truth = np.eye(probabilities.shape[1])[labels]
    brier = share_interval(((probabilities - truth) ** 2).sum(axis=1) / 2, patients).stretched(2)
    return error.named("calibration_error") | brier.named("brier")


def called_figures(
    labels: Labels, called: Labels, classes: int, patients: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Of the classes that a model calls: `f1` (mean over classes) and `mcc` (Matthews' coefficient), with intervals.

    For two classes also `sensitivity` (of class 1) and `specificity` (of class 0), each where there are images of it.
    """
    counts, names = confusion(labels, called, classes).astype(np.float64), _names(patients, len(labels))
    fewest, told = _fewest(labels, names), dict[str, float]()
    for name, (value, slopes), of in (("f1", f1(counts), of_share), ("mcc", matthews(counts), of_correlation)):
        told |= of(value, _by_patient(slopes[labels, called], names), fewest).named(name)
    return told | sides(labels, called, patients) if classes == 2 else told


def sides(labels: Labels, called: Labels, patients: tuple[str, ...] | None) -> dict[str, float]:
    """Sensitivity (of class 1) and specificity (of class 0) with their intervals, each where there are images of it."""
    names, told = np.array(patients) if patients is not None else None, dict[str, float]()
    for name, kind in (("sensitivity", 1), ("specificity", 0)):
        of = labels == kind
        if of.any():
            share = accuracy_interval((called == labels)[of], tuple(names[of]) if names is not None else None)
            told |= share.named(name)
    return told


def points_figures(
    labels: Labels, scores: Floats, asked: Points, patients: tuple[str, ...] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """`points`: for each one asked, at_least, threshold (who has at least this is called 1), and as `sides`.

    Labels 0 or 1 [n], probabilities of 1 [n]. Empty where nothing is asked, or all images are of one side. Thresholds are
    found on the same images: on others a point lies elsewhere by chance.
    """
    if asked == NO_POINTS or len(np.unique(labels)) < 2:
        return {}
    thresholds = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    told = []
    for point, place in asked.on(*roc(labels, scores)):
        called = (scores >= thresholds[place]).astype(np.int64)
        told.append({**point, "threshold": min(1.0, float(thresholds[place])), **sides(labels, called, patients)})
    return {"points": told}


def roc(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates from (0, 0) to (1, 1), one point for each distinct score, highest first."""
    well, ill = _split(labels, scores)
    thresholds = np.unique(np.concatenate([well, ill]))[::-1]
    false = 1 - np.searchsorted(np.sort(well), thresholds, "left") / len(well)
    true = 1 - np.searchsorted(np.sort(ill), thresholds, "left") / len(ill)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def confusion(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Counts [true class, predicted class]."""
    out = np.zeros((classes, classes), np.int64)
    np.add.at(out, (labels, predicted), 1)
    return out
