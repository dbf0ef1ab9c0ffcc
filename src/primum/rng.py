"""The only source of randomness: AES-256-CTR streams keyed by the operating system.

Every share, mask, key and noise value of Primum comes from a `Stream`. A stream is keyed once, from `os.urandom` or
from a key that a protocol derived; there is no seed that a user can set. AES-256-CTR of a zero message is the usual
pseudorandom generator (NIST SP 800-90A uses the same block in counter mode).

A forked process would continue its parent's stream and draw the same values: a stream notices another process id and
refuses (PriMIA's workers shared masks in this way).
"""

import hashlib
import math
import os
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES: Final = 32
_CHUNK: Final = 1 << 20
_ZEROS: Final = memoryview(bytes(_CHUNK))  # slices of it are not copies


class Stream:
    """A stream of uniform bits: AES-256-CTR under one key, from counter 0 on.

    Not thread-safe; one stream a thread. The key is not kept in a readable attribute and never printed.
    """

    __slots__ = ("_encryptor", "_pid")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a stream key has {KEY_BYTES} bytes, got {len(key)}")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._pid = os.getpid()

    @classmethod
    def from_os(cls) -> "Stream":
        """A stream under a fresh key from the operating system."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def public(cls, label: str) -> "Stream":
        """The same stream for everybody, named by `label`: for drawn images and public permutations, never a secret."""
        return cls(hashlib.sha256(b"primum public stream\0" + label.encode()).digest())

    def __repr__(self) -> str:
        return "Stream()"

    def __reduce__(self) -> str:
        raise TypeError("a stream is never copied or sent: its values would be used twice")

    def fill(self, out: npt.NDArray[np.generic]) -> None:
        """Fill a C-contiguous array with uniform bits, in place."""
        if os.getpid() != self._pid:
            raise RuntimeError("a stream was carried into another process; make a new one with Stream.from_os()")
        view = out.reshape(-1).view(np.uint8).data
        for start in range(0, len(view), _CHUNK):
            part = view[start : start + _CHUNK]
            self._encryptor.update_into(_ZEROS[: len(part)], part)

    def bytes(self, count: int) -> bytes:
        """`count` uniform bytes."""
        return self.array(count).tobytes()

    def array(self, count: int) -> npt.NDArray[np.uint8]:
        """`count` uniform bytes, as uint8 [count]."""
        out = np.empty(count, np.uint8)
        self.fill(out)
        return out

    def uint64(self, shape: int | tuple[int, ...] = ()) -> npt.NDArray[np.uint64]:
        """Uniform uint64 array of `shape`."""
        out = np.empty(shape, np.uint64)
        self.fill(out)
        return out

    def uint32(self, shape: int | tuple[int, ...] = ()) -> npt.NDArray[np.uint32]:
        """Uniform uint32 array of `shape`."""
        out = np.empty(shape, np.uint32)
        self.fill(out)
        return out

    def uniform(self, shape: int | tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform float64 in [0, 1), multiples of 2^-53."""
        return (self.uint64(shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), exactly uniform: rejection sampling over the next power of two."""
        if bound < 1:
            raise ValueError(f"bound must be at least 1, got {bound}")
        bits = (bound - 1).bit_length()
        size = (bits + 7) // 8
        while True:
            value = int.from_bytes(self.bytes(size), "little") & ((1 << bits) - 1)
            if value < bound:
                return value

    def bernoulli(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """`count` independent coins; true with `probability` rounded to a multiple of 2^-53."""
        return self.uniform(count) < probability

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """A uniform permutation of range(count) (Fisher and Yates)."""
        order = np.arange(count)
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def normal_for_pictures(stream: Stream, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Standard normal float64 by Box and Muller: for pictures and trials, never for noise that protects somebody.

    Floating-point noise leaks (Mironov 2012): that is drawn as integers, in dp/.
    """
    uniform = stream.uniform((2, *shape))
    values: npt.NDArray[np.float64] = np.sqrt(-2 * np.log1p(-uniform[0])) * np.cos(2 * math.pi * uniform[1])
    return values
