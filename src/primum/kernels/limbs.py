"""Products in Z_2^l of ring elements, as products of limbs: int8 matrix products summed in int32, or float64 ones.

A value is cut into balanced digits of w bits, in [-2^(w-1), 2^(w-1)): v = sum d_i 2^(w i) modulo 2^l. The s-th limb of
a product is the sum of d_i e_(s-i) for i = 0..s; with the left limbs side by side (0 to s) and the right limbs stacked
in falling order (s to 0) that is one matrix product. As many as there are limbs make a ring product, exactly modulo 2^l.

Limbs of 8 bits are multiplied as int8, where the processor does that well. Without VNNI it saturates without a word, or
has only slow products (on AVX2 thirty times slower than those of floats): the worst case is tried once and the time
taken. Elsewhere limbs have up to 20 bits and are float64: it holds every integer up to 2^53, so sums of 2^15 products
of limbs are exact in any order, and what is computed is the same, bit for bit. There kernels of 3 x 3 on larger
pictures take a quarter of the products (winograd.py).
"""

import functools
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.kernels import winograd
from primum.kernels.compiled import compiled
from primum.kernels.device import convolve_on, moved, on_device
from primum.kernels.digits import MOST_TERMS, Limbs, Ring, add_shifted, cut, cut_reversed, cut_wide, longest_sum
from primum.kernels.threads import Piece, share_out

_WIDEST: Final = 20  # bits of a limb that is a float64
_LARGE: Final = 1 << 20  # elements
_TILE_BYTES: Final = 1 << 21
_FEWEST_OUTPUTS: Final = 64
_threads: Final = [1]
"""How many share a product."""
_SMALLEST_PRODUCT: Final = 16
"""torch._int_mm has a slow path for fewer rows."""


def limb_count(bits: int) -> int:
    """8-bit limbs of an element of Z_2^bits."""
    return (bits + 7) // 8


def _wide(bits: int) -> tuple[int, int]:
    """How many limbs an element of Z_2^bits has where they are float64, and how many bits each."""
    count = -(-bits // _WIDEST)
    return count, -(-bits // count)


@dataclass(frozen=True, slots=True)
class Weights:
    """A convolution's weights, ready to be multiplied by; prints nothing.

    `limbs`: int8 or float64 [groups, outputs, count, terms], the highest limb first, of `width` bits each; or `ring`:
    uint64 [groups, terms, outputs], where a group has one channel; or `lines`: uint64 [outputs, terms], where an input
    is one vector; or `places`: uint64 [36, channels, outputs], for `winograd`.
    terms = kernel height x kernel width x channels of a group.
    """

    kernel: tuple[int, int]
    bits: int
    limbs: Limbs = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.int8), repr=False)
    width: int = field(default=8, repr=False)
    ring: Ring = field(default_factory=lambda: np.empty((0, 0, 0), np.uint64), repr=False)
    lines: Ring = field(default_factory=lambda: np.empty((0, 0), np.uint64), repr=False)
    places: Ring = field(default_factory=lambda: np.empty((0, 0, 0), np.uint64), repr=False)
    card: Any = field(default=None, repr=False)
    """The limbs on the device that `device.use_device` chose, if it did."""

    @property
    def groups(self) -> int:
        return max(len(self.limbs), len(self.ring))

    @property
    def depthwise(self) -> bool:
        """One channel a group, or one term: uint64 arithmetic is quicker than limbs."""
        return len(self.ring) > 0


@dataclass(frozen=True, slots=True)
class Window:
    """Where a convolution's kernel stands: stride and dilation (height, width), padding (top, bottom, left, right)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def places(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """The height and width of the output for an input of `size`."""
        top, bottom, left, right = self.padding
        high = (size[0] + top + bottom - self.dilation[0] * (kernel[0] - 1) - 1) // self.stride[0] + 1
        wide = (size[1] + left + right - self.dilation[1] * (kernel[1] - 1) - 1) // self.stride[1] + 1
        return high, wide

    @property
    def plain(self) -> bool:
        """Whether the kernel stands on every place, and its own places are neighbours."""
        return self.stride == self.dilation == (1, 1)


def prepare(
    weight: Ring,
    groups: int,
    bits: int,
    size: tuple[int, int] | None = None,
    window: Window = Window(),
    *,
    lean: bool = False,
) -> Weights:
    """`weight` uint64 [kernel height, kernel width, channels / groups, outputs], as `Weights` of Z_2^bits.

    `size`, `window`: the height and width of what it will be convolved with, and how, if they are known. Of a single
    vector reading the weights is what takes time, and limbs would be read three times. `lean`: large weights in less
    memory, though products take longer.
    """
    height, width, channels, outputs = weight.shape
    terms, each = height * width * channels, outputs // groups
    if groups == 1 and size == (height, width) == (1, 1) and not any(window.padding):
        return Weights((height, width), bits, lines=np.ascontiguousarray(weight.reshape(terms, outputs).T))
    floats = not on_device() and in_floats()
    tiles = floats and groups == 1 and window.plain and bits <= winograd.MOST_BITS
    if tiles and size is not None and not (lean and weight.size > _LARGE):
        places = window.places(size, (height, width))
        if winograd.pays((height, width), channels, outputs, places):
            return Weights((height, width), bits, places=winograd.transformed(weight))
    grouped = np.ascontiguousarray(weight.reshape(terms, groups, each).transpose(1, 0, 2))
    # torch._int_mm leaves its result as it was allocated where strides are ambiguous: a product of one term and one limb
    if (channels == 1 and groups > 1) or terms == 1:
        return Weights((height, width), bits, ring=grouped)
    if floats:
        count, digit = _wide(bits)
        wide = np.empty((groups, each, count, terms))
        for group in range(groups):
            cut_wide(np.ascontiguousarray(grouped[group].T), digit, wide[group].transpose(1, 0, 2)[::-1])
        return Weights((height, width), bits, wide, digit)
    limbs = np.empty((groups, each, limb_count(bits), terms), np.int8)
    for group in range(groups):
        cut_reversed(np.ascontiguousarray(grouped[group].T), limbs[group])
    return Weights((height, width), bits, limbs, card=moved(limbs))


def convolve(values: Ring, weights: Weights, window: Window) -> Ring:
    """values [n, h, w, c] convolved with `weights`: uint64 [n, high, wide, outputs], right modulo 2^bits."""
    count, height, width, channels = values.shape
    if len(weights.lines):
        product: Ring = np.einsum("nt,ot->no", values.reshape(count, channels), weights.lines)
        return product.reshape(count, 1, 1, -1)
    high, wide = window.places((height, width), weights.kernel)
    if len(weights.places):
        if not window.plain:
            raise ValueError("these weights were prepared for another window")
        corner = window.padding[0], window.padding[2]
        return winograd.convolve(values, corner, (high, wide), weights.places, _share_out)
    groups = weights.groups
    outputs = groups * (weights.ring.shape[2] if weights.depthwise else weights.limbs.shape[1])
    out = np.zeros((count, high, wide, outputs), np.uint64)
    place = np.array([*weights.kernel, *window.stride, *window.dilation], np.int64)
    padded = _padded(values, window)
    if weights.depthwise:
        _convolve_slowly(padded, weights.ring, place, out)
        return out
    limbs: Limbs
    if weights.limbs.dtype == np.float64:
        limbs = wide_ones = np.empty((weights.limbs.shape[2], *padded.shape))
        cut_wide(padded.reshape(1, -1), weights.width, wide_ones.reshape(len(limbs), 1, -1))
    else:
        limbs = small_ones = np.empty((weights.limbs.shape[2], *padded.shape), np.int8)
        cut(padded.reshape(-1), small_ones.reshape(len(limbs), -1))
        if weights.card is not None:
            convolve_on(small_ones, weights.card, place, (high, wide), MOST_TERMS, out.reshape(-1, outputs))
            return out
    each, part = outputs // groups, channels // groups
    for group in range(groups):
        rows = out.reshape(-1, outputs)[:, group * each : (group + 1) * each]
        _convolve_group(limbs, weights.limbs[group], weights.width, place, (group * part, part), (high, wide), rows)
    return out


def _padded(values: Ring, window: Window) -> Ring:
    if not any(window.padding):
        return np.ascontiguousarray(values)
    top, bottom, left, right = window.padding
    count, height, width, channels = values.shape
    out = np.zeros((count, height + top + bottom, width + left + right, channels), np.uint64)
    out[:, top : top + height, left : left + width] = values
    return out


def use_threads(count: int) -> None:
    """Let `count` threads share the products of this process from now on; the results are the same.

    Each product itself has one thread: where other processes use the cores as well, OpenMP's threads wait for each other
    (four times slower, measured), tiles in a queue do not. So OMP_NUM_THREADS is to be 1 before torch is imported.
    """
    _threads[0] = count


def _convolve_group(
    limbs: Limbs,
    weight: Limbs,
    width: int,
    place: npt.NDArray[np.int64],
    part: tuple[int, int],
    size: tuple[int, int],
    out: Ring,
) -> None:
    """Tile by tile: the windows of some places side by side, then one product a limb."""
    outputs, count, terms = weight.shape
    step = min(len(out), max(_SMALLEST_PRODUCT, _TILE_BYTES // (count * terms * limbs.itemsize)))
    sizes = np.array(limbs.shape, np.int64)

    def tile(corner: tuple[int, int, int]) -> None:
        start, first, last = corner
        rows = out[start : start + step, first:last]
        windows: Limbs = np.empty((max(len(rows), _SMALLEST_PRODUCT + 1), count * terms), limbs.dtype)
        which = np.array([start, len(rows), *part, *size], np.int64)
        _gather(limbs.reshape(-1), sizes, place, which, windows.reshape(-1))
        _multiply(windows[: len(rows)], weight[first:last], width, rows)

    _share_out(tile, _corners(len(out), step, outputs))


def _share_out(task: Callable[[Piece], object], pieces: Sequence[Piece]) -> None:
    share_out(task, pieces, _threads[0])


def _corners(rows: int, step: int, outputs: int) -> list[tuple[int, int, int]]:
    """(first row, first output, end of outputs) of each tile; outputs are shared out where there are few rows."""
    starts = range(0, rows, step)
    pieces = max(1, min(-(-_threads[0] // len(starts)), outputs // _FEWEST_OUTPUTS))
    width = -(-outputs // pieces)
    return [(start, first, min(first + width, outputs)) for start in starts for first in range(0, outputs, width)]


def _multiply(windows: Limbs, weight: Limbs, width: int, out: Ring) -> None:
    """out += windows times weight, of limbs of `width` bits; a sum too long to be exact is made in parts."""
    import torch

    outputs, count, terms = weight.shape
    small = weight.dtype == np.int8
    product_of, most = (torch._int_mm, MOST_TERMS) if small else (torch.mm, longest_sum(width))
    left = torch.from_numpy(windows)
    right = torch.from_numpy(weight.reshape(outputs, count * terms)).t()
    for limb in range(count):
        first = (count - 1 - limb) * terms
        length = (limb + 1) * terms
        for start in range(0, length, most):
            stop = min(start + most, length)
            product = product_of(left[:, start:stop], right[first + start : first + stop])
            add_shifted(product.numpy(), np.uint64(width * limb), out)


@functools.cache
def limbs_are_exact() -> bool:
    """Whether this processor's int8 products are exact in the worst case: all limbs -128, a long sum."""
    import torch

    for left, right in ((-128, -128), (127, -128), (-128, 127)):
        terms = 4096
        a = torch.full((_SMALLEST_PRODUCT + 1, terms), left, dtype=torch.int8)
        b = torch.full((8, terms), right, dtype=torch.int8).t()
        if not bool((torch._int_mm(a, b) == terms * left * right).all()):
            return False
    return True


@functools.cache
def in_floats() -> bool:
    """Whether limbs are float64: where int8 is not exact, or slower in what a product in Z_2^40 takes."""
    import torch

    if not limbs_are_exact():
        return True
    left, right = torch.ones((256, 576), dtype=torch.int8), torch.ones((64, 576), dtype=torch.int8)

    def seconds(product: Callable[[], torch.Tensor], limbs: int) -> float:
        best = min(timeit.repeat(product, number=1, repeat=4))
        return best * (limbs * (limbs + 1) // 2)

    wide_left, wide_right = left.double(), right.double()
    wide = seconds(lambda: torch.mm(wide_left, wide_right.t()), _wide(40)[0])
    return wide < seconds(lambda: torch._int_mm(left, right.t()), limb_count(40))


@compiled
def _gather(
    limbs: Limbs,
    sizes: npt.NDArray[np.int64],
    place: npt.NDArray[np.int64],
    which: npt.NDArray[np.int64],
    out: Limbs,
) -> None:
    # flat arrays and unsigned places: slices would cost more than the short copies that conv1 of a ResNet is made of
    count, images, height, width, channels = sizes
    kernel_high, kernel_wide, stride_high, stride_wide, step_high, step_wide = place
    start, rows, first, part, high, wide = which
    together = step_wide == 1 and part == channels  # neighbours with all channels are one piece of memory
    pieces = 1 if together else kernel_wide
    length = np.uint64(kernel_wide * part if together else part)
    plane, line = images * height * width * channels, width * channels
    to = np.uint64(0)
    for row in range(start, start + rows):
        image, rest = row // (high * wide), row % (high * wide)
        top, left = rest // wide * stride_high, rest % wide * stride_wide
        corner = ((image * height + top) * width + left) * channels + first
        for limb in range(count):
            for a in range(kernel_high):
                for b in range(pieces):
                    at = np.uint64(corner + limb * plane + a * step_high * line + b * step_wide * channels)
                    for k in range(length):
                        out[to + k] = limbs[at + k]
                    to += length


@compiled
def _convolve_slowly(values: Ring, weight: Ring, place: npt.NDArray[np.int64], out: Ring) -> None:
    kernel_high, kernel_wide, stride_high, stride_wide, step_high, step_wide = place
    groups, _, each = weight.shape
    part = values.shape[3] // groups
    for image in range(out.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                for a in range(kernel_high):
                    for b in range(kernel_wide):
                        line = values[image, i * stride_high + a * step_high, j * stride_wide + b * step_wide]
                        for group in range(groups):
                            for c in range(part):
                                x = line[group * part + c]
                                for o in range(each):
                                    out[image, i, j, group * each + o] += (
                                        x * weight[group, (a * kernel_wide + b) * part + c, o]
                                    )
