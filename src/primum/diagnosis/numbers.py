"""Which request numbers and requests were used: written and synced before the first byte that depends on them leaves.

`used.bin` is append-only (records.py); a record is first number (8 bytes), count (8) and digest of the request (32).
`journal.jsonl` says what was done: numbers and hashes of messages, never messages.
"""

import hashlib
from pathlib import Path
from typing import Final

from primum.diagnosis.records import Records
from primum.errors import Refused
from primum.journal import Journal

HIGHEST: Final = 1 << 62


class UsedNumbers:
    """The numbers and requests that this role has used, on disk. One process at a time (`roles.locked`)."""

    def __init__(self, folder: Path) -> None:
        damaged = "Make a new role with another --state, and a new deployment with its card."
        self._records = Records(folder / "used.bin", ">QQ32s", damaged)
        self._requests: set[bytes] = set()
        self._mark = 0
        for first, count, request in self._records.read():
            self._mark = max(self._mark, first + count - 1)
            self._requests.add(request)

    @property
    def mark(self) -> int:
        """The highest number used so far, 0 if none."""
        return self._mark

    def knows(self, request: bytes) -> bool:
        """Whether a request with this digest was started before."""
        return request in self._requests

    def record(self, first: int, count: int, request: bytes) -> None:
        """Use the numbers first .. first + count - 1 for `request` (32 bytes); on disk when this returns.

        Refused if one of them, or the request, was used before; MachineError if it cannot be written.
        """
        if not self._mark < first <= HIGHEST or count < 1:
            raise Refused(f"Request number {first} was used before.", "Ask again: a new request gets a new number.")
        if self.knows(request):
            raise Refused("This request was answered before.", "Make a new request; none is run twice.")
        self._records.append(first, count, request)
        self._mark = first + count - 1
        self._requests.add(request)


def note(journal: Journal, kind: str, request: bytes, first: int, count: int, **messages: bytes) -> None:
    """An entry in a role's journal; `messages` are hashed, not kept."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in messages.items()}
    journal.write(kind, request=request.hex(), first=first, count=count, **hashes)
