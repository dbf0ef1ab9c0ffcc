"""The sections of a study, each checked by itself; rules.py says what goes together."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from primum.study.kinds import Section

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A public key as 64 hex digits."""
Labels = Literal["one", "several", "ordered"]
"""How an image is labelled: with one class; with any of the classes, or none; with one, where the classes are grades."""
SEPARATOR = "|"
"""Between the classes of an image that has several."""


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


Loss = Literal["dice-cross-entropy", "dice-focal", "dice", "cross-entropy", "focal"]
"""What is made small, of masks: a sum where two are named (tasks/segmentation.py)."""


class Training(Section):
    """How it is learned; all of it public. With `local_steps` above 1 hospitals step by themselves in each round, and
    `learning_rate` and `momentum` are the server's, on the mean difference of weights (tasks/training.py). With adam
    `momentum` is its first rate of forgetting; with a cosine the rate falls to nothing at the last round. With
    `images_a_patient` above 1 a drawn patient brings so many images, whose mean gradient is clipped once. With adaptive
    clipping the norm begins at `clipping_norm` and follows a private quantile of the gradients' norms. With 0 rounds
    nothing is learned: `evaluation.model` is looked at. With `look_every` the hospitals' private figure is taken after so
    many rounds each, as long as `privacy.looks` last, the best model is kept beside the last, and with `patience` training
    ends when so many looks brought nothing better."""

    rounds: Annotated[int, Field(ge=0, le=100_000)] = 40
    look_every: Annotated[int, Field(ge=0, le=100_000)] = 0
    patience: Annotated[int, Field(ge=0, le=10)] = 0
    sampling: Annotated[float, Field(gt=0, le=1)] = 0.5
    clipping_norm: Positive = 0.25
    clipping: Literal["flat", "automatic", "adaptive"] = "flat"
    clipping_quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
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


Measure = Literal["dice", "volume_error", "surface_distance", "hausdorff_95"]
"""What is told of a patient's masks (tasks/measures.py)."""


Point = Annotated[float, Field(gt=0, lt=1)]


class Evaluation(Section):
    """How patients are looked at whom no round of training sees. `model`: the finished model that is validated, nothing is
    trained (SHA-256 of its weights, `primum evaluate` fills it in). `share`: of each hospital's patients, in a study
    without [privacy]; such figures are exact sums over the hospitals. `measures`: of masks; with [privacy] each is one more
    table that a patient is in, and the noise of all grows with their root. `at_specificity`, `at_sensitivity`: at these the
    other of the two is told (tasks/points.py); of hospitals' patients only without [privacy], whose tables are coarse."""

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] | None = None
    at_specificity: tuple[Point, ...] = ()
    at_sensitivity: tuple[Point, ...] = ()


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
    """What is promised to each patient. `patients`: how many all hospitals have, publicly; with unit = "image" how many
    images, of each patient at most `images_per_patient`. `noise_multiplier` is filled in when the study is signed."""

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
