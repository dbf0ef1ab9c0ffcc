"""A trained model on disk: `model.safetensors` (one tensor, `weight`) and `card.json`, which says what it is.

No pickle: a model from a stranger can be wrong, but it cannot run code. The card holds the digest of the weights.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from primum.disk import write
from primum.errors import ModelError
from primum.models.feature_map import FeatureMap, FrontEndCard
from primum.models.linear import logits_of, outputs_for

WEIGHTS: Final = "model.safetensors"
CARD: Final = "card.json"
_LARGEST: Final = 1 << 30


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Card(_Strict):
    """What a model is: task, classes, how a file becomes pixels, what privacy was spent, who trained it."""

    format: Literal[1] = 1
    task: Literal["classification"] = "classification"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    front_end: FrontEndCard
    preparation: dict[str, Any]
    privacy: dict[str, Any]
    trained: dict[str, Any]
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_names(classes)


Numbers = tuple[float, ...]


class NetworkCard(_Strict):
    """A network that takes pixels: what a data owner must know to show it an image, and to read its answer.

    Pixels in [0, 1], less `mean`, over `std`, per channel. `ending`: what turns outputs into probabilities; where
    `argmax`, the output is 1 for the class and 0 for the others, and no probability comes out.
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


def _distinct_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes) or not all(name.strip() for name in classes):
        raise ValueError("class names must be distinct and not empty")
    return classes


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to use: the card, the front end, and `weight`, float32 [outputs, dimension]."""

    card: Card
    front_end: FeatureMap
    weight: Tensor

    def logits(self, images: Tensor) -> Tensor:
        """Float32 [n, classes] of images [n, channels, size, size] in [0, 1]; two classes give [0, z]."""
        return logits_of(self.front_end.features(images) @ self.weight.T)

    def probabilities(self, images: Tensor) -> Tensor:
        """Float32 [n, classes]: softmax of the logits."""
        return torch.softmax(self.logits(images), dim=1)


def save_model(folder: Path, weight: Tensor, card: Card) -> None:
    """Write `model.safetensors` and `card.json` into `folder` (made if missing), each whole or not at all.

    The digest in the card is set here. `weight`: float32 [outputs, dimension]; another shape is a ModelError.
    """
    weight = weight.detach().to("cpu", torch.float32).contiguous()
    front_end = _front_end(card, folder)
    _check_weight(weight, card, front_end, folder)
    data = save({"weight": weight})
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
    return TrainedModel(card, front_end, _read_weight(data, card, front_end, weights))


def _read_weight(data: bytes, card: Card, front_end: FeatureMap, path: Path) -> Tensor:
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a safetensors file", "Copy it again from the run that made it.") from error
    if set(tensors) != {"weight"}:
        raise ModelError(f"{path} holds other tensors than `weight`", "It was not saved by Primum.")
    _check_weight(tensors["weight"], card, front_end, path)
    return tensors["weight"]


def _check_weight(weight: Tensor, card: Card, front_end: FeatureMap, path: Path) -> None:
    expected = (outputs_for(len(card.classes)), front_end.dimension)
    if weight.dtype != torch.float32 or tuple(weight.shape) != expected:
        raise ModelError(
            f"{path}: `weight` is {weight.dtype} {tuple(weight.shape)}, but its card asks for float32 {expected}",
            "Card and weights are of two different models.",
        )
    if not torch.isfinite(weight).all():
        raise ModelError(f"{path}: `weight` has values that are not finite", "Train the model again.")


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
