"""What in a study contradicts what: each rule is whether it is broken, and what to say then."""

import math
from typing import TYPE_CHECKING

from primum.study.kinds import KINDS, MASK_MODELS, PIXEL_MODELS, PixelModel, UNetModel
from primum.study.sections import SEPARATOR, About, Images, Privacy, Training

if TYPE_CHECKING:
    from primum.study.whole import Study

Rules = tuple[tuple[bool, str], ...]
_FEWEST_GRADES = 3


def broken_rules(study: "Study") -> list[str]:
    """What is wrong with it, in words; empty where all sections go together."""
    rules = (
        *_of_task(study),
        *_of_mixup(study),
        *_of_labels(study.study),
        *_of_images(study.images),
        *_of_windows(study),
        *_of_patches(study),
        *_of_privacy(study.privacy),
        *_of_patients(study),
        *_of_local_steps(study.training),
        *_of_adaptive_clipping(study),
        *_of_aggregation(study),
        *_of_evaluation(study),
        *_of_statistics(study),
    )
    return [words for broken, words in rules if broken]


def _of_task(study: "Study") -> Rules:
    masks, kind = study.study.task == "segmentation", study.model.kind
    fitting = [name for name, model in KINDS.items() if (model in MASK_MODELS) == masks]
    learned = [name for name in fitting if KINDS[name] in PIXEL_MODELS]
    return (
        (
            isinstance(study.model, MASK_MODELS) != masks,
            f'model.kind = "{kind}" does not go with task = "{study.study.task}": take {", ".join(fitting)}',
        ),
        (
            study.augmentation is not None and not isinstance(study.model, PIXEL_MODELS),
            f'[augmentation] does not go with model.kind = "{kind}", whose features are computed once: leave it out, or '
            f"take {', '.join(learned)}",
        ),
        (
            study.training.loss is not None and not masks,
            f'training.loss = "{study.training.loss}" is for masks; classes are learned by cross entropy: leave it out',
        ),
    )


def _of_mixup(study: "Study") -> Rules:
    mixes = study.augmentation is not None and study.augmentation.mixup > 0
    return (
        (
            mixes and study.privacy is not None,
            "augmentation.mixup does not go with [privacy]: a picture would be mixed with another patient's, whose change "
            "moves both, and the promise to each is about one: leave it out",
        ),
        (
            mixes and study.study.task == "segmentation",
            'augmentation.mixup does not go with task = "segmentation": between two masks lies none; leave it out',
        ),
    )


def _of_labels(about: About) -> Rules:
    labels, classes = about.labels, about.classes
    return (
        (
            labels != "one" and about.task == "segmentation",
            f'study.labels = "{labels}" does not go with task = "segmentation", where each pixel has one class: leave it out',
        ),
        (
            labels == "ordered" and len(classes) < _FEWEST_GRADES,
            f'study.labels = "ordered" needs {_FEWEST_GRADES} classes or more, there are {len(classes)}: of two, leave it out',
        ),
        (
            labels == "several" and any(SEPARATOR in name for name in classes),
            f'with study.labels = "several" no name in study.classes may hold {SEPARATOR}, which stands between names',
        ),
    )


def _of_images(images: Images) -> Rules:
    channels, context, flat = images.channels, images.context, images.fit != "patches"
    return (
        (
            flat and context > 0 and channels != 2 * context + 1,
            f"images.channels = {channels} does not go with context = {context}: a slice and its neighbours are "
            f"{2 * context + 1} channels",
        ),
        (flat and context == 0 and channels not in (1, 3), f"images.channels = {channels}: 1 is grey, 3 is colour"),
    )


def _of_windows(study: "Study") -> Rules:
    fit = study.images.fit
    cut, part = fit in ("windows", "patches"), {"windows": "window", "patches": "patch"}.get(fit, "")
    fitting = [name for name, model in KINDS.items() if model in MASK_MODELS and model in PIXEL_MODELS]
    return (
        (
            cut and study.study.task != "segmentation",
            f'images.fit = "{fit}" does not go with task = "{study.study.task}", where a class is of the whole image: '
            "take squash, crop or pad",
        ),
        (
            cut and isinstance(study.model, PixelModel),
            f'images.fit = "{fit}" does not go with model.kind = "pixel-linear", whose features say where in the picture a '
            f"pixel lies, which a {part} does not know: take {', '.join(fitting if fit == 'windows' else ['u-net'])}",
        ),
        (
            cut and study.privacy is not None and study.privacy.unit == "image",
            f'images.fit = "{fit}" does not go with privacy.unit = "image": a {part} is a part of an image, and the promise '
            'would be to each part; take "patient"',
        ),
    )


def _of_patches(study: "Study") -> Rules:
    images, patches = study.images, study.images.fit == "patches"
    flat = {"axis": images.axis != "axial", "context": images.context > 0, "channels": images.channels != 1}
    named = ", ".join(f"images.{name}" for name, told in flat.items() if told)
    return (
        (
            not patches and images.depth is not None,
            'images.depth is of patches: set images.fit = "patches", or leave it out',
        ),
        (
            not patches and isinstance(images.spacing, tuple),
            'images.spacing of three numbers is of voxels: set images.fit = "patches", or give one number',
        ),
        (
            patches and images.spacing is None,
            "images.spacing is missing: patches are of voxels of so many mm, one number or three (slice, row, column)",
        ),
        (
            patches and bool(named),
            f'with images.fit = "patches", which are grey boxes of a whole volume, there is no {named}: leave it out',
        ),
        (
            patches and not isinstance(study.model, UNetModel),
            f'images.fit = "patches" does not go with model.kind = "{study.model.kind}", which learns pictures: take u-net',
        ),
        (
            patches and study.augmentation is not None and study.augmentation.elastic > 0,
            'augmentation.elastic does not go with images.fit = "patches": it bends pictures only; take augmentation.grid',
        ),
    )


def _of_privacy(privacy: Privacy | None) -> Rules:
    if privacy is None:
        return ()
    most = 1 / (100 * privacy.patients)
    return (
        (
            privacy.delta > most,
            f"privacy.delta = {privacy.delta:g} is too large for {privacy.patients} patients: "
            f"at most 1/(100 N) = {_rounded_down(most):.2g}, else publishing somebody would be allowed",
        ),
    )


def _rounded_down(value: float) -> float:
    """To two digits: what is advised must be allowed."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit


def _of_patients(study: "Study") -> Rules:
    images = study.training.images_a_patient
    return (
        (
            images > 1 and (study.privacy is None or study.privacy.unit == "image"),
            f'training.images_a_patient = {images} goes with privacy.unit = "patient" only: else each image is drawn by '
            "itself",
        ),
    )


def _of_local_steps(training: Training) -> Rules:
    local, rate, pull = training.local_steps > 1, training.local_learning_rate, training.proximal
    return (
        (
            local and rate is None,
            f"training.local_learning_rate is missing: with local_steps = {training.local_steps} it is the rate of "
            "each hospital's own steps, and learning_rate that of the server on their mean difference",
        ),
        (
            not local and rate is not None,
            f"training.local_learning_rate = {rate} does nothing with local_steps = 1: leave it out",
        ),
        (
            not local and pull > 0,
            f"training.proximal = {pull:g} does nothing with local_steps = 1: leave it out",
        ),
        (
            (rate or 0.0) * pull > 1,
            f"training.proximal = {pull:g} times local_learning_rate = {rate} is above 1: "
            "a local step would jump past the global weights that it is pulled to",
        ),
    )


def _of_adaptive_clipping(study: "Study") -> Rules:
    training, adaptive = study.training, study.training.clipping == "adaptive"
    return (
        (
            adaptive and study.privacy is None,
            'training.clipping = "adaptive" needs [privacy]: how many gradients are short would leave the hospitals without '
            'noise; take "flat"',
        ),
        (
            adaptive and training.local_steps > 1,
            f'training.clipping = "adaptive" does not go with local_steps = {training.local_steps}, where no sum says how '
            'many gradients are short: take "flat" or "automatic"',
        ),
        (
            not adaptive and training.clipping_quantile is not None,
            f"training.clipping_quantile = {training.clipping_quantile} does nothing with clipping = "
            f'"{training.clipping}": leave it out, or take "adaptive"',
        ),
    )


def _of_aggregation(study: "Study") -> Rules:
    by_images, bits = study.aggregation.weighting == "images", study.aggregation.bits
    private, local = study.privacy is not None, study.training.local_steps > 1
    return (
        (
            by_images and private,
            'aggregation.weighting = "images" does not go with [privacy]: the weights would tell how many images a '
            'hospital has; use "equal"',
        ),
        (
            by_images and not local,
            'aggregation.weighting = "images" does nothing with training.local_steps = 1: in a sum of gradients every '
            'image counts the same already; use "equal"',
        ),
        (
            bits is not None and not private,
            f"aggregation.bits = {bits} goes with [privacy] only: without noise narrow integers would round badly",
        ),
        (
            bits is not None and local,
            f"aggregation.bits = {bits} does not go with training.local_steps = {study.training.local_steps}: "
            "the bits of a difference of weights follow from its bound; leave one of them out",
        ),
    )


def _of_evaluation(study: "Study") -> Rules:
    rounds, every, patience = study.training.rounds, study.training.look_every, study.training.patience
    model, share = (study.evaluation.model, study.evaluation.share) if study.evaluation else (None, None)
    measures = study.evaluation.measures if study.evaluation else None
    chosen = study.evaluation is not None and (*study.evaluation.at_specificity, *study.evaluation.at_sensitivity) != ()
    in_two = study.study.labels == "several" or (study.study.labels == "one" and len(study.study.classes) == 2)
    in_two = in_two and study.study.task == "classification"
    looks = study.looks
    return (
        (
            chosen and not in_two,
            "evaluation.at_specificity and at_sensitivity are of two classes, or of several labels an image",
        ),
        (
            measures is not None and study.study.task != "segmentation",
            'evaluation.measures are of masks; this study has task = "classification"',
        ),
        (
            measures is not None and (measures[0] != "dice" or len(set(measures)) < len(measures)),
            'evaluation.measures begin with "dice", by which models are compared, and name each once',
        ),
        (
            rounds == 0 and model is None,
            "training.rounds = 0 trains nothing: `primum evaluate` names the model that is then looked at",
        ),
        (
            model is not None and rounds > 0,
            f"evaluation.model is a finished model, but training.rounds = {rounds}: set it to 0",
        ),
        (
            model is not None and looks == 0,
            "evaluation.model is given, but the study takes no look: set privacy.looks = 1",
        ),
        (
            share is not None and study.privacy is not None,
            "evaluation.share goes with studies without [privacy]; here it is privacy.evaluation_share",
        ),
        (every > 0 and looks == 0, f"training.look_every = {every}, but the study takes no look: set privacy.looks"),
        (patience > 0 and every == 0, f"training.patience = {patience} counts looks: set training.look_every"),
    )


def _of_statistics(study: "Study") -> Rules:
    known = study.statistics
    if known is None:
        return ()
    standardised = known.pixels == "hospitals" or known.mean is not None
    channels, local, images = (
        study.images.channels,
        study.training.local_steps > 1,
        study.study.task == "classification",
    )
    lengths = {len(part) for part in (known.mean, known.deviation) if part is not None}
    return (
        (
            (known.mean is None) != (known.deviation is None),
            "statistics.mean and statistics.deviation go together: give both, or none",
        ),
        (bool(lengths - {channels}), f"statistics.mean and deviation need a number for each of {channels} channel(s)"),
        (
            known.pixels == "hospitals" and known.mean is not None,
            'statistics.mean is given, and statistics.pixels = "hospitals" asks the hospitals for it: keep one of them',
        ),
        (
            standardised and not isinstance(study.model, PIXEL_MODELS),
            f'model.kind = "{study.model.kind}" sees fixed features, not pixels: leave statistics.pixels and mean out',
        ),
        (
            standardised and study.images.fit in ("windows", "patches"),
            f'images.fit = "{study.images.fit}" standardises each image before it is cut: leave statistics.pixels and '
            "mean out",
        ),
        (
            known.class_weights != "equal" and images and study.study.labels != "several" and local,
            f"statistics.class_weights does not go with training.local_steps = {study.training.local_steps}",
        ),
        (
            known.asked and study.training.rounds == 0,
            "[statistics] asks the hospitals for what learning needs, but training.rounds = 0: leave it out",
        ),
        (
            known.asked and study.privacy is not None and study.privacy.evaluation_share == 0,
            "[statistics] asks the evaluation patients, but privacy.evaluation_share = 0: there are none",
        ),
    )
