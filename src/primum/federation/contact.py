"""When the hub last answered this process: a node has one hub."""

import time
from dataclasses import dataclass
from typing import Final


@dataclass
class Contact:
    """`at`: seconds since 1970, 0 before the first answer. `connected`: whether a connection stands now."""

    at: float = 0.0
    connected: bool = False

    def note(self) -> None:
        """The hub has answered."""
        self.at, self.connected = time.time(), True

    def lost(self) -> None:
        """The connection has ended."""
        self.connected = False


HUB: Final = Contact()
