"""What a check has found."""

from dataclasses import dataclass
from typing import Final, Literal

from primum.errors import PrimumError

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"


@dataclass(frozen=True)
class Finding:
    """One check: its name, how it went, what was seen, what to do; `code`: the exit code of what failed."""

    check: str
    state: Literal["ok", "warning", "failed"]
    seen: str
    todo: str = ""
    code: int = 0

    @classmethod
    def of_error(cls, check: str, error: PrimumError) -> "Finding":
        """A check that ended in an error of ours."""
        return cls(check, FAILED, error.message, error.hint, error.exit_code)
