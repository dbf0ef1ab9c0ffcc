"""`@emitted`: parts of kernels as instructions for LLVM, for what has to stay in registers, eight numbers at a time.

numba's own arrays lie in memory, and its loops become vectors only where it sees that they may. Like numba, LLVM's
library is imported by the first call of a kernel.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

LANES: Final = 8
BYTES: Final = 4
"""Of a float32."""


class Emitted:
    """Instructions that only a kernel may call, as `write` gives them to LLVM: write(builder, *arguments).

    Arguments are addresses and sizes, as integers.
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


class Writer:
    """LLVM's types, and reading and writing of eight numbers."""

    def __init__(self, builder: Any) -> None:
        self.ir = importlib.import_module("llvmlite.ir")
        self.builder = builder
        self.number, self.real = self.ir.IntType(64), self.ir.FloatType()
        self.vector = self.ir.VectorType(self.real, LANES)

    def constant(self, value: int) -> Any:
        return self.ir.Constant(self.number, value)

    def at(self, base: Any, *steps: tuple[int, Any]) -> Any:
        """base + sum of count * bytes."""
        for count, size in steps:
            base = self.builder.add(base, self.builder.mul(self.constant(count), size)) if count else base
        return base

    def load(self, address: Any, kind: Any = None) -> Any:
        found = self.builder.load(self.builder.inttoptr(address, (kind or self.vector).as_pointer()))
        found.align = 1
        return found

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 1

    def everywhere(self, value: Any) -> Any:
        """A number in all eight places."""
        one = self.builder.insert_element(
            self.ir.Constant(self.vector, self.ir.Undefined), value, self.ir.Constant(self.ir.IntType(32), 0)
        )
        return self.shuffled(one, one, [0] * LANES)

    def shuffled(self, one: Any, other: Any, places: Sequence[int]) -> Any:
        mask = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), LANES), list(places))
        return self.builder.shuffle_vector(one, other, mask)

    def combined(self, weights: Sequence[float], values: Sequence[Any]) -> Any:
        """The sum of weights times values; the first weight that is not 0 is positive."""
        total = None
        for weight, value in zip(weights, values, strict=True):
            if abs(weight) not in (0, 1):
                value = self.builder.fmul(value, self.ir.Constant(self.vector, [abs(weight)] * LANES))
            if weight and total is None:
                total = value if weight > 0 else self.builder.fneg(value)
            elif weight:
                total = (self.builder.fadd if weight > 0 else self.builder.fsub)(total, value)
        return total
