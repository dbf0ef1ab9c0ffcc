"""Messages and their bytes: canonical, bounded, and anything else refused by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum import wire
from primum.errors import PeerError


class Inner(wire.Message, frozen=True):
    place: int
    data: bytes


class Order(wire.Message, frozen=True):
    round: int
    name: str
    inner: tuple[Inner, ...]
    shares: dict[int, bytes]
    ready: bool = False


class Other(wire.Message, frozen=True):
    text: str


inners = st.builds(Inner, place=st.integers(-(2**63), 2**63 - 1), data=st.binary(max_size=20))
orders = st.builds(
    Order,
    round=st.integers(0, 2**40),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    inner=st.lists(inners, max_size=4).map(tuple),
    shares=st.dictionaries(st.integers(0, 255), st.binary(max_size=9), max_size=4),
    ready=st.booleans(),
)
ORDER = Order(3, "train", (Inner(1, b"ab"),), {2: b"x"}, True)


@given(orders)
def test_messages_come_back_and_equal_messages_have_equal_bytes(order: Order) -> None:
    data = wire.encode(order)
    back = wire.decode(data, Order, "hospital 1")
    assert back == order
    assert wire.encode(back) == data
    assert wire.decode_one_of(data, (Other, Order), "hospital 1") == order


@given(st.binary(max_size=200))
def test_garbage_is_a_peer_error_and_nothing_else(garbage: bytes) -> None:
    for data in (garbage, bytes([wire.VERSION]) + garbage):
        with pytest.raises(PeerError, match="hospital 1"):
            wire.decode(data, Order, "hospital 1")


@given(orders, st.data())
def test_a_flipped_bit_is_refused_or_another_message(order: Order, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode(order))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = wire.decode(bytes(encoded), Order, "hospital 1")
    except PeerError:
        return
    assert wire.encode(back) == bytes(encoded)


@given(orders, st.integers(1, 30))
def test_a_truncated_or_longer_message_is_refused(order: Order, length: int) -> None:
    data = wire.encode(order)
    for wrong in (data[:-length], data + bytes(length)):
        with pytest.raises(PeerError):
            wire.decode(wrong, Order, "hospital 1")


def test_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(PeerError, match=r"hospital 1 sent 1,001 bytes where a Order has at most 1,000"):
        wire.decode(bytes(1001), Order, "hospital 1", limit=1000)


def test_another_type_and_another_version_are_refused() -> None:
    with pytest.raises(PeerError, match="hospital 1"):
        wire.decode(wire.encode(Other("x")), Order, "hospital 1")
    with pytest.raises(PeerError, match="version 1"):
        wire.decode(b"\x02" + wire.encode(ORDER)[1:], Order, "hospital 1")
    with pytest.raises(PeerError, match="hospital 1"):
        wire.decode_one_of(wire.encode(ORDER), (Other, Inner), "hospital 1")


def test_a_second_spelling_of_the_same_message_is_refused() -> None:
    """Fields in another order, and an unknown field: both mean the same to a lax reader."""
    fields = msgspec.msgpack.decode(wire.encode(ORDER)[1:])
    turned = dict(reversed(fields.items()))
    assert turned == fields
    for spelt in (turned, {**fields, "extra": 1}):
        with pytest.raises(PeerError):
            wire.decode(bytes([wire.VERSION]) + msgspec.msgpack.encode(spelt), Order, "hospital 1")


def test_a_deeply_nested_message_is_refused() -> None:
    nested = b"\x91" * 100_000 + b"\x00"
    with pytest.raises(PeerError):
        wire.decode(bytes([wire.VERSION]) + nested, Order, "hospital 1")


def test_messages_print_their_name_only() -> None:
    assert repr(ORDER) == str(ORDER) == "Order()"


class Parcel(wire.Message, frozen=True):
    name: str
    load: wire.Bulk


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 65_537, 300_000])
def test_a_bulk_comes_back_without_a_copy_and_is_canonical(size: int) -> None:
    load = bytes(range(256)) * (size // 256 + 1)
    data = wire.encode(Parcel("x", memoryview(load)[:size]))
    back = wire.decode(data, Parcel, "hospital 1")
    assert back.load == load[:size]
    assert back.load.obj is data or size == 0 or isinstance(back.load.obj, memoryview | bytes)
    assert wire.encode(back) == data


@pytest.mark.parametrize("size", [10, 70_000])
def test_a_bulk_that_is_not_canonical_is_refused(size: int) -> None:
    data = wire.encode(Parcel("x", memoryview(bytes(size))))
    body = data[1:]
    kind, name = body[1 : 1 + 5 + 7], b"\xa4name\xa1x"
    assert kind + name == body[1 : 1 + 12 + len(name)]
    swapped = body[:1] + name + kind + body[1 + 12 + len(name) :]
    longer = body.replace(b"\xa1x", b"\xd9\x01x")  # str 8 where fixstr is enough
    for wrong in (swapped, longer, body + b"\0"):
        with pytest.raises(PeerError, match=r"canonical|malformed"):
            wire.decode(data[:1] + wrong, Parcel, "hospital 1")


@given(st.binary(min_size=1, max_size=3), st.integers(0, 70_000), st.integers(0, 7))
def test_a_flipped_bit_of_a_bulk_is_refused_or_another_message(name: bytes, at: int, bit: int) -> None:
    parcel = Parcel(name.hex(), memoryview(bytes(70_000)))
    encoded = bytearray(wire.encode(parcel))
    encoded[at % len(encoded)] ^= 1 << bit
    try:
        assert wire.decode(bytes(encoded), Parcel, "hospital 1") != parcel
    except PeerError as error:
        assert "hospital 1" in error.message
