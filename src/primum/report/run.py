"""The folder of a run, read: what is there is checked, what is missing is None."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from primum.errors import InputError
from primum.study import Labels

STUDY: Final = "study.toml"
METRICS: Final = "metrics.jsonl"
LEDGER: Final = "ledger.jsonl"
CARD: Final = "card.json"
SUMMARY: Final = "summary.json"
PREDICTIONS: Final = "predictions.jsonl"
DIAGNOSES: Final = "diagnoses.jsonl"
EVIDENCE: Final = "evidence.json"
ATTEMPTS: Final = "attempts.jsonl"
FAULTS: Final = "faults.jsonl"
_PARTS: Final = (STUDY, METRICS, LEDGER, CARD, SUMMARY, PREDICTIONS, DIAGNOSES)
_LARGEST: Final = 64 << 20

Record = dict[str, Any]
Line = TypeVar("Line", bound=BaseModel)


class _Open(BaseModel):
    """Known keys are checked, others are kept: a newer run can be shown by an older report."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Round(_Open):
    """One line of metrics.jsonl: a round."""

    round: int = Field(ge=0)
    attempt: int | None = None
    participants: int | None = None
    seconds: float | None = None
    local_seconds: float | None = None
    bytes_up: float | None = None
    bytes_down: float | None = None
    update_norm: float | None = None
    clipping_norm: float | None = None
    epsilon: float | None = None


class Failed(_Open):
    """An attempt that was thrown away."""

    failed: str
    attempt: int | None = None


class Fault(_Open):
    """What one hospital could not do in an attempt."""

    hospital: int
    code: str
    message: str
    hint: str = ""
    attempt: int | None = None


class Evidence(_Open):
    """What the run checked of itself; every check fails closed."""

    secure_sums_equal_plain_sums_on_probes: int = 0
    hospitals: int = 0
    hospitals_that_passed: dict[str, int] = {}
    saved_model_equals_live_model: bool = False
    rounds_with_exchanged_journal_heads: int = 0


class Prediction(_Open):
    """One of the scientist's own test images: true class (of several 0 or 1 for each), probability of class 1 or of each
    class, called class."""

    label: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0, le=1)], ...]
    probability: float | tuple[float, ...]
    predicted: int | None = Field(default=None, ge=0)
    patient: str | None = None


class Diagnosis(_Open):
    """One encrypted diagnosis and what the plain model says."""

    image: str
    seconds: float | None = None
    encrypted: tuple[float, ...] | None = None
    plain: tuple[float, ...] | None = None
    agrees: bool | None = None
    bytes: float | None = None


class Point(_Open):
    """Sensitivity and specificity where one of them, the one that was `asked`, is at least so much."""

    asked: str
    at_least: float
    threshold: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    specificity: float
    specificity_low: float
    specificity_high: float


class OfClass(_Open):
    """How good the masks of one class are; or, where an image may have several, how well one is told."""

    dice: float | None = None
    dice_low: float | None = None
    dice_high: float | None = None
    volume_error: float | None = None
    volume_error_low: float | None = None
    volume_error_high: float | None = None
    surface_distance: float | None = None
    surface_distance_low: float | None = None
    surface_distance_high: float | None = None
    hausdorff_95: float | None = None
    hausdorff_95_low: float | None = None
    hausdorff_95_high: float | None = None
    one_sided: int = 0
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    accuracy: float | None = None
    f1: float | None = None
    f1_low: float | None = None
    f1_high: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    images: int | None = None
    points: tuple[Point, ...] = ()
    too_few: bool | None = None


class Figures(_Open):
    """AUC and accuracy, of grades kappa and the mean error, of masks Dice, with intervals."""

    dice: float | None = None
    dice_low: float | None = None
    dice_high: float | None = None
    volume_error: float | None = None
    volume_error_low: float | None = None
    volume_error_high: float | None = None
    surface_distance: float | None = None
    surface_distance_low: float | None = None
    surface_distance_high: float | None = None
    hausdorff_95: float | None = None
    hausdorff_95_low: float | None = None
    hausdorff_95_high: float | None = None
    by_class: dict[str, OfClass] = {}
    surface_unit: str = ""
    surface_of: str = ""

    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    kappa: float | None = None
    kappa_low: float | None = None
    kappa_high: float | None = None
    mae: float | None = None
    mae_low: float | None = None
    mae_high: float | None = None
    sensitivity: float | None = None
    sensitivity_low: float | None = None
    sensitivity_high: float | None = None
    specificity: float | None = None
    specificity_low: float | None = None
    specificity_high: float | None = None
    f1: float | None = None
    f1_low: float | None = None
    f1_high: float | None = None
    mcc: float | None = None
    mcc_low: float | None = None
    mcc_high: float | None = None
    points: tuple[Point, ...] = ()
    calibration_error: float | None = None
    calibration_error_low: float | None = None
    calibration_error_high: float | None = None
    brier: float | None = None
    brier_low: float | None = None
    brier_high: float | None = None
    images: int | None = None
    patients: int | None = None
    too_few: bool | None = None
    text: str | None = None


class Spent(_Open):
    """What privacy was spent; `epsilon` None (or infinite) means no guarantee."""

    epsilon: float | None = None
    delta: float | None = None
    unit: str | None = None
    epsilon_all_others_collude: float | None = None
    epsilon_replace: float | None = None
    steps: int | None = None
    local_steps: int | None = None
    noise_multiplier: float | None = None
    q: float | None = None
    clipping_norm: float | None = None
    clipping_quantile: float | None = None
    colluding: int | None = None
    k_min: int | None = None
    may_vanish: int | None = None
    patients: int | None = None
    evaluation_epsilon: float | None = None
    epsilon_two_images: float | None = None


class Update(_Open):
    """What a hospital sends in a round; `clamp` in clipping norms, `clamp_typical` in typical coordinates."""

    local_steps: int | None = None
    weighting: str | None = None
    bits: int | None = None
    bytes: float | None = None
    extra_noise: float | None = None
    clamp: float | None = None
    clamp_typical: float | None = None


class Statistics(_Open):
    """What a survey found: `classes` in patients (of masks shares of pixels, added up), pixels in [0, 1]."""

    patients: float | None = None
    noise: float | None = None
    too_few: bool = False
    shares: bool = False
    vague: bool = False
    classes: dict[str, float] = {}
    weighing: str | None = None
    class_weights: dict[str, float] = {}
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


class Traffic(_Open):
    """Bytes sent; `by_kind` of the whole run."""

    per_hospital_and_round_up: float | None = None
    per_hospital_and_round_down: float | None = None
    by_kind: dict[str, float] = {}


class Role(_Open):
    """One row of who saw what."""

    role: str
    sees: str
    stopped_by: str


class Summary(_Open):
    """summary.json; every key may be missing. `looks_at_learners`: `hospitals_private` may be of patients who trained it."""

    data: str | None = None
    classes: tuple[str, ...] | None = None
    labels: Labels | None = None
    test: Figures | None = None
    hospitals_private: Figures | None = None
    looks_at_learners: bool = False
    privacy: Spent | None = None
    update: Update | None = None
    statistics: Statistics | None = None
    bytes: Traffic | None = None
    pinned: bool | None = None
    versions: dict[str, str] = {}
    who_saw: tuple[Role, ...] = ()
    exchange_seconds: float | None = None
    round_seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """Everything that the folder of a run says. A part that is not there is None (lists: empty), and in `missing`."""

    name: str
    study: str | None
    rounds: tuple[Round, ...]
    failed: tuple[Failed, ...]
    ledger: tuple[Record, ...] = field(repr=False)
    card: Record | None
    summary: Summary
    predictions: tuple[Prediction, ...] = field(repr=False)
    diagnoses: tuple[Diagnosis, ...] = field(repr=False)
    evidence: Evidence | None = None
    faults: tuple[Fault, ...] = ()
    missing: frozenset[str] = frozenset()

    @property
    def private(self) -> bool:
        """Whether the run kept any differential privacy."""
        return self.summary.privacy is not None and finite(self.summary.privacy.epsilon)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: of the summary, else of the card, else none."""
        named = self.summary.classes or tuple((self.card or {}).get("classes") or ())
        return tuple(str(name) for name in named)

    @property
    def labels(self) -> Labels:
        """How many classes an image has: by the summary, else as the predictions are."""
        several = any(isinstance(item.label, tuple) for item in self.predictions)
        return self.summary.labels or ("several" if several else "one")


def read_run(folder: Path) -> Run:
    """The run in `folder`; InputError that names the file (and line) where one is damaged, or nothing is there."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not the folder of a run", "Give a folder of runs/, as runs/<id>.")
    missing = frozenset(name for name in _PARTS if not (folder / name).is_file())
    if len(missing) == len(_PARTS):
        raise InputError(f"{folder} holds nothing of a run", f"A run has {', '.join(_PARTS[:5])}.")
    evidence = _object(folder / EVIDENCE)
    predictions = _lines(folder / PREDICTIONS, Prediction)
    summary = _checked(Summary, _object(folder / SUMMARY) or {}, folder / SUMMARY, None)
    if not _one_kind(predictions, summary.labels):
        raise InputError(f"{folder / PREDICTIONS} is damaged: its lines are not of one model", "Copy the run again.")
    return Run(
        name=folder.resolve().name,
        study=_text(folder / STUDY),
        rounds=_lines(folder / METRICS, Round),
        failed=_lines(folder / ATTEMPTS, Failed),
        ledger=tuple(record for _, record in _records(folder / LEDGER)),
        card=_object(folder / CARD),
        summary=summary,
        predictions=predictions,
        diagnoses=_lines(folder / DIAGNOSES, Diagnosis),
        evidence=None if evidence is None else _checked(Evidence, evidence, folder / EVIDENCE, None),
        faults=_lines(folder / FAULTS, Fault),
        missing=missing,
    )


def _one_kind(predictions: tuple[Prediction, ...], labels: Labels | None) -> bool:
    """Whether all are of images with one class, or all of images with several and as many probabilities as labels."""
    shapes = {len(item.label) if isinstance(item.label, tuple) else 0 for item in predictions}
    several = shapes != {0}
    whole = all(isinstance(item.probability, tuple) and len(item.probability) in shapes for item in predictions)
    if not shapes:
        return True
    fits = labels is None or (labels == "several") == several
    return len(shapes) == 1 and fits and (whole or not several)


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is larger than {_LARGEST >> 20} MiB", "It is not a file of a run.")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: it is no text", "Copy the run again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error


def _object(path: Path) -> Record | None:
    text = _text(path)
    return None if text is None else _parsed(text, path, None)


def _records(path: Path) -> list[tuple[int, Record]]:
    lines = (_text(path) or "").splitlines()
    return [(number, _parsed(line, path, number)) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(text: str, path: Path, line: int | None) -> Record:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_place(path, line)} is damaged: it is no JSON", "Copy the run again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{_place(path, line)} is damaged: it is no JSON object", "Copy the run again.")
    return value


def _lines(path: Path, kind: type[Line]) -> tuple[Line, ...]:
    return tuple(_checked(kind, record, path, number) for number, record in _records(path))


def _checked(kind: type[Line], record: Record, path: Path, line: int | None) -> Line:
    try:
        return TypeAdapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{_place(path, line)}: {key}: {first['msg']}", "Copy the run again.") from error


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def finite(value: float | None) -> bool:
    """True for a number that can be drawn."""
    return value is not None and math.isfinite(value)
