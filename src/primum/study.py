"""Study: what is learned, from what, under which privacy. A TOML file; unknown keys are refused.

A study is data, never code: a hospital reads it, checks it against its own policy and carries it out with what it
installed itself. `Study.text()` is the canonical TOML that the scientist signs.
"""

import datetime
import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from primum import wire
from primum.errors import StudyError
from primum.model_kinds import KINDS, MASK_MODELS, PIXEL_MODELS, AnyModel, Model, PixelModel, Section, UNetModel

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A public key as 64 hex digits."""
Labels = Literal["one", "several", "ordered"]
"""How an image is labelled: with one class; with any of the classes, or none; with one, where the classes are grades."""
SEPARATOR = "|"
"""Between the classes of an image that has several."""
Settings = TypeVar("Settings", bound=BaseModel)


class About(Section):
    """What the study is for. In a segmentation the first class is the background, and a mask has one for each pixel.
    In a classification `labels` says whether an image has one class, several, or one of ordered ones, the lowest first.

    After the day `expires` no hospital answers any more; `primum train` fills in a day where none is said. `asked`:
    when it was handed in, in seconds since 1970; filled in then."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    purpose: Annotated[str, Field(min_length=1, max_length=2000)]
    task: Literal["classification", "segmentation"] = "classification"
    labels: Labels = "one"
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=100)]
    expires: datetime.date | None = None
    asked: Annotated[int, Field(ge=0)] | None = None

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("class names must be distinct")
        return classes


class Images(Section):
    """What an image file, or each slice of a volume, becomes (imaging/prepare.py): a square, or with `fit` "windows" squares
    of `size` that overlap and cover it, for masks only. With "patches" a volume becomes boxes of `depth` (else `size`) x
    `size` x `size` voxels of `spacing` mm (one number, or slice, row and column), for masks in 3D. With `context` so many slices on each
    side of one are channels too: `channels` is 2 context + 1."""

    size: Annotated[int, Field(ge=16, le=1024)] = 64
    channels: Annotated[int, Field(ge=1, le=7)] = 1
    fit: Literal["squash", "crop", "pad", "windows", "patches"] = "squash"
    intensity: Literal["display", "stretch", "clahe"] = "display"
    spacing: float | tuple[float, float, float] | None = None
    window: Literal["", "soft-tissue", "lung", "bone", "brain"] = ""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    context: Annotated[int, Field(ge=0, le=3)] = 0
    depth: Annotated[int, Field(ge=4, le=1024)] | None = None

    @field_validator("spacing", mode="before")
    @classmethod
    def _millimetres(cls, spacing: Any) -> Any:
        several = isinstance(spacing, (list, tuple))
        sides = spacing if several else (spacing,)
        fitting = all(type(side) in (int, float) and 0.001 <= side <= 1000 for side in sides)
        fitting = fitting and (not several or len(spacing) == 3)
        if spacing is not None and not fitting:
            raise ValueError("one number of mm, 0.001 to 1000, or for patches three: slice, row, column")
        return spacing

    @property
    def patch_depth(self) -> int | None:
        """Slices of a patch, None where images are no patches."""
        return (self.depth or self.size) if self.fit == "patches" else None


_EXACT_LOOKS = 10  # that a study without privacy takes at most: they cost nothing, because nothing is promised
_FEWEST_GRADES = 3


Loss = Literal["dice-cross-entropy", "dice-focal", "dice", "cross-entropy", "focal"]
"""What is made small, of masks: a sum where two are named (tasks/segmentation.py)."""


class Training(Section):
    """How it is learned; all of it public. With `local_steps` above 1 hospitals step by themselves in each round, and
    `learning_rate` and `momentum` are the server's, on the mean difference of weights (tasks/training.py). With adam
    `momentum` is its first rate of forgetting; with a cosine the rate falls to nothing at the last round. With
    `images_a_patient` above 1 a drawn patient brings so many images, whose mean gradient is clipped once. With 0 rounds
    nothing is learned: `evaluation.model` is looked at. With `look_every` the hospitals' private figure is taken after so
    many rounds each, as long as `privacy.looks` last, the best model is kept beside the last, and with `patience` training
    ends when so many looks brought nothing better."""

    rounds: Annotated[int, Field(ge=0, le=100_000)] = 40
    look_every: Annotated[int, Field(ge=0, le=100_000)] = 0
    patience: Annotated[int, Field(ge=0, le=10)] = 0
    sampling: Annotated[float, Field(gt=0, le=1)] = 0.5
    clipping_norm: Positive = 0.25
    clipping: Literal["flat", "automatic"] = "flat"
    loss: Loss | None = None
    images_a_patient: Annotated[int, Field(ge=1, le=100)] = 1
    learning_rate: Positive = 4.0
    momentum: Share = 0.9
    optimiser: Literal["momentum", "adam"] = "momentum"
    schedule: Literal["constant", "cosine"] = "constant"
    average_last: Annotated[float, Field(gt=0, le=1)] = 0.667
    averaging: Literal["tail", "exponential"] = "tail"
    local_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    local_learning_rate: Positive | None = None
    proximal: Annotated[float, Field(ge=0)] = 0.0


class Augmentation(Section):
    """Training pictures changed at random each time they are drawn, for networks that learn from pixels
    (tasks/augmentation.py). `share`: how often each change is made. `copies`: a drawn picture is seen in so many ways,
    whose mean gradient is clipped once."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    shear: Annotated[float, Field(ge=0, le=1)] = 0.0
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    elastic: Annotated[float, Field(ge=0, le=20)] = 0.0
    grid: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur: Annotated[float, Field(ge=0, le=10)] = 0.0
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Annotated[float, Field(ge=0, le=2)] = 0.0
    cutout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    copies: Annotated[int, Field(ge=1, le=16)] = 1
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0


class Aggregation(Section):
    """How updates are added up. `bits`: exactly so many for each coordinate of a private update, instead of as many as
    no sum can overflow without a clamp."""

    weighting: Literal["equal", "images"] = "equal"
    bits: Annotated[int, Field(ge=8, le=32)] | None = None


class Evaluation(Section):
    """How patients are looked at whom no round of training sees. `model`: the finished model that is validated, nothing is
    trained (SHA-256 of its weights, `primum evaluate` fills it in). `share`: of each hospital's patients, in a study
    without [privacy]; such figures are exact sums over the hospitals."""

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None


class Statistics(Section):
    """What all hospitals' patients are like, found by one secure sum before the first round (tasks/survey.py); with
    [privacy] it is one look more at the evaluation patients. `class_weights`: how much a class counts in learning, all
    alike or by the inverse of how many have it, or the root of that. `pixels`: whether each picture is standardised by
    itself, or all by the mean and deviation of all hospitals' pixels. `mean`, `deviation`: those of each channel where
    they are known already, of pixels in [0, 1]."""

    class_weights: Literal["equal", "root", "balanced"] = "equal"
    pixels: Literal["picture", "hospitals"] = "picture"
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    deviation: tuple[Annotated[float, Field(ge=0.01, le=1)], ...] | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is asked of the hospitals."""
        return self.class_weights != "equal" or self.pixels == "hospitals"


class Privacy(Section):
    """What is promised to each patient. `noise_multiplier` is filled in when the study is signed."""

    unit: Literal["patient", "image"] = "patient"
    epsilon: Positive = 3.0
    delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5
    noise_multiplier: Annotated[float, Field(ge=0)] = 0.0
    patients: Annotated[int, Field(ge=3)]
    images_per_patient: Annotated[int, Field(ge=1, le=1000)] = 20
    evaluation_share: Share = 0.15
    looks: Annotated[int, Field(ge=0, le=10)] = 1
    evaluation_noise_multiplier: Annotated[float, Field(ge=0)] = 0.0


class Hospitals(Section):
    """Who takes part: the Ed25519 identities that the hospitals compared outside the system."""

    members: tuple[str, ...] = ()
    colluding: Annotated[int, Field(ge=0)] = 1
    may_vanish: Annotated[int, Field(ge=0)] = 0

    @field_validator("members")
    @classmethod
    def _identities(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for member in members:
            if len(member) != 64 or not all(c in "0123456789abcdef" for c in member):
                raise ValueError(f"{member!r} is not an identity: 64 hex digits, as `primum node` shows")
        if len(set(members)) != len(members):
            raise ValueError("a member is named twice")
        return tuple(sorted(members))

    def identities(self) -> tuple[bytes, ...]:
        """The members' public keys, sorted: a member's place is its position here, from 1."""
        return tuple(bytes.fromhex(member) for member in self.members)


class Deadlines(Section):
    """Seconds after which a stage is over. Whoever missed it is out of this round and back in the next."""

    consent: Positive = 3600.0
    stage: Positive = 60.0
    reply_grid: Annotated[float, Field(ge=0, le=10)] = 0.05


class Study(Section):
    """One study. See `federation/README` and `primum new study` for a commented file."""

    study: About
    images: Images = Images()
    model: AnyModel = Model()
    training: Training = Training()
    augmentation: Augmentation | None = None
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation | None = None
    statistics: Statistics | None = None
    privacy: Privacy | None = None
    hospitals: Hospitals
    deadlines: Deadlines = Deadlines()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for broken, message in (
            *_of_task(self),
            *_of_labels(self.study),
            *_of_images(self.images),
            *_of_windows(self),
            *_of_patches(self),
            *_of_privacy(self.privacy),
            *_of_patients(self),
            *_of_local_steps(self.training),
            *_of_aggregation(self),
            *_of_evaluation(self),
            *_of_statistics(self),
        ):
            if broken:
                raise ValueError(message)
        return self

    @property
    def looks(self) -> int:
        """How often the hospitals' evaluation patients are looked at."""
        if self.privacy is not None:
            return self.privacy.looks
        return _EXACT_LOOKS if self.evaluation is not None else 0

    @property
    def surveys(self) -> int:
        """How often the hospitals are asked what their patients are like: once, or never."""
        return int(self.statistics is not None and self.statistics.asked)

    @property
    def evaluation_share(self) -> float:
        """The share of each hospital's patients on whom nothing is trained; without [privacy] all, if nothing is."""
        if self.privacy is not None:
            return self.privacy.evaluation_share
        if self.evaluation is None:
            return 0.0
        return self.evaluation.share or (1.0 if self.training.rounds == 0 else 0.15)

    def text(self) -> str:
        """The canonical TOML: every setting, in order."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def parse(cls, text: str, source: str) -> "Study":
        """The study in `text`; StudyError that names `source`, the key, and for an unknown key the nearest one."""
        return parse_toml(cls, text, source)

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The study in the file `path`."""
        return cls.parse(read_text(path), str(path))


Rules = tuple[tuple[bool, str], ...]


def _of_task(study: "Study") -> Rules:
    masks, kind = study.study.task == "segmentation", study.model.kind
    learned = [name for name, model in KINDS.items() if model in PIXEL_MODELS]
    fitting = [name for name, model in KINDS.items() if (model in MASK_MODELS) == masks]
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
        *_of_mixup(study),
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
    channels, context = images.channels, images.context
    return (
        (
            context > 0 and channels != 2 * context + 1,
            f"images.channels = {channels} does not go with context = {context}: a slice and its neighbours are "
            f"{2 * context + 1} channels",
        ),
        (context == 0 and channels not in (1, 3), f"images.channels = {channels}: 1 is grey, 3 is colour"),
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
            f"at most 1/(100 N) = {most:.2g}, else publishing somebody would be allowed",
        ),
    )


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
    looks = study.looks
    return (
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


def read_text(path: Path) -> str:
    """The text of a settings file; StudyError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StudyError(f"{path} is not a text file.", "Give the path of a TOML file.") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None


def parse_toml(kind: type[Settings], text: str, source: str) -> Settings:
    """The TOML in `text` as `kind`; StudyError naming `source` and the line or key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{source} is not valid TOML: {error}.", "Mend that line.") from None
    return parse_settings(kind, data, source)


def parse_settings(kind: type[Settings], data: dict[str, Any], source: str) -> Settings:
    """`data` as `kind`; StudyError naming `source` and the key; an unknown key is an error with the nearest one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise StudyError(*_explain(kind, error, source)) from None


def _explain(kind: type[BaseModel], error: ValidationError, source: str) -> tuple[str, str]:
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]]
    path = [place for place in places if place not in KINDS]
    key = ".".join(path)
    if first["type"] == "union_tag_invalid":
        return f"{source}: {key}.kind = {first['ctx']['tag']!r} is unknown.", f"Known here: {', '.join(KINDS)}."
    if first["type"] == "extra_forbidden":
        known = _keys_at(kind, places[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.4)
        hint = f"Did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"Known here: {', '.join(known)}."
        return f"{source}: unknown key {key}.", hint
    if first["type"] == "missing":
        return f"{source}: {key} is missing.", "Add it; `primum new study` writes a commented example."
    message = first["msg"].removeprefix("Value error, ")
    return f"{source}: {key + ': ' if key else ''}{message}.", "Mend that value."


def _keys_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part in KINDS:
            kind = KINDS[part]
            continue
        annotation: Any = kind.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        kind = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), kind)
    return list(kind.model_fields)


class Signer(Protocol):
    """Whoever can sign: an `Identity`."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, purpose: str, data: bytes) -> bytes:
        """64 bytes."""


class SignedStudy(wire.Message, frozen=True):
    """A study's canonical text with the signature of who asks."""

    text: str
    asker: bytes
    signature: bytes


PURPOSE = "Study"


def sign_study(study: Study, signer: Signer) -> SignedStudy:
    """`study` signed by `signer`."""
    text = study.text()
    return SignedStudy(text, signer.public, signer.sign(PURPOSE, text.encode()))
