"""A frozen public network as a front end: weights from a safetensors file that is named by its SHA-256.

Trained elsewhere on public images, it costs no privacy here. The file is `<sha256>.safetensors` in the folder
PRIMUM_BACKBONES, or in ~/.local/share/primum/backbones; nothing is fetched from anywhere. Keys and shapes are those of
torchvision's state_dict, so that published weights need one line:

    safetensors.torch.save_file(torchvision.models.resnet18(weights="DEFAULT").state_dict(), "resnet18.safetensors")

No pickle: a file from a stranger can be wrong, but it cannot run code. Residual networks: He et al., "Deep residual
learning for image recognition", CVPR 2016, table 1. Batch norm has the statistics of the file, always.
"""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional

from primum.errors import ModelError
from primum.models.multiscale import noise_pictures
from primum.models.scattering import refuse_other_images

Name = Literal["resnet18"]
Tensors = dict[str, Tensor]

_MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, as torchvision's networks expect them
_DEVIATION: Final = (0.229, 0.224, 0.225)
_EPS: Final = 1e-5
_BELOW_ONE: Final = 1 - 2.0**-20  # rounding to float32 moves a norm by less than 2^-23
_LARGEST: Final = 1 << 30
_SMALLEST_SIDE: Final = 32  # the last of the blocks sees a 32nd of it
_CHUNK_PIXELS: Final = 1 << 18  # of images at once
_PICTURES: Final = 32  # of noise, whose mean is the point from where features are seen
_STAGES: Final = (64, 128, 256, 512)
_BLOCKS: Final = 2  # a stage
_IGNORED: Final = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")


@dataclass(frozen=True)
class Backbone:
    """Images -> feature vectors of length at most 1: averages over places of the last two stages, of equal length, less
    those of drawn pictures.

    `weights`: SHA-256 of the file, 64 hex digits. The file is read and checked at once; one that is missing, altered or
    of another network is a ModelError that names its path.
    """

    size: int
    channels: int
    name: Name
    weights: str

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ModelError(f"unknown backbone {self.name!r}", f"Known here: {', '.join(get_args(Name))}.")
        if not re.fullmatch(r"[0-9a-f]{64}", self.weights):
            raise ModelError("a backbone's `weights` is not a SHA-256", "Give the 64 hex digits of `sha256sum FILE`.")
        if not _SMALLEST_SIDE <= self.size <= 4096 or self.channels not in (1, 3):
            raise ModelError(
                f"a backbone sees 32 to 4096 pixels a side and 1 or 3 channels, got {self.size} and {self.channels}",
                "Set `size` to 64 or more.",
            )
        _ = self._tensors

    @property
    def _tensors(self) -> Tensors:
        return _read(weights_path(self.weights), self.name)

    @property
    def dimension(self) -> int:
        """Length of a feature vector: the channels of the last two stages."""
        return _STAGES[-2] + _STAGES[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what one image gives."""
        return (self.dimension,)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, dimension], each row of L2 norm at most 1.

        `images`: float32 [n, channels, size, size] in [0, 1]. Works in pieces: memory does not grow with n beyond the
        result. Raises ValueError on another shape or on values that are not finite.
        """
        refuse_other_images(images, self.channels, self.size)
        piece, tensors, seen_from = max(1, _CHUNK_PIXELS // self.size**2), self._tensors, reference(self)
        out = torch.empty(len(images), self.dimension)
        with torch.no_grad():
            for start in range(0, len(images), piece):
                parts = _averages(tensors, images[start : start + piece])
                out[start : start + piece] = _joined([one - mean for one, mean in zip(parts, seen_from, strict=True)])
        return out


@lru_cache(maxsize=4)
def reference(backbone: Backbone) -> tuple[Tensor, ...]:
    """What `backbone` sees on average in drawn pictures (`multiscale.noise_pictures`), for each of the two stages.

    Averages of what is never negative all point the same way: what all pictures share is length without meaning.
    """
    pictures = noise_pictures(_PICTURES, backbone.size, backbone.channels)
    with torch.no_grad():
        rows = [_averages(backbone._tensors, picture[None]) for picture in pictures]
    return tuple(torch.cat(parts).mean(0) for parts in zip(*rows, strict=True))


def weights_path(digest: str) -> Path:
    """Where the file of that SHA-256 is looked for."""
    home = Path(os.environ.get("PRIMUM_BACKBONES") or Path.home() / ".local" / "share" / "primum" / "backbones")
    return home / f"{digest}.safetensors"


def shapes() -> dict[str, tuple[int, ...]]:
    """What a file of resnet18 has to hold, by key; `fc` and `num_batches_tracked` are not looked at."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **_norm_shapes("bn1", 64)}
    inputs = 64
    for stage, outputs in enumerate(_STAGES, start=1):
        for block in range(_BLOCKS):
            at = f"layer{stage}.{block}"
            found |= {f"{at}.conv1.weight": (outputs, inputs, 3, 3), f"{at}.conv2.weight": (outputs, outputs, 3, 3)}
            found |= _norm_shapes(f"{at}.bn1", outputs) | _norm_shapes(f"{at}.bn2", outputs)
            if inputs != outputs:
                found[f"{at}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                found |= _norm_shapes(f"{at}.downsample.1", outputs)
            inputs = outputs
    return found


def _norm_shapes(at: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


@lru_cache(maxsize=2)
def _read(path: Path, name: Name) -> Tensors:
    """The tensors of the file, float32, convolutions and norms alone. `name` stands for the one network there is."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelError(f"{path} is larger than 1 GiB", f"It is not the file of a {name}.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} does not exist",
            "Ask whoever made the study for the backbone's file and put it there under that name, or set "
            "PRIMUM_BACKBONES to the folder where it is.",
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions.") from error
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise ModelError(f"{path} is not the file of its name (its SHA-256 differs)", "It was altered: copy it again.")
    return _checked(_parsed(data, path), path)


def _parsed(data: bytes, path: Path) -> Tensors:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a safetensors file", "Save the weights with safetensors.torch.save_file."
        ) from error


def _checked(tensors: Tensors, path: Path) -> Tensors:
    """ModelError that names the first key that is missing, unknown, of another shape or unusable."""
    expected = shapes()
    missing = [key for key in expected if key not in tensors]
    unknown = [key for key in tensors if key not in expected and not _IGNORED.fullmatch(key)]
    if missing or unknown:
        what = f"has no {missing[0]!r}" if missing else f"holds {unknown[0]!r}, which is unknown"
        raise ModelError(f"{path} {what}", "Its keys have to be those of torchvision's resnet18.")
    for key, shape in expected.items():
        value = tensors[key]
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise ModelError(
                f"{path}: {key} is {value.dtype} {tuple(value.shape)}, expected floating point {shape}",
                "It is the file of another network.",
            )
        if not torch.isfinite(value).all() or (key.endswith("running_var") and bool((value < 0).any())):
            raise ModelError(f"{path}: {key} has values that cannot be", "The file is broken at its source.")
    return {key: tensors[key].float() for key in expected}


def _normalised(images: Tensor) -> Tensor:
    """Three channels, as the network saw them."""
    colour = images.expand(-1, 3, -1, -1)
    return (colour - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_DEVIATION).view(3, 1, 1)


def _averages(tensors: Tensors, images: Tensor) -> tuple[Tensor, ...]:
    """Of the last two stages over their places, [n, 256] and [n, 512]."""
    return tuple(stage.mean((2, 3)) for stage in _resnet(tensors, _normalised(images)))


def _resnet(tensors: Tensors, images: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of the last two stages, [n, 256, size / 16, ...] and [n, 512, size / 32, ...]."""
    x = functional.conv2d(images, tensors["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(_norm(tensors, "bn1", x).relu_(), 3, 2, 1)
    third = x
    for stage in range(1, len(_STAGES) + 1):
        third = x
        for block in range(_BLOCKS):
            x = _block(tensors, f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
    return third, x


def _block(tensors: Tensors, at: str, x: Tensor, stride: int) -> Tensor:
    out = functional.conv2d(x, tensors[f"{at}.conv1.weight"], stride=stride, padding=1)
    out = _norm(tensors, f"{at}.bn1", out).relu_()
    out = _norm(tensors, f"{at}.bn2", functional.conv2d(out, tensors[f"{at}.conv2.weight"], padding=1))
    if f"{at}.downsample.0.weight" in tensors:
        x = _norm(
            tensors, f"{at}.downsample.1", functional.conv2d(x, tensors[f"{at}.downsample.0.weight"], None, stride)
        )
    return (out + x).relu_()


def _norm(tensors: Tensors, at: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        tensors[f"{at}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, _EPS)


def _joined(parts: list[Tensor]) -> Tensor:
    """Each part of length 1, all together of length just below 1; a part of zeros stays zeros."""
    each = [part.double() / part.double().norm(dim=1, keepdim=True).clamp(min=1e-12) for part in parts]
    return (torch.cat(each, dim=1) * (_BELOW_ONE / math.sqrt(len(each)))).float()
