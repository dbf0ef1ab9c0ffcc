"""What came of many mutants."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """`sent` mutants, of which so many were past the frame check; crashes and what was taken for good, in words."""

    sent: int = 0
    past: int = 0
    crashes: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Counts") -> "Counts":
        self.sent += other.sent
        self.past += other.past
        self.crashes += other.crashes
        self.accepted += other.accepted
        self.refusals += other.refusals
        return self

    def count(self, past: bool) -> None:
        self.sent += 1
        self.past += past

    def crash(self, where: str, error: BaseException) -> None:
        self.crashes.append(f"{where}: {type(error).__name__}: {str(error)[:200]}")
