"""Stamps of files, seals, and counts that all come from the manifest."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imaging.samples import KEY, dicom, png, two_classes
from tests.imaging.test_masked import pictures

from primum.errors import DataError
from primum.imaging import PatientSource, Preparation, pseudonym, read_folder, read_masked_folder
from primum.imaging.manifest import Manifest, Record, Stamp, holds, read_sealed, seal_key, stamp, write_sealed

BY_NAME = PatientSource(r"^([a-z]+\d+)_")
SEAL = seal_key(KEY)


def _now(path: Path, sha256: str = "made up") -> Stamp:
    found = path.stat()
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, sha256)


def test_a_file_that_holds_its_stamp_is_not_read(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png")
    assert stamp(path, _now(path)).sha256 == "made up"


def test_whatever_changes_about_a_file_it_is_read_again(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png")
    true, data = stamp(path).sha256, path.read_bytes()
    before = _now(path)
    os.utime(path, ns=(0, before.modified_ns - 1))
    assert not holds(path, before) and stamp(path, before).sha256 == true
    before = _now(path)
    path.write_bytes(data + b"x")
    os.utime(path, ns=(before.modified_ns, before.modified_ns))
    assert not holds(path, before) and stamp(path, before).sha256 not in (true, "made up")
    before = _now(path)
    path.write_bytes(data + b"y")  # as long, and the time is set back: only the inode's own time tells
    os.utime(path, ns=(before.modified_ns, before.modified_ns))
    assert path.stat().st_size == before.size and not holds(path, before)
    before = _now(path)
    (tmp_path / "b").write_bytes(data + b"y")
    (tmp_path / "b").rename(path)
    assert not holds(path, before)


def test_a_file_of_a_moment_ago_does_not_count_as_settled(tmp_path: Path) -> None:
    fresh = stamp(png(tmp_path / "a.png"))
    assert fresh.changed_ns == 0 and not holds(tmp_path / "a.png", fresh)


def test_what_is_no_file_has_no_stamp(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "empty", "gone", "."):
        with pytest.raises(DataError):
            stamp(tmp_path / name)


def _manifest() -> Manifest:
    used = Record("a.png", "used", "A", ("a.png",), "c", "p", format="PNG", notices=("note",), images=1)
    aside = Record("b.png", "set aside", reason="is empty", hint="Export it.")
    return Manifest(("A", "B"), (used, aside), {"a.png": Stamp(1, 2, 3, 4, "d")}, ("n",), (aside,))


def test_what_is_sealed_comes_back_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    write_sealed(path, _manifest(), SEAL)
    assert read_sealed(path, Manifest, SEAL) == _manifest()
    assert path.stat().st_mode & 0o777 == 0o600


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_anywhere_breaks_the_seal(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "manifest"
    write_sealed(path, _manifest(), SEAL)
    data = bytearray(path.read_bytes())
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    path.write_bytes(data)
    assert read_sealed(path, Manifest, SEAL) is None


def test_another_node_another_name_and_another_folder_break_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "one" / "manifest"
    path.parent.mkdir()
    write_sealed(path, _manifest(), SEAL)
    assert read_sealed(path, Manifest, seal_key(bytes(32))) is None
    for other in (tmp_path / "two" / "manifest", tmp_path / "one" / "index"):
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(path.read_bytes())
        assert read_sealed(other, Manifest, SEAL) is None
    assert read_sealed(tmp_path / "none", Manifest, SEAL) is None


def test_all_counts_of_an_intake_are_those_of_its_manifest(tmp_path: Path) -> None:
    two_classes(tmp_path)
    png(tmp_path / "A" / "a00_1.png")
    (tmp_path / "A" / "a01_empty.png").touch()
    (tmp_path / "B" / "b00_copy.png").write_bytes((tmp_path / "B" / "b00_0.png").read_bytes())
    ids = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.5", "PatientID": "d1"}
    dicom(tmp_path / "A" / "scan.dcm", **ids)
    intake = read_folder(tmp_path, preparation=Preparation(16), patients=BY_NAME, pseudonym_key=KEY)
    found = intake.manifest
    assert found is not None and len(found.used) == len(intake.dataset) == 14
    assert intake.classes == intake.dataset.by_class() == dict(Counter(one.label for one in found.used))
    assert intake.patients == {"A": 7, "B": 6} and intake.formats == {"DICOM": 1, "PNG": 13}
    assert {one.file for one in intake.problems} == {"A/a01_empty.png", "B/b00_copy.png"}
    assert len(found.records) == 16 and len(found.stamps) == 15
    scan = next(one for one in found.records if one.file == "A/scan.dcm")
    assert (scan.patient, scan.study, scan.series) == tuple(pseudonym(one, KEY) for one in ("d1", "1.2.3.4", "1.2.3.5"))
    copy = next(one for one in found.records if one.file == "B/b00_copy.png")
    assert copy.state == "set aside" and copy.label == "B" and copy.content
    assert not any(secret in repr(found) for secret in (scan.patient, scan.study, "1.2.3.4"))


def test_counts_with_masks(tmp_path: Path) -> None:
    pictures(tmp_path)
    options = {"preparation": Preparation(16), "patients": PatientSource(r"^(p\d+)"), "pseudonym_key": KEY}
    intake = read_masked_folder(tmp_path, **options)
    found = intake.manifest
    assert found is not None and intake.classes == intake.dataset.by_class() == {"background": 6, "class 1": 6}
    assert [one.label for one in found.used][:2] == ["masks/p0_a.png", "masks/p1_a.png"]
    assert found.used[0].parts == ("images/p0_a.png", "masks/p0_a.png") and len(found.stamps) == 12
