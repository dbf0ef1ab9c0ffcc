"""A node's images: decoded once for a preparation, whoever asks and whenever it starts."""

from pathlib import Path

import pytest
import torch
from tests.imaging.counted import counted, counted_folder, counting, decoded  # noqa: F401 - counting is used by all
from tests.imaging.samples import png

from primum.errors import DataError
from primum.federation.node import Images, NodeSettings, NodeState
from primum.federation.node_settings import remember
from primum.imaging import Preparation

SETTINGS = NodeSettings(patient=r"^([a-z]+\d+)")
SMALL = Preparation(16)


def _started(folder: Path, state: Path) -> Images:
    """As a node's start."""
    opened = NodeState.open(state)
    decoded.clear()
    return Images(folder, SETTINGS, opened.pseudonym_key, cache=opened.folder / "images")


def test_a_second_start_and_a_second_study_decode_nothing(tmp_path: Path) -> None:
    folder, state = counted_folder(tmp_path / "data"), tmp_path / "state"
    first = _started(folder, state).intake(SMALL)
    assert len(decoded) == len(first.dataset) == 8
    images = _started(folder, state)
    again, study = images.intake(SMALL), images.intake(SMALL, ("B", "A"))
    assert decoded == [] and again.dataset.patients == first.dataset.patients
    assert (
        torch.equal(again.dataset.images, first.dataset.images) and study.dataset.labels.tolist() == [1] * 4 + [0] * 4
    )
    assert images.intake(SMALL, ("B", "A")) is study
    counted(folder / "A" / "a99_0")
    assert len(_started(folder, state).intake(SMALL).dataset) == 9 and decoded == ["a99_0"]


def test_a_state_folder_without_its_cache_is_as_good(tmp_path: Path) -> None:
    folder, state = counted_folder(tmp_path / "data"), tmp_path / "state"
    first = _started(folder, state).intake(SMALL)
    bare = Images(folder, SETTINGS, NodeState.open(state).pseudonym_key).intake(SMALL)
    assert len(decoded) == 16 and torch.equal(bare.dataset.images, first.dataset.images)
    assert bare.dataset.patients == first.dataset.patients and bare.classes == first.classes


def test_a_node_that_is_told_of_grades_reads_patients_in_two_of_them(tmp_path: Path) -> None:
    rows = [(f"p{number}_{eye}.png", (number + eye) % 3) for number in range(6) for eye in (0, 1)]
    for file, _ in rows:
        png(tmp_path / "data" / file)
    (tmp_path / "data" / "labels.csv").write_text("file,label\n" + "".join(f"{one},{grade}\n" for one, grade in rows))
    path = tmp_path / "node.toml"
    remember(path, patient=r"^(p\d+)_", single=False, proxy=None, authority=None, labels="ordered")
    remember(path, patient=None, single=False, proxy="none", authority=None)
    images = Images(tmp_path / "data", NodeSettings.read(path), bytes(32))
    offered = images.intake(Preparation(16))
    assert len(offered.dataset) == 12 and images.intake(Preparation(16), ("0", "1", "2"), "ordered") is not None
    with pytest.raises(DataError, match="are in two classes"):
        images.intake(Preparation(16), ("0", "1", "2"), "one")
