"""A federation in a list: nodes and server that exchange messages without a network."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from primum.keys.identity import Identity
from primum.secagg import Aggregate, Node, Server, Setup, Shape

MODEL = b"m" * 32
RUN = b"r" * 16


@dataclass
class Federation:
    """n nodes and their server; `vanish` are places that are silent from a stage on."""

    setup: Setup
    shape: Shape
    identities: list[Identity]
    coordinator: Identity
    nodes: dict[int, Node]
    server: Server

    def begin(self, session: int = 1, first_round: int = 1, absent: Iterable[int] = ()) -> None:
        present = {place: node for place, node in self.nodes.items() if place not in set(absent)}
        self.server.begin_session(session, first_round)
        for place, node in present.items():
            self.server.take_offer(place, node.offer(session, first_round))
        shown = self.server.offers()
        if self.setup.sparse:
            for place, node in present.items():
                self.server.take_reveal(place, node.reveal(shown))
            shown = self.server.reveals()
        for place, node in present.items():
            self.server.take_encapsulated(place, node.encapsulate(shown))
        for place, node in present.items():
            self.server.take_deal(place, node.deal(self.server.encapsulated_for(place)))

    def round(
        self,
        vectors: Mapping[int, npt.NDArray[np.int64]],
        vanish_before_vector: Iterable[int] = (),
        vanish_before_shares: Iterable[int] = (),
        vanish_before_confirmation: Iterable[int] = (),
    ) -> Aggregate:
        gone = set(vanish_before_vector)
        starts = self.server.start(MODEL, self.shape)
        for place, message in starts.items():
            if place not in gone:
                self.nodes[place].start(message)
                self.server.take_vector(place, self.nodes[place].mask(vectors[place], self.shape.bits))
        gone |= set(vanish_before_confirmation)
        if self.setup.confirms:
            asked = self.server.confirm()
            for place in starts:
                if place not in gone:
                    self.server.take_confirmation(place, self.nodes[place].confirm(asked))
        request = self.server.request()
        gone |= set(vanish_before_shares)
        return self.server.finish({place: self.nodes[place].open(request) for place in starts if place not in gone})


def build(n: int, colluding: int = 1, may_vanish: int = 0, length: int = 8, bits: int = 24) -> Federation:
    identities = sorted((Identity.generate() for _ in range(n)), key=lambda identity: identity.public)
    coordinator, setup = Identity.generate(), Setup(n, colluding, may_vanish)
    members = [identity.public for identity in identities]
    nodes = {
        place: Node(identity, members, coordinator.public, RUN, setup, 0)
        for place, identity in enumerate(identities, start=1)
    }
    return Federation(
        setup, Shape(length, bits), identities, coordinator, nodes, Server(coordinator, members, RUN, setup)
    )


@pytest.fixture(scope="session")
def federation() -> Callable[..., Federation]:
    return build
