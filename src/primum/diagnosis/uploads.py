"""What data owners may make a server hold: one budget for all, room before the first byte, and a least pace.

A request is bounded by itself (`messages.request_limit`), and many at once were not. Room for the whole body is reserved
before it is read, and kept until the request is answered; without room the answer is that the server is busy, at once.
Who sends slower than the least pace loses the room again, so that holding it costs an attacker bytes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Iterator
from typing import Final

from primum.errors import PeerError, Unavailable

BUDGET_BYTES: Final = 256 * 1024 * 1024
"""Of bodies; a body that is opened takes about as much again."""
RETRY_SECONDS: Final = 5
GRACE_SECONDS: Final = 5.0
LEAST_PACE: Final = 100_000
"""Bytes a second, 0.8 Mbit/s."""
MOST_SECONDS: Final = 60.0


class Uploads:
    """The room for bodies in one server; `limit` is the longest of one request, which always fits."""

    def __init__(self, limit: int) -> None:
        self._limit, self._free = limit, max(BUDGET_BYTES, limit)

    @contextlib.contextmanager
    def room(self, size: int | None) -> Iterator[int]:
        """Room for a body of `size` bytes (None: it does not say) while the context lasts; how long it may be.

        PeerError if it is longer than any request, Unavailable if others hold the room.
        """
        wanted = self._limit if size is None else size
        if not 0 <= wanted <= self._limit:
            raise PeerError(f"The request is longer than {self._limit:,} bytes.", "It was not read.")
        if wanted > self._free:
            raise Unavailable(
                "This server is busy: it is receiving as many requests as it can hold.",
                f"Ask again in {RETRY_SECONDS} seconds, with fewer images if this goes on.",
            )
        self._free -= wanted
        try:
            yield wanted
        finally:
            self._free += wanted


async def received(parts: AsyncIterable[bytes], most: int) -> bytes:
    """The body; PeerError as soon as it is longer than `most`, Unavailable if it comes too slowly."""
    whole = bytearray()
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(start + GRACE_SECONDS) as clock:
            async for part in parts:
                whole += part
                if len(whole) > most:
                    raise PeerError(f"The request is longer than {most:,} bytes.", "It was not read to its end.")
                clock.reschedule(start + min(MOST_SECONDS, GRACE_SECONDS + len(whole) / LEAST_PACE))
    except TimeoutError:
        raise Unavailable(
            f"The request came too slowly: {len(whole):,} bytes in {MOST_SECONDS:.0f} seconds or at less than "
            f"{LEAST_PACE // 1000} kB a second.",
            "Ask again over a faster connection, or with fewer images.",
        ) from None
    return bytes(whole)
