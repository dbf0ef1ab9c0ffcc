"""Which set-ups are safe: members, colluders, threshold, and how few honest vectors a lying server can sum."""

from dataclasses import dataclass

from primum.errors import StudyError

LEAST_MEMBERS = 3
MOST_MEMBERS = 128  # complete graph; 255 is the limit of GF(2^8)


@dataclass(frozen=True)
class Setup:
    """The public constants of one study's aggregation.

    n members of whom `colluding` may be with the server and `may_vanish` may miss a round. Refuses (StudyError) what two exchanges a round cannot protect: d^2 < n - d - c must hold, so that a
    server that names different sets to different nodes gains nothing (docs/design/secure-aggregation.md).
    """

    n: int
    colluding: int
    may_vanish: int

    def __post_init__(self) -> None:
        if not LEAST_MEMBERS <= self.n <= MOST_MEMBERS:
            raise StudyError(
                f"{self.n} hospitals: secure aggregation needs {LEAST_MEMBERS} to {MOST_MEMBERS}.",
                "With two, each learns the other's update from the sum.",
            )
        if self.colluding < 0 or self.may_vanish < 0 or self.n - self.colluding < 2:
            raise StudyError(
                f"colluding = {self.colluding}, may_vanish = {self.may_vanish} do not fit {self.n} hospitals.",
                "Both are at least 0, and at least 2 hospitals must be honest.",
            )
        if self.may_vanish and self.may_vanish**2 >= self.n - self.may_vanish - self.colluding:
            raise StudyError(
                f"{self.n} hospitals with {self.colluding} colluding cannot lose {self.may_vanish} in a round safely.",
                "Lower may_vanish, or invite more hospitals: may_vanish^2 < n - may_vanish - colluding.",
            )
        if 2 * (self.threshold - self.colluding) <= self.n - self.colluding:
            raise StudyError(
                f"{self.n} hospitals with {self.colluding} colluding: both secrets of a node could be opened.",
                "Lower colluding or may_vanish.",
            )

    @property
    def threshold(self) -> int:
        """t: how many shares open a secret."""
        return self.n - self.may_vanish

    @property
    def least_included(self) -> int:
        """A node gives shares for no smaller set."""
        return max(LEAST_MEMBERS, self.threshold, self.colluding + 2)

    @property
    def k_min(self) -> int:
        """The fewest honest vectors in any sum that a lying server can obtain; noise is made for so many."""
        honest = self.n - self.colluding
        return max(1, honest - (honest * self.may_vanish) // (self.threshold - self.colluding))


@dataclass(frozen=True)
class Shape:
    """The public shape of one round's vectors: `length` coordinates in the ring Z_2^bits."""

    length: int
    bits: int

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 32 or self.length < 1:
            raise StudyError(f"A vector of {self.length} coordinates of {self.bits} bits.", "Use 8 to 32 bits.")
