"""Networks of the literature: read as ONNX, the same answers; compiled, the same classes."""

from collections import Counter

import numpy as np
import pytest
from bench.published import PUBLISHED
from tests.compiler.agreement import images_for, onnx_answers, require_fixed, require_same

from primum.compiler.from_onnx import graph_of_bytes
from primum.mpc.program import Open, Relu

SMALL = {
    "lenet": (28, 10, 1),
    "alexnet": (64, 10, 8),
    "vgg16": (32, 10, 8),
    "squeezenet": (48, 10, 4),
    "resnet18": (64, 10, 8),
    "resnet50": (64, 10, 8),
    "densenet121": (32, 10, 8),
    "mobilenet": (64, 10, 2),
    "unet": (32, 2, 16),
}
COMPARED = {"lenet": 4, "alexnet": 7, "vgg16": 15, "squeezenet": 18, "resnet18": 17, "resnet50": 49, "densenet121": 121}
"""ReLU operations: those that follow a concatenation or a pool together count once."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_read_and_compiled(name):
    size, classes, width = SMALL[name]
    model = PUBLISHED[name](size, classes, width, np.float64)
    graph = graph_of_bytes(model.SerializeToString())
    images = images_for(graph.shape, 2)
    require_same(graph, images, onnx_answers(model, images), 1e-8)
    compiled = require_fixed(graph, images, 0.01)
    assert compiled.program.bits == 40
    assert compiled.agreement.error < 0.01
    assert compiled.agreement.same == compiled.agreement.clear
    counted = Counter(type(step) for step in compiled.program.operations)
    if name in COMPARED:
        assert counted[Relu] == COMPARED[name]
    opened = [step.source for step in compiled.program.operations if isinstance(step, Open)]
    assert len(set(opened)) == len(opened)


def test_published_sizes():
    """Weights as in the papers, at full width."""
    millions = {
        "alexnet": 61.1,
        "squeezenet": 1.24,
        "resnet18": 11.7,
        "resnet50": 25.6,
        "densenet121": 7.98,
        "mobilenet": 3.50,
    }
    for name in ("squeezenet", "resnet18", "densenet121", "mobilenet"):
        count = sum(np.prod(one.dims) for one in PUBLISHED[name]().graph.initializer)
        assert count / 1e6 == pytest.approx(millions[name], rel=0.02), name
