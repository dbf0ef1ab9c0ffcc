"""Which way a convolution goes, forward and backward: the library's, or one of ours where that is quicker.

Ours give weight and bias no slopes: the rules compute them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from primum.clipping import small_maps, timing, winograd
from primum.clipping.capture import is_batched, is_ordinary
from primum.clipping.geometry import Geometry, Sizes


@dataclass(frozen=True)
class Own:
    """A way of ours.

    `possible(inputs, outputs, geometry)`; `output(inputs, weight, geometry)` and what `input_slopes(slopes, held,
    geometry, space)` needs of the weight.
    """

    possible: Callable[[Tensor, int, Geometry], bool]
    output: Callable[[Tensor, Tensor, Geometry], tuple[Tensor, Tensor]]
    input_slopes: Callable[[Tensor, Tensor, Geometry, Sizes], Tensor]

    def there_and_back(self, inputs: Tensor, weight: Tensor, geometry: Geometry) -> None:
        """Both, for a clock."""
        with torch.no_grad():
            found, held = self.output(inputs, weight, geometry)
            self.input_slopes(found, held, geometry, tuple(inputs.shape[2:]))


_OWN: Final = {
    "offsets": Own(small_maps.possible, small_maps.output, small_maps.input_slopes),
    "tiles": Own(winograd.possible, winograd.output, winograd.input_slopes),
}
_LIBRARY: Final = "library"


def convolved(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, library: Callable[[], Tensor]
) -> Tensor:
    """`library()`, the convolution of `inputs` [rows, C, *space], or the same made here; inputs get their slopes."""
    possible = {name: own for name, own in _OWN.items() if own.possible(inputs, len(weight), geometry)}
    if not possible or not _plain(inputs, weight) or not inputs.requires_grad or not is_ordinary():
        return library()

    def by_library() -> None:
        with torch.no_grad():
            geometry.backward(library(), inputs, weight, (True, False, False))

    key = ("map", geometry, timing.rows_about(inputs), len(weight), *timing.place(inputs))
    ways: dict[str, Callable[[], object]] = {_LIBRARY: by_library}
    for name, own in possible.items():
        ways[name] = partial(own.there_and_back, inputs, weight, geometry)
    way = possible.get(timing.quickest(key, ways, inputs))
    if way is None:
        return library()
    found: Tensor = _Convolved.apply(inputs, weight, geometry, way)  # type: ignore[no-untyped-call]
    return found if bias is None else found + bias.view(-1, *[1] * (inputs.ndim - 2))


def _plain(inputs: Tensor, weight: Tensor) -> bool:
    kind = inputs.device.type
    return kind == "cpu" and inputs.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(kind)


class _Convolved(torch.autograd.Function):
    """inputs [rows, C, *space], weight [O, C, *kernel] -> [rows, O, *out]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, geometry: Geometry, own: Own) -> Tensor:
        found, held = own.output(inputs, weight, geometry)
        ctx.save_for_backward(weight, held)
        ctx.own, ctx.geometry, ctx.shape = own, geometry, tuple(inputs.shape)
        return found

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None]:
        weight, held = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(slopes):  # slopes of this slope, or many at once: the library has them
            inputs = slopes.new_empty(1).expand(ctx.shape)  # its shape is what counts
            return ctx.geometry.backward(slopes, inputs, weight, (True, False, False))[0], None, None, None
        return ctx.own.input_slopes(slopes, held, ctx.geometry, ctx.shape[2:]), None, None, None
