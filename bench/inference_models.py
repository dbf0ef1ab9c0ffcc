"""The networks and images of `bench/inference.py`, the same for us and for the peers.

| workload | network | an image |
|---|---|---|
| `cnn_28` | two convolutions and two linear layers | 1 x 28 x 28 |
| `r18_64`, `r18_224` | ResNet-18 (He et al. 2016), batch norm folded | 3 x 64 x 64, 3 x 224 x 224 |

Weights are drawn from a fixed seed. The statistics of batch norm come from drawn images before it is folded: an
untrained network without them has outputs far larger, or smaller, than any network in use.
Images are drawn too, smooth with some noise, standardised as a network's inputs are, and at most `LARGEST` in size.
"""

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 10
LARGEST = 2.5
_DATA = Path(__file__).resolve().parent.parent / ".bench" / "inference" / "data"
_MEASURED, _CALIBRATION = 11, 1000  # seeds


@dataclass(frozen=True)
class Workload:
    """One line of the benchmark."""

    name: str
    title: str
    channels: int
    size: int


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("cnn_28", "small CNN, 28 x 28", 1, 28),
        Workload("r18_64", "ResNet-18, 64 x 64", 3, 64),
        Workload("r18_224", "ResNet-18, 224 x 224", 3, 224),
    )
}


class _Normalised(nn.Sequential):
    """A convolution and its batch norm, which `folded` makes one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs, momentum=None))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _Normalised(inputs, outputs, 3, stride)
        self.middle = nn.ReLU()
        self.second = _Normalised(outputs, outputs, 3, 1)
        self.last = nn.ReLU()
        self.down = nn.Identity() if stride == 1 else _Normalised(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.middle(self.first(x))) + self.down(x))


class _ResNet18(nn.Sequential):
    def __init__(self, size: int) -> None:
        widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        blocks = (_Block(*width) for width in (*widths, (256, 512, 2), (512, 512, 1)))
        stem = (_Normalised(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        super().__init__(*stem, *blocks, nn.AvgPool2d(size // 32), nn.Flatten(), nn.Linear(512, CLASSES))


def _small_cnn() -> nn.Sequential:
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )
    for parameter in network.parameters():
        parameter.data *= 2.0  # else the logits of an untrained network hardly differ
    return network


def folded(network: nn.Module) -> nn.Module:
    """Every batch norm in the convolution before it, in place."""
    for name, child in network.named_children():
        if isinstance(child, _Normalised):
            setattr(network, name, fuse_conv_bn_eval(child[0], child[1]))
        else:
            folded(child)
    return network


def images(workload: str, count: int = 8, seed: int = _MEASURED) -> Tensor:
    """float32 [count, channels, size, size]; another seed for images to calibrate with."""
    shape, generator = WORKLOADS[workload], torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape.channels, 8, 8, generator=generator)
    smooth = functional.interpolate(coarse, size=(shape.size, shape.size), mode="bilinear", align_corners=False)
    return (smooth + 0.3 * torch.randn(smooth.shape, generator=generator)).clamp(-LARGEST, LARGEST)


@cache
def network(workload: str) -> nn.Module:
    """In evaluation mode, without gradients, the same weights every time; convolution, ReLU, pooling, sum, linear."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model = _small_cnn() if workload == "cnn_28" else _ResNet18(WORKLOADS[workload].size)
        for seed in range(_CALIBRATION, _CALIBRATION + 2):
            model(images(workload, 16, seed))
    return folded(model.eval()).requires_grad_(False)


def plain(workload: str, inputs: Tensor) -> Tensor:
    """Logits [n, 10] in float32, in the clear."""
    with torch.no_grad():
        logits: Tensor = network(workload)(inputs)
    return logits


def write(workload: str) -> Path:
    """The folder with `<workload>.npz` (images, logits, model.*) and `<workload>.onnx`, for processes of the peers."""
    _DATA.mkdir(parents=True, exist_ok=True)
    model, inputs = network(workload), images(workload)
    weights = {f"model.{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez(_DATA / f"{workload}.npz", images=inputs.numpy(), logits=plain(workload, inputs).numpy(), **weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (inputs[:1],), str(_DATA / f"{workload}.onnx"), opset_version=11, dynamo=False)
    return _DATA


if __name__ == "__main__":
    for chosen in sys.argv[1:] or WORKLOADS:
        values = plain(chosen, images(chosen))
        print(f"{chosen}: logits {values.min():.2f} to {values.max():.2f}, classes {values.argmax(1).tolist()}")
        print(write(chosen))
