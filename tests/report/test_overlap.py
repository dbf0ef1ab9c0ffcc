"""What two folders share: planted copies and patients are found, and nothing where nothing was planted."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.imaging.samples import KEY, two_classes

from primum.imaging import CHEST_XRAY_PATIENT, Dataset, Intake, PatientSource, Preparation, read_folder
from primum.imaging.phantom import draw
from primum.report.inspection import inspection_page, look
from primum.report.overlap import Overlap, overlap, whose
from primum.report.overlap_section import Against
from primum.report.suspects import Near, near_across, near_copies

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def sides(tmp_path: Path, real_data: Path | None) -> tuple[Path, Path]:
    """Training and test images, 15 of each class and of different patients: drawn, or real chest X-rays."""
    train, test = tmp_path / "train", tmp_path / "test"
    for name in CLASSES:
        if real_data is not None:
            chosen = [sorted((real_data / "chest" / side / name).iterdir())[:15] for side in ("train", "test")]
        else:
            drawn = tmp_path / "drawn"
            made = drawn if drawn.exists() else draw(drawn, 100)
            files = sorted((made / name).iterdir())[:30]
            chosen = [files[:15], files[15:]]
        for folder, files in zip((train, test), chosen, strict=True):
            (folder / name).mkdir(parents=True)
            for number, file in enumerate(files):
                shutil.copy(file, folder / name / f"{folder.name}{name}{number:02d}_1{file.suffix}")
    return train, test


def _read(folder: Path, patients: PatientSource | None = None, size: int = 64) -> Intake:
    who = patients or PatientSource(r"^(\w+?)_")
    return read_folder(folder, preparation=Preparation(size=size), patients=who, pseudonym_key=KEY, fewest=1)


def _files(found: Overlap, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    return [found.files(pair) for pair in pairs]


def test_nothing_is_found_where_nothing_was_planted(sides: tuple[Path, Path], real_data: Path | None) -> None:
    train, test = map(_read, sides)
    found = overlap(train, test, KEY)
    assert found.same == () and found.patients == ()
    assert len(found.near or ()) <= (0 if real_data else 8), "of 900 pairs; drawn X-rays are more alike than real ones"


def test_planted_copies_and_patients_are_found(sides: tuple[Path, Path]) -> None:
    train, test = sides
    clean = overlap(_read(train), _read(test), KEY)
    pressed, lossless, moved, twin = (sorted((train / "NORMAL").iterdir())[place] for place in (2, 5, 8, 11))
    with Pillow.open(pressed) as opened:
        smaller = opened.convert("L").resize((opened.width * 6 // 10, opened.height * 6 // 10))
    smaller.save(test / "NORMAL" / "other1_1.jpeg", quality=40)
    with Pillow.open(lossless) as opened:
        opened.save(test / "NORMAL" / "other2_1.png")
    shutil.copy(moved, test / "NORMAL" / f"other3_1{moved.suffix}")
    (train / "NORMAL" / f"twin_1{twin.suffix}").write_bytes(twin.read_bytes())
    twin.unlink()
    with Pillow.open(sorted((test / "NORMAL").iterdir())[0]) as opened:
        opened.transpose(Pillow.Transpose.ROTATE_90).save(test / "NORMAL" / "twin_2.png")
    one, other = _read(train), _read(test)
    found = overlap(one, other, KEY)
    assert set(_files(found, found.same)) == {
        (f"NORMAL/{lossless.name}", "NORMAL/other2_1.png"),
        (f"NORMAL/{moved.name}", f"NORMAL/other3_1{moved.suffix}"),
    }
    assert found.near and found.near[0].correlation > 0.98, "the most alike first"
    assert found.files((found.near[0].first, found.near[0].second)) == (
        f"NORMAL/{pressed.name}",
        "NORMAL/other1_1.jpeg",
    )
    assert len(found.near) <= len(clean.near or ()) + 2 and whose(found, found.near[0]) == "of two patients"
    assert found.patients == (((f"NORMAL/twin_1{twin.suffix}",), ("NORMAL/twin_2.png",)),)
    text = inspection_page(one, train, "train", look(one.dataset, train), Against("<test>", test, other, found))
    assert "Also in &lt;test&gt;" in text and "<test>" not in text and "1 patients in both" in text
    assert text.count("<b>The same picture.</b>") == 2 and "Nearly the same, said to be of two patients." in text
    section = text[text.index("<h2>Also in") : text.index("</section>", text.index("<h2>Also in"))]
    assert section.count("<img") == 2 * (2 + len(found.near)), "both pictures of each pair"
    quiet = inspection_page(one, train, "t", look(one.dataset, train), Against("test", test, other, clean))
    assert clean.near or "Nothing that is here was found there." in quiet
    assert "Also in" not in inspection_page(one, train, "train", look(one.dataset, train))


def test_among_all_real_x_rays_of_different_children_hardly_a_pair_is_flagged(real_data: Path | None) -> None:
    """Of 67,500 pairs of training and test X-rays one was flagged: 1 of 150 test pictures."""
    if real_data is None:
        pytest.skip("needs the real chest X-rays")
    who = PatientSource(CHEST_XRAY_PATIENT)
    train, test = (_read(real_data / "chest" / side, who) for side in ("train", "test"))
    found = overlap(train, test, KEY)
    assert len(train.dataset) == 450 and len(test.dataset) == 150
    assert found.same == () and found.patients == () and len(found.near or ()) <= 2


def test_images_of_which_nobody_says_whose_they_are_name_no_patient(tmp_path: Path) -> None:
    one, other = two_classes(tmp_path / "one"), tmp_path / "other"
    for path in sorted(one.rglob("*.png")):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        Pillow.open(path).transpose(Pillow.Transpose.ROTATE_180).save(other / path.parent.name / path.name)
    alone = PatientSource(None, one_image_per_patient=True)
    found = overlap(_read(one, alone), _read(other, alone), KEY)
    assert found.patients is None and not found.same, "files of one name are not of one patient"
    found = overlap(_read(one), _read(other), KEY)
    assert len(found.patients or ()) == 12
    mixed = overlap(_read(one), _read(other, alone), KEY)
    assert mixed.patients is None and (not mixed.near or whose(mixed, mixed.near[0]) == "")


def _volumes(images: torch.Tensor, name: str, each: int) -> Intake:
    names = tuple(f"{name}{place // each}.nii.gz" for place in range(len(images)))
    masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8)
    return Intake(Dataset(images, masks, names, names, ("background", "liver")), (), (), {"NIfTI": len(set(names))})


def test_of_two_volumes_one_pair_of_slices_is_told_and_air_is_none() -> None:
    random = torch.Generator().manual_seed(1)
    ours, theirs = (torch.rand(40, 1, 32, 32, generator=random) for _ in range(2))
    ours[::4], theirs[::4] = 0, 0
    theirs[5:8] = ours[9:12]  # three slices of volume 2 here are in volume 1 there
    theirs[21] = ours[1] * 0.99
    found = overlap(_volumes(ours, "a", 4), _volumes(theirs, "b", 4), KEY)
    assert _files(found, found.same) == [("a2.nii.gz", "b1.nii.gz")]
    assert [found.files((pair.first, pair.second)) for pair in found.near or ()] == [("a0.nii.gz", "b5.nii.gz")]
    patches = [_volumes(side[:, :, None].repeat(1, 1, 4, 1, 1), name, 4) for side, name in ((ours, "a"), (theirs, "b"))]
    again = overlap(*patches, KEY)
    assert _files(again, again.same) == [("a2.nii.gz", "b1.nii.gz")]


def test_grey_in_one_channel_is_the_same_as_grey_in_three(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "one")
    one = _read(folder)
    three = read_folder(
        folder, preparation=Preparation(channels=3), patients=PatientSource(r"(\w+)_"), pseudonym_key=KEY
    )
    assert len(overlap(one, three, KEY).same) == 12


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (3, 9), (30, 14)])
def test_pairs_across_are_those_that_a_search_in_both_together_finds(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int]
) -> None:
    random = np.random.default_rng(3)
    whole = random.random((sum(counts), 1, 32, 32), np.float32)
    if min(counts) > 2:
        whole[counts[0] : counts[0] + 3] = whole[:3] * 0.98
        whole[1] = whole[0] * 0.97
    wanted = [
        Near(pair.first, pair.second - counts[0], pair.bits, pair.correlation)
        for pair in near_copies(whole)
        if pair.first < counts[0] <= pair.second
    ]
    for block in (4, 1024):
        monkeypatch.setattr("primum.report.suspects._BLOCK", block)
        found = near_across(whole[: counts[0]], whole[counts[0] :])
        assert sorted(found) == [
            Near(pair.first, pair.second, pair.bits, pytest.approx(pair.correlation, abs=1e-3))
            for pair in sorted(wanted)
        ]
    assert len(wanted) >= 3 or min(counts) < 3


def test_too_many_pairs_are_not_compared_but_equal_pictures_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.report.overlap.MOST", 5)
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    found = overlap(_volumes(images, "a", 1), _volumes(images, "b", 1), KEY)
    assert found.near is None and len(found.same) == 4
