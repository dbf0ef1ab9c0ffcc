"""What is decoded by whom: several processes, one that dies, a file that changes, names in a header."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.imaging.samples import KEY, WHEEL, dicom

from primum.imaging import PatientSource, Preparation, pseudonym
from primum.imaging.cache import Found, Store
from primum.imaging.folder import known_patient
from primum.imaging.patient import NoPatient, whose
from primum.imaging.reading import Job, identifiers, read_all, usable_cores

SMALL = Preparation(8)


@dataclass(frozen=True)
class _Sum(Job):
    """Its picture is the sum of its bytes; says which process found it, and may end any but `parent`."""

    folder: Path
    file: str
    parent: int = 0
    meaning = ""

    def parts(self) -> tuple[str, ...]:
        return (self.file,)

    def found(self) -> Found:
        data = (self.folder / self.file).read_bytes()
        if data == b"deadly" and os.getpid() != self.parent:
            os._exit(1)
        if data == b"growing":
            (self.folder / self.file).write_bytes(b"growing on")
        images = np.full((1, 1, 8, 8), sum(data), np.float32)
        return Found("sum", (str(os.getpid()),), self.file, images=images)


def _jobs(folder: Path, contents: list[bytes]) -> list[_Sum]:
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    return [_Sum(folder, str(number), os.getpid()) for number in range(len(contents))]


def test_processes_give_what_one_gives_even_if_one_dies(tmp_path: Path) -> None:
    contents = [bytes([number]) for number in range(40)]
    contents[30], contents[7] = b"deadly", contents[3]
    jobs = _jobs(tmp_path / "data", contents)
    with Store(None, SMALL, "labels", KEY) as one, Store(tmp_path / "cache", SMALL, "labels", KEY) as several:
        alone = list(read_all(jobs, {}, one))
        together = list(read_all(jobs, {}, several, cores=2, worth=1))
        order = list(dict.fromkeys(read.content for read in alone))
        assert one.commit(order)[0].equal(several.commit(order)[0])
    assert [read.content for read in alone] == [read.content for read in together]
    hashes = [
        [{part: one.sha256 for part, one in read.stamps.items()} for read in reads] for reads in (alone, together)
    ]
    assert hashes[0] == hashes[1]
    workers = {read.outcome.notices[0] for read in together}
    assert str(os.getpid()) in workers and len(workers) > 1


def test_a_file_that_changes_while_it_is_read_is_set_aside_and_not_kept(tmp_path: Path) -> None:
    jobs = _jobs(tmp_path, [b"growing", b"steady"])
    with Store(None, SMALL, "labels", KEY) as store:
        first, second = read_all(jobs, {}, store)
        assert "changes while it is read" in first.outcome.reason and first.content == "" and second.content
        assert list(store.known()) == [second.content]


def test_names_in_the_header(tmp_path: Path) -> None:
    for path in (WHEEL / "CT_small.dcm", WHEEL / "MR_small_bigendian.dcm", WHEEL / "MR_small_implicit.dcm"):
        whole = pydicom.dcmread(path)
        assert identifiers(path) == {"study": whole.StudyInstanceUID, "series": whole.SeriesInstanceUID}
    assert identifiers(dicom(tmp_path / "none.dcm")) == {}
    (tmp_path / "text").write_text("no DICOM")
    assert identifiers(tmp_path / "text") == identifiers(tmp_path / "gone") == {}


@pytest.mark.parametrize("pattern", [None, r"^(p\d)", r"^(x\d)", r"^(p?)"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("listed", [None, "L1", " "])
@pytest.mark.parametrize("inside", [None, "p1", "I1 "])
def test_a_pseudonym_in_place_of_the_patient_decides_alike(
    pattern: str | None, single: bool, listed: str | None, inside: str | None
) -> None:
    source, file = PatientSource(pattern, single), "A/p1_0.png"

    def found(kept: bool) -> object:
        try:
            if kept:
                return known_patient(source, file, listed, pseudonym(inside, KEY) if inside else "", KEY)
            return whose(source, file, listed, inside, KEY)
        except NoPatient:
            return None

    assert found(True) == found(False)


def test_cores_are_bounded_by_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert usable_cores() == 1
    for words in ("", "many", "0", "4096"):
        monkeypatch.setenv("OMP_NUM_THREADS", words)
        assert 1 <= usable_cores() <= (os.cpu_count() or 1)
