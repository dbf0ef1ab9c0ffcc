"""Exactly so many bits a coordinate (`aggregation.bits`): how wide the noise may then be.

The ring must hold n (M + 1 + K): n hospitals' clamped sums and the reach K of their noise, 12 of its widths w. Wide noise
costs less (its multiplier is above what is accounted for by 1 / sqrt(1 - r^2 / k_min w^2): 0.5 % at w = 10 and two honest
hospitals, 8 % at w = 3) but leaves less room for the clamp M. Where does the clamp belong? All b gradients of a hospital's
expected batch with norm C and in one direction give a rotated sum of root mean square b C / sqrt(dim) a coordinate.
Measured on PneumoniaMNIST and chest X-rays it was at most 0.34 of that, in the first rounds, and 0.03 to 0.1 in the median
round (0.7 at first where drawn classes hardly overlap): SHARE of it is called typical. A rotated sum is nearly Gaussian (its
largest coordinate 4 to 5 times the root mean square), so a clamp at LEAST typical sizes cuts one coordinate in 400 in
the first rounds and none later: the widest noise that leaves so much is taken. Where even the narrowest leaves less, it is
still taken, down to FEWEST: just above that the same data were learned as well as without a clamp
(docs/how-to/slow-links.md). Below, the study is refused.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from primum.dp.mechanism import Mechanism
from primum.errors import StudyError

SHARE: Final = 0.5
LEAST: Final = 3.0  # typical sizes that the clamp should hold
FEWEST: Final = 0.5  # and that it must hold
_WIDTHS: Final = (16.0, 14.0, 12.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.5, 4.0, 3.0)
_MOST_BITS: Final = 32


@dataclass(frozen=True)
class Narrow:
    """A private sum over all hospitals in `bits` bits; `batch` is the public expected batch of one hospital."""

    wide: Mechanism
    bits: int
    batch: float

    def fitted(self) -> Mechanism:
        """The mechanism at the noise multiplier of `wide`; StudyError, with the fewest bits that do, where none fits."""
        return self._choose([self._at(width) for width in _WIDTHS])

    def for_accounted(self, accounted: float) -> Mechanism:
        """The mechanism whose noise the accountant may take for `accounted`.

        `fitted` at its multiplier is the same, or a wider one that is a little better.
        """
        return self._choose([self._made_for(accounted, self._at(width)) for width in _WIDTHS])

    def _at(self, width: float) -> Mechanism:
        return replace(self.wide, share_width=width, bound_bits=self.bits, rotated=True)

    @staticmethod
    def _made_for(accounted: float, mechanism: Mechanism) -> Mechanism:
        return replace(mechanism, noise_multiplier=mechanism.multiplier_for(accounted))

    def _choose(self, candidates: list[Mechanism]) -> Mechanism:
        for mechanism in candidates:
            if self.clamp_of(mechanism) >= LEAST:
                return mechanism
        narrowest = candidates[-1]
        if self.clamp_of(narrowest) >= FEWEST:
            return narrowest
        enough = (
            b for b in range(self.bits, _MOST_BITS + 1) if self.clamp_of(replace(narrowest, bound_bits=b)) >= FEWEST
        )
        raise StudyError(
            f"aggregation.bits = {self.bits} leaves no room: the noise of {self.wide.hospitals} hospitals alone fills "
            f"{self.bits} bits, or cuts most of what they learn.",
            f"Use {next(enough, _MOST_BITS)} or more, or leave aggregation.bits out.",
        )

    def clamp_of(self, mechanism: Mechanism) -> float:
        """The clamp in typical coordinates; 0 where the bits do not even hold the noise."""
        typical = SHARE * self.batch * mechanism.sensitivity / math.sqrt(mechanism.dimension)
        try:
            return mechanism.clamp / typical
        except StudyError:
            return 0.0
