"""Poisson sampling by patient: independent, at rate q, one image of each, below the public maximum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from primum.dp.account import Budget
from primum.dp.accountant import Accountant
from primum.dp.sampling import (
    OVERFLOW_PROBABILITY,
    PatientSampler,
    PoissonSampler,
    draw,
    group_by,
    public_maximum,
)
from primum.errors import DataError, InputError
from primum.rng import Stream


def test_every_patient_is_drawn_at_rate_q_independently() -> None:
    groups = [[i] for i in range(60)]
    stream = Stream.from_os()
    drawn = np.zeros((3000, 60))
    for row in drawn:
        row[draw(groups, 0.3, stream)] = 1
    rate = stats.binomtest(int(drawn.sum()), drawn.size, 0.3)
    assert rate.pvalue > 1e-6
    each = ((drawn.sum(0) - 900) ** 2 / (3000 * 0.3 * 0.7)).sum()
    assert stats.chi2.sf(each, 60) > 1e-6  # no patient more often than another
    sizes = drawn.sum(1).var(ddof=1) * 2999 / (60 * 0.3 * 0.7)
    assert 1e-6 < stats.chi2.cdf(sizes, 2999) < 1 - 1e-6  # batch sizes vary: not a shuffle with fixed batches
    assert np.abs(np.corrcoef(drawn.T) - np.eye(60)).max() < 6 / np.sqrt(3000)


def test_one_image_of_each_drawn_patient_at_random() -> None:
    groups = [[0, 1, 2, 3], [4], [5, 6]]
    stream = Stream.from_os()
    counts = np.zeros(7)
    for _ in range(4000):
        chosen = draw(groups, 0.5, stream)
        assert len({0 if i < 4 else 1 if i == 4 else 2 for i in chosen.tolist()}) == len(chosen)
        counts[chosen] += 1
    assert stats.chisquare(counts[:4]).pvalue > 1e-6
    assert stats.binomtest(int(counts[4]), 4000, 0.5).pvalue > 1e-6
    assert stats.binomtest(int(counts[5]), int(counts[5:].sum()), 0.5).pvalue > 1e-6


def test_q_of_one_draws_everybody_and_nobody_is_drawn_from_nobody() -> None:
    stream = Stream.from_os()
    assert draw([[3], [1]], 1.0, stream).tolist() == [3, 1]
    empty = draw([], 0.5, stream)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64


def test_two_steps_draw_different_samples() -> None:
    stream = Stream.from_os()
    groups = [[i] for i in range(300)]
    assert draw(groups, 0.5, stream).tolist() != draw(groups, 0.5, stream).tolist()


def test_images_are_grouped_by_patient_in_order() -> None:
    assert group_by(["b", "a", "b", "c", "a"]) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(
    ("units", "q", "steps"), [(379, 0.5, 40), (4708, 0.1, 300), (10, 0.9, 5), (100_000, 0.001, 10)]
)
def test_the_public_maximum_is_exceeded_with_probability_1e_9_and_no_looser_than_needed(
    units: int, q: float, steps: int
) -> None:
    most = public_maximum(units, q, steps)
    assert most <= units
    assert steps * stats.binom.sf(most, units, q) <= OVERFLOW_PROBABILITY
    if most < units:
        assert steps * stats.binom.sf(most - 2, units, q) > OVERFLOW_PROBABILITY


def test_full_participation_has_everybody_as_maximum() -> None:
    assert public_maximum(379, 1.0, 40) == 379


def accountant(steps: int = 5, sampling: float = 0.5) -> Accountant:
    return Accountant(Budget(math.inf, 1e-5), sampling=sampling, steps=steps, dimension=1)


def test_every_draw_is_charged_before_it_is_handed_out_and_the_loop_ends_with_the_budget() -> None:
    charged = accountant(5)
    sampler = PoissonSampler(100, charged)
    assert len(sampler) == 5
    seen = []
    for chosen in sampler:
        seen.append(charged.charged)
        assert chosen.dtype == np.int64 and chosen.ndim == 1
        assert (np.diff(chosen) > 0).all() and chosen.max() < 100
        if len(seen) == 2:
            break
    assert seen == [1, 2]
    assert [charged.charged for _ in sampler] == [3, 4, 5]  # a second loop goes on, it does not begin again
    assert list(sampler) == [] and len(sampler) == 0


def test_a_step_charged_elsewhere_is_not_drawn_too() -> None:
    charged = accountant(4)
    drawn = 0
    for _ in PoissonSampler(10, charged):
        drawn += 1
        charged.charge()
    assert drawn == 2


def test_the_sampler_draws_each_image_at_rate_q_independently() -> None:
    drawn = np.zeros((3000, 40))
    for row, chosen in zip(drawn, PoissonSampler(40, accountant(3000, 0.3)), strict=True):
        row[chosen] = 1
    assert stats.binomtest(int(drawn.sum()), drawn.size, 0.3).pvalue > 1e-6
    sizes = drawn.sum(1).var(ddof=1) * 2999 / (40 * 0.3 * 0.7)
    assert 1e-6 < stats.chi2.cdf(sizes, 2999) < 1 - 1e-6
    assert np.abs(np.corrcoef(drawn.T) - np.eye(40)).max() < 6 / np.sqrt(3000)


def test_an_empty_sample_is_a_step_too() -> None:
    sizes = [chosen.shape for chosen in PoissonSampler(1, accountant(40, 0.01))]
    assert len(sizes) == 40 and (0,) in sizes


def test_two_samplers_and_two_steps_draw_differently() -> None:
    one, two = (list(PoissonSampler(300, accountant(2))) for _ in range(2))
    assert len({chosen.tobytes() for chosen in [*one, *two]}) == 4


NAMES = ["a", "b", "a", "a", "c", "b", "a"]


def test_with_patients_one_image_of_each_drawn_patient() -> None:
    sampler = PoissonSampler(7, accountant(2000), groups=NAMES)
    counts = np.zeros(7)
    for chosen in sampler:
        assert len({NAMES[image] for image in chosen}) == len(chosen)
        counts[chosen] += 1
    assert stats.chisquare(counts[[0, 2, 3, 6]]).pvalue > 1e-6
    assert stats.binomtest(int(counts[4]), 2000, 0.5).pvalue > 1e-6
    assert sampler.expected_batch == 1.5
    assert sampler.expected_visits == pytest.approx(2000 * 1.5 / 7)
    assert counts.mean() == pytest.approx(sampler.expected_visits, rel=0.1)


def test_with_several_images_a_patient_brings_some_of_his_and_the_sample_says_whose_they_are() -> None:
    sampler = PatientSampler(NAMES, accountant(2000), images_per_patient=2)
    counts, patients = np.zeros(7), 0
    for sample in sampler:
        names = [[NAMES[i] for i in sample.indices[sample.units == unit]] for unit in range(sample.patients)]
        assert all(len(set(own)) == 1 for own in names)  # nobody's images under another's number
        assert [own[0] for own in names] == sorted({own[0] for own in names})
        assert all(len(own) == min(2, NAMES.count(own[0])) for own in names)
        assert len(np.unique(sample.indices)) == len(sample.indices) == len(sample.units)
        assert sample.indices.dtype == sample.units.dtype == np.int64
        counts[sample.indices] += 1
        patients += sample.patients
    assert stats.chisquare(counts[[0, 2, 3, 6]]).pvalue > 1e-6  # not one pair of images more often
    assert stats.binomtest(patients, 6000, 0.5).pvalue > 1e-6
    assert sampler.expected_visits == pytest.approx(2000 * 0.5 * (2 + 2 + 1) / 7)
    assert counts.mean() == pytest.approx(sampler.expected_visits, rel=0.1)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(1, 5))
def test_any_folder_of_patients(names: list[str], most: int) -> None:
    for sample in PatientSampler(names, accountant(3), images_per_patient=most):
        own = [{names[i] for i in sample.indices[sample.units == unit]} for unit in range(sample.patients)]
        assert all(len(patient) == 1 for patient in own)
        assert len(set.union(set(), *own)) == sample.patients


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 2))
def test_placed_rows_hold_every_image_once_with_weights_of_a_mean(names: list[str], most: int, more: int) -> None:
    for sample in PatientSampler(names, accountant(3), images_per_patient=most):
        indices, weights = sample.placed(most + more)
        assert indices.shape == weights.shape == (sample.patients * (most + more),)
        rows = list(zip(indices.reshape(-1, most + more), weights.reshape(-1, most + more), strict=True))
        for unit, (images, shares) in enumerate(rows):
            assert images[shares > 0].tolist() == sample.indices[sample.units == unit].tolist()
            assert {names[image] for image in images} == {names[images[0]]}  # others' images fill nobody's places
            assert shares.sum() == pytest.approx(1, abs=1e-6) and len(set(shares[shares > 0].tolist())) == 1


def test_too_few_places_are_refused() -> None:
    (sample,) = PatientSampler(NAMES, accountant(1, 1.0), images_per_patient=3)
    with pytest.raises(ValueError, match="3 images of one patient do not fit into 2 places"):
        sample.placed(2)


def test_a_sample_does_not_print() -> None:
    (sample,) = PatientSampler(NAMES, accountant(1, 1.0), images_per_patient=2)
    assert repr(sample) == "Sample()"


def test_a_loader_is_not_a_number_of_units() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=2, shuffle=True)
    for wrong in (loader, iter([1]), "8", 8.0, True, None):
        with pytest.raises(InputError, match=r"takes the number of units, not a"):
            PoissonSampler(wrong, accountant())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="charges an Accountant, not a DataLoader"):
        PoissonSampler(8, loader)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="images_per_patient"):
        PatientSampler(NAMES, accountant(), images_per_patient=0)


def test_names_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(DataError, match="3 patients are named for 8 images"):
        PoissonSampler(8, accountant(), groups=["a", "b", "a"])
    with pytest.raises(DataError, match="no images"):
        PoissonSampler(0, accountant())
    assert len(next(iter(PoissonSampler(np.int64(3), accountant(1, 1.0))))) == 3  # type: ignore[arg-type]


def test_patients_may_be_named_by_an_array_or_a_tensor() -> None:
    names = [number // 3 for number in range(60)]
    for groups in (names, np.array(names), torch.tensor(names)):
        sampler = PoissonSampler(60, Accountant(Budget(3.0, 1e-5), sampling=0.2, steps=5, dimension=10), groups=groups)
        assert sampler.expected_batch == pytest.approx(sampler.accountant.sampling * 20)
