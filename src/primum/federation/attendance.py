"""Who is connected to the coordinator, by what its port sees: calls that SuperLink has let in by their signature."""

import time
from dataclasses import dataclass, field
from typing import Final

from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, HEARTBEAT_PATIENCE

_GONE_AFTER: Final = float(HEARTBEAT_MIN_INTERVAL * HEARTBEAT_PATIENCE)
_GOODBYE: Final = "deactivate-node"


@dataclass
class Attendance:
    """When each transport key was last heard of; forgotten when the coordinator ends."""

    _seen: dict[bytes, float] = field(default_factory=dict, repr=False)
    _left: set[bytes] = field(default_factory=set, repr=False)

    def note(self, transport: bytes, call: str) -> None:
        """A call of this node was answered."""
        self._seen[transport] = time.time()
        if call == _GOODBYE:
            self._left.add(transport)
        else:
            self._left.discard(transport)

    def last_seen(self, transport: bytes) -> float | None:
        """Seconds since 1970, or None if it never called."""
        return self._seen.get(transport)

    def connected(self, transport: bytes) -> bool:
        """Whether it called within two heartbeats and has not said goodbye."""
        seen = self._seen.get(transport, 0.0)
        return transport not in self._left and time.time() - seen < _GONE_AFTER
