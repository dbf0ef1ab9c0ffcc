"""The pages about encrypted inference: the how-to runs as it stands, the reference names what there is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from primum.cli import _group
from primum.compiler.curves import CURVES
from primum.compiler.onnx_rules import RULES as ONNX_RULES
from primum.compiler.torch_operators import RULES as TORCH_RULES
from primum.diagnosis.roles import free_address

DOCS = Path(__file__).resolve().parents[1] / "docs"
HOW_TO, REFERENCE = DOCS / "how-to" / "serve-a-model.md", DOCS / "reference" / "encrypted-inference.md"
PRIMUM = [sys.executable, "-c", "from primum.cli import main; main()"]


def network() -> onnx.ModelProto:
    """Convolution, ReLU, maximum, mean and a linear layer for images of 1 x 16 x 16, two classes."""
    rng = np.random.default_rng(1)
    weights = {"k": rng.normal(size=(4, 1, 3, 3)), "w": rng.normal(size=(2, 4)), "b": np.array([0.1, -0.1])}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).resize((24, 24)).save(path)


def commands() -> list[str]:
    """The indented commands of the how-to, with addresses of this machine."""
    found = re.findall(r"^    (primum .+)$", HOW_TO.read_text(), flags=re.MULTILINE)
    addresses = {name: free_address() for name in re.findall(r"[a-z]+\.example\.org:\d+", " ".join(found))}
    return [re.sub(r"[a-z]+\.example\.org:\d+", lambda name: addresses[name[0]], line) for line in found]


def whose(words: list[str]) -> str:
    """Whose home a command runs in: keys lie there."""
    if words[0] not in ("dealer", "serve"):
        return "owner"
    return "dealer" if words[0] == "dealer" else "a" if {"a.card", "server-a.json"} & set(words) else "b"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, list[subprocess.Popen[str]]]]:
    """A folder with what the how-to begins with, and the processes to end."""
    onnx.save(network(), str(tmp_path / "model.onnx"))
    (tmp_path / "public-images").mkdir()
    for seed in range(3):
        draw(tmp_path / "public-images" / f"{seed}.png", seed)
    draw(tmp_path / "xray.png", 9)
    running: list[subprocess.Popen[str]] = []
    yield tmp_path, running
    for process in running:
        process.terminate()
    for process in running:
        process.communicate(timeout=30)


def start(words: list[str], place: Path, home: Path) -> subprocess.Popen[str]:
    """A role's process, when it is ready."""
    process = subprocess.Popen(
        [*PRIMUM, *words],
        cwd=place,
        env={**os.environ, "HOME": str(home)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None and process.stdout.readline().startswith("READY "), words
    return process


def test_the_how_to_runs_as_it_stands(
    folder: tuple[Path, list[subprocess.Popen[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, running = folder
    monkeypatch.chdir(place)
    printed = ""
    for line in commands():
        words = shlex.split(line)[1:]
        home = place / whose(words)
        home.mkdir(exist_ok=True)
        if words[0] in ("dealer", "serve") and words[1] != "--init":
            running.append(start(words, place, home))
            continue
        done = CliRunner().invoke(_group, words, env={"HOME": str(home)})
        assert done.exception is None, f"{line}: {done.exception!r}"
        printed += done.output
        for file in place.glob("deployment/*.json"):  # the model owner sends them
            shutil.copy(file, place)
    assert len(running) == 3
    assert "rounds" in printed and "Over 20ms,100Mbit" in printed
    assert "1000 images for Hospital 1, 90 days" in printed
    assert printed.count("pneumonia") == 2 and "reply.key must stay here" in printed


def table(column: int) -> set[str]:
    """Names in one column of the reference's table of operators."""
    part = REFERENCE.read_text().split("## Operators")[1].split("\n## ")[0]
    rows = [line.split("|") for line in part.splitlines() if line.startswith("| ")]
    return {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row[column])}


def test_the_reference_names_every_operator_that_has_a_rule() -> None:
    assert table(2) == set(TORCH_RULES)
    assert table(3) == set(ONNX_RULES)


def test_the_reference_gives_the_errors_of_the_splines() -> None:
    text = REFERENCE.read_text()
    for kind, name in {"sigmoid": "sigmoid", "tanh": "tanh", "erf": "erf", "silu": "SiLU", "gelu": "GELU"}.items():
        assert f"{name} {round(CURVES[kind].error, 4):g}" in text


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
