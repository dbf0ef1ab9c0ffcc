"""A hospital's self-test: passes with the engine as it is, and fails closed for each thing that could be broken in it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.federation.playing import make_study

from primum.dp.mechanism import Mechanism
from primum.errors import Refused
from primum.rng import Stream
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan
from primum.tasks.selftest import check_noise, self_test

MEMBERS = [bytes([place]) * 32 for place in (1, 2, 3)]


def cohort(plan: Plan, patients: int = 30) -> Cohort:
    features = Stream.public("features").uniform((patients, *plan.front_end.shape))
    labels = torch.arange(patients) % 2
    return Cohort(torch.from_numpy(features).float(), labels, tuple(f"p{number}" for number in range(patients)))


def engine(patients: int = 30, **changes: Any) -> tuple[str, ...]:
    plan = Plan(make_study(MEMBERS, **changes))
    found = cohort(plan, patients)
    return self_test(plan, Learner(plan, found), found, Stream.public("self-test of a test"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {"clipping": "automatic"}},
        {"training": {"images_a_patient": 3}},
        {"training": {"local_steps": 2, "local_learning_rate": 0.1}},
        {"aggregation": {"bits": 10}, "privacy": {"noise_multiplier": 2.934}},
        {"training": {"sampling": 1.0}},
        {"patients": 0},
        {"patients": 1},
    ],
    ids=str,
)
def test_the_engine_as_it_is_passes(changes: dict[str, Any]) -> None:
    assert set(engine(**changes)) == {"clipping", "sampling", "noise"}


def test_without_privacy_there_is_no_noise_to_test() -> None:
    assert set(engine(private=False)) == {"clipping", "sampling"}


def broken_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped = Learner.clipped
    monkeypatch.setattr(Learner, "clipped", lambda self, x, y: 1.5 * clipped(self, x, y))


def no_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.clipping.factors.shortened", lambda squares, norm: torch.ones_like(squares))
    clipped = Learner.clipped
    monkeypatch.setattr(Learner, "clipped", lambda self, x, y: 10 * clipped(self, x, y))


def less_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    share = Mechanism.share
    monkeypatch.setattr(
        Mechanism, "share", lambda self, total, stream: np.rint(0.9 * share(self, total, stream)).astype(np.int32)
    )


def shifted_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    share = Mechanism.share
    monkeypatch.setattr(Mechanism, "share", lambda self, total, stream: share(self, total, stream) + 2)


def larger_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "draw", lambda self, stream: np.arange(self.images))


def the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "draw", lambda self, stream: np.arange(self.images // 2))


BROKEN = {
    "clipped gradients": broken_clipping,
    "unclipped gradients": no_clipping,
    "noise of nine tenths": less_noise,
    "noise with a mean": shifted_noise,
    "everybody in every sample": larger_samples,
    "the same half in every sample": the_same_sample,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_whatever_is_broken_fails_closed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN[broken](monkeypatch)
    with pytest.raises(Refused, match="self-test failed"):
        engine()


def test_a_mechanism_without_noise_is_found() -> None:
    mechanism = replace(Plan(make_study(MEMBERS)).training, noise_multiplier=0.0)
    with pytest.raises(Refused, match="adds no noise"):
        check_noise(mechanism, Stream.public("a test"))
