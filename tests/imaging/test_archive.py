"""Archives in the place of a folder: read as if unpacked, and nothing else happens on this machine."""

import io
import stat
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.imaging.samples import KEY, png, two_classes
from tests.imaging.test_masked import pictures, volumes

from primum.errors import DataError
from primum.imaging import Intake, PatientSource, Preparation, read_folder, read_masked_folder
from primum.imaging import archive as module
from primum.imaging.archive import unpacked

BY_NAME = PatientSource(r"^([a-z]+\d+)")


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every private folder lies in `tmp_path`/private, so that a test sees whether one is left."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    return private


def _left(tmp_path: Path) -> list[str]:
    return [entry.name for entry in (tmp_path / "private").iterdir()]


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{inside}{path.relative_to(folder)}")
    return target


def tarred(folder: Path, target: Path, mode: Any = "w:gz") -> Path:
    with tarfile.open(target, mode) as archive:
        archive.add(folder, "export")
    return target


def _read(folder: Path) -> Intake:
    return read_folder(folder, preparation=Preparation(16), patients=BY_NAME, pseudonym_key=KEY)


@pytest.mark.parametrize("kind", ["zip", "wrapped", "tar.gz", "tar", "tgz", "ZIP"])
def test_an_archive_is_read_as_its_folder(tmp_path: Path, kind: str) -> None:
    source = two_classes(tmp_path / "source")
    target = tmp_path / f"export.{'zip' if kind == 'wrapped' else kind}"
    if kind in ("zip", "ZIP", "wrapped"):
        zipped(source, target, "export/" if kind == "wrapped" else "")
    else:
        tarred(source, target, "w" if kind == "tar" else "w:gz")
    intake, plain = _read(target), _read(source)
    assert intake.dataset.files == plain.dataset.files and intake.dataset.patients == plain.dataset.patients
    assert (intake.dataset.images == plain.dataset.images).all()
    assert intake.notices == ("1 archive unpacked",) and plain.notices == ()
    assert _left(tmp_path) == []


def test_archives_in_a_folder(tmp_path: Path) -> None:
    """One class as a zip, further pictures in zips of both depths, a broken one set aside by name."""
    source = two_classes(tmp_path / "source")
    folder = tmp_path / "folder"
    zipped(source / "A", folder / "A.zip")
    for number in range(6):
        png(folder / "B" / f"b{number:02d}_0.png")
    png(tmp_path / "more" / "b20_0.png")
    inner = zipped(tmp_path / "more", tmp_path / "outer" / "inner.zip")
    zipped(inner.parent, folder / "B" / "ward.zip")
    (folder / "B" / "b30.zip").write_bytes(b"PK\3\4 broken")
    before = sorted(str(path) for path in folder.rglob("*"))
    intake = _read(folder)
    assert intake.classes == {"A": 6, "B": 7} and "B/ward/inner/b20_0.png" in intake.dataset.files
    assert [(p.file, p.reason) for p in intake.problems] == [("B/b30.zip", "is damaged or cut off (archive)")]
    assert intake.notices == ("3 archives unpacked",)
    assert before == sorted(str(path) for path in folder.rglob("*")) and _left(tmp_path) == []


def test_a_masked_archive(tmp_path: Path) -> None:
    pictures(tmp_path / "source")
    volumes(tmp_path / "volumes")
    options: dict[str, Any] = {"preparation": Preparation(16), "patients": BY_NAME, "pseudonym_key": KEY}
    one = read_masked_folder(zipped(tmp_path / "source", tmp_path / "a.zip"), **options)
    other = read_masked_folder(tarred(tmp_path / "volumes", tmp_path / "b.tar.gz"), **options)
    assert len(one.dataset) == 6 and other.formats == {"NIfTI": 5} and _left(tmp_path) == []


def test_a_folder_without_archives_is_read_where_it_is(tmp_path: Path) -> None:
    two_classes(tmp_path / "a")
    (tmp_path / "a" / "A" / "a90_0.nii.gz").write_bytes(b"\x1f\x8b no archive")
    (tmp_path / "a" / "A" / "a91_0.zip").write_bytes(b"no zip")
    with unpacked(tmp_path / "a") as opened:
        assert opened.folder == tmp_path / "a" and _left(tmp_path) == []


def test_the_private_folder_is_private_and_goes_with_an_error(tmp_path: Path) -> None:
    two_classes(tmp_path / "source", 1)
    target = zipped(tmp_path / "source", tmp_path / "few.zip")
    with unpacked(target) as opened:
        assert stat.S_IMODE((tmp_path / "private" / _left(tmp_path)[0]).stat().st_mode) == 0o700
        assert opened.folder.is_relative_to(tmp_path / "private")
    with pytest.raises(DataError) as caught:
        read_folder(target, ("A", "C"), preparation=Preparation(16), patients=BY_NAME, pseudonym_key=KEY)
    assert caught.value.message == f"{target} has no folder for class C" and _left(tmp_path) == []


def _zip_of(path: Path, *names: str | zipfile.ZipInfo, data: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("A/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["../../secret"], "leads out"),
        (["A/../../secret"], "leads out"),
        (["/etc/secret"], "leads out"),
        (["..\\secret"], "leads out"),
        (["C:/secret"], "leads out"),
        (["A/" + "x" * 300], "leads out"),
        (["A/x", "A/x"], "two files of one name"),
        (["A", "A/x"], "two files of one name"),
        ([_link()], "holds a link"),
    ],
    ids=["up", "down and up", "absolute", "windows", "drive", "long", "twice", "file and folder", "link"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_dangerous_are_refused(tmp_path: Path, names: list[Any], words: str) -> None:
    path = _zip_of(tmp_path / "a.zip", *names)
    with pytest.raises(DataError, match=words) as caught, unpacked(path):
        pass
    assert caught.value.hint and not list(tmp_path.rglob("secret")) and _left(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (tarfile.SYMTYPE, "A/x", "link or a device"),
        (tarfile.LNKTYPE, "A/x", "link or a device"),
        (tarfile.FIFOTYPE, "A/x", "link or a device"),
        (tarfile.CHRTYPE, "A/x", "link or a device"),
        (tarfile.REGTYPE, "../secret", "leads out"),
        (tarfile.REGTYPE, "/secret", "leads out"),
    ],
)
def test_links_devices_and_names_in_tar(tmp_path: Path, kind: bytes, name: str, words: str) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(DataError, match=words), unpacked(tmp_path / "a.tar.gz"):
        pass
    assert _left(tmp_path) == []


def test_bombs_are_stopped_while_they_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE_GROWTH", 1 << 20)
    big = bytes(20 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", big)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_bytes(big)
    tarred(tmp_path / "x", tmp_path / "b.tar.gz")
    for name in ("a.zip", "b.tar.gz"):
        with pytest.raises(DataError, match="far more than it is"), unpacked(tmp_path / name):
            pass
    assert _left(tmp_path) == []


def test_limits_on_all_bytes_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _zip_of(tmp_path / "a.zip", "1", "2", "3", data=bytes(1000))
    monkeypatch.setattr(module, "MOST_BYTES", 2500)
    with pytest.raises(DataError, match="far more"), unpacked(path):
        pass
    monkeypatch.setattr(module, "MOST_BYTES", 9999)
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(DataError, match="more than 2 files"), unpacked(path):
        pass


def test_a_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    """A pax header that claims 2^30 bytes: tarfile would read it whole."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(10_000))
    with pytest.raises(DataError), unpacked(tmp_path / "a.tar"):
        pass


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    data = bytearray(_zip_of(tmp_path / "a.zip", "x").read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.index(mark) + offset
        struct.pack_into("<H", data, place, 1)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="it is encrypted"), unpacked(tmp_path / "a.zip"):
        pass


def test_every_cut_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    two_classes(tmp_path / "source", 1)
    for whole in (zipped(tmp_path / "source", tmp_path / "a.zip"), tarred(tmp_path / "source", tmp_path / "b.tar.gz")):
        data = whole.read_bytes()
        for length in (40, len(data) // 2, len(data) - 10):
            cut = tmp_path / f"cut{whole.suffix if whole.suffix == '.zip' else '.tar.gz'}"
            cut.write_bytes(data[:length])
            with pytest.raises(DataError), unpacked(cut):
                pass
    assert _left(tmp_path) == []


def test_what_a_mac_adds_is_left_out(tmp_path: Path) -> None:
    source = two_classes(tmp_path / "source")
    target = zipped(source, tmp_path / "a.zip")
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("__MACOSX/A/._a00_0.png", b"x")
        archive.writestr("A/.DS_Store", b"x")
    intake = _read(target)
    assert intake.classes == {"A": 6, "B": 6} and intake.problems == ()
