"""Costs are counted on the real protocol and compared with what is stated; the table of the design page is this one."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from tests.secagg.playing import MODEL, Federation

from primum import rng, wire
from primum.secagg import Setup, Shape, cost

Build = Callable[..., Federation]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "design" / "secure-aggregation.md"
SET_UPS = ((3, 1, 0), (4, 1, 1), (10, 1, 1), (10, 1, 3), (100, 5, 5), (1000, 50, 50), (1000, 100, 100))


def size(messages: wire.Message | Iterable[wire.Message]) -> int:
    if isinstance(messages, wire.Message):
        return len(wire.encode(messages))
    return sum(len(wire.encode(message)) for message in messages)


def session_bytes(built: Federation) -> tuple[int, int, int]:
    """Exchanges, the most bytes that a node sent, the most that one received; counted on the messages."""
    nodes, server = built.nodes, built.server
    sent, received, exchanges = dict.fromkeys(nodes, 0), dict.fromkeys(nodes, 0), 3
    server.begin_session(1, 1)
    for place, node in nodes.items():
        offer = node.offer(1, 1)
        sent[place] += size(offer)
        server.take_offer(place, offer)
    shown = server.offers()
    if built.setup.sparse:
        exchanges += 1
        for place, node in nodes.items():
            reveal = node.reveal(shown)
            received[place] += size(shown)
            sent[place] += size(reveal)
            server.take_reveal(place, reveal)
        shown = server.reveals()
    for place, node in nodes.items():
        message = node.encapsulate(shown)
        received[place] += size(shown)
        sent[place] += size(message)
        server.take_encapsulated(place, message)
    for place, node in nodes.items():
        mine = server.encapsulated_for(place)
        deal = node.deal(mine)
        received[place] += size(mine)
        sent[place] += size(deal)
        server.take_deal(place, deal)
    return exchanges, max(sent.values()), max(received.values())


def round_bytes(built: Federation) -> tuple[int, int, int]:
    nodes, server, exchanges = built.nodes, built.server, 2
    sent, received = dict.fromkeys(nodes, 0), dict.fromkeys(nodes, 0)
    for place, start in server.start(MODEL, built.shape).items():
        nodes[place].start(start)
        masked = nodes[place].mask(np.zeros(built.shape.length, np.int32), built.shape.bits)
        received[place] += size(start)
        sent[place] += size(masked)
        server.take_vector(place, masked)
    if built.setup.confirms:
        exchanges += 1
        asked = server.confirm()
        for place, node in nodes.items():
            word = node.confirm(asked)
            received[place] += size(asked)
            sent[place] += size(word)
            server.take_confirmation(place, word)
    request = server.request()
    for place, node in nodes.items():
        opening = node.open(request)
        received[place] += size(request)
        sent[place] += size(opening)
    return exchanges, max(sent.values()), max(received.values())


@pytest.mark.parametrize(("n", "c", "d"), [(3, 1, 0), (4, 1, 1), (10, 1, 3), (140, 5, 5)])
def test_bytes_and_exchanges_are_as_stated(federation: Build, n: int, c: int, d: int) -> None:
    built = federation(n, colluding=c, may_vanish=d, length=1000)
    for counted, stated in (
        (session_bytes(built), cost.of_session(built.setup)),
        (round_bytes(built), cost.of_round(built.setup, built.shape)),
    ):
        exchanges, sent, received = counted
        assert exchanges == stated.exchanges
        assert sent <= stated.sent <= 1.06 * sent + 40
        assert received <= stated.received <= 1.06 * received + 40


def test_a_node_computes_as_many_masks_as_stated(federation: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    built = federation(5, may_vanish=1, length=3000)
    built.begin()
    starts = built.server.start(MODEL, built.shape)
    built.nodes[1].start(starts[1])
    counted = 0
    fill = rng.Stream.fill

    def counting(stream: rng.Stream, out: np.ndarray) -> None:
        nonlocal counted
        counted += out.nbytes
        fill(stream, out)

    monkeypatch.setattr(rng.Stream, "fill", counting)
    built.nodes[1].mask(np.zeros(3000, np.int32), 24)
    assert counted == cost.of_round(built.setup, built.shape).aes == 3 * 3000 * 5


def table() -> str:
    """The cost table of docs/design/secure-aggregation.md."""
    lines = [
        "| n | c | d | neighbours | t | exchanges | sent, kB | received, kB | masks, MB | at the start: sent, kB | received, kB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for n, c, d in SET_UPS:
        setup = Setup(n, c, d)
        start, each = cost.of_session(setup), cost.of_round(setup, Shape(1_000_000, 24))
        own = (each.sent - 3_000_000, each.received, each.aes // 1000, start.sent, start.received)
        numbers = " | ".join(f"{value / 1000:,.1f}" for value in own)
        lines.append(f"| {n} | {c} | {d} | {setup.degree} | {setup.threshold} | {each.exchanges} | {numbers} |")
    return "\n".join(lines)


def test_the_table_of_the_design_page_is_what_is_counted() -> None:
    assert table() in PAGE.read_text(), f"put this table into {PAGE.name}:\n{table()}"
