"""Any schedule of joining, vanishing, restarting, replaying, reordering, corrupting and lying: exact or a named refusal.

Hypothesis drives real nodes and a real server. Whatever happens, every sum that comes out is the exact sum of the
included vectors, a node gives shares at most once for a round and for one set only, no vector is masked twice with the
same round's keys, and every refusal is a PeerError or Unavailable with a message.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.secagg.playing import RUN, build

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.secagg import Encapsulated, MaskedVector, Node, Opening, Signed
from primum.secagg.messages import ConfirmRequest, Context, Settlement, UnmaskRequest, VectorStatement, sign
from primum.secagg.node import transitions

MODELS = (b"a" * 32, b"b" * 32)
BITS = 20


class Schedule(RuleBasedStateMachine):
    """One federation of four (two exchanges) or six (three), and everything that was ever said in it."""

    @initialize(six=st.booleans())
    def gather(self, six: bool) -> None:
        self.world = build(6 if six else 4, may_vanish=2 if six else 1, bits=BITS)
        self.nodes, self.server = self.world.nodes, self.world.server
        self.session, self.round = 0, 0
        self.heard: list[tuple[str, int, Any]] = []  # (call, place, argument)
        self.vectors: dict[tuple[int, int], np.ndarray] = {}  # by round and place
        self.given: dict[tuple[int, int], tuple[int, ...]] = {}  # sets for which shares were given
        self.ready = False

    def ask(self, call: str, place: int, *arguments: Any) -> Any:
        """A node's answer; None where it refuses, which must be by name."""
        self.heard.append((call, place, arguments))
        try:
            answer = getattr(self.nodes[place], call)(*arguments)
        except PeerError as error:
            assert error.message
            assert error.hint
            return None
        if isinstance(answer, MaskedVector):
            statement = wire.decode(answer.statement.body, VectorStatement, "x")
            assert (statement.context.round, place) not in self.vectors, "masked twice in one round"
            self.vectors[statement.context.round, place] = arguments[0]
        if isinstance(answer, Opening):
            settlement = wire.decode(answer.settlement.body, Settlement, "x")
            assert (settlement.context.round, place) not in self.given, "shares given twice in one round"
            self.given[settlement.context.round, place] = settlement.included
        return answer

    def tell(self, call: str, *arguments: Any) -> Any:
        """The server's answer; None where it refuses."""
        try:
            return getattr(self.server, call)(*arguments)
        except (PeerError, Unavailable) as error:
            assert error.message
            return None

    @rule(absent=st.sets(st.integers(1, 6), max_size=2), reverse=st.booleans())
    def begin(self, absent: set[int], reverse: bool) -> None:
        """A session with whoever is there."""
        self.session, self.round, self.ready = self.session + 1, self.round + 1, False
        order = sorted(self.nodes.keys() - absent, reverse=reverse)
        self.server.begin_session(self.session, self.round)
        for place in order:
            offer = self.ask("offer", place, self.session, self.round)
            self.tell("take_offer", place, offer)
        shown = self.tell("offers")
        if shown is None:
            return
        for place in order:
            sent = self.ask("encapsulate", place, shown)
            if sent is not None:
                self.tell("take_encapsulated", place, sent)
        for place in order:
            deal = self.ask("deal", place, self.server.encapsulated_for(place))
            if deal is not None:
                self.tell("take_deal", place, deal)
        self.ready = True

    @precondition(lambda self: self.ready)
    @rule(
        model=st.sampled_from(MODELS),
        silent=st.tuples(*(st.sets(st.integers(1, 6), max_size=2) for _ in range(3))),
        seed=st.integers(0, 2**32 - 1),
    )
    def attempt(self, model: bytes, silent: tuple[set[int], set[int], set[int]], seed: int) -> None:
        """One round in which members fall silent at each stage."""
        before, between, after = silent[0], silent[0] | silent[1], silent[0] | silent[1] | silent[2]
        self.round = self.server.round
        starts = self.tell("start", model, self.world.shape)
        if starts is None:
            self.ready = False
            return
        draw = np.random.default_rng(seed)
        for place, message in starts.items():
            vector = draw.integers(-1000, 1000, self.world.shape.length)
            if place not in before and self.ask("start", place, message) is not None:
                masked = self.ask("mask", place, vector, BITS)
                if masked is not None:
                    self.tell("take_vector", place, masked)
        if self.world.setup.confirms:
            asked = self.tell("confirm")
            for place in starts.keys() - between if asked is not None else ():
                word = self.ask("confirm", place, asked)
                if word is not None:
                    self.tell("take_confirmation", place, word)
        request = self.tell("request")
        openings = {}
        for place in starts.keys() - after if request is not None else ():
            opening = self.ask("open", place, request)
            if opening is not None:
                openings[place] = opening
        number, result = self.server.round, self.tell("finish", openings) if request is not None else None
        self.ready = result is not None
        if result is not None:
            expected = sum(self.vectors[number, place] for place in result.included)
            assert np.array_equal(result.total, expected)
            assert len(result.included) >= self.world.setup.least_included

    @rule(place=st.integers(1, 6))
    def restart(self, place: int) -> None:
        """A node's process dies; it comes back with nothing but the number of the last round that it began."""
        if place in self.nodes:
            old = self.nodes[place]
            identity = self.world.identities[place - 1]
            self.nodes[place] = Node(
                identity, old.members, self.world.coordinator.public, RUN, self.world.setup, old.used_round
            )
            self.ready = False

    @precondition(lambda self: self.heard)
    @rule(data=st.data(), other=st.integers(1, 6))
    def replay(self, data: st.DataObject, other: int) -> None:
        """Something said before is said again, to the same node or to another."""
        call, place, arguments = data.draw(st.sampled_from(self.heard))
        target = other if other in self.nodes and data.draw(st.booleans()) else place
        self.ask(call, target, *arguments)
        self.ready = False

    @precondition(lambda self: self.heard)
    @rule(data=st.data(), at=st.integers(0, 10**6), flip=st.integers(1, 255))
    def corrupt(self, data: st.DataObject, at: int, flip: int) -> None:
        """A signed message with one byte changed is never accepted."""
        signed = [item for item in self.heard if any(isinstance(a, Signed) for a in item[2])]
        if not signed:
            return
        call, place, arguments = data.draw(st.sampled_from(signed))
        changed = [change(a, at, flip) if isinstance(a, Signed) else a for a in arguments]
        assert self.ask(call, place, *changed) is None

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), model=st.sampled_from(MODELS))
    def lie(self, data: st.DataObject, model: bytes) -> None:
        """A server that names another set to each node: honest nodes give shares for the true one or for none."""
        number = self.round = self.server.round
        starts = self.tell("start", model, self.world.shape)
        self.ready = False
        if starts is None:
            return
        sent: dict[int, MaskedVector] = {}
        for place, message in starts.items():
            if self.ask("start", place, message) is not None:
                masked = self.ask("mask", place, np.ones(self.world.shape.length, int), BITS)
                if masked is not None:
                    sent[place] = masked
        context = Context(RUN, self.session, number)
        sets = st.sets(st.sampled_from(sorted(sent)), min_size=1).map(sorted) if sent else st.just([])
        told = {place: tuple(data.draw(sets)) for place in sent}
        words: dict[int, Signed] = {}
        for place, included in told.items() if self.world.setup.confirms else ():
            request = sign(self.world.coordinator, ConfirmRequest(context, included))
            word = self.ask("confirm", place, request)
            if word is not None:
                words[place] = word
        for place, included in told.items():
            evidence = (
                tuple(words.values())
                if self.world.setup.confirms
                else tuple(sent[other].statement for other in included)
            )
            self.ask("open", place, sign(self.world.coordinator, UnmaskRequest(context, included, evidence)))

    @invariant()
    def nobody_is_left_alone(self) -> None:
        """Sets for which shares were given hold enough members, and where a quorum signs there is one a round."""
        if not hasattr(self, "given"):
            return
        by_round: dict[int, set[tuple[int, ...]]] = {}
        for (number, place), included in self.given.items():
            assert place in included
            assert len(included) >= self.world.setup.least_included
            by_round.setdefault(number, set()).add(included)
        if self.world.setup.confirms:
            assert all(len(sets) == 1 for sets in by_round.values())


def change(message: Signed, at: int, flip: int) -> Signed:
    """`message` with one byte of its body, signer or signature changed."""
    fields = [bytearray(message.body), bytearray(message.signer), bytearray(message.signature)]
    at %= sum(len(part) for part in fields)
    for part in fields:
        if at < len(part):
            part[at] ^= flip
            break
        at -= len(part)
    return Signed(*(bytes(part) for part in fields))


TestSchedule = Schedule.TestCase
TestSchedule.settings = settings(
    max_examples=100, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("call", ["offer", "reveal", "encapsulate", "deal", "start", "mask", "confirm", "open"])
def test_every_call_out_of_its_place_is_refused(call: str) -> None:
    """A fresh node answers an offer and nothing else."""
    node = build(4, may_vanish=1).nodes[1]
    arguments: dict[str, tuple[Any, ...]] = {"offer": (1, 1), "mask": (np.zeros(3, int), 24)}
    ask: Callable[..., Any] = getattr(node, call)
    if call == "offer":
        ask(*arguments[call])
        return
    with pytest.raises(PeerError, match=f"asks to {call} when this node is idle"):
        ask(*arguments.get(call, (Encapsulated,)))


# -- the page of the design shows this machine ---------------------------------------------------------------------


def diagram() -> str:
    """The state diagram of docs/design/secure-aggregation.md, from the transition table."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> IDLE"]
    lines += ["    IDLE --> OFFERED: offer (also from every other state, a new session)"]
    tables = {
        "": transitions(False, False),
        "where a quorum signs": transitions(False, True),
        "more than 128 members": transitions(True, True),
    }
    drawn: set[tuple[str, str, str]] = set()
    for when, table in tables.items():
        for call, (allowed, leads) in table.items():
            for origin in sorted(allowed, key=lambda state: state.value) if call != "offer" else ():
                arrow = (origin.name, leads.name, call)
                if arrow not in drawn:
                    drawn.add(arrow)
                    lines.append(f"    {origin.name} --> {leads.name}: {call}{f' ({when})' if when else ''}")
    return "\n".join([*lines, "```"])


def test_the_diagram_of_the_design_page_is_the_transition_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "design" / "secure-aggregation.md"
    assert diagram() in page.read_text(), f"put this diagram into {page.name}:\n{diagram()}"
