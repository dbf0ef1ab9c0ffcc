"""Do encrypted and plain inference agree? The real protocol, all roles in one process, on many images.

1,000 images with Primum's own networks and ResNet-18 at 64 pixels; 20 with each of the published networks. Weights are
random (with batch norm's statistics from drawn images). Where the two best plain logits are more than 0.02 apart, the
class must be the same.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from bench import inference_models
from bench.published import PUBLISHED
from primum.compiler import Compiled, Wish, compile_module, compile_onnx, drawn_images
from primum.models.convolutional import ResidualNetwork, SmallNetwork
from primum.mpc.rehearsal import Rehearsal
from primum.ring import decode

MARGIN = 0.02
MANY, FEW = 1000, 20
PUBLISHED_SIZES = {
    "lenet": 28,
    "alexnet": 224,
    "squeezenet": 224,
    "resnet18": 224,
    "mobilenet": 224,
    "densenet121": 224,
    "resnet50": 224,
    "vgg16": 224,
}


def compare(name: str, compiled: Compiled, images: np.ndarray, at_once: int) -> tuple[float, float]:
    """(share of clear images with the same class, largest error of a logit)."""
    program = compiled.program
    rehearsal = Rehearsal(program, compiled.weights)
    error, same, clear, spread = 0.0, 0, 0, []
    for start in range(0, len(images), at_once):
        part = images[start : start + at_once]
        outputs, _ = rehearsal.run(compiled.encode_input(part))
        logits = decode(outputs, program.answer_fraction, program.answer_bits).reshape(len(part), -1)
        plain = compiled.plain(part).reshape(len(part), -1)
        error = max(error, float(np.abs(logits - plain).max()))
        best = np.sort(plain, axis=1)
        wide = best[:, -1] - best[:, -2] > MARGIN
        clear += int(wide.sum())
        same += int((wide & (logits.argmax(1) == plain.argmax(1))).sum())
        spread.append(plain)
    deviation = float(np.concatenate(spread).std())
    print(
        f"{name}: {same} of {clear} clear images agree, logits differ by {error:.2g}, spread {deviation:.2g}",
        flush=True,
    )
    return same / max(1, clear), error


def agreement() -> dict[str, float]:
    """`agreement` and `logit_error` over all networks."""
    found = [compare(*one) for one in _own()]
    found += [compare(*one) for one in _published()]
    return {"agreement": min(share for share, _ in found), "logit_error": max(error for _, error in found)}


def _own():
    many = drawn_images((1, 64, 64), MANY)
    torch.manual_seed(3)
    for name, network in (
        ("small network", SmallNetwork(1, 64, 4)),
        ("residual network", ResidualNetwork(1, 4, widths=(32, 64, 128))),
    ):
        yield name, compile_module(_lively(network), (1, 64, 64)), many, 16
    calibration = Wish(images=inference_models.images("r18_64", 32, 5).numpy())
    compiled = compile_module(inference_models.network("r18_64"), (3, 64, 64), calibration)
    yield "ResNet-18 at 64", compiled, inference_models.images("r18_64", MANY).numpy(), 8


def _lively(network: nn.Module) -> nn.Module:
    """Weights of the last layer such that classes differ."""
    network.eval()
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.normal_(last.weight, std=1.0 / last.in_features**0.5)
    return network.requires_grad_(False)


def _published():
    for name, size in PUBLISHED_SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(PUBLISHED[name](size, 10), path)
            compiled = compile_onnx(path)
        yield name, compiled, drawn_images(compiled.graph.shape, FEW), 1
