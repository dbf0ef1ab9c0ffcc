"""The data owner: from images to diagnoses. Only here is an image in clear, and only here is a diagnosis.

The public front end (resizing, scattering, normalising) is computed here in clear; what comes out of it is shared
between the two servers.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from primum.diagnosis.client import ANSWER_NAMES, REQUEST_NAMES, Servers, run
from primum.diagnosis.deployment import PublicFile
from primum.diagnosis.diagnosis import Diagnosis, Part, areas, joined
from primum.diagnosis.files import read_message, write_message
from primum.diagnosis.messages import Answer, Request, answer_limit, most_images, request_limit
from primum.diagnosis.requests import make_requests, open_answers
from primum.diagnosis.sources import Source, open_source, power_of_two
from primum.diagnosis.tokens import Permit
from primum.errors import InputError, ModelError, PeerError
from primum.imaging import Preparation
from primum.imaging.cover import Cover
from primum.keys.sealing import SealingKey
from primum.models.answers import outputs_for, probabilities_of
from primum.models.card import Card, NetworkCard
from primum.mpc.check import elements
from primum.mpc.program import Program
from primum.mpc.share import ROLES
from primum.state_folder import make_private
from primum.study import Labels
from primum.wire import Message

_AT_ONCE: Final = 16
_ELEMENTS_AT_ONCE: Final = 1 << 22
_IN_FLIGHT: Final = 3
_LENGTH_SLACK: Final = 1e-3
_WINNER_SLACK: Final = 0.01
_KEY: Final = "reply.key"
_NAMES: Final = "names.json"
Progress = Callable[[int], None]


class Names(Message, frozen=True):
    """Which images a saved request is about, in order, and how many slices (or windows) each has; stays with the data
    owner. `covers`: where there are windows, slices (0 for a picture), rows and columns that they cover."""

    names: tuple[str, ...]
    slices: tuple[int, ...] = ()
    covers: tuple[tuple[int, int, int], ...] = ()


class ImagePath(ABC):
    """How a deployment's model sees an image, and what its outputs mean."""

    def __init__(self, card: Card | NetworkCard, program: Program) -> None:
        self.preparation = Preparation.from_card(card.preparation)
        self.classes, self.masks = card.classes, card.task == "segmentation"
        self.windows, self._most_windows = self.preparation.fit == "windows", most_images(program)
        *places, outputs = program.wire(program.output).shape
        self.labels = card.labels_of(outputs) if isinstance(card, NetworkCard) else card.labels
        side = self.preparation.size if self.masks else 1
        fitting = {outputs_for(len(card.classes), self.labels)}
        if self.labels == "one":
            fitting.add(len(card.classes))  # two classes may have an output each
        if places != [side, side] or outputs not in fitting or (self.windows and not self.masks):
            raise ModelError("Card and program of the deployment file contradict each other.", "Ask for it again.")

    @classmethod
    def of(cls, public: PublicFile) -> "ImagePath":
        """From a public deployment file; ModelError if card and program contradict each other."""
        program = public.deployment.program
        try:
            if public.card.get("kind") == "network":
                return PixelPath(NetworkCard.model_validate(public.card, strict=False), program)
            return FeaturePath(Card.model_validate(public.card, strict=False), program)
        except ValidationError as error:
            raise ModelError(
                "The card in the deployment file is not one.", "Ask the model owner for it again."
            ) from error

    def read(self, paths: Sequence[Path]) -> list[Source]:
        """Pictures, and where the model draws masks volumes too; DataError that names the file.

        InputError for a picture, or slice, of more windows than a request may have images.
        """
        sources = [open_source(path, self.preparation, self.masks) for path in paths]
        for source in sources:
            needed = power_of_two(len(source.cover)) if source.cover else 0
            if source.cover and needed > self._most_windows:
                raise InputError(
                    f"{source.path} takes {needed} windows of {self.preparation.size} pixels a side with the blank ones, "
                    f"and {self._most_windows} may be asked for at once.",
                    "Cut the picture; or ask the model owner for a model of larger windows or coarser `spacing`.",
                )
        return sources

    @abstractmethod
    def inputs(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Float32 [n, height, width, channels]: what is shared between the servers."""

    @abstractmethod
    def probabilities(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[n, classes] of outputs [n, classes], or of the thresholds of ordered classes [n, classes - 1]."""

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The images, clipped to [0, 1] so that the model's ranges hold; InputError for another shape."""
        expected = (self.preparation.channels, self.preparation.size, self.preparation.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not torch.isfinite(images).all():
            raise InputError(
                f"This model takes finite images of shape [n, {', '.join(map(str, expected))}], got {tuple(images.shape)}.",
                "Prepare them with primum.imaging.read_image and the card's preparation.",
            )
        return images.to(torch.float32).clamp(0, 1)


class FeaturePath(ImagePath):
    """A front end in clear, then what Primum trained on it: a linear layer, or a network."""

    def __init__(self, card: Card, program: Program) -> None:
        super().__init__(card, program)
        self._front_end = card.front_end.feature_map()
        depth, *sides = self._front_end.shape
        if program.wire(program.input).shape != (*(sides or (1, 1)), depth):
            raise ModelError("Card and program of the deployment file contradict each other.", "Ask for it again.")

    def inputs(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        features: npt.NDArray[np.float32] = self._front_end.features(self._pixels(images)).numpy()
        if features.ndim > 2:
            return np.ascontiguousarray(features.transpose(0, 2, 3, 1))
        if len(features) and np.linalg.norm(features, axis=1).max() > 1 + _LENGTH_SLACK:
            raise InputError("Features are longer than 1.", "The range of the logits would not hold.")
        return features.reshape(len(features), 1, 1, -1)

    def probabilities(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _probabilities(logits, self.labels)


class PixelPath(ImagePath):
    """A network whose every layer runs encrypted."""

    def __init__(self, card: NetworkCard, program: Program) -> None:
        super().__init__(card, program)
        size, channels = self.preparation.size, self.preparation.channels
        if program.wire(program.input).shape != (size, size, channels) or not self._fits(card, channels):
            raise ModelError("Card and program of the deployment file contradict each other.", "Ask for it again.")
        self._ending = card.ending if program.wire(program.output).size > 1 else "softmax"
        self._mean = torch.tensor(card.mean or (0.0,) * channels).reshape(-1, 1, 1)
        self._std = torch.tensor(card.std or (1.0,) * channels).reshape(-1, 1, 1)

    @staticmethod
    def _fits(card: NetworkCard, channels: int) -> bool:
        return len(card.mean) in (0, channels) and len(card.std) in (0, channels)

    def inputs(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        normalised = (self._pixels(images) - self._mean) / self._std
        pixels: npt.NDArray[np.float32] = normalised.permute(0, 2, 3, 1).contiguous().numpy()
        return pixels

    def probabilities(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _winners(logits) if self._ending == "argmax" else _probabilities(logits, self.labels)


def _winners(outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 for the class, 0 for all others; PeerError for what no maximum under encryption gives, such as logits.

    Classes that are equal in the bits that are compared are 1 both.
    """
    winners = np.rint(outputs)
    near = np.abs(outputs - winners) <= _WINNER_SLACK
    if not (near.all() and np.isin(winners, (0.0, 1.0)).all() and (winners.max(axis=1) == 1.0).all()):
        raise PeerError("The servers' answer names no class.", "The deployment is broken: tell the model owner.")
    return winners


def _probabilities(logits: npt.NDArray[np.float64], labels: Labels) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = probabilities_of(torch.from_numpy(logits), labels).numpy()
    return found


def diagnose(
    images: torch.Tensor, public: PublicFile, *, permit: Permit | None = None, progress: Progress = lambda done: None
) -> list[Diagnosis]:
    """Encrypted diagnoses of `images`, float32 [n, channels, size, size] in [0, 1], prepared as the card says.

    The servers are asked for up to 16 images at a time over connections that stay open, while the next features are
    computed. Nothing is retried: Unavailable or PeerError says which server failed, and no result is returned.
    `permit`: from `tokens.load_token`, where the deployment asks for one. `progress` is called with the number of images
    done.
    """
    path = ImagePath.of(public)
    if not len(images):
        return []
    return run(lambda: _diagnose(images, public, path, permit, progress))


def diagnose_files(
    paths: Sequence[Path], public: PublicFile, *, permit: Permit | None = None, progress: Progress = lambda done: None
) -> list[Diagnosis]:
    """`diagnose` for image files, one answer each; all are read before anything is sent.

    A model that draws masks takes volumes too: NIfTI, NRRD, or a folder of one DICOM series.
    """
    return diagnose_sources(ImagePath.of(public).read(paths), public, permit=permit, progress=progress)


def diagnose_sources(
    sources: Sequence[Source],
    public: PublicFile,
    *,
    permit: Permit | None = None,
    progress: Progress = lambda done: None,
) -> list[Diagnosis]:
    """`diagnose_files` for what `ImagePath.read` opened."""
    images = torch.cat([source.images for source in sources])
    found = diagnose(images, public, permit=permit, progress=progress)
    return joined(found, [Part.of(source) for source in sources])


async def _diagnose(
    images: torch.Tensor, public: PublicFile, path: ImagePath, permit: Permit | None, progress: Progress
) -> list[Diagnosis]:
    slots = asyncio.Semaphore(_IN_FLIGHT)
    results: list[list[Diagnosis]] = []
    at_once = _at_once(public.deployment.program)
    async with Servers(public.deployment) as servers:

        async def one(place: int, inputs: npt.NDArray[np.float32]) -> None:
            try:
                results[place] = await _ask(inputs, public, path, servers, permit)
                progress(sum(map(len, results)))
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for place, start in enumerate(range(0, len(images), at_once)):
                    chunk = images[start : start + at_once]
                    await slots.acquire()
                    results.append([])
                    group.create_task(one(place, await asyncio.to_thread(path.inputs, chunk)))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return [diagnosis for chunk in results for diagnosis in chunk]


def _at_once(program: Program) -> int:
    """Images a request: few where they are large, so that a request that waits for others is answered in time."""
    return max(1, min(_AT_ONCE, most_images(program), _ELEMENTS_AT_ONCE // elements(program)))


async def _ask(
    inputs: npt.NDArray[np.float32], public: PublicFile, path: ImagePath, servers: Servers, permit: Permit | None
) -> list[Diagnosis]:
    start = time.perf_counter()
    key = SealingKey.generate()
    requests = await asyncio.to_thread(make_requests, inputs, public.deployment, key.public, permit)
    answers, size = await servers.ask(requests)
    outputs, first = open_answers(answers, requests[0], public.deployment, key)
    seconds = (time.perf_counter() - start) / len(inputs)
    return _diagnoses(outputs, path, public, first, seconds, size // len(inputs))


def _diagnoses(
    outputs: npt.NDArray[np.float64], path: ImagePath, public: PublicFile, first: int, seconds: float, size: int
) -> list[Diagnosis]:
    model = public.deployment.model.hex()
    logits = outputs if path.masks else outputs.reshape(len(outputs), -1)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    if path.masks:
        return [
            Diagnosis(
                path.classes, areas(mask, len(path.classes)), (), first + place, seconds, size, model, mask,
                window=z.astype(np.float32) if path.windows else None,
            )
            for place, (mask, z) in enumerate(zip(logits.argmax(-1).astype(np.uint8), logits, strict=True))
        ]  # fmt: skip
    return [
        Diagnosis(
            path.classes, tuple(map(float, p)), tuple(map(float, z)), first + place, seconds, size, model,
            labels=path.labels,
        )
        for place, (p, z) in enumerate(zip(path.probabilities(logits), logits, strict=True))
    ]  # fmt: skip


def save_requests(
    paths: Sequence[Path], public: PublicFile, folder: Path, permit: Permit | None = None
) -> list[Source]:
    """Write request-a.json and request-b.json for the images into `folder` (made, 0700), to travel by hand.

    reply.key, which opens the answers, and names.json stay with the data owner: only the two request files, each
    sealed to its server, are given to a carrier. Up to 64 images; a folder that holds a request already is refused.
    Returns what was read.
    """
    most = most_images(public.deployment.program)
    if not 1 <= len(paths) <= most:
        raise InputError(f"A saved request has 1 to {most} images, not {len(paths)}.", "Use several folders.")
    way = ImagePath.of(public)
    names = [*REQUEST_NAMES.values(), *ANSWER_NAMES.values(), _KEY, _NAMES]
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise InputError(f"{folder} already holds {present[0]}.", "Use a new folder for every request.")
    sources = way.read(paths)
    slices = tuple(len(source.images) for source in sources)
    if sum(slices) > most:
        what = "windows (blank ones too)" if way.windows else "slices"
        raise InputError(f"A saved request has up to {most} {what}, not {sum(slices)}.", "Use several folders.")
    inputs = way.inputs(torch.cat([source.images for source in sources]))
    make_private(folder)
    key = SealingKey.load_or_make(folder / _KEY)
    covers = tuple((source.slices, *_plane(source.cover)) for source in sources if source.cover)
    write_message(folder / _NAMES, Names(tuple(str(path) for path in paths), slices, covers), private=True)
    for request in make_requests(inputs, public.deployment, key.public, permit):
        write_message(folder / REQUEST_NAMES[request.server], request)
    return sources


def open_saved(folder: Path, public: PublicFile) -> tuple[tuple[str, ...], list[Diagnosis]]:
    """(names of the images, their diagnoses) from the answers that came back into `folder`.

    `seconds` is not known and is NaN. InputError where a file is missing, PeerError where an answer is forged.
    """
    limit = request_limit(public.deployment.program) * 2
    if not (folder / _KEY).exists():
        raise InputError(f"{folder} has no {_KEY}.", "The answers open only where the request was made.")
    about = read_message(folder / _NAMES, Names, 1 << 20)
    way = ImagePath.of(public)
    parts = _parts(about, way)
    request = read_message(folder / REQUEST_NAMES["A"], Request, limit)
    a, b = (
        read_message(folder / ANSWER_NAMES[role], Answer, answer_limit(public.deployment.program)) for role in ROLES
    )
    outputs, first = open_answers((a, b), request, public.deployment, SealingKey.load_or_make(folder / _KEY))
    if parts is None or sum(part.images for part in parts) != len(outputs):
        raise InputError(f"{folder / _NAMES} names another number of images.", "Restore it from a copy.")
    size = sum((folder / name).stat().st_size for name in (*REQUEST_NAMES.values(), *ANSWER_NAMES.values()))
    found = _diagnoses(outputs, way, public, first, math.nan, size // len(outputs))
    return about.names, joined(found, parts)


def _parts(about: Names, way: ImagePath) -> list[Part] | None:
    """How the answers of a saved request are put together; None where its names contradict themselves."""
    slices = about.slices or (1,) * len(about.names)
    if len(slices) != len(about.names) or len(about.covers) != (len(slices) if way.windows else 0):
        return None
    if not way.windows:
        return [Part(count, None, 0) for count in slices]
    parts = [
        Part(count, Cover((rows, columns), (way.preparation.size,) * 2), cut)
        for count, (cut, rows, columns) in zip(slices, about.covers, strict=True)
    ]
    fitting = all(part.cover and part.images >= max(1, part.slices) * len(part.cover) for part in parts)
    return parts if fitting else None


def _plane(cover: Cover) -> tuple[int, int]:
    rows, columns = cover.grid
    return rows, columns
