"""The geometry of a convolution in any number of dimensions, and its products one example at a time.

A unit is one example, or several consecutive ones whose gradients are summed before clipping. Several images of a unit
are one image with one more axis, along which the kernel has length 1: then every product below holds for units too.

| symbol | here | meaning |
|---|---|---|
| x | `inputs` [rows, C, *space] | input of the layer |
| g | `slopes` [rows, O, *out] | derivative of the loss by its output |
| t | position in `out` | |
| u_t | a patch | what the kernel sees at position t, C / groups * kernel values |

The weight's gradient for one unit is sum_t g_t u_t^T, and its squared norm is sum_(t, t') <u_t, u_t'> <g_t, g_t'>
(Goodfellow 2015 for T = 1; Li et al. 2022, section 4; Bu et al. 2023).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

CANCELLED: Final = 2.0**-11
"""Where a gradient's square is a smaller share than this of what its terms could add up to, float32 cannot tell it:
then the norm is taken larger than it is, never smaller."""

CACHE: Final = 1 << 22
"""Bytes of patches that are made at a time."""

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding, dilation (one number an axis) and groups."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int = 1

    def offsets(self) -> Iterator[Sizes]:
        """Where each weight of the kernel looks, from the first, in the padded input."""
        return product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True)))

    def padded(self, inputs: Tensor) -> Tensor:
        """`inputs` with zeros around; the same tensor where there is no padding."""
        if not any(self.padding):
            return inputs
        return functional.pad(inputs, [size for size in reversed(self.padding) for _ in range(2)])

    def seen(self, offset: Sizes, out: Sizes) -> tuple[slice, ...]:
        """What the weight at `offset` sees of the padded input, one slice an axis."""
        axes = zip(offset, out, self.stride, strict=True)
        return tuple(slice(first, first + (size - 1) * step + 1, step) for first, size, step in axes)

    def inside(self, offset: Sizes, space: Sizes, out: Sizes) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What the weight at `offset` sees of the input itself, without padding, and at which positions; one slice an axis."""
        seen, at = [], []
        for first, size, positions, step, around in zip(offset, space, out, self.stride, self.padding, strict=True):
            low = max(0, -((first - around) // step))
            high = min(positions - 1, (size - 1 + around - first) // step)
            count = max(0, high - low + 1)
            start = first - around + low * step
            seen.append(slice(start, start + count * step, step))
            at.append(slice(low, low + count))
        return tuple(seen), tuple(at)

    def out(self, space: Sizes) -> Sizes:
        """Positions of an input of `space`, one number an axis."""
        axes = zip(space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(max(0, (size + 2 * p - d * (k - 1) - 1) // s + 1) for size, k, s, p, d in axes)

    def backward(
        self, slopes: Tensor, inputs: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The library's own backward convolution: slopes of input, weight and bias, those that are `wanted`."""
        none = [0] * len(self.kernel)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            slopes, inputs, weight, None, self.stride, self.padding, self.dilation, False, none, self.groups, wanted
        )
        return found

    def of_units(self) -> "Geometry":
        """With one more axis in front, for the images of a unit."""
        return Geometry((1, *self.kernel), (1, *self.stride), (0, *self.padding), (1, *self.dilation), self.groups)


def summed_units(rows: Tensor, images: int) -> Tensor:
    """[units * images, ...] -> [units, ...], the sum over each unit's images."""
    return rows.view(-1, images, *rows.shape[1:]).sum(1)


def as_units(tensor: Tensor, images: int) -> Tensor:
    """[units * images, C, *space] -> [units, C, images, *space]."""
    return tensor.reshape(-1, images, *tensor.shape[1:]).transpose(1, 2)


def by_groups(tensor: Tensor, groups: int) -> Tensor:
    """[rows, C, *space] -> [rows * groups, C / groups, *space]."""
    return tensor.reshape(len(tensor) * groups, tensor.shape[1] // groups, *tensor.shape[2:])


def patch_products(inputs: Tensor, geometry: Geometry, out: Sizes) -> Tensor:
    """<u_t, u_t'> of each row, [rows, T, T], one group.

    The Gram matrix of the padded input comes first, then its shifted parts are added: less work than unfolding first.
    """
    padded = geometry.padded(inputs)
    space, flat = padded.shape[2:], padded.flatten(2)
    gram = torch.bmm(flat.transpose(1, 2), flat).view(len(inputs), *space, *space)
    total: Tensor | None = None
    for offset in geometry.offsets():
        seen = geometry.seen(offset, out)
        part = gram[(slice(None), *seen, *seen)]
        total = part.clone() if total is None else total.add_(part)
    positions = math.prod(out)
    assert total is not None  # a kernel has at least one weight
    return total.reshape(len(inputs), positions, positions)


def _at(padded: Tensor, seen: tuple[slice, ...]) -> Tensor:
    return padded[(slice(None), slice(None), *seen)]


def squares_by_products(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Squared norm of each unit's gradient without the gradient, [rows]; `inputs` and `slopes` hold one unit a row."""
    out = tuple(slopes.shape[2:])
    of_inputs = patch_products(by_groups(inputs, geometry.groups), geometry, out)
    flat = by_groups(slopes, geometry.groups).flatten(2)
    return squares_of_products(of_inputs, torch.bmm(flat.transpose(1, 2), flat)).view(len(inputs), -1).sum(1)


def squares_of_products(of_inputs: Tensor, of_slopes: Tensor) -> Tensor:
    """sum_(t, t') <u_t, u_t'> <g_t, g_t'> of each row; where the terms cancel, a safe larger value (`CANCELLED`)."""
    squares = torch.linalg.vecdot(of_inputs.flatten(1), of_slopes.flatten(1))
    lengths = (of_inputs.diagonal(dim1=1, dim2=2) * of_slopes.diagonal(dim1=1, dim2=2)).clamp_min(0).sqrt().sum(1)
    return torch.maximum(squares, CANCELLED * lengths.square())


def each_by_groups(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Each row's weight gradient, [rows, O, C / groups, *kernel]: all rows as groups of one backward convolution."""
    rows = len(inputs)
    merged = inputs.reshape(1, rows * inputs.shape[1], *inputs.shape[2:])
    slope = slopes.reshape(1, rows * slopes.shape[1], *slopes.shape[2:])
    gradient = weight_gradient(merged, slope, replace(geometry, groups=rows * geometry.groups))
    return gradient.view(rows, slopes.shape[1], -1, *geometry.kernel)


def each_by_rows(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Each row's weight gradient, one backward convolution a row."""
    gradients = inputs.new_empty(len(inputs), slopes.shape[1], inputs.shape[1] // geometry.groups, *geometry.kernel)
    for row in range(len(inputs)):
        gradients[row] = weight_gradient(inputs[row : row + 1], slopes[row : row + 1], geometry)
    return gradients


def each_by_patches(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Each row's weight gradient, slopes times patches, a few rows at a time: patches stay in the cache."""
    flat = by_groups(slopes, geometry.groups).flatten(2)
    gradients: Tensor | None = None
    for rows, patches in _patches(inputs, geometry, tuple(slopes.shape[2:])):
        if gradients is None:
            gradients = inputs.new_empty(len(flat), flat.shape[1], patches.shape[1])
        torch.bmm(flat[rows], patches.transpose(1, 2), out=gradients[rows])
    assert gradients is not None  # a batch has rows
    return gradients.view(len(inputs), slopes.shape[1], -1, *geometry.kernel)


def each_turned(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """The same **turned**, [rows, groups, C / groups * kernel, O / groups]: patches times slopes, often twice as quick."""
    flat = by_groups(slopes, geometry.groups).flatten(2).transpose(1, 2).contiguous()
    gradients: Tensor | None = None
    for rows, patches in _patches(inputs, geometry, tuple(slopes.shape[2:])):
        if gradients is None:
            gradients = inputs.new_empty(len(flat), patches.shape[1], flat.shape[2])
        torch.bmm(patches, flat[rows], out=gradients[rows])
    assert gradients is not None  # a batch has rows
    return gradients.view(len(inputs), geometry.groups, *gradients.shape[1:])


def _patches(inputs: Tensor, geometry: Geometry, out: Sizes) -> Iterator[tuple[slice, Tensor]]:
    """Some rows and their patches [rows, C / groups * kernel, T], about a cache at a time; valid until the next."""
    views = _windows(geometry.padded(by_groups(inputs, geometry.groups)), geometry, out)
    count, positions = len(views), math.prod(out)
    width = views.numel() // (count * positions)
    piece = max(1, CACHE // (views.element_size() * width * positions))
    held = inputs.new_empty(min(piece, count), *views.shape[1:])
    for start in range(0, count, piece):
        some = held[: min(piece, count - start)]
        some.copy_(views[start : start + piece])
        yield slice(start, start + piece), some.view(len(some), width, positions)


def turned_back(gradient: Tensor, shape: Sizes, geometry: Geometry) -> Tensor:
    """A turned gradient, flat, as the weight [O, C / groups, *kernel]."""
    groups, high = geometry.groups, shape[0] // geometry.groups
    return gradient.view(groups, -1, high).transpose(1, 2).reshape(shape)


def _windows(padded: Tensor, geometry: Geometry, out: Sizes) -> Tensor:
    """What the kernel sees at each position: a view [rows, C, *kernel, *out]."""
    view, axes = padded, len(out)
    for axis, (size, step, apart) in enumerate(zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True)):
        view = view.unfold(2 + axis, (size - 1) * apart + 1, step)[..., ::apart].narrow(2 + axis, 0, out[axis])
    return view.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))


def each_by_offsets(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Each row's weight gradient, one product a weight of the kernel: no patches are held."""
    out, rows = tuple(slopes.shape[2:]), len(inputs)
    padded = geometry.padded(by_groups(inputs, geometry.groups))
    flat = by_groups(slopes, geometry.groups).flatten(2)
    parts = [
        torch.bmm(flat, _at(padded, geometry.seen(offset, out)).flatten(2).transpose(1, 2))
        for offset in geometry.offsets()
    ]
    return torch.stack(parts, 3).view(rows, slopes.shape[1], -1, *geometry.kernel)


def weight_gradient(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """The weight's gradient summed over rows, [O, C / groups, *kernel], by the library's own backward convolution."""
    shape = (slopes.shape[1], inputs.shape[1] // geometry.groups, *geometry.kernel)
    weight = inputs.new_empty(1).expand(shape)  # its shape is what counts
    return geometry.backward(slopes, inputs, weight, (False, True, False))[1]
