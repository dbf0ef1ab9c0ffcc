"""The whole way, as a newcomer runs it: one run of the demo, on real X-rays where there are any."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.imaging.named_samples import as_published, npz
from tests.integration.cluster import wait_for

from primum.demo import (
    LARGEST_LOGIT_ERROR,
    _compare,
    _held_back,
    _training_patients,
    demo_study,
    pictures_for,
    run_demo,
)
from primum.diagnosis.diagnosis import Diagnosis
from primum.errors import DataError
from primum.imaging import Preparation
from primum.imaging.listing import list_folder
from primum.imaging.phantom import draw


@dataclass(frozen=True)
class Demo:
    out: Path
    code: int
    lines: list[str]
    errors: str


@pytest.fixture(scope="module")
def demo(real_data: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    data = real_data / "chest" if real_data and (real_data / "chest").is_dir() else None
    arguments = ["--data", str(data)] if data else ["--drawn"]
    done = subprocess.run(
        [sys.executable, "-m", "primum", "demo", *arguments, "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "200"},
    )
    yield Demo(folder / "out", done.returncode, done.stdout.splitlines(), done.stderr)


def test_it_ends_well(demo: Demo) -> None:
    assert demo.code == 0, demo.errors
    assert "Traceback" not in demo.errors


@pytest.mark.parametrize(
    "pattern",
    [
        r"Test AUC +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\].*exact",
        r"Test accuracy +0\.\d{3} \[",
        r"Hospitals' own evaluation, private: ",
        r"Privacy spent +epsilon [0-3]\.\d\d at delta 1e-05 per patient",
        r"Bytes +[\d,]+ sent and [\d,]+ received per hospital and round",
        r"Round +\d+\.\d\d s",
        r"Diagnosis +\d+\.\d+ s and [\d,]+ bytes each, encrypted",
        r"Agreement +12 of 12 with the plaintext model",
        r"Members +compared by the hospitals",
        r"Report +\S+report\.html",
    ],
)
def test_it_prints_what_was_found(demo: Demo, pattern: str) -> None:
    assert any(re.search(pattern, line) for line in demo.lines), demo.lines


def test_the_report_is_one_file_that_refers_to_nothing_outside(demo: Demo) -> None:
    [report] = demo.out.rglob("report.html")
    text = report.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", text)
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//|<script[^>]+src", text)


def test_every_state_folder_is_private(demo: Demo) -> None:
    for name in (
        "coordinator",
        "hospital-1/state",
        "hospital-2/state",
        "hospital-3/state",
        "dealer",
        "server-a",
        "server-b",
    ):
        assert stat.S_IMODE((demo.out / name).stat().st_mode) == 0o700, name


def _named(folder: Path) -> list[str]:
    """Command lines of processes that work in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if str(folder).encode() in command:
                    found.append(command.decode(errors="replace"))
    return found


def test_it_leaves_no_process_behind(demo: Demo) -> None:
    # Flower's own helper looks every few seconds whether its parent is still there
    wait_for(lambda: not _named(demo.out), "the end of all processes", 30)


def _silent(what: str, share: float) -> None:
    pass


def test_a_public_set_is_learned_from_where_it_is_at_hand(tmp_path: Path) -> None:
    data = npz(30, side=64, classes=2)
    entry = as_published("pneumoniamnist", data, 64)
    (tmp_path / "cache" / "medmnist").mkdir(parents=True)
    (tmp_path / "cache" / "medmnist" / "pneumoniamnist_64.npz").write_bytes(data)
    pictures = pictures_for(tmp_path, _silent, entry, (tmp_path / "data", tmp_path / "cache"))
    assert (pictures.kind, pictures.unit, pictures.delta) == ("real", "image", 1e-6)
    assert "pneumoniamnist, 64 pixels" in pictures.told[0] and not (tmp_path / "data").exists()
    listed = list_folder(pictures.folder / "train")
    assert listed.classes == ("normal", "pneumonia") and len(listed.entries) == 30
    assert _training_patients(pictures.folder / "train", pictures.pattern) == round(30 * 0.85), "not the list itself"
    assert len(_held_back(pictures.folder / "test")) == 12
    assert {path.suffix for path in _held_back(pictures.folder / "test")} == {".png"}
    study = demo_study([b"0" * 32], 30, listed.classes, pictures)
    assert study.privacy is not None and (study.privacy.unit, study.privacy.delta) == ("image", 1e-6)


def test_xrays_are_drawn_where_nobody_answers_and_the_user_is_told(tmp_path: Path) -> None:
    entry = as_published("pneumoniamnist", b"", 64)
    [source] = entry.sources(64)
    nobody = replace(entry, files={64: (replace(source, url="http://127.0.0.1:9/"),)})
    pictures = pictures_for(tmp_path, _silent, nobody, (tmp_path / "cache",), patients=20)
    assert pictures.kind == "drawn" and (pictures.folder / "test" / "PNEUMONIA").is_dir()
    assert "pneumoniamnist_64.npz cannot be fetched: 127.0.0.1" in pictures.told[0]
    assert "primum data get pneumoniamnist --size 64" in pictures.told[0] and "DRAWN" in pictures.told[1]
    [told] = pictures_for(tmp_path / "asked", _silent, None, patients=20).told
    assert "DRAWN" in told and "fetch" not in told


def test_images_are_given_or_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are to be drawn"):
        run_demo(tmp_path / "out", tmp_path, _silent, drawn=True)


class _Model:
    """A model whose logits for every image are given."""

    def __init__(self, *logits: float) -> None:
        self._logits = torch.tensor([logits])

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self._logits


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw(tmp_path_factory.mktemp("drawn") / "images", 20)
    return next(path for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    ("encrypted", "agrees"),
    [
        ((1.0, -1.0), True),
        ((1.0 + LARGEST_LOGIT_ERROR / 2, -1.0), True),
        ((1.0 + 2 * LARGEST_LOGIT_ERROR, -1.0), False),
        ((-1.0, 1.0), False),
    ],
)
def test_a_wrong_answer_does_not_agree(image: Path, encrypted: tuple[float, float], agrees: bool) -> None:
    fields = {"logits": encrypted, "seconds": 0.1, "bytes": 10}
    answer = object.__new__(Diagnosis)
    for name, value in fields.items():
        object.__setattr__(answer, name, value)
    row = _compare(image, answer, _Model(1.0, -1.0), Preparation())
    assert row["agrees"] is agrees
