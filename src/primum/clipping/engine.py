"""One batch's gradients: watched where there are rules, by vmap where not; the first batch of a kind is looked at closely.

A batch of a kind (shapes, types, training or not) is compared once with a loop over single examples, and with a longer
batch of the same kind: does an example's output change with the others, and are parameters used alike?
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
from torch.utils.checkpoint import CheckpointError

from primum.clipping import memory, single
from primum.clipping.capture import Capture, Unruled, Use, leaves_of, refuse_unseen
from primum.clipping.derived import Derived
from primum.clipping.geometry import summed_units
from primum.clipping.mixing import is_random, other_rows, refuse_mixing
from primum.clipping.product import Product
from primum.clipping.rules import RULES
from primum.clipping.single import Inputs, Loss
from primum.errors import ModelError

_AGREES: Final = 1e-3  # of the engine's sum with the loop's, relative
_TOGETHER: Final = 16  # units among which mixing is looked for
_CHECKPOINTS: Final = Unruled("activation checkpoints")
_log = logging.getLogger("primum.clipping")

Precision = Literal["float32", "bfloat16"]


@dataclass
class Gradients:
    """What is known of a batch after its backward pass: squared norms by parameter, and how to add up."""

    squares: dict[str, Tensor] = field(repr=False)
    kept: dict[str, Tensor] = field(repr=False)
    products: dict[str, Product] = field(repr=False)
    derived: list[Derived] = field(default_factory=list, repr=False)

    def clipped(self, factors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sums by name, flat."""
        sums = {name: factors[name].to(rows.dtype) @ rows for name, rows in self.kept.items()}
        sums |= {name: product.clipped(factors[name]).reshape(-1) for name, product in self.products.items()}
        for one in self.derived:
            sums |= one.clipped(factors)
        return sums


class Engine:
    """Per-example gradients of `model` under `loss`, `images` rows a unit; see `clipper.Clipper` for the arguments."""

    def __init__(self, model: nn.Module, loss: Loss, images: int, precision: Precision) -> None:
        self.model, self.loss = model, loss
        self.parameters = single.trainable(model)
        self.images, self._precision = images, precision
        self._names = {id(value): name for name, value in self.parameters.items()}
        self._known: dict[tuple[object, ...], tuple[object, ...] | None] = {}
        self._together: dict[tuple[object, ...], int] = {}  # units that were seen not to mix, by kind
        self._each_alone: bool | None = None
        self.without_rule: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    @property
    def dimension(self) -> int:
        """Trainable parameters."""
        return sum(value.numel() for value in self.parameters.values())

    def rows_that_fit(self, inputs: Inputs, targets: Any) -> int:
        """The most rows that memory holds at once."""
        some = self._some((inputs, targets), 2)
        return memory.rows_that_fit(lambda: self.model(*some[0]), 2 * self.images, self.device)

    def gradients(self, inputs: Inputs, targets: Any, weights: Tensor) -> Gradients:
        """Of a batch; `weights` [rows] multiply each row's loss."""
        kind = self._kind(inputs, targets)
        expected = self._known[kind]
        if expected is not None:
            try:
                return self._captured(inputs, targets, weights, expected)
            except Unruled as reason:
                self._say(reason)
            except CheckpointError:  # what is computed again in the backward pass goes the library's ways
                self._say(_CHECKPOINTS)
                self._known[kind] = None
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
        found = [(one, one.squares(capture.sources.get(id(one.weight)))) for one in self._derived(uses)]
        gradients = self._collect({name: used for name, used in uses.items() if not any(name in s for _, s in found)})
        for one, squares in found:
            gradients.squares.update(squares)
            gradients.derived.append(one)
        if not gradients.squares:
            raise Unruled("a loss that depends on no parameter")
        return gradients

    def _forward(self, inputs: Inputs, still: bool = False) -> tuple[Capture, Any]:
        constants = [*self.model.buffers(), *(p for p in self.model.parameters() if not p.requires_grad)]
        capture = Capture(list(self.parameters.values()), constants, count(inputs), self.images, RULES)
        capture.still = still
        with torch.enable_grad(), self._autocast(), capture:
            return capture, self.model(*inputs)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _signature(self, capture: Capture) -> tuple[object, ...]:
        """Which parameters were used how: the same for every number of rows."""
        return tuple((type(use), *(self._names.get(id(w), "derived") for w in use.weights)) for use in capture.uses)

    def _uses(self, capture: Capture) -> dict[str, list[tuple[Use, Tensor]]]:
        """For each parameter its uses, with the weight in each; `alone` is set where a product stands by itself."""
        uses: dict[str, list[tuple[Use, Tensor]]] = {name: [] for name in self.parameters}
        for use in capture.uses:
            for weight in use.weights:
                if capture.is_parameter(weight):
                    uses[self._names[id(weight)]].append((use, weight))
                else:
                    for name in self._ancestors(weight):
                        uses[name].append((use, weight))
        for name, found in uses.items():
            if len(found) == 1 and isinstance(found[0][0], Product):
                found[0][0].alone = found[0][1] is self.parameters[name]
        return uses

    def _ancestors(self, derived: Tensor) -> list[str]:
        """The parameters of which a derived weight is made."""
        return [self._names[id(leaf)] for leaf in leaves_of(derived) if id(leaf) in self._names]

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
        return Gradients(squares, kept, products)

    def _derived(self, uses: dict[str, list[tuple[Use, Tensor]]]) -> list[Derived]:
        """Derived weights with one use, whose parameters are used through them alone."""
        through: dict[int, tuple[Product, Tensor, list[str]]] = {}
        for name, found in uses.items():
            if len(found) == 1 and isinstance(found[0][0], Product) and found[0][1] is not self.parameters[name]:
                through.setdefault(id(found[0][0]), (found[0][0], found[0][1], []))[2].append(name)
        return [
            Derived(weight, product, {name: self.parameters[name] for name in names})
            for product, weight, names in through.values()
            if set(names) == set(self._ancestors(weight))
        ]

    def _each(self, name: str, found: list[tuple[Use, Tensor]]) -> Tensor:
        """Each row's gradient of one parameter, from all its uses."""
        parameter = self.parameters[name]
        parts = []
        for use, weight in found:
            each = use.each(weight)
            if weight is not parameter:
                each = torch.autograd.grad(weight, parameter, each.to(weight.dtype), True, is_grads_batched=True)[0]
            parts.append(each)
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _units(self, each: Tensor) -> Tensor:
        rows = each.reshape(len(each), -1)
        return rows if self.images == 1 else summed_units(rows, self.images)

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
        for name in self.parameters:
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
        together = min(_TOGETHER, max(3, count(inputs) // self.images))
        known = kind in self._known
        if not known or together > self._together[kind]:  # a larger batch than was looked at so far
            with torch.random.fork_rng():  # looking must not change what a model draws afterwards
                few = self._some((inputs, targets), 2)[0]
                for units in {together} if known else {3, together}:
                    refuse_mixing(self.model, few, self._some((inputs, targets), units)[0], self.images)
                if not known:
                    self._known[kind] = self._look(inputs, targets)
            self._together[kind] = together  # last: what is refused is looked at again
        return kind

    def _look(self, inputs: Inputs, targets: Any) -> tuple[object, ...] | None:
        """The signature of the uses of parameters; None where vmap has to do it. Compares with single examples."""
        few, more = (self._some((inputs, targets), units) for units in (2, 3))
        if self._alike(few[0]):  # equal examples would hide what a loss makes of their difference
            few = tree_map(lambda part: other_rows(part, self.images), few[0]), few[1]
        self._refuse_loss(*few)
        try:
            passes = [self._forward(some[0], still=True) for some in (few, more)]
            signatures = [self._signature(capture) for capture, _ in passes]
            refuse_unseen(passes[0][1], self.parameters)
            if signatures[0] != signatures[1]:
                raise Unruled("a use of parameters that depends on the batch's size")
            unknown = torch.ones(count(few[0]), device=self.device)
            found = self._captured(*few, unknown, None, still=True)
        except Unruled as reason:
            self._say(reason)
            return None
        except CheckpointError:
            self._say(_CHECKPOINTS)
            return None
        if not is_random(self.model, few[0]):
            self._compare(found, *few)
        return signatures[0]

    def _alike(self, inputs: Inputs) -> bool:
        """Whether two units' rows are the same."""
        leaves = [part for part in tree_leaves(inputs) if isinstance(part, Tensor)]
        return all(torch.equal(part[: self.images], part[self.images :]) for part in leaves)

    def _refuse_loss(self, inputs: Inputs, targets: Any) -> None:
        """ModelError where the loss uses trained parameters beside the outputs: their part would be left out."""
        with torch.no_grad():
            outputs = self.model(*inputs)
        cut = tree_map(
            lambda part: part.detach().requires_grad_(_is_real(part)) if isinstance(part, Tensor) else part, outputs
        )
        made = {id(part) for part in tree_leaves(cut)}
        with torch.enable_grad():  # a loss may take slopes of the outputs, and change them in place
            value = self.loss(tree_map(lambda part: part.clone() if isinstance(part, Tensor) else part, cut), targets)
        if isinstance(value, Tensor) and any(id(leaf) not in made for leaf in leaves_of(value)):
            raise ModelError(
                "The loss uses parameters by itself, beside what the model made of an example.",
                "Weight decay belongs in the optimiser: after the noise it costs no privacy. Else make it part of the model.",
            )

    def _some(self, batch: tuple[Inputs, Any], units: int) -> tuple[Inputs, Any]:
        rows = torch.arange(units * self.images, device=self.device) % count(batch[0])
        chosen: tuple[Inputs, Any] = single.rows_of(batch, rows)
        return chosen

    def _compare(self, found: Gradients, inputs: Inputs, targets: Any) -> None:
        """The sum over two units, against plain autograd on one example at a time; in doubt in double precision."""
        wrong = self._disagrees(found, inputs, targets)
        if wrong is None or self._precision != "float32":
            return
        with _in_double(self.model):
            inputs, targets = tree_map(lambda part: part.double() if _is_real(part) else part, (inputs, targets))
            weights = torch.ones(count(inputs), dtype=torch.float64, device=self.device)
            wrong = self._disagrees(self._captured(inputs, targets, weights, None, still=True), inputs, targets)
        if wrong is not None:
            raise ModelError(
                f"The gradient of {wrong} disagrees with single examples.",
                "The loss of an example depends on other examples, or the model uses this parameter in a way that is not "
                "seen, in a hook for instance.",
            )

    def _disagrees(self, found: Gradients, inputs: Inputs, targets: Any) -> str | None:
        """The first parameter whose summed gradient is not that of single examples."""
        ones = torch.ones(count(inputs) // self.images, device=self.device)
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


def count(inputs: Inputs) -> int:
    """Rows of a batch."""
    leaves = [part for part in tree_leaves(inputs) if isinstance(part, Tensor)]
    if not leaves:
        raise ModelError("The inputs hold no tensor.", "Of NumPy arrays: torch.from_numpy(images).")
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
