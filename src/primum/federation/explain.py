"""A study in words and numbers, before anything is asked of anybody."""

from typing import Any, Final

from primum.dp import account
from primum.federation.probe import longer
from primum.kernels import packing
from primum.secagg.setup import Setup
from primum.study import Hospitals, Statistics, Study
from primum.study.kinds import PIXEL_MODELS, BackboneModel, MultiScaleModel, PixelModel, RandomModel
from primum.tasks.plan import Plan, resolve

_STAND_IN: Final = tuple(f"{place:064x}" for place in range(1, 4))
_NETWORKS: Final = {
    "small-network": "small network",
    "residual-network": "residual network",
    "vgg": "VGG",
    "squeeze-network": "SqueezeNet",
    "mobile-network": "mobile network",
    "u-net": "U-Net",
    "mo-net": "MoNet",
    "seg-resnet": "SegResNet",
}
REVEALS_COUNTS: Final = (
    "hospitals count by their number of images: two rounds whose sets differ by one hospital reveal its number"
)


def explain(study: Study) -> str:
    """Steps, noise, epsilon per round, bytes. A study without members is explained for three hospitals."""
    stood_in = not study.hospitals.members
    plan = Plan(resolve(for_three(study)))
    plan.check()
    sent = vector_bytes(plan)
    lines = [
        f"Study {study.study.name}: {study.study.purpose}",
        f"Learns {labels_in_words(study)} from {images_in_words(study)}; "
        f"{plan.dimension:,} weights on {model_in_words(study)}.",
        f"{plan.hospitals} hospitals{' (none named yet: figures for three)' if stood_in else ''}; "
        + _safety(plan.setup),
        *_privacy(plan),
        *(f"{line[:1].upper()}{line[1:]}." for line in update_in_words(plan)),
        f"Each hospital sends about {sent:,} bytes and receives about {4 * plan.coordinates:,} in a round, "
        f"{(sent * study.training.rounds) / 1e6:.1f} MB sent in all; keys and shares of the secure sums come on top.",
    ]
    return "\n".join(lines)


def images_in_words(study: Study) -> str:
    """What a model sees at a time."""
    images = study.images
    if images.patch_depth is not None:
        sides = images.spacing if isinstance(images.spacing, tuple) else (images.spacing or 0.0,)
        voxel = " x ".join(f"{side:g}" for side in sides)
        return f"patches of {images.patch_depth} x {images.size} x {images.size} voxels of {voxel} mm"
    return f"{'windows' if images.fit == 'windows' else 'images'} of {images.size} pixels"


def labels_in_words(study: Study) -> str:
    """The classes, and how many of them an image has where that is not one."""
    classes = ", ".join(study.study.classes)
    return {
        "one": classes,
        "several": f"{classes} (an image has any number of them)",
        "ordered": f"{classes} (grades, the lowest first)",
    }[study.study.labels]


def task_in_words(study: Study) -> str:
    """What is learned, for whoever has to decide."""
    return f"{study.study.task}, classes {labels_in_words(study)}"


def for_three(study: Study) -> Study:
    """`study`, with three hospitals where it names none."""
    if study.hospitals.members:
        return study
    hospitals = Hospitals(**{**study.hospitals.model_dump(), "members": _STAND_IN})
    return study.model_copy(update={"hospitals": hospitals})


def model_in_words(study: Study) -> str:
    """What is learned, or what the learned layer stands on."""
    model = study.model
    if isinstance(model, PIXEL_MODELS):
        deep = ", in 3D: it draws in clear only, encrypted diagnosis has none" if study.images.patch_depth else ""
        return f"a {_NETWORKS[model.kind]} of {', '.join(map(str, model.widths))} channels, learned as a whole{deep}"
    if isinstance(model, PixelModel):
        return f"fixed features of each pixel at {model.scales} scales and {model.places} x {model.places} places"
    if isinstance(model, MultiScaleModel):
        scales = ", ".join(map(str, model.scales))
        seen = {
            "one": "",
            "shift": ", averaged over small shifts",
            "zoom": ", averaged over small zooms",
            "mirror": ", averaged over small zooms and their mirror images",
        }[model.views]
        return f"fixed scattering transforms of {scales} scales{seen}"
    if isinstance(model, RandomModel):
        return f"{model.filters} fixed random filters of {model.patch} x {model.patch} pixels"
    if isinstance(model, BackboneModel):
        return f"a frozen {model.backbone} (file {model.weights[:12]}...)"
    return f"a fixed scattering transform of {model.scales} scales"


def vector_bytes(plan: Plan) -> int:
    """Of one update with its probe, packed."""
    shape = longer(plan.update.shape)
    return packing.packed_size(shape.length, shape.bits)


def update_figures(plan: Plan) -> dict[str, Any]:
    """What an update is: for the summary and the report. Clamps in clipping norms; shares of one, not percent."""
    study, mechanism = plan.study, plan.training
    figures: dict[str, Any] = {
        "local_steps": study.training.local_steps,
        "weighting": study.aggregation.weighting,
        "bits": plan.update.shape.bits,
        "bytes": vector_bytes(plan),
    }
    if study.privacy is not None and mechanism.noise_multiplier:
        figures["extra_noise"] = round(mechanism.noise_multiplier / mechanism.accounted_multiplier - 1, 6)
    if plan.clamp is not None:
        figures["clamp"] = round(mechanism.clamp / mechanism.sensitivity, 4)
        figures["clamp_typical"] = round(plan.clamp, 2)
    return figures


def statistics_figures(plan: Plan) -> dict[str, Any] | None:
    """What the survey found and what it is used for; None where the study asks nothing, or it is not known."""
    survey, statistics = plan.survey, plan.study.statistics
    if survey is None or statistics is None:
        return None
    figures: dict[str, Any] = {"patients": round(survey.patients, 1), "noise": round(survey.noise, 3)}
    figures |= {name: True for name in ("too_few", "shares", "vague") if getattr(survey, name)}
    if statistics.class_weights != "equal":
        known = {name: round(count, 1) for name, count in zip(plan.study.study.classes, survey.classes, strict=True)}
        weights = plan.class_weights or ()
        named = {name: round(one, 4) for name, one in zip(plan.study.study.classes, weights, strict=True)}
        figures |= {"classes": known, "weighing": statistics.class_weights, "class_weights": named}
    if survey.mean:
        figures |= {"mean": list(survey.mean), "deviation": list(survey.deviation)}
    return figures


def rounds_in_words(study: Study) -> str:
    """What is asked of the data, and how often."""
    share, looks = study.evaluation_share, study.looks
    often = "once" if looks == 1 else f"{looks} times"
    looked = f"{share:.0%} of the patients, on whom nothing is trained, are looked at {often} at most"
    if study.looks_at_learners:
        looked = f"all patients, also those on whom it may have been trained, are looked at {often} at most"
    looked += _measures(study) if looks else ""
    if study.training.rounds == 0:
        return f"none: a finished model is validated; {looked}"
    parts = [f"{study.training.rounds}, {steps_in_words(study)}"] + [looked] * bool(looks)
    whom = "those patients" if study.privacy else "all patients that learn"
    return "; ".join(parts + [_survey_in_words(study, whom)] * study.surveys)


def _measures(study: Study) -> str:
    return f", for {', '.join(study.measures).replace('_', ' ')}" if study.study.task == "segmentation" else ""


def _survey_in_words(study: Study, whom: str) -> str:
    """What is asked before the first round, of whom."""
    statistics = study.statistics or Statistics()
    asked = ["how many have each class"] * (statistics.class_weights != "equal")
    asked += ["how bright pictures are"] * (statistics.pixels == "hospitals")
    return f"before the first, one sum over {whom} says {' and '.join(asked)}"


def steps_in_words(study: Study) -> str:
    """What a round is."""
    training = study.training
    share = f"{training.sampling:.0%} of the patients"
    if training.local_steps == 1:
        return f"each with {share}"
    noise = ", each with the hospital's own full noise" if study.privacy else ""
    return f"each of {training.local_steps} local steps at every hospital with {share} a step{noise}"


def update_in_words(plan: Plan) -> list[str]:
    """What is sent, and what is unusual in it."""
    study, figures = plan.study, update_figures(plan)
    training = study.training
    if training.rounds == 0:
        return ["a table of counts, one for each class that a patient has and each that the model says"]
    lines = [f"{figures['bits']} bits a coordinate, {figures['bytes']:,} bytes an update"]
    if "clamp" in figures:
        lines.append(
            f"for {study.aggregation.bits} bits the noise multiplier is {figures['extra_noise']:.1%} above what is "
            f"accounted for, and a rotated coordinate is cut at {figures['clamp']:.2f} clipping norms, "
            f"{figures['clamp_typical']:.1f} times its typical size in the first rounds"
        )
    if training.local_steps > 1:
        lines.append(
            f"hospitals step at rate {training.local_learning_rate:g}, the server moves the weights by {training.learning_rate:g} "
            f"of the mean difference, in the long run {training.learning_rate / (1 - training.momentum):g} (FedAvg is 1)"
        )
    if study.aggregation.weighting == "images":
        lines.append(REVEALS_COUNTS)
    return lines


def _safety(setup: Setup) -> str:
    return (
        f"{setup.colluding} may work with the coordinator, {setup.may_vanish} may miss a round; "
        f"every sum that even a lying coordinator can get holds {setup.k_min} honest hospitals or more."
    )


def _privacy(plan: Plan) -> list[str]:
    privacy, training = plan.study.privacy, plan.study.training
    if privacy is None:
        return [f"WITHOUT privacy: sums only, but a sum can tell a lot. Rounds: {rounds_in_words(plan.study)}."]
    looks = (
        f"Evaluation patients ({privacy.evaluation_share:.0%}, never trained on): {plan.looks} look(s){_measures(plan.study)}, "
        f"epsilon {account.epsilon(plan.evaluation_steps(plan.looks), plan.accounted_delta):.2f}."
    )
    if training.rounds == 0:
        return [f"Nothing is trained; epsilon per {privacy.unit} at delta {privacy.delta:g}:", looks]
    shown = sorted({1, max(1, training.rounds // 4), max(1, training.rounds // 2), training.rounds})
    curve = ", ".join(f"{plan.epsilon_after(count):.2f} after {count}" for count in shown)
    return [
        f"{training.rounds} rounds, {steps_in_words(plan.study)}; noise multiplier {privacy.noise_multiplier:.2f}.",
        f"epsilon per {privacy.unit} at delta {privacy.delta:g}: {curve}.",
        *_norm(plan),
        looks,
        *_survey(plan),
    ]


def _norm(plan: Plan) -> list[str]:
    follows = plan.quantile_norm
    if follows is None:
        return []
    deviation = follows.share_sigma(plan.training.noise_multiplier, plan.expected_batch)
    return [
        f"The clipping norm begins at {follows.start:g} and follows the {follows.quantile:g} quantile of the gradients' norms "
        f"(+-{deviation:.2f}): one number more in each sum, {follows.cost - 1:.1%} more noise, within the same epsilon."
    ]


def _survey(plan: Plan) -> list[str]:
    if plan.sheet is None:
        return []
    words = _survey_in_words(plan.study, f"about {plan.expected_evaluation:.0f} of those patients")
    return [f"One of these looks is a survey: {words}; each number has noise of {plan.survey_noise:.1f}."]
