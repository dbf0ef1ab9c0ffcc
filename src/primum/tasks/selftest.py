"""What a hospital checks of its own engine before it takes part in a run; what fails is never used.

Thresholds are 6.5 standard deviations: an engine that works fails once in ten thousand million runs.
"""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from primum.dp.mechanism import Mechanism
from primum.errors import Refused
from primum.rng import Stream
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan

CLIPPING: Final = "clipping"
NOISE: Final = "noise"
SAMPLING: Final = "sampling"
_DEVIATIONS: Final = 6.5
_VALUES: Final = 20_000
_DRAWS: Final = 200
_CLOSE: Final = 2e-3  # of the clipping norm, in float32


def self_test(plan: Plan, learner: Learner, cohort: Cohort, stream: Stream) -> tuple[str, ...]:
    """The names of the tests that were passed; Refused, naming it, where one fails. Nothing of it leaves the hospital.

    Clipped gradients of two images against the same one by one; noise against the width that the accountant was told;
    samples against the probability that it was told.
    """
    passed = []
    if plan.study.training.rounds:
        check_clipping(plan, learner, cohort)
        check_sampling(learner, stream)
        passed += [CLIPPING, SAMPLING]
    if plan.study.privacy is not None:
        if plan.study.training.rounds:
            check_noise(plan.training, stream)
        if plan.looks:
            check_noise(plan.evaluation, stream)
        passed.append(NOISE)
    return tuple(passed)


def check_clipping(plan: Plan, learner: Learner, cohort: Cohort) -> None:
    """Refused unless the engine's clipped sum over two images is that of a loop over single ones."""
    features, labels = _two_images(plan, cohort)
    engine = learner.clipped(features, labels)
    slow = torch.stack([_clipped_alone(plan, learner, features[i], labels[i]) for i in range(2)]).sum(0)
    distance = float((engine.double() - slow.double()).norm())
    if not distance <= _CLOSE * plan.study.training.clipping_norm:
        _fail("clipped gradients are not those of single images")


def check_noise(mechanism: Mechanism, stream: Stream) -> None:
    """Refused unless what the mechanism adds to a vector of zeros has the mean and the width that it promises."""
    if not mechanism.noise_multiplier:
        _fail("the mechanism adds no noise")
    shares = [each.share(np.zeros(each.dimension, np.float32), stream) for each in (mechanism, _long(mechanism))]
    drawn = np.concatenate(shares).astype(np.float64)
    width, count = mechanism.share_sigma, len(drawn)
    variance = float(np.mean(drawn**2)) / width**2
    if abs(float(drawn.mean())) > _DEVIATIONS * width / math.sqrt(count):
        _fail("the noise has another mean than 0")
    if abs(variance - 1) > _DEVIATIONS * math.sqrt(2 / count):
        _fail("the noise has another width than the study says")


def _long(mechanism: Mechanism) -> Mechanism:
    """The same for a vector of 20,000 coordinates or more: quicker than a thousand short ones. A power of two of them."""
    doublings = max(0, math.ceil(math.log2(_VALUES / mechanism.dimension)))
    return replace(mechanism, dimension=mechanism.dimension << doublings)


def check_sampling(learner: Learner, stream: Stream) -> None:
    """Refused unless samples are as large as q says, and no unit is drawn always or never."""
    units, q = learner.images, learner.sampling
    if units == 0:
        return
    drawn = np.zeros(units)
    for _ in range(_DRAWS):
        drawn[learner.draw(stream)] += 1
    spread = math.sqrt(q * (1 - q))
    if abs(drawn.sum() - q * units * _DRAWS) > _DEVIATIONS * spread * math.sqrt(units * _DRAWS):
        _fail("samples are of another size than the study says")
    bound = _DEVIATIONS + math.sqrt(2 * math.log(units))
    if np.any(np.abs(drawn - q * _DRAWS) > bound * spread * math.sqrt(_DRAWS) + 1):
        _fail("some patients are drawn more often than the study says")


def _two_images(plan: Plan, cohort: Cohort) -> tuple[Tensor, Tensor]:
    """Two of the hospital's own; drawn ones where it has fewer."""
    if len(cohort.patients) >= 2:
        return cohort.features[:2], cohort.labels[:2]
    drawn = Stream.public("self-test").uniform((2, *plan.front_end.shape))
    labels = torch.zeros((2, *cohort.labels.shape[1:]), dtype=cohort.labels.dtype)
    labels[1] = 1
    return torch.from_numpy(drawn).float(), labels


def _clipped_alone(plan: Plan, learner: Learner, image: Tensor, label: Tensor) -> Tensor:
    module = learner.module
    device = next(module.parameters()).device
    losses = plan.task.loss(module(image.unsqueeze(0).to(device)), label.unsqueeze(0).to(device))
    names, values = zip(*module.named_parameters(), strict=True)
    slopes = torch.autograd.grad(losses.sum(), values)
    squares = {name: slope.square().sum().unsqueeze(0) for name, slope in zip(names, slopes, strict=True)}
    factors = learner.clipping.factors(squares, plan.study.training.clipping_norm)
    parts = [(slope * factors[name]).flatten() for name, slope in zip(names, slopes, strict=True)]
    return torch.cat(parts).detach().cpu()


def _fail(what: str) -> None:
    raise Refused(f"This hospital's self-test failed: {what}.", "It takes no part. Install Primum anew, or report it.")
