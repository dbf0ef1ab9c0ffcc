"""The loops of a comparison with one-time tables: a sign from an opened value and a one-hot word for each digit.

Notation: a is opened (public), b the mask (the dealer's), both of m bits; their lowest m - 1 bits are cut into four
digits of at most 5 bits, lowest first. For digit j the dealer shares (xor) the word 1 << b_j. A server's share of
[a_j = b_j] is bit a_j of its word; of [a_j < b_j], the parity of the bits above. Seven bits, < of digits 0 to 3 and = of
digits 1 to 3, each under a mask bit mu, are opened as one index. The borrow

    F = L3 ^ E3 (L2 ^ E2 (L1 ^ E1 L0))

is, as a function of mu, a polynomial over 22 monomials whose coefficients the index names; a server's share of F is the
parity of (its shares of the monomials) & coefficients[index].

The one-hot words, mu and the products are a server's secrets; no branch and no address depends on them, but for the
dealer's table of products (the dealer made those secrets itself). The index and a are public.
"""

import itertools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Bits = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Unsigned = npt.NDArray[np.unsignedinteger[Any]]
Digits = tuple[Unsigned, Unsigned, Unsigned, Unsigned]

DIGITS: Final = 4
OPENED_BITS: Final = 7
MASK_BITS: Final = 8
"""The seven mu, and kappa, which hides the sign, on top."""
_LESS: Final = (0, 1, 2, 3)
_EQUAL: Final = (None, 4, 5, 6)


def digit_widths(bits: int) -> tuple[int, int, int, int]:
    """The widths of the four digits of a value of `bits` bits, lowest first; ValueError unless 4 <= bits <= 20."""
    if not DIGITS <= bits <= 5 * DIGITS:
        raise ValueError(f"four digits hold 4 to 20 bits, not {bits}")
    least, more = divmod(bits, DIGITS)
    a, b, c, d = (least + (place >= DIGITS - more) for place in range(DIGITS))
    return a, b, c, d


def _borrow(index: int) -> int:
    bit = [index >> place & 1 for place in range(OPENED_BITS)]
    return bit[3] ^ (bit[6] & (bit[2] ^ (bit[5] & (bit[1] ^ (bit[4] & bit[0])))))


def _monomials() -> list[int]:
    """Sets of mask bits, as 7-bit numbers: the products that occur in F once every bit is xored with its mask."""
    found: set[int] = set()
    for digit in range(DIGITS):
        equal = [1 << place for place in _EQUAL[digit + 1 :] if place is not None]
        for count in range(len(equal) + 1):
            for chosen in itertools.combinations(equal, count):
                found |= {sum(chosen), sum(chosen) | 1 << _LESS[digit]}
    found.discard(0)
    return sorted(found, key=lambda monomial: (monomial.bit_count(), monomial))


MONOMIALS: Final = tuple(_monomials())
"""The seven single bits first, then the products, which are dealt."""
PRODUCT_BITS: Final = len(MONOMIALS) - OPENED_BITS


def _coefficients() -> Words:
    """For each index the monomials of mu that F(index ^ mu) has, but for the constant F(index): their xor."""
    table = np.zeros(1 << OPENED_BITS, np.uint32)
    for index in range(1 << OPENED_BITS):
        for place, monomial in enumerate(MONOMIALS):
            flips = [flip for flip in range(1 << OPENED_BITS) if flip & ~monomial == 0]
            table[index] |= np.uint32((sum(_borrow(index ^ flip) for flip in flips) & 1) << place)
    return table


def _products() -> npt.NDArray[np.uint16]:
    table = np.zeros(1 << OPENED_BITS, np.uint16)
    for masks in range(1 << OPENED_BITS):
        for place, monomial in enumerate(MONOMIALS[OPENED_BITS:]):
            table[masks] |= np.uint16((masks & monomial == monomial) << place)
    return table


COEFFICIENTS: Final = _coefficients()
BORROW: Final[Bits] = np.array([_borrow(index) for index in range(1 << OPENED_BITS)], np.uint8)
PRODUCTS: Final = _products()


def hide_digits(mask: Words, bits: int, masks: Bits, words: Digits, products: Unsigned) -> None:
    """Dealer: turn server A's shares into server B's corrections, in place.

    `mask` uint32 [n]: b, its lowest `bits` - 1 bits count. `masks` uint8 [n]: mu_A ^ mu_B. `words`: four arrays [n], the
    shares of the one-hot words; `products` uint16 [n], the shares of the dealt monomials.
    """
    _hide(mask, np.array(digit_widths(bits - 1), np.uint32), masks, *words, products, PRODUCTS)


def look_up(opened: Words, bits: int, masks: Bits, words: Digits) -> Bits:
    """A server's share of the seven bits under their masks, uint8 [n]; `opened` uint32 [n] is a."""
    out = np.empty(len(opened), np.uint8)
    _look_up(opened, np.array(digit_widths(bits - 1), np.uint32), masks, *words, out)
    return out


def borrow_share(index: Bits, masks: Bits, products: Unsigned) -> Bits:
    """A server's share of F ^ kappa but for the public F(index): one bit in uint8 [n]."""
    out = np.empty(len(index), np.uint8)
    _borrow_share(index, masks, products, COEFFICIENTS, out)
    return out


def sign(share: Bits, other: Bits, index: Bits, opened: Words, bits: int) -> Bits:
    """d^ = share ^ other ^ F(index) ^ (the highest bit of a), uint8 [n]: public, [a - b >= 0] under the mask s."""
    out = np.empty(len(share), np.uint8)
    _sign(share, other, index, opened, np.uint32(bits - 1), BORROW, out)
    return out


@compiled
def _hide(
    mask: Words,
    widths: Words,
    masks: Bits,
    word0: Unsigned,
    word1: Unsigned,
    word2: Unsigned,
    word3: Unsigned,
    products: Unsigned,
    table: npt.NDArray[np.uint16],
) -> None:
    one = np.uint32(1)
    w0, w1, w2, w3 = widths
    m0, m1, m2, m3 = (one << w0) - one, (one << w1) - one, (one << w2) - one, (one << w3) - one
    for i in range(len(mask)):
        b = mask[i]
        word0[i] ^= one << (b & m0)
        b >>= w0
        word1[i] ^= one << (b & m1)
        b >>= w1
        word2[i] ^= one << (b & m2)
        b >>= w2
        word3[i] ^= one << (b & m3)
        products[i] ^= table[masks[i] & np.uint8(127)]


@compiled
def _parity(x: np.uint32) -> np.uint32:
    x ^= x >> np.uint32(16)
    x ^= x >> np.uint32(8)
    x ^= x >> np.uint32(4)
    return (np.uint32(0x6996) >> (x & np.uint32(15))) & np.uint32(1)


@compiled
def _look_up(
    opened: Words,
    widths: Words,
    masks: Bits,
    word0: Unsigned,
    word1: Unsigned,
    word2: Unsigned,
    word3: Unsigned,
    out: Bits,
) -> None:
    one = np.uint32(1)
    w0, w1, w2, w3 = widths
    m0, m1, m2, m3 = (one << w0) - one, (one << w1) - one, (one << w2) - one, (one << w3) - one
    for i in range(len(opened)):
        a = opened[i]
        # shifted twice: a digit can be 31
        bits = _parity(np.uint32(word0[i]) >> (a & m0) >> one)
        a >>= w0
        word = np.uint32(word1[i]) >> (a & m1)
        bits |= (_parity(word >> one) << np.uint32(1)) | ((word & one) << np.uint32(4))
        a >>= w1
        word = np.uint32(word2[i]) >> (a & m2)
        bits |= (_parity(word >> one) << np.uint32(2)) | ((word & one) << np.uint32(5))
        a >>= w2
        word = np.uint32(word3[i]) >> (a & m3)
        bits |= (_parity(word >> one) << np.uint32(3)) | ((word & one) << np.uint32(6))
        out[i] = (np.uint8(bits) ^ masks[i]) & np.uint8(127)


@compiled
def _borrow_share(index: Bits, masks: Bits, products: Unsigned, table: Words, out: Bits) -> None:
    for i in range(len(index)):
        monomials = np.uint32(masks[i] & np.uint8(127)) | (np.uint32(products[i]) << np.uint32(7))
        share = _parity(monomials & table[index[i] & np.uint8(127)])
        out[i] = np.uint8(share) ^ (masks[i] >> np.uint8(7))


@compiled
def _sign(share: Bits, other: Bits, index: Bits, opened: Words, top: np.uint32, table: Bits, out: Bits) -> None:
    for i in range(len(share)):
        high = np.uint8((opened[i] >> top) & np.uint32(1))
        out[i] = (share[i] ^ other[i] ^ table[index[i] & np.uint8(127)] ^ high) & np.uint8(1)
