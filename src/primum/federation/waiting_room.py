"""Nodes that ask for orders when there are none are answered when there are, or after a few seconds.

Asking 25 times a second would find an order as soon, and keep the coordinator's processors busy with saying no.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from primum.federation.bells import Bell

HOLD: Final = 2.0
"""Seconds that a question is held: a node that is told to end meanwhile ends so much later."""


class WaitingRoom:
    """Of one front, in its event loop; `replied` is called when a reply went by. Without a bell nobody is held."""

    def __init__(self, bell: Bell | None = None, replied: Callable[[], None] = lambda: None) -> None:
        self._bell, self.replied = bell, replied
        self._called = asyncio.Event()
        self._listens = False

    def next_call(self) -> asyncio.Event:
        """What is set when it rings next; to be had before one looks whether there is something."""
        if self._bell is not None and not self._listens:
            self._listens = True
            asyncio.get_running_loop().add_reader(self._bell.descriptor, self._rung)
        return self._called

    async def wait(self, call: asyncio.Event, seconds: float) -> bool:
        """Whether it has rung, at once or within so many seconds."""
        if self._bell is None or seconds <= 0:
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(call.wait(), seconds)
        return call.is_set()

    def _rung(self) -> None:
        if self._bell is not None:
            self._bell.hush()
        self._called.set()
        self._called = asyncio.Event()
