"""The page about a folder: what it shows, what it never says, and who may read it."""

import html
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from tests.imaging.samples import KEY, dicom, grey, two_classes

from primum.errors import DataError
from primum.imaging import Dataset, Intake, PatientSource, Preparation, read_folder
from primum.report.inspection import inspection_page, look, write_inspection
from primum.report.suspects import Near

PATTERN = r"^([ab]\d+)_"


class _Page(HTMLParser):
    """Tags that are open at the end, addresses, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "line", "polyline", "circle", "br"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "img", "line", "polyline", "circle", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _folder(folder: Path) -> Path:
    two_classes(folder, 8)
    (folder / "A" / "a77_copy.png").write_bytes((folder / "A" / "a00_0.png").read_bytes())
    pixels = np.asarray(Pillow.open(folder / "B" / "b01_0.png"))
    Pillow.fromarray(np.clip(pixels * 1.02, 0, 255).astype(np.uint8)).save(folder / "B" / "b78_near.png")
    shown = Pillow.fromarray((grey("text", 300, 300) * 0.6).astype(np.uint8))
    ImageDraw.Draw(shown).text((6, 6), "MUELLER^HANS", 255, ImageFont.load_default(20))
    shown.save(folder / "B" / "b79_named.png")
    (folder / "B" / "b80_<script>alert(1)<&script>.png").write_bytes(b"")
    return folder


def _read(folder: Path) -> Intake:
    return read_folder(folder, preparation=Preparation(), patients=PatientSource(PATTERN), pseudonym_key=KEY)


def test_a_page_of_a_folder(tmp_path: Path) -> None:
    folder, out, seen = _folder(tmp_path / "data"), tmp_path / "page.html", []
    intake = _read(folder)
    findings = write_inspection(
        intake, folder, out, "the <title>", progress=lambda done, total: seen.append((done, total))
    )
    text = out.read_text()
    page = _Page(text)
    assert not page.open and stat.S_IMODE(out.stat().st_mode) == 0o600 and seen[-1] == (18, 18)
    assert (
        "stays in this hospital" in page.text and "the <title>" in page.text and "18 images of 18 patients" in page.text
    )
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links) and len(page.links) > 20
    assert "<script" not in text and not re.search(r"https?:|url\(|@import", text) and "default-src 'none'" in text
    assert "b80_<script>" in page.text, "shown, and no element of the page"
    assert "A/a77_copy.png" in page.text and "is empty (0 bytes)" in page.text
    files = intake.dataset.files
    assert [(files[pair.first], files[pair.second]) for pair in findings.near or ()] == [
        ("B/b01_0.png", "B/b78_near.png")
    ]
    assert findings.text is not None and [files[place] for place in findings.text] == ["B/b79_named.png"]
    assert "Said to be of two patients" in page.text


def test_the_patient_is_never_named(tmp_path: Path) -> None:
    for label in ("A", "B"):
        for number in range(6):
            path = tmp_path / "data" / label / f"{label}{number}.dcm"
            dicom(path, PatientID=f"SECRET{label}{number}", PatientName="MUELLER^HANS", PatientBirthDate="19500203")
    intake = _read(tmp_path / "data")
    text = inspection_page(intake, tmp_path / "data", "data", look(intake.dataset, tmp_path / "data"))
    assert "SECRET" not in text and "MUELLER" not in text and "1950" not in _Page(text).text
    assert not any(pseudonym in text for pseudonym in intake.dataset.patients)
    shown = re.search(r"<h2>Pictures</h2>.*?</section>", text, re.DOTALL)
    assert shown is not None and shown[0].count('<img alt=""') == 12


def test_pictures_of_a_class_are_of_many_patients(tmp_path: Path) -> None:
    intake = _read(two_classes(tmp_path / "data", 40))
    text = inspection_page(intake, tmp_path / "data", "data", look(intake.dataset, tmp_path / "data"))
    assert text.count('class="thumb"') == 48 and "A: 24 of 40" in text
    assert "There is no such pair" in text and "No file is set aside" in text


def test_a_picture_leads_to_its_file(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    (folder / "A" / "a00_0.png").rename(folder / "A" / 'a00_"&<.png')
    intake = _read(folder)
    text = inspection_page(intake, folder, "data", look(intake.dataset, folder))
    thumbs = re.findall(r'class="thumb" title="([^"]+)">.*?<figcaption>(\d+)', text)
    assert [html.unescape(file) for file, _ in thumbs] == list(intake.dataset.files)
    rows = re.findall(r'data-head="Picture">(\d+)</td><td data-head="File"><code>([^<]+)</code>', text)
    assert [(number, html.unescape(file)) for number, file in rows] == [
        (str(place), file) for place, file in enumerate(intake.dataset.files, 1)
    ]


def test_slices_with_masks(tmp_path: Path) -> None:
    images = torch.rand(9, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    images[7] = images[6] * 0.99  # slices of one volume
    images[3] = images[0] * 0.99
    masks = torch.zeros(9, 32, 32, dtype=torch.uint8)
    masks[:, 4:20, 4:20] = 1
    masks[4, 4:28] = 1
    names = tuple(f"volume{place // 3}.nii.gz" for place in range(9))
    data = Dataset(images, masks, names, names, ("background", "liver"))
    intake = Intake(data, (), (), {"NIfTI": 3})
    findings = look(data, tmp_path)
    assert findings.text is None and findings.near == (Near(0, 3, 0, pytest.approx(1, abs=1e-3)),)
    text = inspection_page(intake, tmp_path, "data", findings)
    page = _Page(text)
    thumbs = re.findall(r'class="thumb" title="([^"]+)">.*?<figcaption>(\d+)', text)
    assert thumbs == [
        ("volume0.nii.gz, image 1 of 3", "1"),
        ("volume1.nii.gz, image 2 of 3", "5"),
        ("volume2.nii.gz, image 1 of 3", "7"),
    ], "one of each volume, where most is drawn"
    assert "files: 3 NIfTI" in page.text
    assert "9 of 3 patients" in page.text and "Not looked for in slices of volumes" in page.text


def test_a_file_that_is_gone_and_a_page_that_cannot_be(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data")
    intake = _read(folder)
    findings = look(intake.dataset, folder)
    for place in (*(findings.text or {}), (findings.near or ())[0].first):
        (folder / intake.dataset.files[place]).unlink()
    assert not _Page(inspection_page(intake, folder, "data", findings)).open
    assert (look(intake.dataset, folder).text or {}) == {}
    with pytest.raises(DataError, match="does not exist"):
        write_inspection(intake, folder, tmp_path / "gone" / "page.html", "data")
