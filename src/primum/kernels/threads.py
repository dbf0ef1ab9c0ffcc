"""One task with many pieces, shared out among threads: for work that lets go of the interpreter's lock.

Whoever calls works too. Threads are kept; where they have died with a fork, the caller does all of it.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")


def share_out(task: Callable[[Piece], object], pieces: Sequence[Piece], threads: int) -> None:
    """Do `task` with each piece, on up to `threads` threads; raises what a piece raised, after all have ended."""
    count = min(threads, len(pieces))
    if count <= 1:
        for piece in pieces:
            task(piece)
        return
    rest = deque(pieces)  # its pops are safe from any thread
    work = functools.partial(do_all, task, rest)
    helpers = [_pool(threads).submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        running = [helper for helper in helpers if not helper.cancel()]
        failures = [helper.exception() for helper in running]
    for failure in failures:
        if failure is not None:
            raise failure


def do_all(task: Callable[[Piece], object], pieces: "deque[Piece]") -> None:
    """Do `task` with each piece that nobody else takes meanwhile."""
    while True:
        try:
            piece = pieces.popleft()
        except IndexError:
            return
        task(piece)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "primum-kernels")
