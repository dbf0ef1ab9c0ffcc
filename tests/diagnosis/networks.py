"""Small networks as ONNX files, with every stage that deployed ones have; what they say in clear, and encrypted."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.diagnosis.conftest import START_SECONDS, Cluster, used_records

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deployable import Deployable
from primum.diagnosis.diagnosis import Diagnosis
from primum.errors import PeerError, Unavailable
from primum.mpc.check import elements, material_sizes
from primum.rng import Stream

SIZE, CHANNELS, CLASSES = 16, 3, ("healthy", "viral", "bacterial")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = npt.NDArray[np.float32]


def drawn_weights(name: str, *shape: int) -> npt.NDArray[np.float32]:
    """Weights that keep the variance of what they are applied to, the same for everybody."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 12
    return ((Stream.public(f"network {name}").uniform(shape) - 0.5) * np.sqrt(18.0 / fan)).astype(np.float32)


def residual_onnx(
    path: Path, ending: str = "", outputs: int = len(CLASSES), size: int | str = SIZE, channels: int = CHANNELS
) -> Path:
    """Convolution, ReLU, max pool, residual sum, average pool, linear; `ending` is an operator such as Softmax."""
    node = helper.make_node
    last = "answer" if not ending else "logits"
    nodes = [
        node("Conv", ["image", "w0", "b0"], ["c0"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("MaxPool", ["c0"], ["m0"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", ["m0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "branch", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Add", ["c1", "r0"], ["s1"], "residual"),
        node("Relu", ["s1"], ["r1"], "relu1"),
        node("GlobalAveragePool", ["r1"], ["g"], "average"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w2", "b2"], [last], "linear", transB=1),
    ]
    if ending:
        nodes.append(node(ending, ["logits"], ["answer"], "ending"))
    shapes = {
        "w0": (6, channels, 3, 3),
        "b0": (6,),
        "w1": (6, 6, 3, 3),
        "b1": (6,),
        "w2": (outputs, 6),
        "b2": (outputs,),
    }
    weights = {name: drawn_weights(name, *shape) for name, shape in shapes.items()}
    return save_onnx(path, nodes, (channels, size, size), weights, outputs)


def save_onnx(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: tuple[int, int | str, int | str],
    weights: dict[str, npt.NDArray[np.float32]],
    outputs: int,
) -> Path:
    """The nodes, from `image` to `answer`, as a file."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def plain_answers(path: Path, pixels: Pixels, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Pixels:
    """What onnx's reference implementation says of images [n, channels, size, size] in [0, 1]."""
    normalised = (pixels - np.array(mean).reshape(-1, 1, 1)) / np.array(std).reshape(-1, 1, 1)
    answers: Pixels = ReferenceEvaluator(str(path)).run(None, {"image": normalised.astype(np.float32)})[0]
    return answers


def drawn_pixels(count: int, channels: int = CHANNELS, size: int = SIZE) -> Pixels:
    """Noise images in [0, 1]: fresh ones in every call."""
    return Stream.from_os().uniform((count, channels, size, size)).astype(np.float32)


@contextlib.contextmanager
def deployed(
    folder: Path, network: Deployable, before: str = "", options: dict[str, list[str]] | None = None, **more: object
) -> Iterator[Cluster]:
    """Three processes for a network; `before` is what they run first, `options` what `primum serve` gets by role."""
    made = Cluster.make(folder, network=network, **more)  # type: ignore[arg-type]
    made.before, made.options = before, options or {}
    try:
        yield made.start()
    finally:
        made.stop()


def in_groups_of(images: int, network: Deployable) -> str:
    """For `before`: how many images run side by side."""
    return f"import primum.diagnosis.runs as runs; runs._GROUP_ELEMENTS = {images * elements(network.program)}"


def ask(cluster: Cluster, pixels: Pixels, tries: int = 1) -> list[Diagnosis]:
    """Diagnoses; again after errors of the announced kinds, where a restart needs that."""
    for left in reversed(range(tries)):
        try:
            return diagnose(torch.from_numpy(pixels), cluster.public)
        except (Unavailable, PeerError):
            if not left:
                raise
    raise AssertionError("no try")


def compare(diagnoses: list[Diagnosis], plain: Pixels) -> None:
    """Logits within 0.01, the class wherever the lead is clear, and probabilities that are theirs."""
    got = np.array([one.logits for one in diagnoses])
    np.testing.assert_allclose(got, plain, rtol=0, atol=0.01)
    ordered = np.sort(plain, 1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.02
    assert (got.argmax(1) == plain.argmax(1))[clear].all()
    expected = torch.softmax(torch.tensor(got), 1).numpy()
    np.testing.assert_allclose([one.probabilities for one in diagnoses], expected, rtol=0, atol=1e-9)


def numbers_used(cluster: Cluster, role: str) -> list[int]:
    """Every number in a role's `used.bin`, in order."""
    records = used_records(cluster.folder / role)
    return [number for first, count, _ in records for number in range(first, first + count)]


def material(cluster: Cluster, number: int) -> Path:
    """Where B keeps the material of a number."""
    return cluster.folder / "B" / "store" / f"{number}.material"


def store(cluster: Cluster) -> list[int]:
    """The numbers whose material lies on B's disk."""
    return sorted(int(path.stem) for path in (cluster.folder / "B" / "store").glob("*.material"))


def settled(cluster: Cluster, count: int) -> list[int]:
    """B's store once `count` numbers lie there, each whole."""
    deadline = time.monotonic() + START_SECONDS
    size = sum(material_sizes(cluster.public.deployment.program, 1))
    while True:
        held = store(cluster)
        with contextlib.suppress(FileNotFoundError):
            if [material(cluster, number).stat().st_size for number in held] == [size] * count:
                return held
        assert time.monotonic() < deadline, (held, cluster.log("B"), cluster.log("dealer"))
        time.sleep(0.01)
