"""Which set-ups are safe: members, colluders, threshold, and how few honest vectors a lying server can sum."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from primum.errors import StudyError

LEAST_MEMBERS: Final = 3
MOST_COMPLETE: Final = 128  # members of a complete graph; more have neighbourhoods
MOST_MEMBERS: Final = 10_000
MOST_NEIGHBOURHOOD: Final = 255  # places of a sharing over GF(2^8)
FAILURE: Final = 2.0**-40  # of one drawn graph, all neighbourhoods together
MOST_GRAPHS: Final = 1024  # that a node draws in one run


@dataclass(frozen=True)
class Quorum:
    """A group of `size` members of whom `needed` must agree; at most `colluding` of them are with the server."""

    size: int
    colluding: int
    needed: int


@dataclass(frozen=True)
class Setup:
    """The public constants of one study's aggregation.

    n members of whom `colluding` may be with the server and `may_vanish` may miss a round. Up to 128 members everybody is
    everybody's neighbour, and a round has two exchanges where d^2 < n - d - c: a server that names different sets to
    different nodes then gains nothing. Elsewhere a round has a third, small exchange in which a quorum signs one set.
    Refuses (StudyError) what neither protects (docs/design/secure-aggregation.md).
    """

    n: int
    colluding: int
    may_vanish: int

    def __post_init__(self) -> None:
        if not LEAST_MEMBERS <= self.n <= MOST_MEMBERS:
            raise StudyError(
                f"{self.n} hospitals: secure aggregation needs {LEAST_MEMBERS} to {MOST_MEMBERS:,}.",
                "With two, each learns the other's update from the sum.",
            )
        if self.colluding < 0 or self.may_vanish < 0 or self.n - self.colluding < 2:
            raise StudyError(
                f"colluding = {self.colluding}, may_vanish = {self.may_vanish} do not fit {self.n} hospitals.",
                "Both are at least 0, and at least 2 hospitals must be honest.",
            )
        if self.may_vanish and self.n - self.may_vanish < max(LEAST_MEMBERS, self.colluding + 2):
            raise StudyError(
                f"{self.n} hospitals with {self.colluding} colluding cannot lose {self.may_vanish}: "
                f"no sum is made of fewer than {max(LEAST_MEMBERS, self.colluding + 2)}.",
                "Lower may_vanish, or invite more hospitals.",
            )
        if self.sparse:
            _ = self.neighbourhood, self.committee
            return
        if 2 * (self.threshold - self.colluding) <= self.n - self.colluding:
            raise StudyError(
                f"{self.n} hospitals with {self.colluding} colluding cannot lose {self.may_vanish} in a round safely: "
                "both secrets of a hospital could be opened.",
                "Lower may_vanish or colluding, or invite more hospitals: 2 may_vanish < n - colluding.",
            )

    @property
    def sparse(self) -> bool:
        """Whether members have neighbourhoods instead of everybody."""
        return self.n > MOST_COMPLETE

    @property
    def confirms(self) -> bool:
        """Whether a round has the third exchange, in which a quorum signs the set before anybody gives shares."""
        d = self.may_vanish
        return self.sparse or (d > 0 and d * d >= self.n - d - self.colluding)

    @cached_property
    def neighbourhood(self) -> Quorum:
        """A node with its neighbours, who hold its shares; `needed` is t, the Shamir threshold."""
        if not self.sparse:
            return Quorum(self.n, self.colluding, self.n - self.may_vanish)
        return _neighbourhood(self.n, self.colluding, self.may_vanish)

    @cached_property
    def committee(self) -> Quorum:
        """Who signs the set of a round where `confirms`: two sets cannot both have a quorum, which shares an honest member."""
        if not self.sparse:
            return Quorum(self.n, self.colluding, (self.n + self.colluding) // 2 + 1)
        return _committee(self.n, self.colluding, self.may_vanish)

    @property
    def degree(self) -> int:
        """How many neighbours a node has."""
        return self.neighbourhood.size - 1

    @property
    def threshold(self) -> int:
        """t: how many shares open a secret."""
        return self.neighbourhood.needed

    @property
    def settling(self) -> int:
        """How many members must have signed that they gave shares for a set before a ledger may rely on it.

        With a quorum behind every set one honest member is enough; else t of them.
        """
        return self.colluding + 1 if self.confirms else self.threshold

    @property
    def least_included(self) -> int:
        """A node gives shares for no smaller set."""
        return max(LEAST_MEMBERS, self.n - self.may_vanish, self.colluding + 2)

    @property
    def k_min(self) -> int:
        """The fewest honest vectors in any sum that a lying server can obtain; noise is made for so many."""
        honest = self.n - self.colluding
        if self.confirms:
            return honest - self.may_vanish
        return max(1, honest - (honest * self.may_vanish) // (self.threshold - self.colluding))


@lru_cache(maxsize=64)
def _neighbourhood(n: int, colluding: int, may_vanish: int) -> Quorum:
    """The smallest random neighbourhood that is safe and answers, in all n of them but with half of `FAILURE`.

    Of its members, itself included, at most m collude and at most v vanish by chance (hypergeometric); of the degree / 2
    on one side at most `side` collude. t is more than (size + m) / 2; and more than a node at the end of an arc can
    have, itself, degree / 2 on one side and the colluders on the other: a server that calls absent whom it likes cuts the
    circle into arcs, and can then open no node at an end.
    """
    failure = FAILURE / (8 * n)
    for degree in range(2, min(n, MOST_NEIGHBOURHOOD), 2):
        m, v = (_most(n - 1, marked, degree, failure) for marked in (colluding, may_vanish))
        side = _most(n - 1, colluding, degree // 2, failure)
        needed = max((degree + 1 + m) // 2 + 1, degree // 2 + 2 + side)
        if needed <= degree + 1 - v:
            return Quorum(degree + 1, m, needed)
    raise StudyError(
        f"{n} hospitals of whom {colluding} may collude and {may_vanish} vanish: no neighbourhood is safe.",
        f"Neighbourhoods have at most {MOST_NEIGHBOURHOOD} members; lower colluding or may_vanish.",
    )


@lru_cache(maxsize=64)
def _committee(n: int, colluding: int, may_vanish: int) -> Quorum:
    """The smallest random committee whose quorums share an honest member and which answers, but with half of `FAILURE`.

    There is one wherever there is a neighbourhood, which is bound more tightly.
    """

    def of(size: int) -> tuple[Quorum, int]:
        m, v = (_most(n, marked, size, FAILURE / 4) for marked in (colluding, may_vanish))
        return Quorum(size, m, (size + m) // 2 + 1), size - v

    found = (of(size) for size in range(3, n + 1, 2))
    return next(quorum for quorum, answering in found if quorum.needed <= answering)


def _most(n: int, marked: int, drawn: int, failure: float) -> int:
    """The smallest m such that more than m of `drawn` out of n are marked with at most this probability."""
    from scipy.stats import hypergeom  # takes most of a second to import; few studies have so many members

    most = drawn * marked // n
    while hypergeom.sf(most, n, marked, drawn) > failure:
        most += 1
    return most


@dataclass(frozen=True)
class Shape:
    """The public shape of one round's vectors: `length` coordinates in the ring Z_2^bits."""

    length: int
    bits: int

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 32 or self.length < 1:
            raise StudyError(f"A vector of {self.length} coordinates of {self.bits} bits.", "Use 8 to 32 bits.")
