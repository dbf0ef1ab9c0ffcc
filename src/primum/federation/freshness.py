"""Signed requests are answered once, and only while they are fresh."""

import threading
import time
from dataclasses import dataclass, field
from typing import Final

from primum.errors import PeerError

FRESH: Final = 120.0
"""Seconds that a request may be old, or the clocks of two computers apart."""


@dataclass
class Fresh:
    """The numbers that were used in the last minutes."""

    _seen: dict[bytes, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, at: float, nonce: bytes) -> None:
        """PeerError for a request that was made too long ago, or was made before."""
        now = time.time()
        if abs(now - at) > FRESH:
            raise PeerError("The request is too old, or the clocks differ by minutes.", "Set both clocks (NTP).")
        with self._lock:
            while self._seen and now - next(iter(self._seen.values())) > 2 * FRESH:  # the oldest stands first
                del self._seen[next(iter(self._seen))]
            if nonce in self._seen:
                raise PeerError("The request was made before.", "A request is answered once.")
            self._seen[nonce] = now
