"""A server's worker: the runs themselves, over a lane to the other server. One thread at a time.

A request of many images runs in groups, so that memory stays bounded. The journal keeps hashes of what was sent and
received, never messages.
"""

import time
from typing import Final

import blake3
import numpy as np

from primum.diagnosis.ahead import Ahead, Keys
from primum.diagnosis.channel import granted
from primum.diagnosis.dealer import sorry
from primum.diagnosis.deployment import RoleFile
from primum.diagnosis.lane import Lane
from primum.diagnosis.messages import Answer, Run, Sorry, Waiting
from primum.diagnosis.numbers import UsedNumbers, note
from primum.diagnosis.requests import OpenedRequest, seal_answer
from primum.diagnosis.roles import RoleKeys
from primum.diagnosis.tokens import TokenBook
from primum.errors import PeerError, PrimumError, Unavailable
from primum.journal import Journal
from primum.mpc.check import elements
from primum.mpc.party import Evaluation, Party
from primum.mpc.share import Elements, other, to_bytes
from primum.wire import Message

_GROUP_ELEMENTS: Final = 1 << 22
_DEAL_SECONDS: Final = 120.0
"""How long the other server may say that it is not ready yet: B may be receiving material."""


class Runs:
    """What a server computes: its weights, its stock, and the numbers it uses."""

    def __init__(self, content: RoleFile, keys: RoleKeys, used: UsedNumbers, depth: int) -> None:
        if content.role == "dealer":
            raise ValueError("a dealer's file")
        self._role = content.role
        self._deployment, self._identity = content.deployment, keys.identity
        program, model = content.deployment.program, content.deployment.model
        party = Party.make(self._role, program, model, content.masked, content.seeds[0])
        self._used = used
        self._journal = Journal(keys.folder / "journal.jsonl", keys.identity)
        self._tokens = TokenBook(keys.folder)
        self._ahead = Ahead(party, keys.folder / "store", depth)
        self._group = max(1, _GROUP_ELEMENTS // elements(program))

    def lowest(self, keys: Keys, images: int, mark: int) -> int:
        """The lowest number that this server would use for a request: the prepared one where that fits."""
        prepared = self._ahead.first(keys)
        if prepared is not None and prepared > mark and min(images, self._group) == 1:
            return prepared
        return max(mark, self._ahead.taken(keys), prepared or 0) + 1

    def check_token(self, opened: OpenedRequest) -> None:
        """Refused if the request's token has too few images left: before anybody else is asked for anything."""
        if opened.token is not None:
            self._tokens.check(opened.token, opened.images)

    def fill(self, keys: Keys, mark: int) -> bool:
        """Make something for later requests; False if there is enough."""
        return self._ahead.fill(keys, mark)

    def run(self, opened: OpenedRequest, first: int, keys: Keys, lane: Lane) -> Answer:
        """This server's answer to a request with the numbers from `first` on, which are on disk before the first byte."""
        if opened.token is not None:
            self._tokens.spend(opened.token, opened.images)
        self._used.record(first, opened.images, opened.digest)
        transcript, share = blake3.blake3(), opened.share()
        parts = [
            self._group_run(opened, share[start : start + self._group], first + start, keys, lane, transcript)
            for start in range(0, opened.images, self._group)
        ]
        bits = self._deployment.program.answer_bits
        packed = to_bytes(np.concatenate(parts), bits).tobytes()
        answer = seal_answer(opened, self._role, first, packed, self._deployment, self._identity)
        # the answer in its box: the hash of a share of 40 bits could be searched for
        messages = {"exchanged": transcript.digest(), "answer": answer.box}
        note(self._journal, "answered", opened.digest, first, opened.images, **messages)
        return answer

    def _group_run(
        self, opened: OpenedRequest, share: Elements, first: int, keys: Keys, lane: Lane, transcript: blake3.blake3
    ) -> Elements:
        begins = Run(opened.digest, first, len(share))
        try:
            with lane.saying(Waiting()):
                evaluation = self._ahead.take(begins.first, begins.images, keys)
        except PrimumError as error:
            lane.send_message(sorry(error))
            raise
        lane.send_message(begins)
        if _other_begins(lane, f"server {other(self._role)}") != begins:
            raise PeerError("The other server runs another request.", "Nothing was answered.")
        return _exchange(evaluation, share, lane, transcript)


def _other_begins(lane: Lane, peer: str) -> Run:
    """What the other server says when it is ready, having said often enough that it is alive."""
    end = time.monotonic() + _DEAL_SECONDS
    message: Message = Waiting()
    while isinstance(message, Waiting):
        if time.monotonic() > end:
            raise Unavailable(f"{peer} was not ready within {_DEAL_SECONDS:g} seconds.", "Ask again with fewer images.")
        message = lane.receive_one_of(Waiting, Run, Sorry)
    return granted(message, Run, peer)


def _exchange(evaluation: Evaluation, share: Elements, lane: Lane, transcript: blake3.blake3) -> Elements:
    """Carry the evaluation's messages to the other server and back, to its end."""
    run = evaluation.run(share)
    try:
        sent = next(run)
        while True:
            received = lane.exchange(sent, len(sent))
            transcript.update(sent.data)
            transcript.update(received.data)
            sent = run.send(received)
    except StopIteration as end:
        answer: Elements = end.value
        return answer
