"""A few public numbers at the end of every vector, whose sum everybody knows: the secure sum is checked in every round.

They depend on run, round and place alone, so they tell nothing; a mask that is left over, a wrong ring, or a vector out of
its place changes their sum with certainty but for 2^-64.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import PeerError
from primum.rng import Stream
from primum.secagg import Aggregate, Shape

LENGTH: Final = 8

Integers = npt.NDArray[np.integer]


def numbers(run: bytes, number: int, place: int, bits: int) -> npt.NDArray[np.int32]:
    """What the hospital at `place` adds in round `number`: int32 [LENGTH], in the ring of so many bits."""
    stream = Stream.public(f"probe {run.hex()} {number} {place}")
    return (stream.uint32(LENGTH) >> np.uint32(33 - bits)).astype(np.int32)


def with_probe(vector: Integers, run: bytes, number: int, place: int, bits: int) -> Integers:
    """The vector and its probe: [length + LENGTH]."""
    return np.concatenate([vector, numbers(run, number, place, bits)])


def longer(shape: Shape) -> Shape:
    """The shape of a vector with its probe."""
    return replace(shape, length=shape.length + LENGTH)


def without_probe(aggregate: Aggregate, run: bytes, number: int, bits: int) -> Aggregate:
    """The sum itself; PeerError unless its probe is the plain sum of the numbers of all that are in it."""
    expected = np.zeros(LENGTH, np.int64)
    for place in aggregate.included:
        expected += numbers(run, number, place, bits)
    found = aggregate.total[-LENGTH:].astype(np.int64)
    if np.any((found - expected) % (1 << bits)):
        raise PeerError("The secure sum differs from the plain sum on its public probe.", "It was not used.")
    return replace(aggregate, total=aggregate.total[:-LENGTH])
