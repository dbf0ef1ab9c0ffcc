"""Comparisons: the sign of a value in a small ring, ReLU, the larger of two values, and the way back to the large ring.

The value T is opened under a mask rho as T^ in Z_2^t. Its sign follows from T^ (public) and rho (the dealer's) by four
one-time tables and one product of mask bits (`primum.kernels.comparison`): seven bits and one bit are opened. With
m = msb(rho), q = 1 - msb(T^), s = 1 ^ m ^ kappa and the public d^ = [T >= 0] ^ s,

    X_i = [i = A] T^ - [rho]_i + q 2^t [m]_i        S_i = T^ [s]_i - [s rho]_i + q 2^t [s m]_i
    ReLU_i = d^ X_i + (1 - 2 d^) S_i                exactly max(T, 0)

Sources: one-time truth tables, Ishai et al., TCC 2013; comparison by digits, Rathee et al. (CrypTFlow2), CCS 2020; cut,
Rathee et al. (SIRNN), IEEE S&P 2021; Jawalkar et al. (Orca), IEEE S&P 2024.
"""

from typing import NamedTuple

import numpy as np

from primum.kernels import selection
from primum.kernels.comparison import MASK_BITS, OPENED_BITS, borrow_share, digit_widths, hide_digits, look_up, sign
from primum.mpc.program import Cut, Extend, MaxPool, Relu, Sign
from primum.mpc.rule import Dealing, Exchange, Parts, Rule, Serving, Wires, as_ring, as_words, rule
from primum.mpc.share import Elements
from primum.ring import mask

_PRODUCT_BITS = 16  # fifteen are used: whole bytes cost less than packing


class Tables(NamedTuple):
    """One server's material for comparisons: rho, the mask bits, four one-hot words, products of mask bits; flat."""

    rho: Elements
    masks: Elements
    words: tuple[Elements, Elements, Elements, Elements]
    products: Elements


def drawn_parts(count: int, bits: int) -> Parts:
    """rho and the mask bits of `count` comparisons in Z_2^bits."""
    return ((count, bits), (count, MASK_BITS))


def dealt_parts(count: int, bits: int) -> Parts:
    """The one-hot words and products."""
    return (*((count, max(8, 1 << width)) for width in digit_widths(bits - 1)), (count, _PRODUCT_BITS))


DEALT_PARTS = 5


def sent_parts(count: int, bits: int) -> Parts:
    """The opened value, seven bits, one bit."""
    return ((count, bits), (count, OPENED_BITS), (count, 1))


def deal_tables(drawn: list[tuple[Elements, Elements]], dealt: list[Elements], bits: int) -> tuple[Elements, Elements]:
    """(rho, s), flat uint32 and uint8; `dealt`, the five arrays of `dealt_parts`, become B's corrections."""
    (rho_a, rho_b), (masks_a, masks_b) = drawn
    rho = as_words(rho_a + rho_b) & np.uint32(mask(bits))
    masks = (masks_a ^ masks_b).reshape(-1)
    words = tuple(part.reshape(-1) for part in dealt[:4])
    hide_digits(rho, bits, masks, words, dealt[4].reshape(-1))  # type: ignore[arg-type]
    top = (rho >> np.uint32(bits - 1)).astype(np.uint8)
    return rho, np.uint8(1) ^ top ^ (masks >> np.uint8(OPENED_BITS))


def tables(drawn: list[Elements], dealt: list[Elements]) -> Tables:
    """A server's tables from what it drew and was dealt."""
    first, second, third, fourth, products = (part.reshape(-1) for part in dealt)
    return Tables(as_words(drawn[0]), drawn[1].reshape(-1), (first, second, third, fourth), products)


def open_masked(run: Serving, share: Elements, table: Tables, bits: int) -> Exchange[Elements]:
    """T^ = T + rho in Z_2^bits, flat uint32."""
    mine = share + table.rho
    theirs = yield from run.swap(mine, bits)
    return (mine + theirs) & np.uint32(mask(bits))


def compare(run: Serving, opened: Elements, table: Tables, bits: int) -> Exchange[Elements]:
    """d^ = [T >= 0] ^ s, uint8, public. Two rounds: seven bits, one bit."""
    mine = look_up(opened, bits, table.masks, table.words)
    theirs = yield from run.swap(mine, OPENED_BITS)
    index = mine ^ theirs
    share = borrow_share(index, table.masks, table.products)
    other = yield from run.swap(share, 1)
    return sign(share, other, index, opened, bits)


@rule(Cut)
class _Cut(Rule[Cut]):
    """(y_i mod 2^k) / 2^c modulo 2^t, k = t + c, rounded up at A, down at B: floor(y / 2^c) + {0, 1}, unbiased. Local."""

    def evaluate(self, step: Cut, run: Serving) -> Exchange[None]:
        source, target = run.wires[step.source], run.wires[step.target]
        shift = source.fraction - target.fraction
        share = as_ring(run.share(step.source))
        out = np.empty(len(share), np.uint32)
        kept = mask(min(64, target.bits + shift))
        selection.cut(share, kept, np.uint64(shift), np.uint64(run.lead), out)
        run.put(step.target, out)
        return
        yield


@rule(Relu)
class _Relu(Rule[Relu]):
    """Three rounds: t, 7 and 1 bits each way. B is sent the tables, three elements of the target and two of l - t bits."""

    def drawn(self, step: Relu, wires: Wires) -> Parts:
        return drawn_parts(wires[step.source].size, wires[step.source].bits)

    def dealt(self, step: Relu, wires: Wires) -> Parts:
        size, bits, more = wires[step.source].size, wires[step.source].bits, wires[step.target].bits
        return (*dealt_parts(size, bits), *((size, more),) * 3, *((size, more - bits),) * 2)

    def sent(self, step: Relu, wires: Wires) -> Parts:
        return sent_parts(wires[step.source].size, wires[step.source].bits)

    def deal(self, step: Relu, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        bits = run.wires[step.source].bits
        rho, s = deal_tables(drawn, dealt[:DEALT_PARTS], bits)
        _deal_rectify(rho, s, bits, dealt[DEALT_PARTS:])

    def prepare(self, step: Relu, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        rest = tuple(as_ring(part) for part in dealt[DEALT_PARTS:])
        run.prepared[step.name] = tables(drawn, dealt[:DEALT_PARTS]), rest

    def evaluate(self, step: Relu, run: Serving) -> Exchange[None]:
        bits = run.wires[step.source].bits
        table, dealt = run.prepared.pop(step.name)
        opened = yield from open_masked(run, as_words(run.share(step.source)), table, bits)
        positive = yield from compare(run, opened, table, bits)
        out = np.empty(len(opened), np.uint64)
        selection.rectify(opened, positive, np.uint64(bits), np.uint64(run.lead), dealt, out)
        run.put(step.target, out)


def _deal_rectify(rho: Elements, s: Elements, bits: int, dealt: list[Elements]) -> None:
    wide = tuple(as_ring(part) for part in dealt)  # the last two may be of a smaller type
    selection.deal_rectify(rho, s, np.uint64(bits), wide)  # type: ignore[arg-type]
    for part, values in zip(dealt, wide, strict=True):
        part.reshape(-1)[:] = values.astype(part.dtype, copy=False)


@rule(Sign)
class _Sign(Rule[Sign]):
    """[T >= 0]_i = [i = A] d^ + (1 - 2 d^) s_i. Three rounds as ReLU; B is sent the tables and one element each."""

    def drawn(self, step: Sign, wires: Wires) -> Parts:
        return drawn_parts(wires[step.source].size, wires[step.source].bits)

    def dealt(self, step: Sign, wires: Wires) -> Parts:
        size = wires[step.source].size
        return (*dealt_parts(size, wires[step.source].bits), (size, wires[step.target].bits))

    def sent(self, step: Sign, wires: Wires) -> Parts:
        return sent_parts(wires[step.source].size, wires[step.source].bits)

    def deal(self, step: Sign, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        _, s = deal_tables(drawn, dealt[:DEALT_PARTS], run.wires[step.source].bits)
        part = dealt[DEALT_PARTS]
        np.subtract(s.reshape(part.shape).astype(part.dtype), part, out=part)

    def prepare(self, step: Sign, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        run.prepared[step.name] = tables(drawn, dealt[:DEALT_PARTS]), dealt[DEALT_PARTS].reshape(-1)

    def evaluate(self, step: Sign, run: Serving) -> Exchange[None]:
        bits = run.wires[step.source].bits
        table, s = run.prepared.pop(step.name)
        opened = yield from open_masked(run, as_words(run.share(step.source)), table, bits)
        positive = (yield from compare(run, opened, table, bits)).astype(s.dtype)
        run.put(step.target, positive * s.dtype.type(run.lead) + s - s.dtype.type(2) * positive * s)


@rule(Extend)
class _Extend(Rule[Extend]):
    """X_i of T + 2^(t - 2), which is not negative, less 2^(t - 2). One round of t bits; B is sent 2 l - t bits each."""

    def drawn(self, step: Extend, wires: Wires) -> Parts:
        source = wires[step.source]
        return ((source.size, source.bits),)

    def dealt(self, step: Extend, wires: Wires) -> Parts:
        source, more = wires[step.source], wires[step.target].bits
        return ((source.size, more), (source.size, more - source.bits))

    def sent(self, step: Extend, wires: Wires) -> Parts:
        return self.drawn(step, wires)

    def deal(self, step: Extend, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        bits = run.wires[step.source].bits
        rho = (drawn[0][0] + drawn[0][1]).astype(np.uint64) & mask(bits)
        for part, value in zip(dealt, (rho, rho >> np.uint64(bits - 1)), strict=True):
            np.subtract(value.astype(part.dtype), part, out=part)

    def prepare(self, step: Extend, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        run.prepared[step.name] = as_words(drawn[0]), as_ring(dealt[0]), as_ring(dealt[1])

    def evaluate(self, step: Extend, run: Serving) -> Exchange[None]:
        bits = run.wires[step.source].bits
        masks, rho, top = run.prepared.pop(step.name)
        lift = np.uint32(run.lead << (bits - 2))
        mine = as_words(run.share(step.source)) + masks + lift
        theirs = yield from run.swap(mine, bits)
        opened = (mine + theirs) & np.uint32(mask(bits))
        out = np.empty(len(opened), np.uint64)
        selection.extend(opened, np.uint64(bits), np.uint64(run.lead), rho, top, out)
        run.put(step.target, out - np.uint64(lift))


@rule(MaxPool)
class _MaxPool(Rule[MaxPool]):
    """Pairs of columns, then pairs of rows, until one of each window is left; only the difference of a pair is opened.

    Every level: three rounds of m, 7 and 1 bits a pair; B is sent the tables and two elements of m bits.
    """

    def drawn(self, step: MaxPool, wires: Wires) -> Parts:
        bits = wires[step.source].bits
        return tuple(part for count in pair_counts(step, wires) for part in drawn_parts(count, bits))

    def dealt(self, step: MaxPool, wires: Wires) -> Parts:
        bits = wires[step.source].bits
        counts = pair_counts(step, wires)
        return tuple(part for count in counts for part in (*dealt_parts(count, bits), *((count, bits),) * 2))

    def sent(self, step: MaxPool, wires: Wires) -> Parts:
        bits = wires[step.source].bits
        return tuple(part for count in pair_counts(step, wires) for part in sent_parts(count, bits))

    def deal(self, step: MaxPool, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        bits, each = run.wires[step.source].bits, DEALT_PARTS + 2
        for level in range(len(drawn) // 2):
            parts = dealt[level * each : (level + 1) * each]
            rho, s = deal_tables(drawn[2 * level : 2 * level + 2], parts[:DEALT_PARTS], bits)
            for part, value in zip(parts[DEALT_PARTS:], (s.astype(np.uint32), s * rho), strict=True):
                np.subtract(value.reshape(part.shape).astype(part.dtype), part, out=part)

    def prepare(self, step: MaxPool, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        each = DEALT_PARTS + 2
        run.prepared[step.name] = [
            (
                tables(drawn[2 * level : 2 * level + 2], dealt[level * each : level * each + DEALT_PARTS]),
                *(as_words(part) for part in dealt[level * each + DEALT_PARTS : (level + 1) * each]),
            )
            for level in range(len(drawn) // 2)
        ]

    def evaluate(self, step: MaxPool, run: Serving) -> Exchange[None]:
        bits = run.wires[step.source].bits
        levels = iter(run.prepared.pop(step.name))
        values = run.share(step.source).astype(np.uint32, copy=False)
        for axis in (2, 1):
            parts = _window_parts(step, values, axis)
            while len(parts) > 1:
                half = len(parts) // 2
                left = np.concatenate([part.reshape(run.images, -1) for part in parts[:half]], axis=1)
                right = np.concatenate([part.reshape(run.images, -1) for part in parts[half : 2 * half]], axis=1)
                best = yield from _larger(run, left.reshape(-1), right.reshape(-1), next(levels), bits)
                split = np.split(best.reshape(run.images, -1), half, axis=1)
                parts = [*(part.reshape(parts[0].shape) for part in split), *parts[2 * half :]]
            values = parts[0]
        run.put(step.target, values)


def _larger(
    run: Serving, left: Elements, right: Elements, level: tuple[Tables, Elements, Elements], bits: int
) -> Exchange[Elements]:
    table, s, s_rho = level
    opened = yield from open_masked(run, left - right, table, bits)
    bigger = yield from compare(run, opened, table, bits)
    out = np.empty(len(opened), np.uint32)
    selection.larger(right, opened, bigger, np.uint32(run.lead), table.rho, s, s_rho, out)
    return out


def _window_parts(step: MaxPool, values: Elements, axis: int) -> list[Elements]:
    """The k-th column (axis 2) or row (axis 1) of every window, for each k."""
    width, stride = step.kernel[axis - 1], step.stride[axis - 1]
    before, after = step.padding[2 * axis - 2 : 2 * axis]
    around = [(0, 0)] * 4
    around[axis] = (before, after)
    padded = np.pad(values, around) if before or after else values
    places = (padded.shape[axis] - width) // stride + 1
    cuts = [slice(k, k + (places - 1) * stride + 1, stride) for k in range(width)]
    return [padded[:, :, cut] if axis == 2 else padded[:, cut] for cut in cuts]


def pair_counts(step: MaxPool, wires: Wires) -> tuple[int, ...]:
    """How many pairs are compared at each level, for one image."""
    source, target = wires[step.source].shape, wires[step.target].shape
    counts = []
    for left, each in (
        (step.kernel[1], source[0] * target[1] * target[2]),
        (step.kernel[0], target[0] * target[1] * target[2]),
    ):
        while left > 1:
            counts.append(left // 2 * each)
            left -= left // 2
    return tuple(counts)
