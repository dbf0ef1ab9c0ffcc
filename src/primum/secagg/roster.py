"""The members of a run by place, and the reading of what they signed."""

from collections.abc import Iterable, Sequence

from primum import wire
from primum.errors import PeerError
from primum.secagg.messages import Context, MessageType, Signed, open_signed


class Roster:
    """Members' identities, sorted: a member's place is its position here, from 1."""

    def __init__(self, members: Sequence[bytes]) -> None:
        self.members = tuple(sorted(members))
        self._places = {identity: place for place, identity in enumerate(self.members, start=1)}

    def place(self, identity: bytes, what: str) -> int:
        """The place of `identity`; PeerError where it is not a member."""
        if identity not in self._places:
            raise PeerError(f"A {what} is signed by somebody who is not a member.", "It was not used.")
        return self._places[identity]

    def identity(self, place: int) -> bytes:
        """The identity at `place`."""
        return self.members[place - 1]

    def open(self, envelope: Signed, kind: type[MessageType], context: Context, place: int) -> MessageType:
        """The message of the member at `place`; PeerError that names it unless it is its own and belongs to `context`."""
        message = open_signed(envelope, kind, self.identity(place), f"member {place}")
        return require_context(message, context)

    def open_all(
        self, envelopes: Iterable[Signed], kind: type[MessageType], context: Context
    ) -> dict[int, MessageType]:
        """All of the messages, by place: every signature is checked, nobody appears twice."""
        placed = self.placed(envelopes, kind)
        return {place: self.open(envelope, kind, context, place) for place, envelope in placed.items()}

    def read_all(
        self, envelopes: Iterable[Signed], kind: type[MessageType], context: Context
    ) -> dict[int, MessageType]:
        """All of the messages, by place, signatures NOT checked: for what is bound by a digest."""
        read: dict[int, MessageType] = {}
        for place, envelope in self.placed(envelopes, kind).items():
            read[place] = require_context(wire.decode(envelope.body, kind, f"member {place}"), context)
        return read

    def placed(self, envelopes: Iterable[Signed], kind: type[MessageType]) -> dict[int, Signed]:
        """Envelopes by the place of whom they name as their signer, sorted; nobody appears twice."""
        placed: dict[int, Signed] = {}
        for envelope in envelopes:
            place = self.place(envelope.signer, kind.__name__)
            if place in placed:
                raise PeerError(f"member {place} appears twice.", "It was not used.")
            placed[place] = envelope
        return dict(sorted(placed.items()))


def require_context(message: MessageType, expected: Context) -> MessageType:
    """`message`; PeerError unless it belongs to this run, session and round."""
    context: Context = message.context  # type: ignore[attr-defined]
    if context.run != expected.run:
        raise PeerError("A message of another run came.", "An old or foreign message is never answered.")
    if context != expected:
        raise PeerError(
            f"A message of session {context.session}, round {context.round} came in session {expected.session}, "
            f"round {expected.round}.",
            "An old or foreign message is never answered.",
        )
    return message
