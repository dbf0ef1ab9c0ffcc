"""Weights that are computed from parameters: norms of gradients pulled back to the parameters, and one pull-back of a sum.

A derived weight W = f(w) of parameters w has the gradient J^T g for w, where g is that of W. The clipped sum needs one
pull-back, sum_i f_i J^T g_i = J^T sum_i f_i g_i; only the norms |J^T g_i| need one an example. For standardised filters
(`layers.standardised`) they need none. With u the unit filter (less its mean), K values in it, a = gain / length:

    |g_w|^2 = a^2 (|g|^2 - (sum of g)^2 / K - (u . g)^2)        g_gain = u . g

and |g|^2, the sum of g and u . g of each filter follow from inputs and slopes without g itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from primum.clipping import geometry as shapes
from primum.clipping import product as products
from primum.clipping.layers import inverse_length, standardised
from primum.clipping.product import Convolution, Product

_CONVOLUTIONS: Final[dict[int, Callable[..., Tensor]]] = {
    1: nn.functional.conv1d,
    2: nn.functional.conv2d,
    3: nn.functional.conv3d,
}
_MOST_POSITIONS: Final = 256  # above, gradients themselves are cheaper than products of positions


@dataclass
class Derived:
    """The one use of a derived weight, and the parameters that are used through it alone, by name."""

    weight: Tensor = field(repr=False)
    product: Product
    parameters: dict[str, Tensor] = field(repr=False)

    def squares(self, source: tuple[object, tuple[Tensor, ...]] | None) -> dict[str, Tensor]:
        """Squared norms [units] by parameter; `source`: the function that made the weight, and of what."""
        if self.product.slopes is None:
            units = len(self.product.operands()[0]) // self.product.images
            return {name: value.new_zeros(units) for name, value in self.parameters.items()}
        if source is not None and self._is_standardised(source):
            return self._of_standardised(source[1])
        return self._in_pieces()

    def clipped(self, factors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sums by name, flat: one pull-back for parameters that share their factors."""
        sums: dict[str, Tensor] = {}
        for name, value in self.parameters.items():
            if name in sums:
                continue
            shared = {other: p for other, p in self.parameters.items() if factors[other] is factors[name]}
            total = self.product.clipped(factors[name]).to(self.weight.dtype)
            found = torch.autograd.grad(self.weight, list(shared.values()), total, retain_graph=True)
            sums |= {other: gradient.reshape(-1) for other, gradient in zip(shared, found, strict=True)}
            assert value.numel() == sums[name].numel()
        return sums

    def _in_pieces(self) -> dict[str, Tensor]:
        """Each unit's gradient, pulled back and measured, a few units at a time."""
        inputs, slopes = self.product.operands()
        images = self.product.images
        piece = max(1, products.ALLOWANCE // (4 * self.weight.numel() * images)) * images
        parts: dict[str, list[Tensor]] = {name: [] for name in self.parameters}
        for start in range(0, len(inputs), piece):
            rows = slice(start, start + piece)
            each = self.product.of_rows(inputs[rows], slopes[rows]).view(-1, *self.weight.shape)
            each = shapes.summed_units(each, images).to(self.weight.dtype)
            found = torch.autograd.grad(
                self.weight, list(self.parameters.values()), each, retain_graph=True, is_grads_batched=True
            )
            for name, gradient in zip(self.parameters, found, strict=True):
                flat = gradient.flatten(1)
                parts[name].append(torch.linalg.vecdot(flat, flat))
        return {name: torch.cat(squares) for name, squares in parts.items()}

    def _is_standardised(self, source: tuple[object, tuple[Tensor, ...]]) -> bool:
        function, arguments = source
        product = self.product
        plain = isinstance(product, Convolution) and not product.transposed and product.images == 1
        own = {id(value) for value in self.parameters.values()}
        return function is standardised and plain and {id(value) for value in arguments} == own

    def _of_standardised(self, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
        weight, gain = (value.detach() for value in arguments)
        assert isinstance(self.product, Convolution)
        rows = weight.flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        inverse = inverse_length(centred)
        unit = (centred * inverse.unsqueeze(1)).view_as(weight)
        squares, sums, along = _filters(self.product, unit)
        held = inverse * torch.linalg.vector_norm(centred, dim=1) < 1 - 1e-3  # a tiny length does not turn the slope
        left = squares - sums.square() / rows.shape[1] - along.square() * ~held
        scaled = (gain * inverse).square()
        of_weight = torch.maximum(left, shapes.CANCELLED * squares) @ scaled
        return {
            name: of_weight if value is arguments[0] else along.square().sum(1)
            for name, value in self.parameters.items()
        }


def _filters(product: Convolution, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row and filter [rows, O]: |g|^2, the sum of g, and u . g."""
    inputs, slopes = product.operands()
    geometry, out = product.geometry, tuple(slopes.shape[2:])
    convolve = _CONVOLUTIONS[len(out)]
    settings = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    flat = slopes.flatten(2)
    along = (flat * convolve(inputs, unit.to(inputs.dtype), None, *settings).flatten(2)).sum(2)
    ones = inputs.new_ones(geometry.groups, unit.shape[1], *geometry.kernel)
    seen = convolve(inputs, ones, None, *settings).flatten(2)
    repeated = seen.repeat_interleave(flat.shape[1] // geometry.groups, 1)
    return _lengths(inputs, slopes, product), (flat * repeated).sum(2), along


def _lengths(inputs: Tensor, slopes: Tensor, product: Convolution) -> Tensor:
    """|g|^2 of each row and filter, [rows, O]; where terms cancel, a safe larger value."""
    geometry, rows, high = product.geometry, len(inputs), slopes.shape[1]
    out = tuple(slopes.shape[2:])
    positions, padded = slopes[0, 0].numel(), geometry.padded(inputs[:1])[0, 0].numel()
    if positions > _MOST_POSITIONS or rows * padded**2 * 4 > products.ALLOWANCE:
        return _lengths_in_pieces(inputs, slopes, product)
    gram = shapes.patch_products(shapes.by_groups(inputs, geometry.groups), geometry, out)
    flat = shapes.by_groups(slopes, geometry.groups).flatten(2)
    squares = (torch.bmm(flat, gram) * flat).sum(2)
    most = (flat.abs() * gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().unsqueeze(1)).sum(2).square()
    return torch.maximum(squares, shapes.CANCELLED * most).view(rows, high)


def _lengths_in_pieces(inputs: Tensor, slopes: Tensor, product: Convolution) -> Tensor:
    piece = max(1, products.ALLOWANCE // (4 * product.weight.numel()))
    parts = []
    for start in range(0, len(inputs), piece):
        rows = slice(start, start + piece)
        each = shapes.each_by_patches(inputs[rows], slopes[rows], product.geometry).flatten(2)
        parts.append(torch.linalg.vecdot(each, each))
    return torch.cat(parts)
