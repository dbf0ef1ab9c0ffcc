"""Splits by patient, and dealing to hospitals."""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imaging.samples import KEY, png, two_classes

from primum.errors import DataError
from primum.imaging import PatientSource, Preparation, deal, read_folder, split_patients

BY_NAME = PatientSource(r"^([a-z]+\d+)_")
PATIENTS = st.lists(st.integers(0, 50).map(str), max_size=80).map(tuple)


@given(PATIENTS, st.floats(0, 1))
def test_all_images_of_a_patient_are_on_one_side(patients: tuple[str, ...], share: float) -> None:
    chosen = split_patients(patients, share, KEY)
    sides = defaultdict(set)
    for patient, side in zip(patients, chosen.tolist(), strict=True):
        sides[patient].add(side)
    assert chosen.shape == (len(patients),) and all(len(found) == 1 for found in sides.values())


@given(PATIENTS, PATIENTS, st.floats(0, 1))
def test_a_split_is_stable_when_images_are_added(before: tuple[str, ...], added: tuple[str, ...], share: float) -> None:
    assert np.array_equal(split_patients(before + added, share, KEY)[: len(before)], split_patients(before, share, KEY))


@given(PATIENTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds(patients: tuple[str, ...], one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert not (split_patients(patients, small, KEY) & ~split_patients(patients, large, KEY)).any()


def test_share_and_key() -> None:
    patients = tuple(str(number) for number in range(4000))
    assert not split_patients(patients, 0, KEY).any() and split_patients(patients, 1, KEY).all()
    chosen = split_patients(patients, 0.3, KEY)
    assert abs(chosen.mean() - 0.3) < 5 * (0.21 / 4000) ** 0.5
    other = split_patients(patients, 0.3, bytes(32))
    assert 0.3 * 0.3 * 4000 - 150 < (chosen & other).sum() < 0.3 * 0.3 * 4000 + 150
    with pytest.raises(ValueError, match="share"):
        split_patients(patients, 1.1, KEY)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_deal_by_patient(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "all", 30)
    for number in range(30):
        png(source / "A" / "later" / f"a{number:02d}_1.png")
    targets = tuple(tmp_path / f"hospital{number}" for number in range(3))
    counts = deal(source, targets, KEY, patients=BY_NAME)
    assert sum(counts.values()) == 90 and min(counts.values()) > 10
    dealt = [_files(target) for target in targets]
    merged = {name: digest for files in dealt for name, digest in files.items()}
    assert merged == _files(source) and sum(len(files) for files in dealt) == 90
    where = defaultdict(set)
    for index, files in enumerate(dealt):
        for name in files:
            where[BY_NAME.named(name)].add(index)
    assert len(where) == 60 and all(len(found) == 1 for found in where.values())
    for target in targets:
        intake = read_folder(target, preparation=Preparation(16), patients=BY_NAME, pseudonym_key=KEY)
        assert intake.dataset.classes == ("A", "B")
    assert (targets[0] / next(iter(dealt[0]))).stat().st_nlink == 2


def test_another_key_deals_otherwise_and_the_same_key_alike(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "all", 20)
    dealt = {}
    for name, key in (("one", KEY), ("again", KEY), ("other", bytes(32))):
        target = tmp_path / name
        deal(source, (target / "x", target / "y"), key, patients=BY_NAME)
        dealt[name] = set(_files(target / "x"))
    assert dealt["one"] == dealt["again"] != dealt["other"]


def test_deal_a_folder_with_labels_csv(tmp_path: Path) -> None:
    source = tmp_path / "all"
    lines = []
    for number in range(40):
        png(source / f"{number}.png")
        lines.append(f"{number}.png,{'xy'[number % 2]},P{number // 4 * 2 + number % 2}")
    (source / "labels.csv").write_text("file,label,patient\n" + "\n".join(lines))
    targets = (tmp_path / "h0", tmp_path / "h1")
    assert sum(deal(source, targets, KEY, patients=PatientSource()).values()) == 40
    found: list[set[str]] = []
    for target in targets:
        intake = read_folder(
            target, ("x", "y"), preparation=Preparation(16), patients=PatientSource(), pseudonym_key=KEY
        )
        assert not intake.problems
        found.append(set(intake.dataset.patients))
    assert not found[0] & found[1] and len(found[0] | found[1]) == 20


def test_deal_never_writes_into_a_used_folder(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "all")
    png(tmp_path / "used" / "x.png")
    with pytest.raises(DataError, match="used is not empty"):
        deal(source, (tmp_path / "new", tmp_path / "used"), KEY, patients=BY_NAME)
    assert not (tmp_path / "new").exists()


def test_a_file_without_a_patient_is_dealt_too(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "all")
    (source / "A" / "broken.dcm").write_bytes(b"broken")
    targets = (tmp_path / "h0", tmp_path / "h1")
    assert sum(deal(source, targets, KEY, patients=BY_NAME).values()) == 13
