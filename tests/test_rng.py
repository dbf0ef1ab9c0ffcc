"""Streams: AES-256-CTR as published, uniform, never copied and never shared."""

import copy
import os
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from primum.rng import Stream

# NIST SP 800-38A, F.1.5 (AES-256, ECB) and F.5.5 (CTR): one key, four blocks
KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
PLAIN = (
    "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710"
)
ECB = (
    "f3eed1bdb5d2a03c064b5a7e3db181f8 591ccb10d410ed26dc5ba74a31362870"
    "b6ed21b99ca6f4f9f153e7b1beafed1d 23304b7a39f9f3ff067d8d8f9e24ecc7"
)


def block(key: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)


def test_the_block_cipher_is_the_published_one() -> None:
    assert block(KEY, bytes.fromhex(PLAIN)) == bytes.fromhex(ECB)


def test_a_stream_is_the_block_cipher_of_0_1_2() -> None:
    """SP 800-38A, section 6.5, with the counter from zero: written out block by block."""
    expected = b"".join(block(KEY, counter.to_bytes(16, "big")) for counter in range(300))
    assert Stream(KEY).bytes(4800) == expected


@given(st.lists(st.integers(0, 70), max_size=12))
def test_pieces_of_a_stream_are_the_stream(sizes: list[int]) -> None:
    stream, whole = Stream(KEY), Stream(KEY).bytes(sum(sizes))
    assert b"".join(stream.bytes(size) for size in sizes) == whole


def test_a_long_fill_goes_on_across_chunks() -> None:
    out = np.empty((1 << 20) + 33, np.uint8)
    Stream(KEY).fill(out)
    first, second = (1 << 20) // 16 - 1, (1 << 20) // 16
    assert out[16 * first : 16 * first + 16].tobytes() == block(KEY, first.to_bytes(16, "big"))
    assert out[16 * second : 16 * second + 16].tobytes() == block(KEY, second.to_bytes(16, "big"))


def test_fresh_streams_differ() -> None:
    assert len({Stream.from_os().bytes(16) for _ in range(100)}) == 100


def test_a_public_stream_is_the_same_for_everybody_and_every_label_another() -> None:
    assert Stream.public("a").bytes(16) == Stream.public("a").bytes(16) != Stream.public("b").bytes(16)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Stream(bytes(length))


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_is_never_copied(copying: object) -> None:
    with pytest.raises(TypeError, match="never copied"):
        copying(Stream(KEY))  # type: ignore[operator]


def test_a_stream_prints_nothing() -> None:
    assert repr(Stream(KEY)) == "Stream()"


def test_a_forked_process_cannot_go_on_with_its_parents_stream() -> None:
    stream = Stream(KEY)
    child = os.fork()
    if child == 0:
        try:
            stream.bytes(1)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert stream.bytes(16) == Stream(KEY).bytes(16)


@given(bound=st.integers(1, 2**70))
def test_below_is_below(bound: int) -> None:
    assert 0 <= Stream.from_os().below(bound) < bound


@pytest.mark.parametrize("bound", [3, 7, 100])
def test_below_is_uniform(bound: int) -> None:
    stream = Stream.from_os()
    counts = np.bincount([stream.below(bound) for _ in range(100 * bound)], minlength=bound)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Stream.from_os().below(0)


def test_uniform_and_bernoulli() -> None:
    values = Stream.from_os().uniform((200, 100))
    assert values.shape == (200, 100)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.reshape(-1), "uniform").pvalue > 1e-6
    coins = Stream.from_os().bernoulli(0.3, 20_000)
    assert stats.binomtest(int(coins.sum()), 20_000, 0.3).pvalue > 1e-6
    assert Stream.from_os().bernoulli(1.0, 1000).all()
    assert not Stream.from_os().bernoulli(0.0, 1000).any()


def test_permutations_are_uniform() -> None:
    stream = Stream.from_os()
    seen = [tuple(stream.permutation(4).tolist()) for _ in range(2400)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in seen)
    counts = np.unique(np.array([hash(order) for order in seen]), return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-6
