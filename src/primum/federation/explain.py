"""A study in words and numbers, before anything is asked of anybody."""

from primum.dp import account
from primum.secagg.setup import Setup
from primum.study import Hospitals, Study
from primum.tasks.plan import Plan, resolve

_STAND_IN = tuple(f"{place:064x}" for place in range(1, 4))


def explain(study: Study) -> str:
    """Steps, noise, epsilon per round, bytes. A study without members is explained for three hospitals."""
    stood_in = not study.hospitals.members
    if stood_in:
        hospitals = Hospitals(**{**study.hospitals.model_dump(), "members": _STAND_IN})
        study = study.model_copy(update={"hospitals": hospitals})
    plan = Plan(resolve(study))
    plan.check()
    lines = [
        f"Study {study.study.name}: {study.study.purpose}",
        f"Learns {', '.join(study.study.classes)} from images of {study.images.size} pixels; "
        f"{plan.dimension:,} weights on a fixed scattering transform of {study.model.scales} scales.",
        f"{plan.hospitals} hospitals{' (none named yet: figures for three)' if stood_in else ''}; "
        + _safety(plan.setup),
        *_privacy(plan),
        f"Each hospital sends about {_vector_bytes(plan):,} bytes and receives about {4 * plan.dimension:,} in a round, "
        f"{(_vector_bytes(plan) * study.training.rounds) / 1e6:.1f} MB sent in all.",
    ]
    return "\n".join(lines)


def _vector_bytes(plan: Plan) -> int:
    return (plan.dimension * plan.training.bits + 7) // 8


def _safety(setup: Setup) -> str:
    return (
        f"{setup.colluding} may work with the coordinator, {setup.may_vanish} may miss a round; "
        f"every sum that even a lying coordinator can get holds {setup.k_min} honest hospitals or more."
    )


def _privacy(plan: Plan) -> list[str]:
    privacy, training = plan.study.privacy, plan.study.training
    if privacy is None:
        return [f"{training.rounds} rounds WITHOUT privacy: sums only, but a sum can tell a lot."]
    shown = sorted({1, max(1, training.rounds // 4), max(1, training.rounds // 2), training.rounds})
    curve = ", ".join(f"{plan.epsilon_after(count):.2f} after {count}" for count in shown)
    return [
        f"{training.rounds} rounds, each with every patient with probability {training.sampling:g}; "
        f"noise multiplier {privacy.noise_multiplier:.2f}, {plan.training.bits} bits a coordinate.",
        f"epsilon per {privacy.unit} at delta {privacy.delta:g}: {curve}.",
        f"Evaluation patients ({privacy.evaluation_share:.0%}, never trained on): {privacy.looks} look(s), "
        f"epsilon {account.epsilon(plan.evaluation_steps(plan.looks), plan.accounted_delta):.2f}.",
    ]
