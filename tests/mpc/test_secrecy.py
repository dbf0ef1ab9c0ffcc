"""What a server receives is uniform whatever the image, given all that it knows: its keys, its shares, W^.

A's view is tested with A's keys, A's share of the image and W^ the same in every run, B's keys fresh; B's view, which
has the dealer's messages too, the other way round. Bits are compared one by one, every two of them, and as bytes.
Limits are Hoeffding's bound, so that a false alarm has a chance below 1e-8 a test.
"""

import itertools
import math
import os
from typing import NamedTuple

import numpy as np
import pytest
from tests.mpc.programs import everything, small_images, small_weights
from tests.mpc.theatre import Messages, Theatre, as_ring, exchange

from primum.errors import Refused
from primum.kernels.comparison import OPENED_BITS
from primum.kernels.words import pack, packed_size, unpack
from primum.mpc import dealer as dealer_module
from primum.mpc import party as party_module
from primum.mpc.party import Evaluation
from primum.mpc.rule import RULES, Wires
from primum.mpc.share import ROLES, Elements, Role, Streams, other
from primum.ring import mask

RUNS = 400
FALSE_ALARM = 1e-8
CHI_SQUARE_255 = 430.0
"""255 degrees of freedom exceed it with a chance of 4e-11."""


class View(NamedTuple):
    """What one server saw in many runs, bits [runs, n] of each message or value."""

    received: list[np.ndarray]
    opened: list[np.ndarray]
    """What both servers' messages make together: x^, T^, an index, d^."""
    dealt: list[np.ndarray]

    @property
    def messages(self) -> list[np.ndarray]:
        return self.received + self.dealt

    @property
    def sides(self) -> list[np.ndarray]:
        """Both ways to look at it; what is received and what is opened differ by what the server knows itself."""
        return [np.concatenate(seen + self.dealt, axis=1) for seen in (self.received, self.opened)]


class Given:
    """A ratchet whose keys the test chose, one a number, so that all runs go through one batch."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    def take(self, number: int) -> bytes:
        return self._keys[number - 1]


Keys = dict[Role, tuple[bytes, ...]]


def play(
    stage: Theatre, keys: Keys, common: tuple[bytes, ...], shares: dict[Role, Elements]
) -> tuple[list[bytes], Messages, dict[Role, object]]:
    """What the dealer sent, what both servers sent, and their answers."""
    runs, given = len(common), {role: Given(keys[role]) for role in ROLES}
    dealt = [bytes(message) for message in stage.dealer.deal(1, runs, given)]  # type: ignore[arg-type]
    sides = {
        role: stage.parties[role].evaluate(1, runs, given[role], Given(common), dealt if role == "B" else ())  # type: ignore[arg-type]
        for role in ROLES
    }
    return dealt, *exchange({role: sides[role].run(shares[role]) for role in ROLES})


def view_of(role: Role, stage: Theatre, image: np.ndarray, runs: int = RUNS) -> View:
    """`role`'s view of `image` in many runs: its own keys and share stay the same, the other's are fresh."""
    keys: Keys = {role: (b"k" * 32,) * runs, other(role): tuple(os.urandom(32) for _ in range(runs))}
    one = np.repeat(
        as_ring(image)[None] * np.uint64(0) + as_ring(small_images(stage.program, 1, "share")), runs, axis=0
    )
    two = as_ring(image)[None] - one
    shares: dict[Role, Elements] = {"A": one, "B": two & mask(stage.program.bits)}
    if role == "B":  # B's share is the fixed one for both images
        shares = {"A": two, "B": one & mask(stage.program.bits)}
    dealt, sent, _ = play(stage, keys, (b"c" * 32,) * runs, shares)
    sizes = sizes_of(stage, "sent")
    return View(
        [bits_of(data, runs, *size) for data, size in zip(sent[other(role)], sizes, strict=True)],
        [opening(*pair, runs, *size) for *pair, size in zip(sent["A"], sent["B"], sizes, strict=True)],
        dealt_bits(stage, dealt, runs) if role == "B" else [],
    )


def sizes_of(stage: Theatre, kind: str) -> list[tuple[int, int]]:
    """(count, bits) of every message of one image, in order."""
    wires = Wires(stage.program)
    return [part for step in stage.program.operations for part in getattr(RULES[type(step)], kind)(step, wires)]


def dealt_bits(stage: Theatre, dealt: list[bytes], runs: int) -> list[np.ndarray]:
    return [bits_of(data, runs, *size) for data, size in zip(dealt, sizes_of(stage, "dealt"), strict=True)]


def opening(one: bytes, two: bytes, runs: int, count: int, bits: int) -> np.ndarray:
    """The bits of the sum, or of the xor where look-ups are opened."""
    a, b = (unpack(data, runs * count, bits).astype(np.uint64) for data in (one, two))
    return bits_of(pack(a ^ b if bits == OPENED_BITS else a + b, bits).tobytes(), runs, count, bits)


def bits_of(data: bytes, runs: int, count: int, bits: int) -> np.ndarray:
    assert len(data) == packed_size(runs * count, bits)
    loose = np.unpackbits(np.frombuffer(data, np.uint8), count=runs * count * bits, bitorder="little")
    return loose.reshape(runs, count * bits)


def largest_bias(bits: np.ndarray) -> tuple[float, float]:
    """(largest deviation of a bit's mean, in standard deviations; what chance allows)."""
    signs = 1.0 - 2.0 * bits
    limit = math.sqrt(2 * math.log(2 * bits.shape[1] / FALSE_ALARM))
    return float(np.abs(signs.sum(0)).max() / math.sqrt(len(bits))), limit


def largest_correlation(bits: np.ndarray) -> tuple[float, float]:
    """The same of the xor of every two bits."""
    signs = np.float32(1) - np.float32(2) * bits.astype(np.float32)
    largest = 0.0
    for start in range(0, bits.shape[1], 1024):
        sums = signs[:, start : start + 1024].T @ signs[:, start:]
        sums[np.arange(len(sums)), np.arange(len(sums))] = 0
        largest = max(largest, float(np.abs(sums).max()))
    return largest / math.sqrt(len(bits)), math.sqrt(2 * math.log(bits.shape[1] ** 2 / FALSE_ALARM))


def chi_square(bits: np.ndarray) -> float:
    """Of all whole bytes of one message."""
    counts = byte_counts(bits)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def byte_counts(bits: np.ndarray) -> np.ndarray:
    flat = bits.reshape(-1)[: bits.size // 8 * 8]
    return np.bincount(np.packbits(flat), minlength=256)


@pytest.fixture(scope="module")
def stage() -> Theatre:
    program = everything()
    return Theatre(program, small_weights(program))


IMAGES = {"black": lambda program: small_images(program, 1)[0] * 0, "any": lambda program: small_images(program, 1)[0]}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("image", IMAGES)
def test_what_a_server_receives_is_uniform_given_all_that_it_knows(stage: Theatre, role: Role, image: str) -> None:
    view = view_of(role, stage, IMAGES[image](stage.program))
    for bits in view.sides:
        bias, limit = largest_bias(bits)
        assert bias < limit
        correlation, limit = largest_correlation(bits)
        assert correlation < limit < math.sqrt(RUNS) / 2
    assert all(chi_square(bits) < CHI_SQUARE_255 for bits in view.messages + view.opened)


@pytest.mark.parametrize("role", ROLES)
def test_two_images_look_the_same(stage: Theatre, role: Role) -> None:
    """Homogeneity of the bytes of every message, W^ the same."""
    one, two = (view_of(role, stage, make(stage.program)) for make in IMAGES.values())
    for left, right in zip(one.messages, two.messages, strict=True):
        a, b = byte_counts(left), byte_counts(right)
        assert ((a - b) ** 2 / np.maximum(a + b, 1)).sum() < CHI_SQUARE_255
        assert not (left == right).all(axis=0).any()


def test_masks_shared_by_operations_are_found(stage: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that forget the operation's name: masks are used twice."""
    for module in (dealer_module, party_module):
        monkeypatch.setattr(module, "Streams", lambda keys, labels: Streams(keys, labels[:2]))
    for role in ROLES:
        for bits in view_of(role, stage, IMAGES["any"](stage.program)).sides:
            correlation, limit = largest_correlation(bits)
            assert correlation > 2 * limit


@pytest.mark.parametrize("bits", [8, 10, 40])
def test_masks_that_are_missing_are_found(stage: Theatre, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Mask bits, masks of comparisons, or masks of opened wires and shares that are all zero."""
    draw = Streams.draw
    monkeypatch.setattr(Streams, "draw", lambda self, size, b: draw(self, size, b) * (b != bits))
    for role in ROLES:
        _, opened = view_of(role, stage, IMAGES["any"](stage.program)).sides
        bias, limit = largest_bias(opened)
        assert bias > 2 * limit


def test_the_dealers_messages_alone_are_uniform(stage: Theatre) -> None:
    for _ in range(2):
        first = stage.number
        messages = [bytes(message) for message in stage.dealer.deal(first, RUNS, stage.at_dealer)]
        for ratchet in itertools.chain(stage.with_dealer.values(), stage.between.values()):
            ratchet.take(first + RUNS - 1)
        parts = dealt_bits(stage, messages, RUNS)
        bias, limit = largest_bias(np.concatenate(parts, axis=1))
        assert bias < limit
        assert all(chi_square(bits) < CHI_SQUARE_255 for bits in parts)


def answers(stage: Theatre, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Both answers of many runs that differ in k_AB alone."""
    program = stage.program
    keys: Keys = {role: (role.encode() * 32,) * runs for role in ROLES}
    common = tuple(os.urandom(32) for _ in range(runs))
    images = as_ring(np.repeat(small_images(program, 1), runs, axis=0))
    _, _, ends = play(stage, keys, common, {"A": images, "B": images * np.uint64(0)})
    one, two = (np.asarray(ends[role]).reshape(runs, -1) for role in ROLES)
    assert max(one.max(), two.max()) <= mask(program.answer_bits)
    return one, two


def answer_bits(values: np.ndarray, bits: int) -> np.ndarray:
    return ((values[:, :, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)).reshape(len(values), -1)


def test_the_two_answers_are_uniform_given_their_sum(stage: Theatre) -> None:
    bits = stage.program.answer_bits
    one, two = answers(stage, RUNS)
    total = (one + two) & mask(bits)
    assert (total == total[0]).all()
    for values in (one, two):
        loose = answer_bits(values, bits)
        for found, limit in (largest_bias(loose), largest_correlation(loose)):
            assert found < limit


def test_answers_that_are_not_blinded_are_found(stage: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluation, "_blind", lambda self, answer: answer & mask(self._party.program.answer_bits))
    one, _ = answers(stage, RUNS)
    bias, limit = largest_bias(answer_bits(one, stage.program.answer_bits))
    assert bias > 2 * limit


def windows(stage: Theatre) -> set[bytes]:
    """Every eight bytes of every message of the last run."""
    data = [*stage.sent["A"], *stage.sent["B"], *stage.dealt]
    return {message[at : at + 8] for message in data for at in range(len(message) - 7)}


def test_no_two_runs_share_a_message_nor_a_run_with_itself(stage: Theatre) -> None:
    """The same image twice, and both images of a pair: every drawn array serves one opening."""
    image = small_images(stage.program, 1)
    seen: set[bytes] = set()
    count = 0
    for _ in range(5):
        stage.infer(image)
        seen |= (found := windows(stage))
        count += len(found)
        assert count == len(seen)
    data = [*stage.sent["A"], *stage.sent["B"], *stage.dealt]
    assert len(windows(stage)) == sum(max(0, len(message) - 7) for message in data)


def test_a_batch_uses_one_stream_for_each_image(stage: Theatre) -> None:
    """The same image in every place of a batch: its openings differ in every place."""
    image = np.repeat(small_images(stage.program, 1), 8, axis=0)
    stage.infer(image)
    opened = np.frombuffer(stage.sent["A"][0], np.uint8).reshape(8, -1)
    assert len({row.tobytes() for row in opened}) == 8
    assert (opened[0] == opened[1]).mean() < 0.1


def test_openings_of_two_images_do_not_show_their_difference(stage: Theatre) -> None:
    """x^ of both images: under one number their difference would be that of the images."""
    opened = []
    images = [small_images(stage.program, 1, label) for label in ("one", "two")]
    for image in images:
        stage.infer(image)
        opened.append(stage._served["A"].opened("x^") & mask(40))
        assert np.array_equal(opened[-1], stage._served["B"].opened("x^") & mask(40))
    difference, plain = opened[0] - opened[1], as_ring(images[0] - images[1])
    assert not ((difference - plain) & mask(40) == 0).any()


def test_the_same_number_would_show_the_difference_and_is_refused(stage: Theatre) -> None:
    stage.infer(small_images(stage.program, 1))
    used = stage.number - 1
    with pytest.raises(Refused, match="was used before"):
        stage.dealer.deal(used, 1, stage.at_dealer)
    for role in ROLES:
        with pytest.raises(Refused, match="was used before"):
            stage.evaluate(role, used, 1)
