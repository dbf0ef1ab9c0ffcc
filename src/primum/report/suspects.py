"""What a person should look at before images are offered: pictures that are nearly the same, and text in pictures.

Both are suspicions. A chest X-ray looks much like another, so a pair must agree twice: in a perceptual hash (the signs
of 63 low frequencies of a 32 x 32 discrete cosine transform about their median: pHash, Zauner 2010) and in the
correlation of their details. Text is found as a row of sharp, bright or dark strokes near a border.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import fft, ndimage

Grey = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]

NEAR_BITS: Final = 16
"""Two pictures may be nearly the same if their hashes differ in at most so many of 63 bits,"""
NEAR_CORRELATION: Final = 0.8
"""and if their details, without what all pictures of the folder share, have at least this correlation."""
FEW: Final = 20
"""In a folder of fewer pictures what all share cannot be told from a copy: the details stay whole,"""
FEW_CORRELATION: Final = 0.9
"""and must agree by so much."""
MOST: Final = 20_000
"""Pictures among which pairs are looked for: each is compared with each."""
LETTERS: Final = 4
"""Letters in one row that make text: a side marker (L, R, PA) names nobody."""

_BAND: Final = 0.2
_CONTRAST: Final = 0.35
_ENDS, _LINES = 2.0, 0.5  # heights of a row that its box is longer on each side, and higher
_LARGEST: Final = 1500
_SIDE: Final = 32
_NOTHING: Final = 1e-4
_LOW: Final = 8
_BLOCK: Final = 1024


@dataclass(frozen=True, order=True)
class Near:
    """Two pictures, by their places in the data set (first < second) or in one each, and how alike they are."""

    first: int
    second: int
    bits: int
    correlation: float


def near_copies(images: npt.NDArray[np.float32]) -> list[Near]:
    """Pairs of pictures that are nearly the same; `images`: float32 [n, channels, size, size], n at most `MOST`.

    Among 450 X-rays of 379 children (101,025 pairs) one pair of different pictures is found; of copies pressed to JPEG
    quality 10, brightened by 30 %, turned by 1 degree or shifted by 1 % all are, of those cut by 2 % on each side 89 %,
    of those cut by 4 % none. X-rays of one machine are more alike: of 138 adults (9,453 pairs) 10 pairs are found.
    """
    looks = _Looks.of(_all_small(images))
    starts = range(0, len(images), _BLOCK)
    found = [pair for start in starts for pair in looks.near(slice(start, start + _BLOCK), slice(start, len(images)))]
    return [pair for pair in found if pair.first < pair.second]


def near_across(images: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> list[Near]:
    """As `near_copies`, pairs of a picture of `images` and one of `others`: `first` and `second` are places in each.

    Both float32 [n, channels, size, size], their channels and sizes may differ; what all pictures share is that of both
    together. At most MOST * MOST / 2 pairs.
    """
    count = len(images)
    looks, theirs = (
        _Looks.of(np.concatenate((_all_small(images), _all_small(others)))),
        slice(count, count + len(others)),
    )
    ours = [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    return [replace(pair, second=pair.second - count) for rows in ours for pair in looks.near(rows, theirs)]


@dataclass(frozen=True)
class _Looks:
    """What pictures are compared by, a row each: signs of the hash, details; and what correlation is `needed`."""

    signs: npt.NDArray[np.float32]
    details: npt.NDArray[np.float32]
    needed: float

    @classmethod
    def of(cls, small: Grey) -> "_Looks":
        return cls(_signs(small), _details(small), NEAR_CORRELATION if len(small) >= FEW else FEW_CORRELATION)

    def near(self, rows: slice, columns: slice) -> list[Near]:
        """Which pictures of `rows` are near which of `columns`; a row may find itself."""
        bits = (self.signs.shape[1] - self.signs[rows] @ self.signs[columns].T) / 2
        alike = self.details[rows] @ self.details[columns].T
        return [
            Near(
                rows.start + one,
                columns.start + other,
                round(float(bits[one, other])),
                round(float(alike[one, other]), 4),
            )
            for one, other in np.argwhere((bits <= NEAR_BITS) & (alike >= self.needed)).tolist()
        ]


def _all_small(images: npt.NDArray[np.float32]) -> Grey:
    return np.stack([_small(image) for image in images]) if len(images) else np.zeros((0, _SIDE, _SIDE), np.float32)


def _small(image: npt.NDArray[np.float32]) -> Grey:
    """Float32 [32, 32]: grey, averaged over the area that a new pixel covers."""
    grey = Pillow.fromarray(np.ascontiguousarray(image.mean(axis=0, dtype=np.float32)))
    return np.asarray(grey.resize((_SIDE, _SIDE), Pillow.Resampling.BOX), np.float32)


def _signs(small: Grey) -> npt.NDArray[np.float32]:
    """The hash of each picture as -1 and 1, float32 [n, 63]."""
    low = fft.dctn(small, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(small), _LOW * _LOW)[:, 1:]
    signs: npt.NDArray[np.float32] = np.where(low > np.median(low, axis=1, keepdims=True), 1, -1).astype(np.float32)
    return signs


def _details(small: Grey) -> npt.NDArray[np.float32]:
    """What is left of each picture without its coarse shape and without the mean of all, of length 1: [n, 1024].

    Of a picture that shows nothing (a slice of air) 0: it is like no other.
    """
    whole = (small - ndimage.gaussian_filter(small, (0, 3, 3))).reshape(len(small), _SIDE * _SIDE)
    fine = _unit(whole)
    details = _unit(fine - fine.mean(axis=0)) if len(small) >= FEW else fine
    details[np.linalg.norm(whole, axis=1) < _NOTHING] = 0
    return details


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def text_boxes(values: npt.NDArray[np.float32]) -> list[Box]:
    """Rows of letters near a border of one picture at full size: (top, left, bottom, right) around each, in pixels.

    `values`: float32 [channels, rows, columns] in [0, 1]. A letter is a connected stroke that is brighter (or darker)
    by `_CONTRAST` than all that lies within a few pixels on both sides of it, of a letter's size; a row is `LETTERS` of
    them of like height, side by side. It sees no text far from the borders, in the body, or along a slanted line, and
    of white text on bright parts often a part only: `tests/report/test_suspects.py` measures it on darker pictures.
    """
    grey, times = _not_too_large(values.mean(axis=0, dtype=np.float32))
    found = _rows_of(grey, _letters(grey))
    turned = np.rot90(grey)
    found += [_turned_back(box, grey.shape[1]) for box in _rows_of(turned, _letters(turned))]
    boxes = (tuple(round(edge * times) for edge in box) for box in _joined(found))
    return [(top, left, bottom, right) for top, left, bottom, right in boxes]


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap become one: a letter's strokes and its gaps are found apart."""
    kept: list[Box] = []
    for box in boxes:
        while (other := next((other for other in kept if _overlap(box, other)), None)) is not None:
            kept.remove(other)
            box = _around([box, other])
        kept.append(box)
    return kept


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _not_too_large(grey: Grey) -> tuple[Grey, float]:
    """The picture, made smaller where its longer side has more than `_LARGEST` pixels; and how many times smaller."""
    times = max(1.0, max(grey.shape) / _LARGEST)
    if times == 1:
        return grey, times
    size = (max(1, round(grey.shape[1] / times)), max(1, round(grey.shape[0] / times)))
    smaller = Pillow.fromarray(np.ascontiguousarray(grey)).resize(size, Pillow.Resampling.LANCZOS)
    return np.asarray(smaller, np.float32), times


def _letters(grey: Grey) -> list[Box]:
    """Boxes of strokes that could be letters, bright ones and dark ones."""
    window = max(7, round(max(grey.shape) / 60) | 1)
    boxes: list[Box] = []
    for strokes in (
        ndimage.white_tophat(grey, size=window) > _CONTRAST,
        ndimage.black_tophat(grey, size=window) > _CONTRAST,
    ):
        labels, _ = ndimage.label(strokes, np.ones((3, 3)))
        boxes += [
            (rows.start, columns.start, rows.stop, columns.stop)
            for rows, columns in ndimage.find_objects(labels)
            if _letter_sized(rows.stop - rows.start, columns.stop - columns.start, max(grey.shape))
        ]
    return boxes


def _letter_sized(high: int, wide: int, side: int) -> bool:
    return 5 <= high <= max(8, side / 12) and 1 <= wide <= 1.5 * high


def _rows_of(grey: Grey, letters: list[Box]) -> list[Box]:
    """Boxes around rows of at least `LETTERS` letters in the band along the border."""
    high, wide = grey.shape
    near = [box for box in letters if _at_border(box, high, wide)]
    rows: list[list[Box]] = []
    for box in sorted(near, key=lambda box: box[1]):
        for row in rows:
            if _follows(row[-1], box):
                row.append(box)
                break
        else:
            rows.append([box])
    return [_widened(_around(row), high, wide) for row in rows if len(row) >= LETTERS]


def _widened(box: Box, high: int, wide: int) -> Box:
    """With room for what was not taken for a letter: at both ends of the row, accents above it and tails below."""
    top, left, bottom, right = box
    ends, lines = math.ceil(_ENDS * (bottom - top)), math.ceil(_LINES * (bottom - top))
    return max(0, top - lines), max(0, left - ends), min(high, bottom + lines), min(wide, right + ends)


def _at_border(box: Box, high: int, wide: int) -> bool:
    top, left, bottom, right = box
    return bottom <= _BAND * high or top >= (1 - _BAND) * high or right <= _BAND * wide or left >= (1 - _BAND) * wide


def _follows(before: Box, box: Box) -> bool:
    """Whether `box` stands in the same row as `before`, to its right, a letter or a space away."""
    tall, other = before[2] - before[0], box[2] - box[0]
    overlap = min(before[2], box[2]) - max(before[0], box[0])
    return overlap >= 0.6 * max(tall, other) and -1 <= box[1] - before[3] <= 1.5 * max(tall, other)


def _around(row: list[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*row, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _turned_back(box: Box, columns: int) -> Box:
    """From the picture turned by 90 degrees (np.rot90) to the picture."""
    top, left, bottom, right = box
    return left, columns - bottom, right, columns - top
