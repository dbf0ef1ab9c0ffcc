"""Networks of the literature as ONNX models with their published shapes and random weights.

Each takes images [1, channels, size, size]; `width` divides all channel counts, for quick runs. Weights are drawn from
a public stream and scaled as He et al. 2015 do, so that values keep their size from layer to layer.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from primum.rng import Stream

OPSET: Final = 17


class Network:
    """An ONNX graph under construction: a method adds a layer and returns its value's name."""

    def __init__(self, name: str, channels: int, size: int, dtype: type = np.float32) -> None:
        self.name, self.dtype = name, dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"image": channels}
        self.shape = [1, channels, size, size]
        self.stream = Stream.public(f"weights of {name}")

    def add(self, operator: str, *sources: str, channels: int | None = None, **attributes: Any) -> str:
        """One node; the value has the channels of its first source unless said otherwise."""
        made = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(sources), [made], name=made, **attributes))
        self.channels[made] = channels or self.channels[sources[0]]
        return made

    def weight(self, shape: tuple[int, ...], scale: float, centre: float = 0.0) -> str:
        """A tensor, uniform around `centre` with the standard deviation `scale`."""
        made = f"weight{len(self.weights)}"
        values = centre + (self.stream.uniform(shape) - 0.5) * np.sqrt(12.0) * scale
        self.weights.append(numpy_helper.from_array(values.astype(self.dtype), made))
        return made

    def conv(
        self, x: str, outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
    ) -> str:
        """A square convolution."""
        inputs = self.channels[x] // groups
        parts = [x, self.weight((outputs, inputs, kernel, kernel), np.sqrt(2.0 / (inputs * kernel * kernel)))]
        if bias:
            parts.append(self.weight((outputs,), 0.1))
        return self.add(
            "Conv", *parts, channels=outputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4,
            group=groups,
        )  # fmt: skip

    def norm(self, x: str, gain: float = 1.0) -> str:
        """Batch norm with random statistics around those of a value of variance 1."""
        count = (self.channels[x],)
        parts = [self.weight(count, 0.1, gain), self.weight(count, 0.1), self.weight(count, 0.1)]
        return self.add("BatchNormalization", x, *parts, self.weight(count, 0.1, 1.0))

    def relu(self, x: str) -> str:
        """ReLU."""
        return self.add("Relu", x)

    def relu6(self, x: str) -> str:
        """Clip from 0 to 6."""
        bounds = []
        for bound in (0.0, 6.0):
            bounds.append(f"bound{len(self.weights)}")
            self.weights.append(numpy_helper.from_array(np.array(bound, self.dtype), bounds[-1]))
        return self.add("Clip", x, *bounds)

    def pool(self, kind: str, x: str, kernel: int, stride: int, padding: int = 0, ceil: int = 0) -> str:
        """MaxPool or AveragePool."""
        return self.add(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, ceil_mode=ceil)

    def flat(self, x: str, positions: int) -> str:
        """Flatten a value with so many positions."""
        return self.add("Flatten", x, channels=self.channels[x] * positions)

    def linear(self, x: str, outputs: int, gain: float = 1.0) -> str:
        """A linear layer."""
        inputs = self.channels[x]
        weight = self.weight((outputs, inputs), gain * np.sqrt(2.0 / inputs))
        return self.add("Gemm", x, weight, self.weight((outputs,), 0.1), channels=outputs, transB=1)

    def concat(self, *parts: str) -> str:
        """Side by side along the channels."""
        return self.add("Concat", *parts, channels=sum(self.channels[part] for part in parts), axis=1)

    def model(self, output: str, opset: int = OPSET, rank: int = 2) -> onnx.ModelProto:
        """The finished model."""
        kind = TensorProto.DOUBLE if self.dtype is np.float64 else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("image", kind, self.shape)],
            [helper.make_tensor_value_info(output, kind, [None] * rank)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def lenet(size: int = 28, classes: int = 10, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as most libraries have it."""
    n = Network("lenet", 1, size, dtype)
    x = n.pool("MaxPool", n.relu(n.conv("image", 6, 5, padding=2)), 2, 2)
    x = n.pool("MaxPool", n.relu(n.conv(x, 16, 5)), 2, 2)
    x = n.flat(x, ((size // 2 - 4) // 2) ** 2)
    x = n.relu(n.linear(n.relu(n.linear(x, 120 // width)), 84 // width))
    return n.model(n.linear(x, classes))


def alexnet(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """AlexNet in one column (Krizhevsky 2014): 61 million weights at 224x224."""
    n = Network("alexnet", 3, size, dtype)
    x = n.pool("MaxPool", n.relu(n.conv("image", 64 // width, 11, 4, 2)), 3, 2)
    x = n.pool("MaxPool", n.relu(n.conv(x, 192 // width, 5, 1, 2)), 3, 2)
    for outputs in (384, 256, 256):
        x = n.relu(n.conv(x, outputs // width, 3, 1, 1))
    x = n.pool("MaxPool", x, 3, 2)
    edge = ((((size + 4 - 11) // 4 + 1 - 3) // 2 + 1 - 3) // 2 + 1 - 3) // 2 + 1
    x = n.add("Dropout", n.flat(x, edge * edge))
    for _ in range(2):
        x = n.relu(n.linear(x, 4096 // width))
    return n.model(n.add("Softmax", n.linear(x, classes), axis=1))


def vgg16(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """VGG-16 (Simonyan and Zisserman 2015), configuration D: 138 million weights at 224x224."""
    n, x = Network("vgg16", 3, size, dtype), "image"
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = n.relu(n.conv(x, outputs // width, 3, 1, 1))
        x = n.pool("MaxPool", x, 2, 2)
    x = n.flat(x, (size // 32) ** 2)
    for _ in range(2):
        x = n.relu(n.linear(x, 4096 // width))
    return n.model(n.linear(x, classes))


def squeezenet(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola et al. 2016)."""
    n = Network("squeezenet", 3, size, dtype)

    def fire(x: str, squeezed: int, expanded: int) -> str:
        inner = n.relu(n.conv(x, squeezed // width, 1))
        one, three = n.conv(inner, expanded // width, 1), n.conv(inner, expanded // width, 3, 1, 1)
        return n.concat(n.relu(one), n.relu(three))

    x = n.pool("MaxPool", n.relu(n.conv("image", 64 // width, 3, 2)), 3, 2, ceil=1)
    x = n.pool("MaxPool", fire(fire(x, 16, 64), 16, 64), 3, 2, ceil=1)
    x = n.pool("MaxPool", fire(fire(x, 32, 128), 32, 128), 3, 2, ceil=1)
    for squeezed, expanded in ((48, 192), (48, 192), (64, 256), (64, 256)):
        x = fire(x, squeezed, expanded)
    x = n.add("GlobalAveragePool", n.relu(n.conv(x, classes, 1)))
    return n.model(n.add("Softmax", n.add("Flatten", x), axis=1))


def resnet18(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """ResNet-18 (He et al. 2016)."""
    return _resnet("resnet18", (2, 2, 2, 2), False, size, classes, width, dtype)


def resnet50(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """ResNet-50 (He et al. 2016), the stride in the 3x3 convolution."""
    return _resnet("resnet50", (3, 4, 6, 3), True, size, classes, width, dtype)


def _resnet(
    name: str, counts: tuple[int, ...], bottleneck: bool, size: int, classes: int, width: int, dtype: type
) -> onnx.ModelProto:
    n = Network(name, 3, size, dtype)
    x = n.pool("MaxPool", n.relu(n.norm(n.conv("image", 64 // width, 7, 2, 3, bias=False))), 3, 2, 1)
    for level, count in enumerate(counts):
        for block in range(count):
            x = _residual(n, x, (64 << level) // width, 2 if level and not block else 1, bottleneck)
    return n.model(n.linear(n.add("Flatten", n.add("GlobalAveragePool", x)), classes))


def _residual(n: Network, x: str, middle: int, stride: int, bottleneck: bool) -> str:
    """A residual block; the branch adds half of its variance."""
    outputs = 4 * middle if bottleneck else middle
    shape = ((1, 1, 0), (3, stride, 1), (1, 1, 0)) if bottleneck else ((3, stride, 1), (3, 1, 1))
    y = x
    for at, (kernel, step, padding) in enumerate(shape):
        last = at == len(shape) - 1
        y = n.conv(y, outputs if last else middle, kernel, step, padding, bias=False)
        y = n.norm(y, 0.5) if last else n.relu(n.norm(y))
    if stride != 1 or n.channels[x] != outputs:
        x = n.norm(n.conv(x, outputs, 1, stride, bias=False), 0.7)
    return n.relu(n.add("Add", y, x))


def densenet121(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """DenseNet-121 (Huang et al. 2017)."""
    n, growth = Network("densenet121", 3, size, dtype), 32 // width
    x = n.pool("MaxPool", n.relu(n.norm(n.conv("image", 2 * growth, 7, 2, 3, bias=False))), 3, 2, 1)
    for level, count in enumerate((6, 12, 24, 16)):
        if level:
            x = n.conv(n.relu(n.norm(x)), n.channels[x] // 2, 1, bias=False)
            x = n.pool("AveragePool", x, 2, 2)
        for _ in range(count):
            y = n.conv(n.relu(n.norm(x)), 4 * growth, 1, bias=False)
            x = n.concat(x, n.conv(n.relu(n.norm(y)), growth, 3, 1, 1, bias=False))
    x = n.add("GlobalAveragePool", n.relu(n.norm(x)))
    return n.model(n.linear(n.add("Flatten", x), classes))


def mobilenet(size: int = 224, classes: int = 1000, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al. 2018)."""
    n = Network("mobilenet", 3, size, dtype)
    x = n.relu6(n.norm(n.conv("image", 32 // width, 3, 2, 1, bias=False)))
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, count, stride in table:
        for block in range(count):
            x = _inverted(n, x, expansion, outputs // width, 1 if block else stride)
    x = n.relu6(n.norm(n.conv(x, 1280 // width, 1, bias=False)))
    return n.model(n.linear(n.add("Flatten", n.add("GlobalAveragePool", x)), classes))


def _inverted(n: Network, x: str, expansion: int, outputs: int, stride: int) -> str:
    """Expand, convolve each channel alone, and narrow again without a ReLU."""
    inner = n.channels[x] * expansion
    y = n.relu6(n.norm(n.conv(x, inner, 1, bias=False))) if expansion > 1 else x
    y = n.relu6(n.norm(n.conv(y, inner, 3, stride, 1, groups=inner, bias=False)))
    y = n.norm(n.conv(y, outputs, 1, bias=False), 0.7)
    return n.add("Add", x, y) if stride == 1 and n.channels[x] == outputs else y


def unet(size: int = 128, classes: int = 2, width: int = 1, dtype: type = np.float32) -> onnx.ModelProto:
    """U-Net (Ronneberger et al. 2015) with padding, batch norm and transposed convolutions; one mask value a class."""
    n, x = Network("unet", 1, size, dtype), "image"
    kept: list[str] = []

    def double(y: str, outputs: int) -> str:
        for _ in range(2):
            y = n.relu(n.norm(n.conv(y, outputs, 3, 1, 1, bias=False)))
        return y

    for level in range(4):
        kept.append(double(x, (64 << level) // width))
        x = n.pool("MaxPool", kept[-1], 2, 2)
    x = double(x, 1024 // width)
    for level in reversed(range(4)):
        outputs = (64 << level) // width
        weight = n.weight((n.channels[x], outputs, 2, 2), np.sqrt(1.0 / n.channels[x]))
        up = n.add("ConvTranspose", x, weight, channels=outputs, kernel_shape=[2, 2], strides=[2, 2])
        x = double(n.concat(kept[level], up), outputs)
    return n.model(n.conv(x, classes, 1), rank=4)


PUBLISHED: Final[dict[str, Callable[..., onnx.ModelProto]]] = {
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "squeezenet": squeezenet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "mobilenet": mobilenet,
    "unet": unet,
}
