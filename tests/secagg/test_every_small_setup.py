"""A lying server played against real nodes, for every set-up of up to ten members.

It tells each honest node another set; colluding members give it whatever they hold. What it can then open is counted on
the shares that came, and compared with k_min.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.secagg.playing import MODEL, RUN, Federation

from primum import wire
from primum.errors import PeerError, StudyError
from primum.rng import Stream
from primum.secagg import MaskedVector, Setup, Signed, masks
from primum.secagg.messages import Confirmation, ConfirmRequest, Context, RoundStart, Shares, UnmaskRequest, sign

Build = Callable[..., Federation]


def set_ups() -> Iterator[Setup]:
    for n in range(3, 11):
        for c in range(n - 1):
            for d in range(n):
                try:
                    yield Setup(n, c, d)
                except StudyError:
                    continue


ALL = list(set_ups())
NAMES = [f"n{s.n} c{s.colluding} d{s.may_vanish}" for s in ALL]


class Lying:
    """One round in which every vector came; then the server asks each honest node for what it likes."""

    def __init__(self, build: Build, setup: Setup) -> None:
        self.setup = setup
        self.world = build(setup.n, colluding=setup.colluding, may_vanish=setup.may_vanish)
        self.world.begin()
        self.everybody = tuple(self.world.nodes)
        self.honest = self.everybody[: setup.n - setup.colluding]
        self.sent: dict[int, MaskedVector] = {}
        for place, message in self.world.server.start(MODEL, self.world.shape).items():
            self.world.nodes[place].start(message)
            self.sent[place] = self.world.nodes[place].mask(np.arange(8), 24)
        self.context = Context(RUN, 1, 1)

    def sign(self, message: wire.Message) -> Signed:
        return sign(self.world.coordinator, message)

    def tell(self, sets: dict[int, tuple[int, ...]]) -> dict[int, Shares]:
        """The shares that each honest node gives for the set that it is told."""
        words: dict[int, Signed] = {}
        if self.setup.confirms:
            for place, included in sets.items():
                words[place] = self.world.nodes[place].confirm(self.sign(ConfirmRequest(self.context, included)))
        given: dict[int, Shares] = {}
        for place, included in sets.items():
            evidence = tuple(self.sent[other].statement for other in included)
            if self.setup.confirms:
                evidence = tuple(word for other, word in words.items() if sets[other] == included)
                evidence += self.colluding_words(included)
            try:
                opening = self.world.nodes[place].open(self.sign(UnmaskRequest(self.context, included, evidence)))
            except PeerError:
                continue
            given[place] = wire.decode(opening.shares.body, Shares, "x")
        return given

    def colluding_words(self, included: tuple[int, ...]) -> tuple[Signed, ...]:
        """Colluding members sign every set."""
        word = Confirmation(self.context, masks.set_digest(self.everybody), MODEL, masks.set_digest(included))
        colluding = self.everybody[len(self.honest) :]
        return tuple(sign(self.world.identities[place - 1], word) for place in colluding)

    def opened(self, given: dict[int, Shares]) -> tuple[set[int], set[int]]:
        """Honest members whose self-mask key, and whose list, the server can open with the colluding members."""
        selves, lists = (
            dict.fromkeys(self.honest, self.setup.colluding),
            dict.fromkeys(self.honest, self.setup.colluding),
        )
        for shares in given.values():
            for place, _ in shares.self_keys:
                if place in selves:
                    selves[place] += 1
            for place, _ in shares.list_keys:
                if place in lists:
                    lists[place] += 1
        t = self.setup.threshold
        return {p for p, count in selves.items() if count >= t}, {p for p, count in lists.items() if count >= t}


def sets_of(lying: Lying, stream: Stream) -> dict[int, tuple[int, ...]]:
    """For each honest node a set with itself that leaves out up to d others, at random but rather the same ones."""
    favourite = [int(place) + 1 for place in stream.permutation(lying.setup.n)]
    told = {}
    for place in lying.honest:
        pool = [other for other in favourite if other != place]
        out = set(pool[: stream.below(lying.setup.may_vanish + 1)])
        told[place] = tuple(other for other in lying.everybody if other not in out)
    return told


@pytest.mark.parametrize("setup", ALL, ids=NAMES)
def test_no_story_opens_both_secrets_or_leaves_out_too_many(federation: Build, setup: Setup) -> None:
    """A sum holds every honest member whose list stays shut: at least k_min of them, whatever each node is told."""
    lying = Lying(federation, setup)
    selves, lists = lying.opened(
        lying.tell(sets_of(lying, Stream.from_os()))
    )  # another story in every run of the tests
    assert not selves & lists
    if selves:
        assert len(lying.honest) - len(lists) >= setup.k_min


@pytest.mark.parametrize("setup", ALL, ids=NAMES)
def test_the_truth_opens_the_whole_sum_and_a_repetition_nothing_more(federation: Build, setup: Setup) -> None:
    lying = Lying(federation, setup)
    truth = dict.fromkeys(lying.honest, lying.everybody)
    selves, lists = lying.opened(lying.tell(truth))
    assert (selves, lists) == (set(lying.honest), set())
    for place in lying.honest:  # the same again, and a smaller set: the round is over
        for included in (lying.everybody, lying.everybody[: setup.least_included]):
            evidence = tuple(lying.sent[other].statement for other in included)
            with pytest.raises(PeerError, match="when this node is dealt"):
                lying.world.nodes[place].open(lying.sign(UnmaskRequest(lying.context, included, evidence)))


@pytest.mark.parametrize("setup", ALL, ids=NAMES)
def test_two_models_or_two_lists_of_participants_open_nothing(federation: Build, setup: Setup) -> None:
    """Half of the honest members get another model, or one participant less: their masks do not cancel, no share comes."""
    for kind in ("model", "participants"):
        if kind == "participants" and setup.n - 1 < setup.least_included:
            continue
        world = federation(setup.n, colluding=setup.colluding, may_vanish=setup.may_vanish)
        world.begin()
        sent = {}
        for place, message in world.server.start(MODEL, world.shape).items():
            start = wire.decode(message.body, RoundStart, "x")
            if place == 1 and kind == "model":
                start = RoundStart(start.context, start.participants, b"x" * 32, start.shares)
            if place == 1 and kind == "participants":
                shares = tuple(pair for pair in start.shares if pair[0] != setup.n)
                start = RoundStart(start.context, start.participants[:-1], start.model, shares)
            world.nodes[place].start(sign(world.coordinator, start))
            sent[place] = world.nodes[place].mask(np.arange(8), 24)
        lying = Lying.__new__(Lying)
        lying.setup, lying.world, lying.sent, lying.context = setup, world, sent, Context(RUN, 1, 1)
        lying.everybody, lying.honest = tuple(world.nodes), tuple(world.nodes)[: setup.n - setup.colluding]
        included = lying.everybody[: setup.n - (kind == "participants")]
        told = {place: included for place in lying.honest if place in included}
        selves, _ = lying.opened(lying.tell(told)) if 1 in told else (set(), set())
        if not setup.confirms or setup.committee.needed >= setup.n:
            assert not selves  # in two exchanges everybody sees that member 1 was told something else
        assert 1 not in selves or setup.confirms
