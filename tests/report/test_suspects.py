"""Near copies and text in pictures: found where they were made, not found among different pictures."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageEnhance, ImageFont

from primum.imaging.image import Picture
from primum.imaging.phantom import draw
from primum.imaging.prepare import Preparation, prepare
from primum.imaging.reader import decode
from primum.report.suspects import near_copies, text_boxes

Change = Callable[[Pillow.Image], Pillow.Image]


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory, real_data: Path | None) -> list[np.ndarray]:
    """40 X-rays of different patients, uint8 [rows, columns], without text: drawn, or real ones."""
    if real_data is not None:
        first: dict[str, Path] = {}
        for path in sorted((real_data / "chest" / "train" / "NORMAL").iterdir()):
            first.setdefault(path.name.rsplit("-0001", 1)[0], path)
        files = list(first.values())[:40]
    else:
        folder = draw(tmp_path_factory.mktemp("drawn"), 120)
        files = sorted(folder.rglob("*_0.*"))[:40]
    return [_at_512(decode(path).values[0]) for path in files]


def _at_512(values: np.ndarray) -> np.ndarray:
    """Uint8, the longer side 512 pixels, as the real ones have."""
    grey = Pillow.fromarray((values * 255).round().astype(np.uint8))
    times = 512 / max(grey.size)
    return np.asarray(grey.resize((round(grey.width * times), round(grey.height * times))))


def _prepared(grey: np.ndarray) -> np.ndarray:
    return prepare(Picture(grey[None].astype(np.float32) / 255, "PNG"), Preparation())[0]


def _pressed(picture: Pillow.Image) -> Pillow.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=15)
    return Pillow.open(buffer)


CHANGES: dict[str, Change] = {
    "pressed": _pressed,
    "halved": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "turned": lambda picture: picture.rotate(1),
    "shifted": lambda picture: picture.crop((picture.width // 100, 0, picture.width, picture.height)),
}


def test_different_patients_are_no_copies(xrays: list[np.ndarray], real_data: Path | None) -> None:
    found = near_copies(np.stack([_prepared(grey) for grey in xrays]))
    assert len(found) <= (1 if real_data else 8), "of 780 pairs; drawn X-rays are more alike than real ones"
    assert near_copies(np.zeros((0, 1, 64, 64), np.float32)) == []


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(xrays: list[np.ndarray], change: str) -> None:
    chosen = xrays[:12]
    copies = [np.asarray(CHANGES[change](Pillow.fromarray(grey))) for grey in chosen]
    found = near_copies(np.stack([_prepared(grey) for grey in [*chosen, *copies]]))
    assert {(pair.first, pair.second) for pair in found} >= {(place, place + 12) for place in range(12)}
    assert len(found) <= 14


def test_pairs_across_blocks(monkeypatch: pytest.MonkeyPatch, xrays: list[np.ndarray]) -> None:
    images = np.stack([_prepared(grey) for grey in [*xrays, xrays[2], xrays[8]]])
    for count in (len(images), 9):
        whole = near_copies(images[-count:])
        with monkeypatch.context() as patch:
            patch.setattr("primum.report.suspects._BLOCK", 4)
            assert near_copies(images[-count:]) == whole
    found = {(pair.first, pair.second) for pair in near_copies(images) if pair.bits == 0 and pair.correlation > 0.999}
    assert found == {(2, len(xrays)), (8, len(xrays) + 1)}


def _with_text(
    grey: np.ndarray, words: str, size: int, place: str, ink: int = 255
) -> tuple[np.ndarray, tuple[int, ...]]:
    picture = Pillow.fromarray(grey)
    drawing, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(words))
    x = 4 if "left" in place else picture.width - right - 4
    y = 4 if "top" in place else picture.height - bottom - 4
    drawing.text((x, y), words, ink, font)
    return np.asarray(picture), (y + top, x + left, y + bottom, x + right)


def _boxes(grey: np.ndarray) -> list[tuple[int, int, int, int]]:
    return text_boxes(grey[None].astype(np.float32) / 255)


def _inside(box: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    margin = 12 + 2 * min(whole[2] - whole[0], whole[3] - whole[1])
    before = box[0] >= whole[0] - margin and box[1] >= whole[1] - margin
    return before and box[2] <= whole[2] + margin and box[3] <= whole[3] + margin


@pytest.mark.parametrize("words", ["MUELLER^HANS", "1950-02-03 12:33", "Born 4711/22"])
@pytest.mark.parametrize("place", ["top left", "top right", "bottom left", "bottom right"])
def test_drawn_text_is_found(xrays: list[np.ndarray], words: str, place: str) -> None:
    missed = 0
    for size, grey in zip((11, 14, 20, 28), xrays, strict=False):
        dark = (grey * 0.6).astype(np.uint8)
        written, where = _with_text(dark, words, size, place)
        found = [box for box in _boxes(written) if _inside(box, where)]
        missed += not found
    assert missed <= 1


def test_nothing_that_was_written_stays_outside_the_boxes(xrays: list[np.ndarray]) -> None:
    """Found by hand: the last digit stood beside the box, accents above it."""
    left = 0
    for size, grey in zip((11, 14, 20, 22, 28, 40), xrays, strict=False):
        for words in ("SMITH JOHN 1961", "Jägér, Özil 11"):
            dark = (grey * 0.6).astype(np.uint8)
            written, _ = _with_text(dark, words, size, "top left")
            changed = written != dark
            for top, start, bottom, end in _boxes(written):
                changed[top:bottom, start:end] = False
            left += bool(changed.any())
    assert left <= 1


def test_dark_text_and_upright_text() -> None:
    page = np.full((400, 300), 200, np.uint8)
    written, where = _with_text(page, "DOE, JANE", 16, "top left", ink=0)
    assert any(_inside(box, where) for box in _boxes(written))
    upright = np.rot90(written).copy()
    found = _boxes(upright)
    top, left, bottom, right = where
    assert any(_inside(box, (300 - right, top, 300 - left, bottom)) for box in found), found


def test_large_pictures_are_looked_at_smaller(xrays: list[np.ndarray]) -> None:
    large = np.asarray(Pillow.fromarray((xrays[0] * 0.6).astype(np.uint8)).resize((2400, 2000)))
    written, where = _with_text(large, "MUELLER^HANS", 60, "top right")
    assert any(_inside(box, where) for box in _boxes(written))


def test_pictures_without_text(xrays: list[np.ndarray]) -> None:
    assert sum(bool(_boxes(grey)) for grey in xrays) <= 1
    assert _boxes(np.zeros((50, 60), np.uint8)) == [] == _boxes(np.full((9, 9), 255, np.uint8))
    marked, _ = _with_text((xrays[0] * 0.6).astype(np.uint8), "R", 30, "top left")
    assert _boxes(marked) == [], "a side marker is no text"
    middle = np.zeros((600, 600), np.uint8)
    middle[250:280, 200:400] = _with_text(np.zeros((30, 200), np.uint8), "MUELLER^HANS", 20, "top left")[0]
    assert _boxes(middle) == [], "as stated: only near the borders"
