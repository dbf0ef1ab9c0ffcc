"""`Clipper`: the clipped sum of per-example gradients, at about the price of a plain step.

    clipper = Clipper(model, loss, clipping_norm=1.0)
    clipper.add(images, labels)          # as often as memory asks for
    total = clipper.take()               # one flat vector; adding or removing a unit moves it by at most the norm

The model is any nn.Module and stays what it is. The first batch is looked at closely: which uses of parameters have
rules (`rules.py`), whether examples mix, whether the result agrees with a loop over single examples.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from primum.clipping import memory, single
from primum.clipping.capture import Capture, Unruled, Use
from primum.clipping.factors import Clipping, Flat, total
from primum.clipping.geometry import summed_units
from primum.clipping.mixing import is_random, refuse_mixing
from primum.clipping.product import Product
from primum.clipping.rules import RULES
from primum.clipping.single import Inputs, Loss
from primum.clipping.validate import refuse_layers
from primum.errors import ModelError

_AGREES: Final = 1e-3  # of the engine's sum with the loop's, relative
_FLUSH: Final = 16  # physical batches that are added in float32 before float64
_log = logging.getLogger("primum.clipping")

Precision = Literal["float32", "bfloat16"]


@dataclass
class Gradients:
    """What is known of a batch after its backward pass: squared norms by parameter, and how to add up."""

    squares: dict[str, Tensor] = field(repr=False)
    kept: dict[str, Tensor] = field(repr=False)
    products: dict[str, Product] = field(repr=False)

    def clipped(self, factors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sums by name, flat."""
        sums = {name: factors[name].to(rows.dtype) @ rows for name, rows in self.kept.items()}
        return sums | {name: product.clipped(factors[name]).reshape(-1) for name, product in self.products.items()}


class Clipper:
    """Sums gradients of `model`, each unit's clipped to `clipping_norm`.

    `loss(outputs, targets)` gives one value an example, [n]; one that gives a single mean or sum is called for each
    example by itself. A unit is an example, or with `images_per_unit` so many consecutive rows, whose gradients are
    added before clipping (`weights` of 0 for places that a unit does not fill). `rows` is the largest number of rows
    computed at once; not given, it is what fits into memory. With `precision` "bfloat16" the model runs in it, norms
    and sums do not.

    Guarantee: adding or removing one unit changes the sum by at most `clipping_norm` in Euclidean norm.
    ModelError where examples mix, where no parameter is trained, or where gradients disagree with single examples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        clipping_norm: float,
        *,
        clipping: Clipping | None = None,
        images_per_unit: int = 1,
        rows: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        _refuse_norm(clipping_norm)
        self.model, self.loss, self._norm = model, loss, clipping_norm
        self._clipping = clipping or Flat()
        self._images, self._rows, self._precision = images_per_unit, rows, precision
        self._parameters = single.trainable(model)
        if not self._parameters:
            raise ModelError("No parameter of the model is trained.", "Set requires_grad on those that should be.")
        refuse_layers(model)
        self._names = {id(value): name for name, value in self._parameters.items()}
        self._known: dict[tuple[object, ...], tuple[object, ...] | None] = {}
        self._each_alone: bool | None = None
        self._sums: dict[str, Tensor] = {}
        self._added = 0
        self._total: Tensor | None = None
        self._within = self._units_added = 0
        self.without_rule: str | None = None

    @property
    def clipping_norm(self) -> float:
        """C. It may be changed between steps, never while a sum waits: that one was clipped to the old norm."""
        return self._norm

    @clipping_norm.setter
    def clipping_norm(self, norm: float) -> None:
        if self._sums or self._total is not None:
            raise ModelError("The clipping norm was changed while a sum waits.", "Take the sum first.")
        _refuse_norm(norm)
        self._norm = norm

    @property
    def dimension(self) -> int:
        """Trainable parameters."""
        return sum(value.numel() for value in self._parameters.values())

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, in the order of the flat vector."""
        return dict(self._parameters)

    @property
    def within(self) -> int:
        """How many units since the last `take` had a gradient no longer than the norm. Secret: depends on the data."""
        return self._within

    @property
    def units(self) -> int:
        """How many units were added since the last `take`. Secret: a sample's size."""
        return self._units_added

    def add(self, inputs: Any, targets: Any, weights: Tensor | None = None, padded_to: int = 0) -> None:
        """Add the clipped gradients of some examples to the sum.

        `inputs` [n, ...] or a tuple of such, the model's positional arguments; `targets` [n, ...]; `weights` [n]
        multiply the loss of each example. With `padded_to`, rows of zeros with weight 0 are added up to that many, so
        that the work does not show n. No examples: nothing.
        """
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        count = _count(inputs)
        weights = torch.ones(count, device=self._device) if weights is None else weights.to(self._device, torch.float32)
        if count == 0 and padded_to == 0:
            return
        if count % self._images:
            raise ValueError(f"{count} rows are not a multiple of {self._images} images a unit")
        batch = (inputs, targets, weights)
        with self._context():
            piece = self._piece(*_padded(batch[:2], min(padded_to, self._images)))
            for start in range(0, max(count, padded_to), piece):
                some = single.rows_of(batch, slice(start, start + piece))
                self._add(*_padded(some, min(piece, padded_to - start)))

    def take(self) -> Tensor:
        """The sum since the last call, flat [dimension] on the processor; it starts again from zero.

        Float64; float32 where it was added up from 16 physical batches at most. Without noise: it must not leave.
        """
        if self._total is None and self._sums:
            result = self._flat()
            self._sums, self._added = {}, 0
        else:
            self._flush()
            result = torch.zeros(self.dimension, dtype=torch.float64) if self._total is None else self._total
        self._total, self._within, self._units_added = None, 0, 0
        return result

    def write(self, vector: Tensor) -> None:
        """Set each parameter's `.grad` from a flat vector [dimension], for any optimiser."""
        start = 0
        for value in self._parameters.values():
            part = vector[start : start + value.numel()].view_as(value)
            value.grad = part.to(device=value.device, dtype=value.dtype)
            start += value.numel()

    def write_without_noise(self, divisor: float) -> None:
        """Set each parameter's `.grad` to the clipped sum over `divisor` and start again: NO PRIVACY, to find mistakes."""
        if self._total is None and len(self._sums) == len(self._parameters):
            for name, value in self._parameters.items():
                value.grad = (self._sums[name].view_as(value) / divisor).to(value.dtype)
            self._sums, self._added, self._within, self._units_added = {}, 0, 0, 0
        else:
            self.write(self.take() / divisor)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def _context(self) -> AbstractContextManager[None]:
        return _full_precision() if self._device.type == "cuda" else nullcontext()

    # one batch

    def _add(self, inputs: Inputs, targets: Any, weights: Tensor) -> None:
        gradients = self._gradients(inputs, targets, weights)
        squares = total(gradients.squares)
        finite = squares.isfinite()
        if not finite.all():  # a gradient that is not finite counts as zero
            rows = finite.repeat_interleave(self._images) if self._images > 1 else finite
            inputs = tree_map(lambda part: _zeroed(part, rows), inputs)
            gradients = self._gradients(inputs, targets, weights * rows)
            squares = total(gradients.squares)
        factors = self._clipping.factors(gradients.squares, self.clipping_norm)
        if not squares.isfinite().all():  # not even for an image of zeros
            factors = {name: torch.zeros_like(factor) for name, factor in factors.items()}
            gradients = Gradients(gradients.squares, {}, {})
        there = weights.view(-1, self._images).ne(0).any(1)
        self._within += int((there & finite & (squares <= self.clipping_norm**2)).sum())
        self._units_added += int(there.sum())
        for name, gradient in gradients.clipped(factors).items():
            mine = self._sums.get(name)
            self._sums[name] = gradient if mine is None else mine.add_(gradient)
        self._added += 1
        if self._added >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if not self._sums:
            return
        flat = self._flat().double()
        self._total = flat if self._total is None else self._total.add_(flat)
        self._sums, self._added = {}, 0

    def _flat(self) -> Tensor:
        parts = (self._sums.get(name, torch.zeros_like(value)) for name, value in self._parameters.items())
        return torch.cat([part.detach().reshape(-1) for part in parts]).cpu()

    def _gradients(self, inputs: Inputs, targets: Any, weights: Tensor) -> Gradients:
        kind = self._kind(inputs, targets)
        expected = self._known[kind]
        if expected is not None:
            try:
                return self._captured(inputs, targets, weights, expected)
            except Unruled as reason:
                self._say(reason)
        return self._gradients_by_vmap(inputs, targets, weights)

    def _captured(
        self, inputs: Inputs, targets: Any, weights: Tensor, expected: tuple[object, ...] | None, still: bool = False
    ) -> Gradients:
        capture, outputs = self._forward(inputs, still)
        if expected is not None and self._signature(capture) != expected:
            raise Unruled("a use of parameters that depends on the batch's size")
        uses = self._uses(capture)
        values = self._values(outputs, targets, len(weights))
        (values * weights).sum().backward(inputs=capture.leaves)  # type: ignore[no-untyped-call]
        return self._collect(uses)

    def _forward(self, inputs: Inputs, still: bool = False) -> tuple[Capture, Any]:
        constants = [*self.model.buffers(), *(p for p in self.model.parameters() if not p.requires_grad)]
        capture = Capture(list(self._parameters.values()), constants, _count(inputs), self._images, RULES)
        capture.still = still
        with torch.enable_grad(), self._autocast(), capture:
            return capture, self.model(*inputs)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _signature(self, capture: Capture) -> tuple[object, ...]:
        """Which parameters were used how: the same for every number of rows."""
        return tuple((type(use), *(self._names.get(id(w), "derived") for w in use.weights)) for use in capture.uses)

    def _uses(self, capture: Capture) -> dict[str, list[tuple[Use, Tensor]]]:
        """For each parameter its uses, with the weight in each; `alone` is set where a product stands by itself."""
        uses: dict[str, list[tuple[Use, Tensor]]] = {name: [] for name in self._parameters}
        for use in capture.uses:
            for weight in use.weights:
                if capture.is_parameter(weight):
                    uses[self._names[id(weight)]].append((use, weight))
                else:
                    for name in self._ancestors(weight):
                        uses[name].append((use, weight))
        for name, found in uses.items():
            if len(found) == 1 and isinstance(found[0][0], Product):
                found[0][0].alone = found[0][1] is self._parameters[name]
        return uses

    def _ancestors(self, derived: Tensor) -> list[str]:
        """The parameters of which a derived weight is made."""
        names, seen, stack = [], set(), [derived.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = self._names.get(id(getattr(node, "variable", None)))
            if name is not None:
                names.append(name)
            stack += [parent for parent, _ in node.next_functions]
        return names

    def _collect(self, uses: dict[str, list[tuple[Use, Tensor]]]) -> Gradients:
        squares: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        products: dict[str, Product] = {}
        for name, found in uses.items():
            lone = found[0][0] if len(found) == 1 else None
            if isinstance(lone, Product) and lone.alone and lone.squares is not None:
                squares[name], products[name] = lone.squares, lone
            elif found:
                kept[name] = self._units(self._each(name, found))
                squares[name] = torch.linalg.vecdot(kept[name], kept[name])
        if not squares:
            raise Unruled("a loss that depends on no parameter")
        return Gradients(squares, kept, products)

    def _each(self, name: str, found: list[tuple[Use, Tensor]]) -> Tensor:
        """Each row's gradient of one parameter, from all its uses."""
        parameter = self._parameters[name]
        parts = []
        for use, weight in found:
            each = use.each(weight)
            if weight is not parameter:
                each = torch.autograd.grad(weight, parameter, each.to(weight.dtype), True, is_grads_batched=True)[0]
            parts.append(each)
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _units(self, each: Tensor) -> Tensor:
        rows = each.reshape(len(each), -1)
        return rows if self._images == 1 else summed_units(rows, self._images)

    def _values(self, outputs: Any, targets: Any, rows: int) -> Tensor:
        """One value a row; a loss that averages is called row by row."""
        if self._each_alone is None:
            self._each_alone = self.loss(outputs, targets).ndim == 0
        if self._each_alone:
            return torch.func.vmap(lambda one, target: single.value_of_one(self.loss, one, target))(outputs, targets)
        values = self.loss(outputs, targets)
        if values.shape != (rows,):
            raise ModelError(
                f"The loss gives values of shape {tuple(values.shape)} for {rows} examples.",
                f"It has to give one value an example, [{rows}]: average over everything else.",
            )
        return values

    def _gradients_by_vmap(self, inputs: Inputs, targets: Any, weights: Tensor) -> Gradients:
        """All gradients at once, as many rows at a time as memory allows."""
        parts: list[dict[str, Tensor]] = []
        piece = max(1, memory.VMAPPED // self.dimension)
        for start in range(0, len(weights), piece):
            rows = slice(start, start + piece)
            parts.append(self._by_vmap(single.rows_of(inputs, rows), single.rows_of(targets, rows)))
        kept = {}
        for name in self._parameters:
            each = torch.cat([part[name] for part in parts]).flatten(1)
            kept[name] = self._units(each.float() * weights.unsqueeze(1))
        return Gradients({name: torch.linalg.vecdot(rows, rows) for name, rows in kept.items()}, kept, {})

    def _by_vmap(self, inputs: Inputs, targets: Any) -> dict[str, Tensor]:
        with self._autocast():
            try:
                return single.by_vmap(self.model, self.loss, inputs, targets)
            except (RuntimeError, NotImplementedError) as error:
                if memory.is_exhausted(error):
                    raise
                return single.by_loop(self.model, self.loss, inputs, targets)

    # the first batch of a kind

    def _kind(self, inputs: Inputs, targets: Any) -> tuple[object, ...]:
        leaves = tree_leaves((inputs, targets))
        kind = (
            self.model.training,
            *((part.shape[1:], part.dtype) if isinstance(part, Tensor) else type(part) for part in leaves),
        )
        if kind not in self._known:
            with torch.random.fork_rng():  # looking must not change what a model draws afterwards
                self._known[kind] = self._look(inputs, targets)
        return kind

    def _look(self, inputs: Inputs, targets: Any) -> tuple[object, ...] | None:
        """The signature of the uses of parameters; None where vmap has to do it. Compares with single examples."""
        few, more = (self._some((inputs, targets), units) for units in (2, 3))
        refuse_mixing(self.model, few[0], more[0])
        try:
            captures = [self._forward(some[0], still=True)[0] for some in (few, more)]
            signatures = [self._signature(capture) for capture in captures]
            if signatures[0] != signatures[1]:
                raise Unruled("a use of parameters that depends on the batch's size")
            unknown = torch.ones(_count(few[0]), device=self._device)
            found = self._captured(*few, unknown, None, still=True)
        except Unruled as reason:
            self._say(reason)
            return None
        if not is_random(self.model, few[0]):
            self._compare(found, *few)
        return signatures[0]

    def _some(self, batch: tuple[Inputs, Any], units: int) -> tuple[Inputs, Any]:
        rows = torch.arange(units * self._images, device=self._device) % _count(batch[0])
        chosen: tuple[Inputs, Any] = single.rows_of(batch, rows)
        return chosen

    def _compare(self, found: Gradients, inputs: Inputs, targets: Any) -> None:
        """The sum over two units, against plain autograd on one example at a time; in doubt in double precision."""
        wrong = self._disagrees(found, inputs, targets)
        if wrong is None or self._precision != "float32":
            return
        with _in_double(self.model):
            inputs, targets = tree_map(lambda part: part.double() if _is_real(part) else part, (inputs, targets))
            weights = torch.ones(_count(inputs), dtype=torch.float64, device=self._device)
            wrong = self._disagrees(self._captured(inputs, targets, weights, None, still=True), inputs, targets)
        if wrong is not None:
            raise ModelError(
                f"The gradient of {wrong} disagrees with single examples.",
                "The model uses this parameter in a way that is not seen: in its loss, or in a hook.",
            )

    def _disagrees(self, found: Gradients, inputs: Inputs, targets: Any) -> str | None:
        """The first parameter whose summed gradient is not that of single examples."""
        ones = torch.ones(_count(inputs) // self._images, device=self._device)
        sums = found.clipped(dict.fromkeys(found.squares, ones))
        still = Capture([], [], 0, 1, RULES)
        still.still = True
        with still, self._autocast():
            loop = single.by_loop(self.model, self.loss, inputs, targets)
        expected = {name: each.double().sum(0).reshape(-1) for name, each in loop.items()}
        length = max(float(torch.linalg.vector_norm(vector)) for vector in expected.values())
        for name, vector in expected.items():
            off = float(torch.linalg.vector_norm(sums[name] - vector)) if name in sums else float(vector.norm())
            if off > _AGREES * length and math.isfinite(length):
                return name
        return None

    def _say(self, reason: Unruled) -> None:
        if self.without_rule is None:
            self.without_rule = str(reason)
            _log.warning("No fast rule for %s: gradients by vmap, which takes longer.", reason)

    def _piece(self, inputs: Inputs, targets: Any) -> int:
        """Rows at once, a multiple of a unit's."""
        if self._rows is None:
            some = self._some((inputs, targets), 2)
            self._rows = memory.rows_that_fit(lambda: self.model(*some[0]), 2 * self._images, self._device)
        return max(1, self._rows // self._images) * self._images


def _refuse_norm(norm: float) -> None:
    if not 0 < norm < float("inf"):
        raise ModelError(f"The clipping norm is {norm:g}.", "Use a positive number.")


def _count(inputs: Inputs) -> int:
    leaves = [part for part in tree_leaves(inputs) if isinstance(part, Tensor)]
    if not leaves:
        raise ValueError("the inputs hold no tensor")
    return len(leaves[0])


def _is_real(part: Any) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point()


@contextmanager
def _in_double(model: nn.Module) -> Iterator[None]:
    """The same parameters and buffers in double precision, for a while."""
    held = [(value, value.data) for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
    try:
        for value, data in held:
            value.data = data.double()
        yield
    finally:
        for value, data in held:
            value.data = data


def _padded(batch: Any, count: int) -> Any:
    def one(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        missing = count - len(part)
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing > 0 else part

    return tree_map(one, batch)


def _zeroed(part: Any, rows: Tensor) -> Any:
    """The rows that are not in `rows` as zeros, even where they are not finite."""
    if not isinstance(part, Tensor):
        return part
    return torch.where(rows.view(-1, *[1] * (part.ndim - 1)), part, torch.zeros_like(part))


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 on NVIDIA: a norm and a sum have to have the sensitivity that is promised."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
