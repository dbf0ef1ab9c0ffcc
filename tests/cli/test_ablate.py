"""`primum train --ablate` as its users run it, on drawn X-rays."""

import subprocess
from pathlib import Path

import pytest
from tests.command import run_command

from primum.imaging.phantom import draw

STUDY = """
[study]
name = "drawn"
purpose = "to see where accuracy goes"
classes = ["NORMAL", "PNEUMONIA"]
[images]
size = 32
[model]
scales = 2
[training]
rounds = 5
[privacy]
epsilon = 8.0
patients = 100
evaluation_share = 0.0
looks = 0
[hospitals]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablate")
    draw(root / "images", 60)
    (root / "study.toml").write_text(STUDY)
    return root


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_command("train", folder / "study.toml", *map(str, arguments))


def test_three_models_are_compared(folder: Path) -> None:
    done = run(folder, "--ablate", folder / "images" / "train", "--test", folder / "images" / "test")
    assert done.returncode == 0, done.stderr
    for line in ("without clipping, without noise", "clipping alone", "clipping and noise, epsilon 8.00"):
        assert line in done.stdout
    assert not list(folder.glob("runs")) and "Traceback" not in done.stderr


def test_a_folder_that_is_not_there(folder: Path) -> None:
    done = run(folder, "--ablate", folder / "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
