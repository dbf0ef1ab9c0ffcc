"""A trained model on disk: `model.safetensors` (the learned tensors by name) and `card.json`, which says what it is.

No pickle: a model from a stranger can be wrong, but it cannot run code. The card holds the digest of the weights.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from primum.disk import write
from primum.errors import ModelError
from primum.models.answers import grades_of, outputs_for, probabilities_of
from primum.models.feature_map import FeatureMap, FrontEndCard, PixelsCard
from primum.models.learned import Learned, Linear
from primum.models.linear import logits_of
from primum.study import Labels

WEIGHTS: Final = "model.safetensors"
CARD: Final = "card.json"
_LARGEST: Final = 1 << 30


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Card(_Strict):
    """What a model is: task, classes, how a file becomes pixels, what privacy was spent, who trained it.

    `labels`: whether an image has one class, several, or one of ordered ones (answers.py). `front_end` is public and
    fixed, `learned` is what stands on it. In a segmentation class 0 is the background.
    """

    format: Literal[1] = 1
    task: Literal["classification", "segmentation"] = "classification"
    labels: Labels = "one"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    front_end: FrontEndCard
    learned: Learned = Linear()
    preparation: dict[str, Any]
    privacy: dict[str, Any]
    trained: dict[str, Any]
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_names(classes)

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        if self.labels != "one" and self.task == "segmentation":
            raise ValueError(f'labels = "{self.labels}" does not go with a segmentation')
        cut = self.preparation.get("fit") in ("windows", "patches")
        pixels = self.front_end if isinstance(self.front_end, PixelsCard) else None
        if cut != (pixels is not None and pixels.deviations is not None):
            raise ValueError(
                "windows go with pixels that were standardised before they were cut, and with nothing else"
            )
        if cut and self.task != "segmentation":
            raise ValueError("windows go with a segmentation")
        if (self.preparation.get("fit") == "patches") != (pixels is not None and pixels.depth is not None):
            raise ValueError("patches go with pixels that have a depth, and with nothing else")
        return self


Numbers = tuple[float, ...]


class NetworkCard(_Strict):
    """A network that takes pixels: what a data owner must know to show it an image, and to read its answer.

    Pixels in [0, 1], less `mean`, over `std`, per channel. `ending`: what turns outputs into probabilities; where
    `argmax`, the output is 1 for the class and 0 for the others, and no probability comes out. Where `sigmoid`, with an
    output for each class, an image may have several (`labels_of`).
    """

    kind: Literal["network"] = "network"
    format: Literal[1] = 1
    task: Literal["classification"] = "classification"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    preparation: dict[str, Any]
    mean: Numbers = ()
    std: Numbers = ()
    ending: Literal["softmax", "sigmoid", "argmax"] = "softmax"
    version: str = ""
    about: str = ""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_names(classes)

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Numbers) -> Numbers:
        if any(value <= 0 for value in std):
            raise ValueError("standard deviations must be larger than 0")
        return std

    def labels_of(self, outputs: int) -> Labels:
        """How many classes an image has, for a network of so many outputs."""
        return "several" if self.ending == "sigmoid" and outputs > 1 else "one"


def _distinct_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes) or not all(name.strip() for name in classes):
        raise ValueError("class names must be distinct and not empty")
    return classes


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to use: the card, the public front end, and the learned module on what it gives."""

    card: Card
    front_end: FeatureMap
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        """Of a linear layer on a feature vector, float32 [outputs, dimension]; ModelError for any other model."""
        found = getattr(self.module, "weight", None)
        if self.card.learned.kind != "linear" or not isinstance(found, Tensor) or found.ndim != 2:
            raise ModelError(f"The model is a {self.card.learned.kind}, not one linear layer.", "Use `logits`.")
        return found.detach()

    def logits(self, images: Tensor) -> Tensor:
        """Float32 [n, classes], for masks [n, classes, *shape], of images [n, channels, *shape] in [0, 1].

        Two classes, of which an image has one, give [0, z]. Ordered classes give [n, classes - 1]: of the thresholds.
        """
        with torch.no_grad():
            outputs: Tensor = self.module(self.front_end.features(images))
        return logits_of(outputs) if self.card.labels == "one" else outputs

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class, [n, classes] (masks: at each pixel). Of several classes they do not sum to 1."""
        return probabilities_of(self.logits(images), self.card.labels)

    def grades(self, images: Tensor) -> Tensor:
        """Int64 [n]: of ordered classes the one that is called, which need not be the most probable one.

        ModelError for a model whose classes are not ordered.
        """
        if self.card.labels != "ordered":
            raise ModelError("The classes of this model are not ordered: it calls no grade.", "Use `probabilities`.")
        return grades_of(self.logits(images))


def save_model(folder: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """Write `model.safetensors` and `card.json` into `folder` (made if missing), each whole or not at all.

    `tensors`: the learned module's, float32, by name; `weight` [outputs, dimension] for a linear layer. Others than the
    card asks for are a ModelError. The digest in the card is set here.
    """
    kept = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in tensors.items()}
    _loaded(kept, card, _front_end(card, folder), folder)
    data = save(kept)
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / WEIGHTS, data)
    write(folder / CARD, (card.model_dump_json(indent=2) + "\n").encode())


def load_model(path: Path) -> TrainedModel:
    """The model in folder `path` (or beside the file `path`/model.safetensors).

    Raises ModelError that names the file where one is missing, altered, has unknown keys or another shape.
    """
    folder = path.parent if path.name == WEIGHTS else path
    card = _read_card(folder / CARD)
    weights = folder / WEIGHTS
    data = _read(weights)
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise ModelError(
            f"{weights} is not the file that {CARD} describes (its SHA-256 differs)",
            "Copy both files again from the run that made them.",
        )
    front_end = _front_end(card, folder)
    return TrainedModel(card, front_end, _loaded(_tensors(data, weights), card, front_end, weights))


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a safetensors file", "Copy it again from the run that made it.") from error


def _loaded(tensors: dict[str, Tensor], card: Card, front_end: FeatureMap, path: Path) -> nn.Module:
    """The module of the card with these tensors; ModelError where names, shapes or values are not its own."""
    module = card.learned.module(front_end.shape, outputs_for(len(card.classes), card.labels))
    own = module.state_dict()
    if set(tensors) != set(own):
        named = ", ".join(f"`{name}`" for name in sorted(set(tensors) ^ set(own))[:4])
        raise ModelError(f"{path} holds other tensors than its card asks for: {named}", "It was not saved by Primum.")
    for name, value in tensors.items():
        if value.dtype != torch.float32 or value.shape != own[name].shape:
            raise ModelError(
                f"{path}: `{name}` is {value.dtype} {tuple(value.shape)}, but its card asks for float32 "
                f"{tuple(own[name].shape)}",
                "Card and weights are of two different models.",
            )
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: `{name}` has values that are not finite", "Train the model again.")
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def _front_end(card: Card, path: Path) -> FeatureMap:
    try:
        return card.front_end.feature_map()
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error


def _read_card(path: Path) -> Card:
    try:
        return Card.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "union_tag_invalid":
            where, first["msg"] = f"{where}.kind", f"{first['ctx']['tag']!r} is unknown"
        raise ModelError(f"{path}: {where}: {first['msg']}", "It is not a model card of this version.") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelError(f"{path} is larger than 1 GiB", "It is not a model of Primum.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", f"A model is a folder with {WEIGHTS} and {CARD}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions.") from error
