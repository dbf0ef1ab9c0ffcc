"""The networks, batches and losses of `bench/dp.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    """One line of the benchmark: a network and what a step is made of."""

    name: str
    network: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    classes: int
    repeats: int

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random images and labels."""
        torch.manual_seed(1)
        return torch.randn(self.inputs), torch.randint(0, self.classes, self.targets)

    def model(self) -> nn.Module:
        """The same weights every time."""
        torch.manual_seed(0)
        return self.network()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, one value an example."""
    values = functional.cross_entropy(outputs, targets, reduction="none")
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def small_cnn() -> nn.Module:
    """Two convolutions and two linear layers, for 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(32, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(32, outputs)
        self.relu = nn.ReLU()
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(32, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + self.down(x))


class ResNet18(nn.Module):
    """He et al. 2016, with group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm1 = nn.GroupNorm(32, 64)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.layers = nn.Sequential(*(_Block(*width) for width in (*widths, (256, 512, 2), (512, 512, 1))))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.pool(self.relu(self.norm1(self.conv1(x)))))
        return self.head(torch.flatten(self.average(x), 1))


def unet() -> nn.Module:
    """MONAI's BasicUNet, two dimensions, as it comes but for activations in place, which the peers cannot follow."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=2, act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False})
    )


CASES = {
    case.name: case
    for case in (
        Case("cnn28", small_cnn, (256, 1, 28, 28), (256,), 10, 40),
        Case("r18_64", ResNet18, (64, 3, 64, 64), (64,), 10, 9),
        Case("r18_224", ResNet18, (16, 3, 224, 224), (16,), 10, 5),
        Case("unet", unet, (16, 1, 128, 128), (16, 128, 128), 2, 5),
    )
}
