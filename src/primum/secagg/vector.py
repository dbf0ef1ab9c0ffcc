"""Several named parts in one integer vector, each with its own scale, and the proof that their sum does not wrap.

Each value becomes floor(x s w + u): s the part's scale, w the member's weight, u uniform from a cryptographic stream, so
that the mean is right. |x| is at most the part's largest value, so a member's integer is at most M = ceil(largest s W)
+ 1 in magnitude, W the largest weight; with n M < 2^(b-1) no sum of any members wraps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import InputError, StudyError
from primum.kernels import rounding
from primum.rng import Stream
from primum.secagg.setup import Shape

WEIGHT: Final = "weight"
_LEAST_BITS: Final = 8
_MOST_BITS: Final = 32
_TOO_MANY_BITS: Final = 1024  # what is too large for a float
_CHUNK: Final = 1 << 15

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """`length` values of at most `largest` in magnitude, in steps of 1 / `scale`."""

    name: str
    length: int
    largest: float
    scale: float

    def __post_init__(self) -> None:
        if self.length < 1 or not 0 < self.largest < math.inf or not 0 < self.scale < math.inf or not self.name:
            raise StudyError(
                f"Part {self.name!r} of the vector: length {self.length}, largest {self.largest}, scale {self.scale}.",
                "It needs a name and positive numbers.",
            )


@dataclass(frozen=True)
class Layout:
    """The parts of one round's vector for `members` members, public and the same for all.

    With `largest_weight` W each member counts with an integer weight from 0 to W, and the sum of the weights is one more
    coordinate: two rounds whose sets differ by one member then reveal its weight.
    """

    parts: tuple[Part, ...]
    members: int
    largest_weight: int = 0

    def __post_init__(self) -> None:
        if self.members < 1 or self.largest_weight < 0:
            raise StudyError(
                f"A vector of {self.members} members with weights up to {self.largest_weight}.", "Use positive numbers."
            )
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names) or WEIGHT in names:
            raise StudyError(
                f"The parts of a vector are named {names}.", f"Use distinct names other than {WEIGHT!r}, at least one."
            )
        _ = self.bits

    @property
    def length(self) -> int:
        """Coordinates in all."""
        return sum(part.length for part in self.parts) + bool(self.largest_weight)

    @cached_property
    def bits(self) -> int:
        """The smallest ring that no sum overflows; StudyError that names the part where 32 bits are not enough."""
        needs = {part.name: self._bits(self._reach(part)) for part in self.parts}
        needs[WEIGHT] = self._bits(self.largest_weight)
        worst = max(needs, key=lambda name: needs[name])
        if needs[worst] > _MOST_BITS:
            raise StudyError(
                f"Sums of {self.members} hospitals' {worst!r} would need {needs[worst]} bits, the ring has {_MOST_BITS}.",
                "Lower its scale, its largest value or the largest weight.",
            )
        return max(_LEAST_BITS, needs[worst])

    def _reach(self, part: Part) -> int:
        if not math.isfinite(part.largest * part.scale * max(1, self.largest_weight)):
            return 1 << _TOO_MANY_BITS
        return math.ceil(part.largest * part.scale * max(1, self.largest_weight)) + 1

    def _bits(self, reach: int) -> int:
        return (self.members * reach).bit_length() + 1

    @property
    def shape(self) -> Shape:
        """Length and bits, as secure aggregation asks for them."""
        return Shape(self.length, self.bits)

    def encode(self, values: Mapping[str, Floats], stream: Stream, weight: int = 1) -> npt.NDArray[np.int32]:
        """One member's integers, int32 [length], from its values by part; InputError names a part that does not fit."""
        if set(values) != {part.name for part in self.parts}:
            raise InputError(
                f"The vector has the parts {sorted(values)}.", f"Give {sorted(part.name for part in self.parts)}."
            )
        if not isinstance(weight, int) or not 0 <= weight <= max(1, self.largest_weight):
            raise InputError(
                f"The weight is {weight}.", f"It must be a whole number from 0 to {max(1, self.largest_weight)}."
            )
        whole, start = np.empty(self.length, np.int32), 0
        for part in self.parts:
            self._round(part, np.asarray(values[part.name]), weight, stream, whole[start : start + part.length])
            start += part.length
        if self.largest_weight:
            whole[-1] = weight
        return whole

    def _round(self, part: Part, values: Floats, weight: int, stream: Stream, out: npt.NDArray[np.int32]) -> None:
        if values.shape != (part.length,) or values.dtype not in (np.float32, np.float64):
            raise InputError(
                f"Part {part.name!r} is {values.dtype} of shape {list(values.shape)}.",
                f"Give {part.length} floating-point values.",
            )
        scale, coins = part.scale * (weight if self.largest_weight else 1), np.empty(_CHUNK, np.uint32)
        for start in range(0, part.length, _CHUNK):
            piece = np.ascontiguousarray(values[start : start + _CHUNK])
            stream.fill(coins[: len(piece)])
            target = out[start : start + len(piece)]
            wrong = rounding.round_into(piece, scale, part.largest, coins[: len(piece)], target)
            if wrong >= 0:  # the value itself is not shown: it comes from the data
                raise InputError(
                    f"Part {part.name!r}: value {start + wrong} is not a number or beyond +-{part.largest:g}.",
                    "Clip the values, or let the study allow larger ones. Nothing was sent.",
                )

    def decode(self, total: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[np.float64]]:
        """The sums by part, float64, in the units of the data; and with weights the sum of the weights, float64 [1]."""
        if total.shape != (self.length,):
            raise InputError(f"A sum of {total.shape} values came.", f"This layout has {self.length}.")
        sums, start = {}, 0
        for part in self.parts:
            sums[part.name] = total[start : start + part.length] / part.scale
            start += part.length
        if self.largest_weight:
            sums[WEIGHT] = total[start:].astype(np.float64)
        return sums
