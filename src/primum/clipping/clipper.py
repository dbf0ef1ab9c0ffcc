"""`Clipper`: the clipped sum of per-example gradients, at about the price of a plain step.

    clipper = Clipper(model, loss, clipping_norm=1.0)
    clipper.add(images, labels)          # as often as memory asks for
    total = clipper.take()               # one flat vector; adding or removing a unit moves it by at most the norm

The model is any nn.Module and stays what it is. The first batch is looked at closely: which uses of parameters have
rules (`rules.py`), whether examples mix, whether the result agrees with a loop over single examples.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Real
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from primum.clipping import memory, single
from primum.clipping.engine import Engine, Precision, count
from primum.clipping.factors import Clipping, Flat, total
from primum.clipping.single import Inputs, Loss
from primum.clipping.validate import refuse_layers
from primum.errors import ModelError

_FLUSH: Final = 16  # physical batches that are added in float32 before float64
_Batch = tuple[Inputs, Any, Tensor, Tensor | None]


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
        _refuse_settings(clipping, images_per_unit, rows, precision)
        self._engine = Engine(model, loss, images_per_unit, precision)
        self._parameters = self._engine.parameters
        if not self._parameters:
            raise ModelError("No parameter of the model is trained.", "Set requires_grad on those that should be.")
        refuse_layers(model)
        self._norm, self._clipping = clipping_norm, clipping or Flat()
        self._images, self._rows = images_per_unit, rows
        self._sums: dict[str, Tensor] = {}
        self._added = self._within = self._units_added = 0
        self._total: Tensor | None = None

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self._engine.model

    @property
    def without_rule(self) -> str | None:
        """The function without a fast rule, for which gradients go through vmap; None where there is none."""
        return self._engine.without_rule

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
        return self._engine.dimension

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, in the order of the flat vector."""
        return dict(self._parameters)

    @property
    def images_per_unit(self) -> int:
        """How many consecutive rows are a unit."""
        return self._images

    @property
    def within(self) -> int:
        """How many units since the last `take` had a gradient no longer than the norm. Secret: depends on the data."""
        return self._within

    @property
    def units(self) -> int:
        """How many units were added since the last `take`. Secret: a sample's size."""
        return self._units_added

    def add(
        self,
        inputs: Any,
        targets: Any,
        weights: Tensor | None = None,
        padded_to: int = 0,
        counting: Tensor | None = None,
    ) -> None:
        """Add the clipped gradients of some examples to the sum.

        `inputs` [n, ...] or a tuple of such, the model's positional arguments; `targets` [n, ...]; `weights` [n]
        multiply the loss of each example. `counting` [n], in [0, 1], multiplies gradients after they were clipped (a unit
        by the mean over its rows of weight above 0): where classes are to count differently, weights would be clipped
        away. With `padded_to`, rows of zeros with weight 0 are added up to that many, so
        that the work does not show n. No examples: nothing. ValueError for a `counting` outside [0, 1].
        """
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        rows, device = count(inputs), self._engine.device
        _refuse_lengths(rows, inputs=inputs, targets=targets, weights=weights, counting=counting)
        if single.trainable(self.model).keys() != self._parameters.keys():
            raise ModelError("Other parameters are trained than when the clipper was made.", "Make a new one.")
        weights = torch.ones(rows, device=device) if weights is None else weights.to(device, torch.float32)
        if rows == 0 and padded_to == 0:
            return
        if rows % self._images:
            raise ModelError(
                f"{rows} rows are not a multiple of {self._images} images a unit.",
                "Each unit takes so many consecutive rows: draw with PatientSampler and place with Sample.placed.",
            )
        if counting is not None and not ((counting >= 0) & (counting <= 1)).all():
            raise ValueError("what a unit counts is between 0 and 1: more would move the sum by more than the norm")
        counting = counting if counting is None else counting.to(device, torch.float32)
        with self._context():
            self._add_pieces((inputs, targets, weights, counting), max(rows, padded_to))

    def _add_pieces(self, batch: _Batch, rows: int) -> None:
        """As many rows at a time as memory holds; half as many where it does not after all."""
        start = 0
        while start < rows:
            piece = self._piece(batch)
            some = _padded(single.rows_of(batch, slice(start, start + piece)), min(piece, rows - start))
            try:
                self._add(*some)
            except RuntimeError as error:
                if not memory.is_exhausted(error) or piece <= self._images:
                    raise
                self._rows = piece // 2
            else:
                start += piece

    def take(self) -> Tensor:
        """The sum since the last call, flat [dimension] on the processor; it starts again from zero.

        Float64; float32 where it was added up from 16 physical batches at most. Without noise: it must not leave.
        """
        if self._total is None and self._sums:
            result = self._flat()
        else:
            self._flush()
            result = torch.zeros(self.dimension, dtype=torch.float64) if self._total is None else self._total
        self.drop()
        return result

    def drop(self) -> None:
        """Start again from zero: what was added since the last call of `take` is forgotten."""
        self._sums, self._total = {}, None
        self._added = self._within = self._units_added = 0

    def write(self, vector: Tensor) -> None:
        """Set each parameter's `.grad` from a flat vector [dimension], for any optimiser; of a frozen one to None."""
        self._forget_frozen()
        start = 0
        for value in self._parameters.values():
            part = vector[start : start + value.numel()].view_as(value)
            value.grad = part.to(device=value.device, dtype=value.dtype)
            start += value.numel()

    def write_without_noise(self, divisor: float) -> None:
        """Set each parameter's `.grad` to the clipped sum over `divisor` and start again: NO PRIVACY, to find mistakes."""
        if self._total is None and len(self._sums) == len(self._parameters):
            self._forget_frozen()
            for name, value in self._parameters.items():
                value.grad = (self._sums[name].view_as(value) / divisor).to(value.dtype)
            self.drop()
        else:
            self.write(self.take() / divisor)

    def _forget_frozen(self) -> None:
        """What a frozen parameter has left in `.grad` was never clipped, and an optimiser would take it in every step."""
        for value in self.model.parameters():
            if not value.requires_grad:
                value.grad = None

    def _context(self) -> AbstractContextManager[None]:
        return _full_precision() if self._engine.device.type == "cuda" else nullcontext()

    # one batch

    def _add(self, inputs: Inputs, targets: Any, weights: Tensor, counting: Tensor | None) -> None:
        filled = weights.view(-1, self._images).ne(0)
        there = filled.any(1)
        gradients = self._engine.gradients(inputs, targets, weights)
        squares = total(gradients.squares)
        finite = squares.isfinite()
        if not finite.all():  # a gradient that is not finite counts as zero: the same sum as without its unit
            kept = finite.repeat_interleave(self._images).nonzero().flatten()
            self._units_added += int((there & ~finite).sum())
            if len(kept):
                self._add(*single.rows_of((inputs, targets, weights, counting), kept))
            return
        factors = self._clipping.factors(gradients.squares, self._norm)
        self._within += int((there & (squares <= self._norm**2)).sum())
        self._units_added += int(there.sum())
        if counting is not None:
            counts = (counting.view(-1, self._images) * filled).sum(1) / filled.sum(1).clamp(min=1)
            factors = {name: factor * counts for name, factor in factors.items()}
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

    def _piece(self, batch: _Batch) -> int:
        """Rows at once, a multiple of a unit's."""
        if self._rows is None:
            inputs, targets, *_ = _padded(batch, self._images)
            self._rows = self._engine.rows_that_fit(inputs, targets)
        return max(1, self._rows // self._images) * self._images


def _refuse_norm(norm: float) -> None:
    if isinstance(norm, bool) or not isinstance(norm, Real) or not 0 < norm < float("inf"):
        raise ModelError(f"The clipping norm is {norm!r}.", "Use a positive number.")


def _refuse_settings(clipping: object, images: object, rows: object, precision: object) -> None:
    if clipping is not None and not callable(getattr(clipping, "factors", None)):
        raise ModelError(f"The clipping is {clipping!r}.", "It is Flat(), PerLayer() or Automatic().")
    for name, number in (("images_per_unit", images), ("rows", rows)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ModelError(f"{name} is {number!r}.", "It is a whole number from 1 on.")
    if precision not in get_args(Precision):
        raise ModelError(f"The precision is {precision!r}.", f"It is one of {', '.join(get_args(Precision))}.")


def _refuse_lengths(rows: int, **parts: Any) -> None:
    """ModelError where something has not one row for each example: what is missing would be filled up with zeros."""
    for name, part in parts.items():
        for leaf in tree_leaves(part):
            if isinstance(leaf, Tensor) and (leaf.ndim == 0 or len(leaf) != rows):
                held = "a single number" if leaf.ndim == 0 else f"{len(leaf)} rows"
                raise ModelError(
                    f"There are {rows} examples, but {name} hold {held}.", "Give one row for each example."
                )


def _padded(batch: Any, count: int) -> Any:
    def one(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        missing = count - len(part)
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing > 0 else part

    return tree_map(one, batch)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 on NVIDIA: a norm and a sum have to have the sensitivity that is promised."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
