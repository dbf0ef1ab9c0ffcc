"""What the outputs of a classifier mean, by how images are labelled.

| labels | outputs for K classes | probabilities |
|---|---|---|
| one | K logits; of two classes one, the logit of the second | softmax; they sum to 1 |
| several | a logit for each class | sigmoid of each by itself; they sum to anything |
| ordered | K - 1: output k - 1 is the logit of "grade k or higher" | differences of the sigmoids, once these fall |

The K - 1 thresholds of ordered classes are learned by themselves (Frank and Hall, ECML 2001), so their probabilities may
cross. They are then put in falling order: sorting a curve brings it nowhere further from a falling one (Chernozhukov,
Fernandez-Val and Galichon, Biometrika 96, 2009), and how many of them are above 1/2, which is the grade, stays the same.
"""

import torch
from torch import Tensor

from primum.models.linear import logits_of
from primum.study import Labels

CALLED = 0.5
"""A class of several is called where its probability is above this; a threshold is passed."""


def outputs_for(classes: int, labels: Labels = "one") -> int:
    """How many outputs a classifier of so many classes has; a segmentation's are those of one class a pixel."""
    if labels == "ordered":
        return classes - 1
    return 1 if classes == 2 and labels == "one" else classes


def at_least(outputs: Tensor) -> Tensor:
    """Of ordered classes: the falling probabilities of grade 1 or higher, 2 or higher, ..., [n, classes - 1]."""
    return torch.sigmoid(outputs).sort(dim=1, descending=True).values


def probabilities_of(outputs: Tensor, labels: Labels = "one") -> Tensor:
    """A probability of each class [n, classes] from outputs [n, ...]; those of several do not sum to 1."""
    if labels == "several":
        return torch.sigmoid(outputs)
    if labels == "one":
        return torch.softmax(logits_of(outputs), 1)
    falling = at_least(outputs)
    ends = falling.new_ones(len(falling), 1), falling.new_zeros(len(falling), 1)
    return -torch.diff(torch.cat([ends[0], falling, ends[1]], 1))


def grades_of(outputs: Tensor) -> Tensor:
    """Of ordered classes: how many thresholds have a probability above 1/2, int64 [n]."""
    return (torch.sigmoid(outputs) > CALLED).sum(1)
