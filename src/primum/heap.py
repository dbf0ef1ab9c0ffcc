"""Freed memory stays at hand while something computes.

Linux gives a large tensor fresh pages, clears them one by one at their first use, and takes them back when the tensor is
freed: of a step on large pictures that can be two fifths (docs/benchmarks.md). glibc keeps them where it is told to.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

_TRIM_THRESHOLD: Final = -1  # mallopt(3): free memory at the end of the heap above which it is given back
_MMAP_THRESHOLD: Final = -3  # what is larger gets pages of its own
_KEPT: Final = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1}
_USUAL: Final = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # as far as glibc's own, which grow with use, go


@contextmanager
def kept() -> Iterator[None]:
    """Within, this process keeps what it frees; at the end it gives all of it back. Nothing where there is no glibc."""
    libc = _glibc()
    if libc is None:
        yield
        return
    _set(libc, _KEPT)
    try:
        yield
    finally:
        _set(libc, _USUAL)
        libc.malloc_trim(0)


def _set(libc: Any, thresholds: dict[int, int]) -> None:
    for name, size in thresholds.items():
        libc.mallopt(name, size)


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None
