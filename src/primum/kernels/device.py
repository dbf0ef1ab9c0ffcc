"""The products of `limbs.py` on a graphics card: the same limbs, the same int32 sums, the same result, bit for bit.

Limbs go to the card (five bytes an element for 40 bits), windows are laid side by side there, and sums come back.
cuBLAS wants rows and columns of int8 products in multiples of 8: zeros fill them up, which changes no sum.
"""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, device

_TILE_BYTES: Final = 1 << 26
_MULTIPLE: Final = 8
_FEWEST_ROWS: Final = 17
_devices: Final[list[Any]] = []
"""None or one."""


def use_device(chosen: "device | None") -> None:
    """Make the products of this process on `chosen` from now on, with weights that are prepared from now on; None: as before.

    RuntimeError where its int8 products are not exact.
    """
    _devices.clear()
    if chosen is not None:
        if not _exact(chosen):
            raise RuntimeError(f"int8 products of {chosen} are not exact")
        _devices.append(chosen)


def on_device() -> bool:
    """Whether a device is used."""
    return bool(_devices)


def moved(limbs: npt.NDArray[np.int8]) -> "Tensor | None":
    """Limbs of weights [groups, outputs, count, terms] on the device; None where there is none.

    As [groups, outputs, count, terms] with outputs and terms filled up with zeros.
    """
    if not _devices:
        return None
    import torch

    groups, outputs, count, terms = limbs.shape
    filled = torch.zeros(groups, _up(outputs), count, _up(terms), dtype=torch.int8)
    filled[:, :outputs, :, :terms] = torch.from_numpy(limbs)
    return filled.to(_devices[0])


def convolve_on(
    limbs: npt.NDArray[np.int8],
    weight: "Tensor",
    place: npt.NDArray[np.int64],
    size: tuple[int, int],
    most: int,
    out: npt.NDArray[np.uint64],
) -> None:
    """out [rows, outputs] = the windows of `limbs` [count, n, h, w, c] times `weight` of `moved`, all groups.

    `place`: kernel, stride and dilation, each height and width; `size` of the output; `most` products to a sum.
    """
    import torch

    groups, _, _, terms = weight.shape
    each = out.shape[1] // groups
    windows = _windows(torch.from_numpy(limbs).to(weight.device), place, size, groups)
    step = max(1, _TILE_BYTES // math.prod(windows.shape[3:]))
    columns = windows.flatten(0, 2)  # a copy on the card: [rows, groups, count, terms]
    for start in range(0, len(out), step):
        for group in range(groups):
            part = columns[start : start + step, group]
            rows = part.new_zeros(max(len(part), _FEWEST_ROWS), part.shape[1], terms)
            rows[: len(part), :, : part.shape[2]] = part
            total = _product(rows, weight[group], most)[: len(part), :each]
            out[start : start + step, group * each : (group + 1) * each] = total.cpu().numpy().view(np.uint64)


def _windows(limbs: "Tensor", place: npt.NDArray[np.int64], size: tuple[int, int], groups: int) -> "Tensor":
    """[n, high, wide, groups, count, terms]: what the kernel sees at every place, in the order of the weights' terms."""
    kernel_high, kernel_wide, stride_high, stride_wide, step_high, step_wide = (int(one) for one in place)
    count, images, height, width, channels = limbs.shape
    plane, line, part = images * height * width * channels, width * channels, channels // groups
    shape = (images, *size, groups, count, kernel_high, kernel_wide, part)
    strides = (height * line, stride_high * line, stride_wide * channels, part, plane, step_high * line, step_wide * channels, 1)  # fmt: skip
    return limbs.as_strided(shape, strides).flatten(5)


def _product(rows: "Tensor", weight: "Tensor", most: int) -> "Tensor":
    """int64 [rows, outputs]: the ring's products as `limbs._multiply` sums them; overflow wraps, as it does there."""
    import torch

    outputs, count, terms = weight.shape
    left, right = rows.flatten(1), weight.flatten(1)
    total = torch.zeros(len(rows), outputs, dtype=torch.int64, device=rows.device)
    longest = most // _MULTIPLE * _MULTIPLE
    for limb in range(count):
        first, length = (count - 1 - limb) * terms, (limb + 1) * terms
        for start in range(0, length, longest):
            stop = min(start + longest, length)
            product = torch._int_mm(
                left[:, start:stop].contiguous(), right[:, first + start : first + stop].contiguous().t()
            )
            total += product.to(torch.int64) << (8 * limb)
    return total


def _up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


def _exact(chosen: "device") -> bool:
    """As `limbs.limbs_are_exact`, there: the worst case of a long sum."""
    import torch

    for left, right in ((-128, -128), (127, -128), (-128, 127)):
        a = torch.full((32, 4096), left, dtype=torch.int8, device=chosen)
        b = torch.full((8, 4096), right, dtype=torch.int8, device=chosen).t()
        if not bool((torch._int_mm(a, b) == 4096 * left * right).all()):
            return False
    return True
