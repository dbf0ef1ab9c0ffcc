"""Small studies for tests."""

from typing import Any

from primum.study import About, Aggregation, Hospitals, Images, Privacy, Study, Training
from primum.study.kinds import Model

MEMBERS = tuple(f"{place:064x}" for place in range(1, 5))


LOCAL = {"local_steps": 4, "local_learning_rate": 2.0, "learning_rate": 1.0, "momentum": 0.0}


def study(
    *,
    members: int = 3,
    may_vanish: int = 0,
    classes: int = 2,
    labels: str = "one",
    training: dict[str, Any] | None = None,
    aggregation: dict[str, Any] | None = None,
    **privacy: Any,
) -> Study:
    """Sixteen pixels, two scales, 20 rounds; `privacy` as keys of its section, or privacy=None."""
    asked = {"patients": 300, "epsilon": 3.0, "delta": 1e-5} | privacy
    return Study(
        study=About(name="small", purpose="a test", classes=tuple("abcdef"[:classes]), labels=labels),
        images=Images(size=16),
        model=Model(scales=2, angles=4),
        training=Training(**({"rounds": 20, "learning_rate": 4.0} | (training or {}))),
        aggregation=Aggregation(**(aggregation or {})),
        privacy=None if "privacy" in privacy else Privacy(**asked),
        hospitals=Hospitals(members=MEMBERS[:members], colluding=1, may_vanish=may_vanish),
    )
