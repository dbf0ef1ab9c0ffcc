"""From a model file to what is deployed: a program, its weights in the ring, and the card of data owners.

a folder that Primum trained    a front end, computed by the data owner in clear, and what was learned on it: a linear
                                layer, or a network whose every layer runs encrypted (`primum.compiler`)
an ONNX file                    every layer runs encrypted
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from primum.compiler import Compiled, Wish, compile_module, drawn_images
from primum.compiler.compiled import TOLERANCE, compile_read
from primum.compiler.from_onnx import graph_of_onnx
from primum.compiler.graph import Graph
from primum.compiler.linear import COARSE_FRACTION, linear_program
from primum.errors import InputError, ModelError
from primum.imaging import Preparation, read_image
from primum.imaging.windows import standardised
from primum.models.answers import outputs_for
from primum.models.card import NetworkCard, TrainedModel, load_model
from primum.mpc.program import Program
from primum.ring import Ring
from primum.study import Labels
from primum.wire import Message, encode

_OF_PATCHES: Final = 4  # axes of what is shown to a network: channels, depth, height, width
_MOST_CALIBRATION: Final = 32
_RELATIVE: Final = {"classification": 1e-3, "segmentation": 5e-3}
"""Of the largest logit. A pixel changes its class only where two classes are closer than twice that."""
Ending = Literal["softmax", "sigmoid", "argmax"]
_ENDINGS: Final[dict[str, Ending]] = {"sigmoid": "sigmoid", "argmax": "argmax"}
"""Others are softmax: a network's logits."""


@dataclass(frozen=True)
class Deployable:
    """What is deployed: the program, its weights (flat ring elements), the card of data owners."""

    program: Program
    weights: Ring = field(repr=False)
    card: dict[str, Any]

    def digest(self) -> bytes:
        """32 bytes that name the model: its card, its program and its weights."""
        card, program = encode(_CardBytes(self.card)), encode(self.program)
        header = b"primum model\0" + b"".join(len(part).to_bytes(8, "big") + part for part in (card, program))
        return hashlib.sha256(header + np.ascontiguousarray(self.weights, "<u8").tobytes()).digest()


def deployable_model(model: TrainedModel, *, coarse: bool = False) -> Deployable:
    """A model that Primum trained: a front end, which the data owner computes in clear, and what was learned on it.

    `coarse`: answers keep 8 fractional bits, which makes copying the model by asking harder. A network's logits may be off
    by 0.01, or by a thousandth of the largest (masks: five): without privacy they grow to hundreds. ModelError where its range does not
    fit, and for a model that draws in 3D.
    """
    if len(model.front_end.shape) == _OF_PATCHES:
        raise ModelError(
            "The model draws masks of volumes in 3D, and no convolution in 3D is computed under encryption.",
            'Draw in clear with `primum diagnose --model`, or learn slices: fit = "windows" and encrypted masks.',
        )
    card = msgspec.json.decode(model.card.model_dump_json())
    if len(model.front_end.shape) == 1:
        return Deployable(*linear_program(model.weight.numpy(), coarse=coarse), card)
    seen = _seen(model)
    with torch.no_grad():
        largest = float(model.module(torch.from_numpy(seen)).abs().max())
    wish = Wish(images=seen, tolerance=max(TOLERANCE, _RELATIVE[model.card.task] * largest))
    compiled = compile_module(model.module, _three(model.front_end.shape), wish)
    program = _coarse(compiled.program) if coarse else compiled.program
    return Deployable(program, compiled.weights, card)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    depth, height, width = shape
    return depth, height, width


def _seen(model: TrainedModel) -> npt.NDArray[np.float32]:
    """What the learned module sees of drawn images, and of two whose one pixel is as far out as the front end lets."""
    size, channels = model.front_end.size, model.front_end.channels
    spikes = np.zeros((2, channels, size, size), np.float32)
    spikes[0, :, size // 2, size // 2] = 1
    spikes[1] = 1 - spikes[0]
    pictures = np.concatenate([drawn_images((channels, size, size)).astype(np.float32), spikes])
    if model.card.preparation.get("fit") == "windows":
        pictures = _as_windows(pictures)
    return model.front_end.features(torch.from_numpy(pictures)).numpy()


def _as_windows(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each as a picture of one window; and as the darkest and the brightest corner of a picture, at half the contrast."""
    alone = np.stack([standardised(picture)[1] for picture in pictures])
    return np.concatenate([alone, 0.5 * alone, 0.5 + 0.5 * alone])


def _coarse(program: Program) -> Program:
    return msgspec.structs.replace(program, answer_fraction=min(COARSE_FRACTION, program.answer_fraction))


def deployable_network(compiled: Compiled, card: NetworkCard, *, coarse: bool = False) -> Deployable:
    """A compiled network, whose every layer runs encrypted. ModelError where card and network contradict each other."""
    program = compiled.program
    outputs = program.wire(program.output).size
    if outputs not in (outputs_for(len(card.classes)), len(card.classes)):
        raise ModelError(f"The network has {outputs} outputs for {len(card.classes)} classes.", "Name every class.")
    program = _coarse(program) if coarse else program
    return Deployable(program, compiled.weights, msgspec.json.decode(card.model_dump_json()))


@dataclass(frozen=True)
class Description:
    """What an ONNX file does not say. Pixels in [0, 1], less `mean`, over `std`, are what the network takes.

    `size`: pixels a side where the file leaves it open. `calibration`: public images; never a hospital's: what they
    show of its range would leave. `only_class`: the class comes out and nothing else; so it is, too, where the file ends
    in ArgMax. `several`: its outputs are logits of classes of which an image may have several, and no softmax makes
    probabilities of them; so it is, too, where the file ends in a sigmoid of more than one output.
    """

    classes: tuple[str, ...] = ()
    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    calibration: tuple[Path, ...] = ()
    only_class: bool = False
    several: bool = False
    about: str = ""


def open_model(path: Path, description: Description, *, coarse: bool = False) -> Deployable:
    """The model in `path`, an ONNX file or a folder that Primum trained, ready to be deployed.

    ModelError that names every operator which is not supported, the layer whose range does not fit, or how far the
    program is from the network in clear.
    """
    if path.suffix.lower() != ".onnx":
        if description != Description():
            if description.only_class:
                _refuse_only_class(path, description, load_model(path).card.labels)
            raise InputError(f"{path} is a model of Primum; it has a card.", "Classes and the rest are for ONNX files.")
        return deployable_model(load_model(path), coarse=coarse)
    return _open_network(path, description, coarse)


def _refuse_only_class(path: Path, said: Description, labels: Labels) -> None:
    """InputError where one class is asked for of a model that tells no single one."""
    if said.only_class and labels == "several":
        raise InputError(
            f"An image may have several of the classes of {path}: `--only-class` would name one and hide the others.",
            "Leave --only-class out; a probability of each class comes out.",
        )
    if said.only_class and labels == "ordered":
        raise InputError(
            f"The outputs of {path} are thresholds between grades: the largest of them is no grade.",
            "Leave --only-class out; the grade follows from the thresholds.",
        )


def _several(path: Path, said: Description, graph: Graph) -> bool:
    """Whether an image may have several of the network's classes; InputError where file and description disagree."""
    several = graph.shapes[graph.output][0] > 1 and (said.several or graph.ending == "sigmoid")
    if said.several and not (several and graph.ending in ("none", "sigmoid")):
        ends = f"ends in {graph.ending}" if graph.ending != "none" else "has one output"
        raise InputError(f"{path} {ends}: it tells one class, not several.", "Leave --several out.")
    _refuse_only_class(path, said, "several" if several else "one")
    return several


def _open_network(path: Path, said: Description, coarse: bool) -> Deployable:
    graph = graph_of_onnx(path, (0, said.size, said.size) if said.size else None)
    several = _several(path, said, graph)
    channels, height, width = graph.shape
    if height != width or channels not in (1, 3):
        raise ModelError(f"{path} takes images of {channels} x {height} x {width}.", "Square ones are read, of 1 or 3.")
    preparation = Preparation(size=height, channels=channels)
    only_class = said.only_class or graph.ending == "argmax"  # a file that ends in its class: no logit leaves it
    wish = Wish(only_class=only_class, images=_calibration(said, preparation))
    if said.classes:
        _network_card(said, said.classes, preparation, "softmax")  # refused before the long part
    compiled = compile_read(path, graph, wish)
    high, wide, outputs = compiled.program.wire(compiled.program.output).shape
    if (high, wide) != (1, 1):
        raise ModelError(f"{path} answers for {high} x {wide} places.", "A classifier gives one number a class.")
    classes = said.classes or tuple(f"class {place}" for place in range(max(2, outputs)))
    ending = "sigmoid" if several else _ENDINGS.get(compiled.ending, "softmax")
    card = _network_card(said, classes, preparation, ending)
    return deployable_network(compiled, card, coarse=coarse)


def _network_card(said: Description, classes: tuple[str, ...], preparation: Preparation, ending: Ending) -> NetworkCard:
    try:
        return NetworkCard(
            classes=classes,
            preparation=preparation.to_card(),
            mean=said.mean,
            std=said.std,
            ending=ending,
            about=said.about,
        )
    except ValidationError:
        raise InputError(
            f"`{','.join(classes)}` are no classes.", "Name two or more, with commas, each another one."
        ) from None


def _calibration(said: Description, preparation: Preparation) -> npt.NDArray[np.float32] | None:
    """Public images as the network takes them; drawn ones where none are given but pixels are normalised."""
    channels = preparation.channels
    fitting = all(len(numbers) in (0, channels) and np.isfinite(numbers).all() for numbers in (said.mean, said.std))
    if not fitting or any(std <= 0 for std in said.std):
        raise InputError(f"`mean` and `std` need {channels} numbers each, `std` above 0.", "One for each channel.")
    if said.calibration:
        pixels = np.stack([read_image(path, preparation).pixels for path in said.calibration])
    elif said.mean or said.std:
        pixels = drawn_images((preparation.channels, preparation.size, preparation.size))
    else:
        return None
    mean = np.array(said.mean or (0.0,) * channels).reshape(-1, 1, 1)
    std = np.array(said.std or (1.0,) * channels).reshape(-1, 1, 1)
    normalised: npt.NDArray[np.float32] = ((pixels - mean) / std).astype(np.float32)
    return normalised


def public_images(folder: Path | None) -> tuple[Path, ...]:
    """The files in a folder of public images, up to 32; InputError where there is none."""
    if folder is None:
        return ()
    found = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))[:_MOST_CALIBRATION]
    if not found:
        raise InputError(f"{folder} holds no files.", "Name a folder of public images, or leave --calibrate out.")
    return found


def names_of(text: str) -> tuple[str, ...]:
    """Class names from a list with commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def numbers_of(text: str) -> tuple[float, ...]:
    """Numbers from a list with commas; InputError for anything else."""
    try:
        return tuple(float(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"`{text}` is not a list of numbers.", "For example 0.485,0.456,0.406.") from None


class _CardBytes(Message, frozen=True):
    card: dict[str, object]
