"""`@compiled`: a function of numbers and arrays that becomes machine code at its first call.

numba takes half a second to import, so it is imported by the first call of a kernel and by nothing else. The machine
code is kept beside the source, or in the user's cache folder, and later processes load it; where no folder can be
written (a read-only installation, a user without a home, a full disk) each process compiles for itself.
Several processes may compile the same kernel at the same time: numba replaces its cache files in one step.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(Generic[P, R]):
    """One function, as written and as machine code; call it like the function, from any thread.

    A kernel may call kernels of its own file only: numba looks at that one file's age to know whether its cache holds.
    """

    _cache_is_usable: ClassVar[bool] = True

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self._made: tuple[Any, bool] | None = None  # numba's dispatcher, and whether it may use a cache
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return cast(R, (self._made or self._make())[0](*args, **kwargs))
        except OSError:  # kernels open no files: the cache is full or gone, and nothing has been computed yet
            Kernel._cache_is_usable = False
            return cast(R, self._make()[0](*args, **kwargs))

    @property
    def _numba_type_(self) -> Any:
        """What numba asks for when a kernel calls this one."""
        return importlib.import_module("numba").types.Dispatcher(self._make()[0])

    def _make(self) -> tuple[Any, bool]:
        """The dispatcher, which compiles for each kind of arguments; a new one where the old one's cache is lost.

        Two threads may both make one: the later stays, and both are right.
        """
        made, cached = self._made, Kernel._cache_is_usable
        if made is None or (made[1] and not cached):
            self._made = made = _dispatcher(self._function, cached), cached
        return made


def _dispatcher(function: Callable[..., Any], cached: bool) -> Any:
    njit = importlib.import_module("numba").njit
    try:
        return njit(nogil=True, cache=cached)(function)
    except RuntimeError as error:
        if not cached or "cannot cache" not in str(error):
            raise
        return njit(nogil=True)(function)


def compiled(function: Callable[P, R]) -> Kernel[P, R]:
    """`function` as a `Kernel`: numba's nopython mode, without the interpreter's lock while it runs."""
    return Kernel(function)
