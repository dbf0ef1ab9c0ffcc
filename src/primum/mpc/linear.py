"""Opening a wire, and convolutions of opened wires with masked weights.

    [W * x + b]_i = W_i * x^ - W^ * r_i + C_i + b_i        C = R_W * r, dealt

W_A = -R_A and W_B = W^ - R_B; b is shared in the same way. All but the first term is computed ahead of time. Products
of open values and shares: Beaver, CRYPTO 1991; masks of wires that a dealer knows: Boyle et al., EUROCRYPT 2021.
"""

import math
from collections.abc import Iterator

import numpy as np

from primum.kernels.limbs import Weights, Window, convolve, prepare
from primum.keys.agreement import hkdf
from primum.mpc.program import Bias, Convolution, Multiply, Open, Program, weight_shape, weight_size
from primum.mpc.rule import Dealing, Exchange, Parts, Rule, Serving, Value, Wires, rule
from primum.mpc.share import ROLES, Elements, Role
from primum.ring import Ring, mask
from primum.rng import Stream


def weight_mask(program: Program, model: bytes, seed: bytes) -> Ring:
    """R_i, flat, every weight and bias in the program's order: a server's part of the mask, bound to model and program.

    Another version of the model under the same mask would reveal W2 - W1; the digests in the label make that
    impossible even if a seed were used again. The lowest `program.bits` bits count.
    """
    return Stream(hkdf(seed, "weight mask", model, program.digest())).uint64(weight_size(program))


def mask_weights(program: Program, weights: Ring, model: bytes, seeds: dict[Role, bytes]) -> Ring:
    """W^ = W + R_A + R_B, flat: what both servers get, once per deployment. `model`: 32 bytes that name the weights."""
    total = weights.copy()
    for role in ROLES:
        total += weight_mask(program, model, seeds[role])
    return total & mask(program.bits)


def split_weights(program: Program, flat: Ring) -> Iterator[tuple[Convolution | Bias, Ring, Ring]]:
    """(layer, W, b) of each layer with weights: W as `weight_shape` says, empty where there is only b [outputs]."""
    start = 0
    for step in program.weighted:
        shape = weight_shape(program, step)
        stop = start + math.prod(shape)
        yield step, flat[start:stop].reshape(shape), flat[stop : stop + shape[3]]
        start = stop + shape[3]


def prepare_weights(program: Program, flat: Ring, *, ahead: bool = False) -> dict[str, Weights]:
    """Every convolution's weights, ready for products. `ahead`: of products that nobody waits for, in less memory."""

    def prepared(step: Convolution, weight: Ring) -> Weights:
        size = program.wire(step.source).shape[:2]
        return prepare(weight, step.groups, program.bits, size, window_of(step), lean=ahead)

    return {
        step.name: prepared(step, weight)
        for step, weight, _ in split_weights(program, flat)
        if isinstance(step, Convolution)
    }


def window_of(step: Convolution) -> Window:
    """Where the kernel stands."""
    return Window(step.stride, step.padding, step.dilation)


@rule(Open)
class _Open(Rule[Open]):
    """x^ = x + r. Sends the wire once."""

    def drawn(self, step: Open, wires: Wires) -> Parts:
        wire = wires[step.target]
        return ((wire.size, wire.bits),)

    def sent(self, step: Open, wires: Wires) -> Parts:
        return self.drawn(step, wires)

    def deal(self, step: Open, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        ((a, b),) = drawn
        run.masks[step.target] = (a + b).reshape(run.images, *run.wires[step.target].shape)

    def prepare(self, step: Open, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        run.values[step.target] = Value(mask=drawn[0].reshape(run.images, *run.wires[step.target].shape))

    def evaluate(self, step: Open, run: Serving) -> Exchange[None]:
        mine = run.share(step.source) + run.mask(step.target)
        theirs = yield from run.swap(mine, run.wires[step.target].bits)
        run.values[step.target].opened = mine + theirs.reshape(mine.shape)


@rule(Convolution)
class _Convolution(Rule[Convolution]):
    """Sends nothing; B is sent one element an output."""

    def dealt(self, step: Convolution, wires: Wires) -> Parts:
        target = wires[step.target]
        return ((target.size, target.bits),)

    def deal(
        self, step: Convolution, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]
    ) -> None:
        product = convolve(run.masks[step.source], run.weights[step.name], window_of(step))
        np.subtract(product.reshape(run.images, -1), dealt[0], out=dealt[0])

    def prepare(self, step: Convolution, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        fixed = dealt[0].reshape(run.images, *run.wires[step.target].shape) + run.bias[step.name]
        fixed -= convolve(run.mask(step.source), run.masked[step.name], window_of(step))
        run.prepared[step.name] = fixed

    def evaluate(self, step: Convolution, run: Serving) -> Exchange[None]:
        product = convolve(run.opened(step.source), run.own[step.name], window_of(step))
        product += run.prepared.pop(step.name)
        run.put(step.target, product)
        return
        yield


@rule(Bias)
class _Bias(Rule[Bias]):
    """Sends nothing; nothing is dealt."""

    def evaluate(self, step: Bias, run: Serving) -> Exchange[None]:
        share = run.share(step.source)
        run.put(step.target, share + run.bias[step.name].astype(share.dtype))
        return
        yield


@rule(Multiply)
class _Multiply(Rule[Multiply]):
    """[x y]_i = x^ y^ - x^ s_i - y^ r_i + (r s)_i, the first term at A. B is sent one element each."""

    def dealt(self, step: Multiply, wires: Wires) -> Parts:
        target = wires[step.target]
        return ((target.size, target.bits),)

    def deal(self, step: Multiply, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        product = run.masks[step.left] * run.masks[step.right]
        np.subtract(product.reshape(run.images, -1), dealt[0], out=dealt[0])

    def prepare(self, step: Multiply, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        run.prepared[step.name] = dealt[0].reshape(run.images, *run.wires[step.target].shape)

    def evaluate(self, step: Multiply, run: Serving) -> Exchange[None]:
        left, right = run.opened(step.left), run.opened(step.right)
        crossed = left * run.mask(step.right) + right * run.mask(step.left)
        product = run.prepared.pop(step.name) - crossed
        run.put(step.target, product + left * right if run.lead else product)
        return
        yield
