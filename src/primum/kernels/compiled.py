"""`@compiled`: a function of numbers and arrays that becomes machine code at its first call; `@emitted`: parts of one.

numba takes half a second to import, so it is imported by the first call of a kernel and by nothing else. The machine
code is kept beside the source, or in the user's cache folder, and later processes load it; where no folder can be
written (a read-only installation, a user without a home, a full disk) each process compiles for itself.
Several processes may compile the same kernel at the same time: numba replaces its cache files in one step.
"""

import functools
import importlib
import inspect
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


class Emitted:
    """Instructions that only a kernel may call, as `write` gives them to LLVM: write(builder, *arguments).

    For what has to stay in registers, which numba's own arrays cannot. Arguments are addresses and sizes, as integers.
    """

    def __init__(self, write: Callable[..., None], arguments: int) -> None:
        self._write, self._arguments = write, arguments
        functools.update_wrapper(self, write)

    def __call__(self, *arguments: int) -> None:
        """Outside of kernels there is nothing to call."""
        raise TypeError(f"{self._write.__name__} is for kernels.")

    @functools.cached_property
    def _numba_type_(self) -> Any:
        """What numba asks for when a kernel calls this."""
        types = importlib.import_module("numba").types
        extending = importlib.import_module("numba.extending")
        registry = importlib.import_module("numba.core.registry")
        signature = types.void(*[types.intp] * self._arguments)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            self._write(builder, *values)
            return context.get_dummy_value()

        def typed(*_: Any) -> Any:
            return signature, generate

        names = ["context", *(f"argument_{number}" for number in range(self._arguments))]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typed.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        self._held = extending.intrinsic(typed)  # numba itself holds it weakly
        context = registry.cpu_target.typing_context
        context.refresh()  # or it does not know what was just made
        return context.resolve_value_type(self._held)


def emitted(arguments: int) -> Callable[[Callable[..., None]], Emitted]:
    """Decorator of a function that writes instructions of so many integer arguments."""
    return functools.partial(Emitted, arguments=arguments)
