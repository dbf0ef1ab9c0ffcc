"""Layers that multiply: their weight's gradient is a product of inputs and slopes, and need not be made to be measured.

A `Product` waits for the slope of its output, measures each unit's gradient there and then, in the cheapest of several
ways, and gives the clipped sum once the factors are known: book-keeping (Bu et al. 2023). A way that keeps the units'
gradients needs only a weighted sum of them later; one that does not is followed by the library's own product with
weighted slopes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch
from torch import Tensor

from primum.clipping import geometry as shapes
from primum.clipping import small_maps, timing, winograd
from primum.clipping.capture import Unruled, in_float
from primum.clipping.geometry import Geometry

ALLOWANCE: Final = 1 << 26
"""Bytes of units' gradients that one layer may keep until the factors are known."""
_HOPELESS: Final = 12.0  # a way with so many times the arithmetic of the best is not tried


@dataclass(frozen=True)
class Way:
    """One way to measure a layer's gradients. `work` in multiplications, roughly.

    With `keeps` the call gives the gradients [units, weight], else their squared norms [units]. `turned`: as
    `geometry.each_turned` gives them.
    """

    name: str
    work: float
    keeps: bool
    call: Callable[[Tensor, Tensor], Tensor]
    turned: bool = False


@dataclass
class Product(ABC):
    """One use of `weight`. `images` consecutive rows are a unit; `alone` where this is its only use, and directly."""

    weight: Tensor = field(repr=False)
    inputs: Tensor | None = field(repr=False)
    images: int
    alone: bool = False
    squares: Tensor | None = field(default=None, repr=False)
    kept: Tensor | None = field(default=None, repr=False)
    slopes: Tensor | None = field(default=None, repr=False)
    turned: bool = False

    def __post_init__(self) -> None:
        assert self.inputs is not None
        self._version = self.inputs._version

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The one weight."""
        return (self.weight,)

    def seen(self, slopes: Tensor) -> None:
        """The slope of the output: measures the units' gradients where nothing else adds to them."""
        assert self.inputs is not None
        if self.inputs._version != self._version:
            raise Unruled("an input that is changed in place after its use")
        self.inputs, self.slopes = in_float(self.inputs.detach()), in_float(slopes.detach())
        if self.alone:
            inputs, slope = self.operands()
            self._measure(choose(self.key(inputs, slope), self.ways(inputs, slope), self, inputs, slope), inputs, slope)

    def _measure(self, way: Way, inputs: Tensor, slopes: Tensor) -> None:
        result = way.call(inputs, slopes)
        if way.keeps:
            self.kept, self.turned = result.flatten(1), way.turned
            self.squares = torch.linalg.vecdot(self.kept, self.kept)
            self.inputs = self.slopes = None
        else:
            self.squares = result

    def operands(self) -> tuple[Tensor, Tensor]:
        """Inputs and slopes, as the ways take them."""
        assert self.inputs is not None
        slopes = torch.zeros(()) if self.slopes is None else self.slopes
        return self.inputs, slopes

    def clipped(self, factors: Tensor) -> Tensor:
        """The weighted sum of the units' gradients, the weight's shape; `factors` [units]."""
        if self.kept is not None:
            return self.from_kept(torch.mv(self.kept.t(), factors.to(self.kept.dtype)))
        if self.slopes is None:
            return torch.zeros_like(self.weight)
        rows = factors.repeat_interleave(self.images) if self.images > 1 else factors
        inputs, slopes = self.operands()
        weighted = self.slopes * rows.to(self.slopes.dtype).view(-1, *[1] * (self.slopes.ndim - 1))
        return self.summed(*((inputs, weighted) if slopes is self.slopes else (weighted, slopes)))

    def in_pieces(self, call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Squared norms of the gradients that `call` gives, a few units at a time; at least one."""
        piece = max(1, ALLOWANCE // (4 * self.weight.numel() * self.images)) * self.images

        def squares(inputs: Tensor, slopes: Tensor) -> Tensor:
            parts = []
            for start in range(0, len(inputs), piece):
                rows = slice(start, start + piece)
                flat = call(inputs[rows], slopes[rows]).flatten(1)
                parts.append(torch.linalg.vecdot(flat, flat))
            return torch.cat(parts)

        return squares

    def from_kept(self, gradient: Tensor) -> Tensor:
        """A flat gradient as it was kept, as the weight."""
        return gradient.view(self.weight.shape)

    def each(self, weight: Tensor) -> Tensor:
        """Each row's gradient, [rows, *weight.shape]."""
        if self.slopes is None:
            assert self.inputs is not None
            return weight.new_zeros(len(self.inputs), *weight.shape)
        return self.of_rows(*self.operands()).view(-1, *weight.shape)

    @abstractmethod
    def key(self, inputs: Tensor, slopes: Tensor) -> tuple[object, ...]:
        """What the cheapest way depends on."""

    @abstractmethod
    def ways(self, inputs: Tensor, slopes: Tensor) -> list[Way]:
        """All ways to measure."""

    @abstractmethod
    def of_rows(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """Each row's gradient, in a way that is always possible."""

    @abstractmethod
    def summed(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """The gradient summed over rows, the weight's shape."""


def choose(key: tuple[object, ...], ways: list[Way], product: Product, inputs: Tensor, slopes: Tensor) -> Way:
    """The way that takes the least time here, measured once for each shape and kept."""
    name = timing.known.get(key)
    if name is None:
        least = min(way.work for way in ways)
        tried = [way for way in ways if way.work <= _HOPELESS * least]
        name = tried[0].name
        if len(tried) > 1:
            least, name = float("inf"), tried[0].name
            for way in tried:
                took = _seconds(way, product, inputs, slopes, least)
                least, name = min((least, name), (took, way.name))
        timing.known[key] = name
    return next((way for way in ways if way.name == name), ways[0])


def _seconds(way: Way, product: Product, inputs: Tensor, slopes: Tensor, least: float) -> float:
    """Of measuring and summing; `least`: what the quickest of the other ways needs."""

    def measured_and_summed() -> None:
        result = way.call(inputs, slopes)
        if way.keeps:
            kept = result.flatten(1)
            torch.mv(kept.t(), torch.linalg.vecdot(kept, kept))
        else:
            product.summed(inputs, slopes)

    return timing.best(measured_and_summed, inputs, least)


@dataclass
class Linear(Product):
    """y = x W^T: inputs [rows, ..., in], slopes [rows, ..., out]."""

    def _matrices(self, inputs: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        units = len(inputs) // self.images
        return inputs.reshape(units, -1, inputs.shape[-1]), slopes.reshape(units, -1, slopes.shape[-1])

    def key(self, inputs: Tensor, slopes: Tensor) -> tuple[object, ...]:
        """Shapes, type and place."""
        return ("linear", self.images, timing.rows_about(inputs), timing.rows_about(slopes), *timing.place(inputs))

    def ways(self, inputs: Tensor, slopes: Tensor) -> list[Way]:
        """One position: the product of two norms. More: products of positions, or the gradients themselves."""
        x, _ = self._matrices(inputs, slopes)
        units, positions, wide = x.shape
        high = slopes.shape[-1]
        if positions == 1:
            return [Way("lengths", 1.0, False, self._lengths)]
        ways = []
        if units * positions**2 * 4 <= ALLOWANCE:
            ways.append(Way("products", units * positions**2 * (wide + high), False, self._products))
        fits = units * wide * high * 4 <= ALLOWANCE
        gradients = self._each if fits else self.in_pieces(self._each)
        return [*ways, Way("each", units * positions * wide * high, fits, gradients)]

    def _lengths(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        x, g = (matrix.flatten(1) for matrix in self._matrices(inputs, slopes))
        return torch.mul(torch.linalg.vecdot(x, x), torch.linalg.vecdot(g, g))

    def _products(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        x, g = self._matrices(inputs, slopes)
        return shapes.squares_of_products(torch.bmm(x, x.transpose(1, 2)), torch.bmm(g, g.transpose(1, 2)))

    def _each(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        x, g = self._matrices(inputs, slopes)
        return torch.bmm(g.transpose(1, 2), x)

    def of_rows(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """One product a row."""
        rows = len(inputs)
        x, g = inputs.reshape(rows, -1, inputs.shape[-1]), slopes.reshape(rows, -1, slopes.shape[-1])
        return torch.bmm(g.transpose(1, 2), x)

    def summed(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """One product for all."""
        return torch.mm(slopes.reshape(-1, slopes.shape[-1]).t(), inputs.reshape(-1, inputs.shape[-1]))


@dataclass
class Convolution(Product):
    """y = W * x in one to three dimensions; transposed convolutions are the same with x and g exchanged."""

    geometry: Geometry = field(kw_only=True)
    transposed: bool = field(default=False, kw_only=True)

    def operands(self) -> tuple[Tensor, Tensor]:
        """For a transposed convolution the weight sees the slopes, and its output is the input."""
        inputs, slopes = super().operands()
        return (slopes, inputs) if self.transposed else (inputs, slopes)

    def key(self, inputs: Tensor, slopes: Tensor) -> tuple[object, ...]:
        """Shapes, geometry, type and place."""
        return (self.geometry, self.images, timing.rows_about(inputs), timing.rows_about(slopes), *timing.place(inputs))

    def ways(self, inputs: Tensor, slopes: Tensor) -> list[Way]:
        """Products of positions; gradients by backward convolutions, by patches, by the kernel's offsets."""
        units, rows = len(inputs) // self.images, len(inputs)
        positions = slopes[0, 0].numel()
        padded = self.geometry.padded(inputs[:1])[0, 0].numel()
        size, kernel = self.weight.numel(), self.weight[0, 0].numel()
        channels = inputs.shape[1] + slopes.shape[1]
        each = float(rows * positions * size)
        gram = self.images * padded
        ways = []
        if units * gram**2 * 4 <= ALLOWANCE:
            work = units * gram**2 * channels + units * (self.images * positions) ** 2 * kernel
            ways.append(Way("products", work, False, self._products))
        fits = rows * size * 4 <= ALLOWANCE
        for name, call in _EACH.items():
            gradients = self._kept(call) if fits else self.in_pieces(self._kept(call))
            if name != _TILES or winograd.possible(inputs, slopes.shape[1], self.geometry):
                ways.append(Way(name, each, fits, gradients, turned=name in (_TURNED, _TILES)))
        return ways

    def from_kept(self, gradient: Tensor) -> Tensor:
        """One way gives its gradients turned."""
        if not self.turned:
            return super().from_kept(gradient)
        return shapes.turned_back(gradient, tuple(self.weight.shape), self.geometry)

    def _products(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        if self.images == 1:
            return shapes.squares_by_products(inputs, slopes, self.geometry)
        inputs, slopes = shapes.as_units(inputs, self.images), shapes.as_units(slopes, self.images)
        return shapes.squares_by_products(inputs, slopes, self.geometry.of_units())

    def _kept(self, call: "Each") -> Callable[[Tensor, Tensor], Tensor]:
        def gradients(inputs: Tensor, slopes: Tensor) -> Tensor:
            each = call(inputs, slopes, self.geometry)
            return each if self.images == 1 else shapes.summed_units(each, self.images)

        return gradients

    def of_rows(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """One backward convolution a row."""
        return shapes.each_by_rows(inputs, slopes, self.geometry)

    def summed(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """One backward convolution, or a way of ours where that is quicker."""
        ways = {_LIBRARY: partial(shapes.weight_gradient, inputs, slopes, self.geometry)}
        for name, (possible, call) in _SUMS.items():
            if possible(inputs, slopes.shape[1], self.geometry):
                ways[name] = partial(call, inputs, slopes, self.geometry)
        if len(ways) == 1:
            return ways[_LIBRARY]()
        return ways[timing.quickest(("sum", *self.key(inputs, slopes)), ways, inputs)]()


_LIBRARY: Final = "library"
_TURNED: Final = "turned"
_TILES: Final = "tiles"
Each = Callable[[Tensor, Tensor, Geometry], Tensor]
_SUMS: Final[dict[str, tuple[Callable[[Tensor, int, Geometry], bool], Each]]] = {
    "offsets": (small_maps.possible, small_maps.weight_gradient),
    _TILES: (winograd.possible, winograd.weight_gradient),
}
_EACH: Final[dict[str, Each]] = {
    "groups": shapes.each_by_groups,
    "rows": shapes.each_by_rows,
    "patches": shapes.each_by_patches,
    _TURNED: shapes.each_turned,
    "offsets": shapes.each_by_offsets,
    _TILES: winograd.each_turned,
}


@dataclass
class Embedding(Product):
    """y = W[index]: inputs are indices [rows, ...], slopes [rows, ..., width]."""

    padding: int = field(default=-1, kw_only=True)

    def key(self, inputs: Tensor, slopes: Tensor) -> tuple[object, ...]:
        """There is one way."""
        return ("embedding",)

    def ways(self, inputs: Tensor, slopes: Tensor) -> list[Way]:
        """Products of the positions that name the same row."""
        return [Way("products", 1.0, False, self._products)]

    def _products(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        units = len(inputs) // self.images
        index = inputs.reshape(units, -1)
        g = slopes.reshape(units, index.shape[1], -1) * (index != self.padding).unsqueeze(2)
        same = (index.unsqueeze(1) == index.unsqueeze(2)).to(g.dtype)
        return shapes.squares_of_products(same, torch.bmm(g, g.transpose(1, 2)))

    def of_rows(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """One sum a row."""
        return torch.stack([self.summed(inputs[row], slopes[row]) for row in range(len(inputs))])

    def summed(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """The library's own."""
        count = self.weight.shape[0]
        gradient: Tensor = torch.ops.aten.embedding_dense_backward(slopes, inputs, count, self.padding, False)
        return gradient


@dataclass
class SlopeSum:
    """A bias: its gradient is the sum of slopes over positions; channels are on `axis`."""

    weight: Tensor = field(repr=False)
    axis: int
    rows: int
    gradient: Tensor | None = field(default=None, repr=False)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The one bias."""
        return (self.weight,)

    def seen(self, slopes: Tensor) -> None:
        """Sums at once: the slopes need not be held."""
        axis = self.axis % slopes.ndim
        rest = [place for place in range(1, slopes.ndim) if place != axis]
        self.gradient = in_float(slopes.detach())
        self.gradient = self.gradient.sum(rest) if rest else self.gradient

    def each(self, weight: Tensor) -> Tensor:
        """Zeros where the output had no part in the loss."""
        if self.gradient is None:
            return weight.new_zeros(self.rows, *weight.shape)
        return self.gradient
