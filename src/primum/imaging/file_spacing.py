"""How many mm the pixels of a folder's files have, as the files say it: what a study's `images.spacing` will meet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from primum.imaging.manifest import Record

FEW: Final = 6
"""So many different sizes of pixels are listed one by one; of more the smallest, the median and the largest are told."""

_DIGITS: Final = 4
_AXES: Final = ("slice", "row", "column")

Millimetres = tuple[float, ...]


@dataclass(frozen=True)
class Spacings:
    """Of all pictures of a folder, or of all its volumes. `axes`: ("row", "column"), of volumes "slice" before them.

    `sizes`: mm along `axes`, rounded to four digits, and how many files have them, the most frequent first.
    """

    kind: str
    axes: tuple[str, ...]
    sizes: tuple[tuple[Millimetres, int], ...]

    @property
    def files(self) -> int:
        """How many files say it."""
        return sum(count for _, count in self.sizes)

    @property
    def few(self) -> bool:
        """Whether there are so few sizes that they are listed."""
        return len(self.sizes) <= FEW

    def along(self, axis: int) -> tuple[float, float, float]:
        """Mm along one of `axes`: smallest, median, largest over the files."""
        found = sorted(mm[axis] for mm, count in self.sizes for _ in range(count))
        return found[0], _rounded(median(found)), found[-1]


@dataclass(frozen=True)
class FileSpacing:
    """`groups`: of pictures, of volumes, where there are any that say it. `silent`: files that say nothing of mm."""

    groups: tuple[Spacings, ...]
    silent: int

    @classmethod
    def of(cls, records: Sequence[Record]) -> "FileSpacing":
        """Of files that are used, each counted once however many images it gave."""
        said = Counter(tuple(_rounded(mm) for mm in record.file_spacing) for record in records if record.file_spacing)
        groups = []
        for kind, count in (("pictures", 2), ("volumes", 3)):
            sizes = tuple((mm, files) for mm, files in _ordered(said) if len(mm) == count)
            if sizes:
                groups.append(Spacings(kind, _AXES[-count:], sizes))
        return cls(tuple(groups), sum(not record.file_spacing for record in records))

    def rows(self) -> list[tuple[str, str, str]]:
        """What, its mm and how many files, in words: a line for each size where they are few, else for each axis."""
        found = []
        for group in self.groups:
            if group.few:
                what = f"{group.kind}, {' x '.join(group.axes)}"
                found += [(what, " x ".join(f"{side:g}" for side in mm), f"{files}") for mm, files in group.sizes]
                continue
            for place, axis in enumerate(group.axes):
                low, middle, high = group.along(place)
                told = f"{low:g}" if low == high else f"{low:g} to {high:g}, median {middle:g}"
                found.append((f"{group.kind}, {axis}", told, f"{group.files}"))
        return found + ([("not said", "", f"{self.silent}")] if self.silent else [])

    def plain(self) -> dict[str, object]:
        """For JSON: `not_said`, and of pictures and volumes, where there are any, smallest, median and largest mm along
        `axes`, how many sizes are `different`, and which, where they are few."""
        told: dict[str, object] = {"not_said": self.silent}
        for group in self.groups:
            along = [group.along(place) for place in range(len(group.axes))]
            smallest, middle, largest = (list(each) for each in zip(*along, strict=True))
            sizes = [{"mm": list(mm), "files": files} for mm, files in group.sizes] if group.few else []
            told[group.kind] = {
                "files": group.files, "axes": list(group.axes), "smallest": smallest, "median": middle,
                "largest": largest, "different": len(group.sizes), "sizes": sizes,
            }  # fmt: skip
        return told


def _rounded(mm: float) -> float:
    return float(f"{mm:.{_DIGITS}g}")


def _ordered(said: Counter[Millimetres]) -> list[tuple[Millimetres, int]]:
    return sorted(said.items(), key=lambda item: (-item[1], item[0]))
