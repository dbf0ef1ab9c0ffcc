"""The data owner: from images to diagnoses. Only here is an image in clear, and only here is a diagnosis.

The public front end (resizing, scattering) is computed here in clear; its features, at most 1 long, are shared
between the two servers.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from primum.diagnosis.client import ANSWER_LIMIT, ANSWER_NAMES, REQUEST_NAMES, Servers, run
from primum.diagnosis.deployment import PublicFile
from primum.diagnosis.files import read_message, write_message
from primum.diagnosis.messages import MOST_IMAGES, Answer, Request, request_limit
from primum.diagnosis.requests import make_requests, open_answers
from primum.diagnosis.roles import open_folder
from primum.errors import InputError, ModelError
from primum.imaging import Preparation, read_image
from primum.keys.sealing import SealingKey
from primum.models.card import Card
from primum.models.feature_map import FeatureMap
from primum.models.linear import outputs_for
from primum.mpc.share import ROLES
from primum.wire import Message

_AT_ONCE: Final = 16
_IN_FLIGHT: Final = 3
_KEY: Final = "reply.key"
_NAMES: Final = "names.json"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Diagnosis:
    """What the data owner learns of one image: a probability and a logit per class.

    `seconds` and `bytes` (sent and received, both servers) are its part of the request it was in; `number` is the
    request number that it used. Prints neither probabilities nor logits.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...] = field(repr=False)
    logits: tuple[float, ...] = field(repr=False)
    number: int
    seconds: float
    bytes: int

    @property
    def best(self) -> str:
        """The most probable class."""
        return self.classes[max(range(len(self.classes)), key=self.logits.__getitem__)]


class Names(Message, frozen=True):
    """Which images a saved request is about, in order; stays with the data owner."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class ImagePath:
    """How a deployment's model sees an image: preparation, front end, classes."""

    preparation: Preparation
    front_end: FeatureMap
    classes: tuple[str, ...]

    @classmethod
    def of(cls, public: PublicFile) -> "ImagePath":
        """From a public deployment file; ModelError if card and program contradict each other."""
        try:
            card = Card.model_validate(public.card, strict=False)
        except ValidationError as error:
            raise ModelError(
                "The card in the deployment file is not one.", "Ask the model owner for it again."
            ) from error
        front_end = card.front_end.feature_map()
        program = public.deployment.program
        shape = (program.wire(program.output).length, program.wire(program.input).length)
        if shape != (outputs_for(len(card.classes)), front_end.dimension):
            raise ModelError("Card and program of the deployment file contradict each other.", "Ask for it again.")
        return cls(Preparation.from_card(card.preparation), front_end, card.classes)

    def read(self, paths: Sequence[Path]) -> torch.Tensor:
        """Float32 [n, channels, size, size] of image files; DataError that names the file."""
        return torch.from_numpy(np.stack([read_image(path, self.preparation).pixels for path in paths]))

    def features(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Float32 [n, dimension] of images, clipped to [0, 1] so that the range of the logits holds."""
        expected = (self.front_end.channels, self.front_end.size, self.front_end.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not torch.isfinite(images).all():
            raise InputError(
                f"This model takes finite images of shape [n, {', '.join(map(str, expected))}], got {tuple(images.shape)}.",
                "Prepare them with primum.imaging.read_image and the card's preparation.",
            )
        values: npt.NDArray[np.float32] = self.front_end.features(images.to(torch.float32).clamp(0, 1)).numpy()
        return values


def diagnose(images: torch.Tensor, public: PublicFile, *, progress: Progress = lambda done: None) -> list[Diagnosis]:
    """Encrypted diagnoses of `images`, float32 [n, channels, size, size] in [0, 1], prepared as the card says.

    The servers are asked for up to 16 images at a time over connections that stay open, while the next features are
    computed. Nothing is retried: Unavailable or PeerError says which server failed, and no result is returned.
    `progress` is called with the number of images done.
    """
    path = ImagePath.of(public)
    if not len(images):
        return []
    return run(lambda: _diagnose(images, public, path, progress))


def diagnose_files(
    paths: Sequence[Path], public: PublicFile, *, progress: Progress = lambda done: None
) -> list[Diagnosis]:
    """`diagnose` for image files (DICOM, JPEG, PNG); all are read before anything is sent."""
    return diagnose(ImagePath.of(public).read(paths), public, progress=progress)


async def _diagnose(images: torch.Tensor, public: PublicFile, path: ImagePath, progress: Progress) -> list[Diagnosis]:
    slots = asyncio.Semaphore(_IN_FLIGHT)
    results: list[list[Diagnosis]] = []
    async with Servers(public.deployment) as servers:

        async def one(place: int, features: npt.NDArray[np.float32]) -> None:
            try:
                results[place] = await _ask(features, public, path.classes, servers)
                progress(sum(map(len, results)))
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for place, start in enumerate(range(0, len(images), _AT_ONCE)):
                    chunk = images[start : start + _AT_ONCE]
                    await slots.acquire()
                    results.append([])
                    group.create_task(one(place, await asyncio.to_thread(path.features, chunk)))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return [diagnosis for chunk in results for diagnosis in chunk]


async def _ask(
    features: npt.NDArray[np.float32], public: PublicFile, classes: tuple[str, ...], servers: Servers
) -> list[Diagnosis]:
    start = time.perf_counter()
    key = SealingKey.generate()
    requests = await asyncio.to_thread(make_requests, features, public.deployment, key.public)
    answers, size = await servers.ask(requests)
    logits, first = open_answers(answers, requests[0], public.deployment, key)
    seconds = (time.perf_counter() - start) / len(features)
    return _diagnoses(logits, classes, first, seconds, size // len(features))


def _diagnoses(
    logits: npt.NDArray[np.float64], classes: tuple[str, ...], first: int, seconds: float, size: int
) -> list[Diagnosis]:
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return [
        Diagnosis(classes, tuple(map(float, p)), tuple(map(float, z)), first + place, seconds, size)
        for place, (p, z) in enumerate(zip(probabilities, logits, strict=True))
    ]


def save_requests(paths: Sequence[Path], public: PublicFile, folder: Path) -> None:
    """Write request-a.json and request-b.json for the images into `folder` (made, 0700), to travel by hand.

    reply.key, which opens the answers, and names.json stay with the data owner: only the two request files, each
    sealed to its server, are given to a carrier. Up to 64 images; a folder that holds a request already is refused.
    """
    if not 1 <= len(paths) <= MOST_IMAGES:
        raise InputError(f"A saved request has 1 to {MOST_IMAGES} images, not {len(paths)}.", "Use several folders.")
    names = [*REQUEST_NAMES.values(), *ANSWER_NAMES.values(), _KEY, _NAMES]
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise InputError(f"{folder} already holds {present[0]}.", "Use a new folder for every request.")
    way = ImagePath.of(public)
    features = way.features(way.read(paths))
    open_folder(folder)
    key = SealingKey.load_or_make(folder / _KEY)
    write_message(folder / _NAMES, Names(tuple(str(path) for path in paths)), private=True)
    for request in make_requests(features, public.deployment, key.public):
        write_message(folder / REQUEST_NAMES[request.server], request)


def open_saved(folder: Path, public: PublicFile) -> tuple[tuple[str, ...], list[Diagnosis]]:
    """(names of the images, their diagnoses) from the answers that came back into `folder`.

    `seconds` is not known and is NaN. InputError where a file is missing, PeerError where an answer is forged.
    """
    limit = request_limit(public.deployment.program) * 2
    if not (folder / _KEY).exists():
        raise InputError(f"{folder} has no {_KEY}.", "The answers open only where the request was made.")
    names = read_message(folder / _NAMES, Names, 1 << 20).names
    request = read_message(folder / REQUEST_NAMES["A"], Request, limit)
    a, b = (read_message(folder / ANSWER_NAMES[role], Answer, ANSWER_LIMIT) for role in ROLES)
    logits, first = open_answers((a, b), request, public.deployment, SealingKey.load_or_make(folder / _KEY))
    if len(names) != len(logits):
        raise InputError(f"{folder / _NAMES} names another number of images.", "Restore it from a copy.")
    size = sum((folder / name).stat().st_size for name in (*REQUEST_NAMES.values(), *ANSWER_NAMES.values()))
    return names, _diagnoses(logits, ImagePath.of(public).classes, first, math.nan, size // len(names))
