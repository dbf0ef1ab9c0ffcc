"""What outputs mean: probabilities that sum to 1 or do not, and grades whose thresholds may cross."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primum.models import grades_of, outputs_for, probabilities_of
from primum.models.answers import at_least


def test_how_many_outputs_there_are() -> None:
    assert [outputs_for(classes) for classes in (2, 3, 5)] == [1, 3, 5]
    assert [outputs_for(classes, "several") for classes in (2, 14)] == [2, 14]
    assert [outputs_for(classes, "ordered") for classes in (3, 5)] == [2, 4]


def test_several_classes_have_a_probability_each_and_no_softmax() -> None:
    found = probabilities_of(torch.tensor([[3.0, 3.0, -3.0], [-4.0, -4.0, -4.0]]), "several")
    assert found[0].sum() > 1.9 and found[1].sum() < 0.1
    assert torch.equal(found, torch.sigmoid(torch.tensor([[3.0, 3.0, -3.0], [-4.0, -4.0, -4.0]])))
    assert probabilities_of(torch.tensor([[2.0]]))[0].sum() == pytest.approx(1)


@given(outputs=st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=5))
def test_thresholds_that_cross_are_put_in_order_and_the_grade_stays(outputs: list[list[float]]) -> None:
    logits = torch.tensor(outputs, dtype=torch.float64)
    falling, found = at_least(logits), probabilities_of(logits, "ordered")
    assert (falling.diff(dim=1) <= 0).all() and (found >= 0).all() and found.shape == (len(outputs), 5)
    assert torch.allclose(found.sum(1), torch.ones(len(outputs), dtype=torch.float64))
    assert torch.equal(grades_of(logits), (falling > 0.5).sum(1))
    assert torch.allclose(1 - found[:, 0], falling[:, 0])
