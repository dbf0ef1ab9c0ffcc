"""The linear head."""

import torch

from primum.models import LinearHead, logits_of, outputs_for


def test_it_starts_at_zero_and_has_no_bias() -> None:
    head = LinearHead(5, 3)
    assert dict(head.named_parameters()).keys() == {"weight"}
    assert head.weight.shape == (3, 5) and not head.weight.any()


def test_it_is_a_matrix_product() -> None:
    head = LinearHead(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, -1.0]]))
    assert head(torch.tensor([[3.0, 4.0]])).item() == 2.0


def test_two_classes_have_one_output_and_logits_0_z() -> None:
    assert (outputs_for(2), outputs_for(3), outputs_for(5)) == (1, 3, 5)
    assert logits_of(torch.tensor([[1.5], [-2.0]])).tolist() == [[0.0, 1.5], [0.0, -2.0]]
    assert logits_of(torch.eye(3)).equal(torch.eye(3))
