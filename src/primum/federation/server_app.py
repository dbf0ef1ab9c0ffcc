"""The server program that Flower runs for a study: installed code, started by a bundle of three lines.

It joins `rounds.py` to Flower's Grid and writes into the coordinator's state folder (PRIMUM_STATE). The whole protocol
is ours; Flower carries bytes.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from primum import wire
from primum.errors import PeerError, PrimumError
from primum.federation.aggregation import Replies
from primum.federation.enrolment import Register
from primum.federation.messages import Order, Reply, Tagged
from primum.federation.records import body_of, to_message, wait_briefly
from primum.federation.rounds import Rounds
from primum.federation.runs import FAILED, FINISHED, RUNNING, Run
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import Study

_POLL: Final = 0.03
_KIND: Final = "query.primum"
_LIMIT: Final = 1 << 30

app = ServerApp()
client = ClientApp()  # Flower asks for one; hospitals run installed code and never load it


class GridExchange:
    """Orders to members over Flower's Grid, replies back, each in a signed envelope."""

    def __init__(
        self,
        grid: Grid,
        identity: Identity,
        members: tuple[bytes, ...],
        register: Register,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._grid, self._identity, self._members, self._register = grid, identity, members, register
        self._number = time.time_ns()

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        """See `aggregation.Exchange`."""
        until = time.monotonic() + deadline
        nodes = self._nodes()
        sent: dict[int, int] = {}
        waiting: dict[str, tuple[int, int]] = {}
        messages: list[Message] = []
        for place, order in orders.items():
            if place in nodes:
                self._number += 1
                body = self._seal(order)
                messages.append(to_message(body, nodes[place], _KIND, deadline + 60))
                sent[place] = len(body)
                waiting[str(len(messages) - 1)] = (place, self._number)
        if not messages:
            time.sleep(min(0.5, deadline))
            return Replies({}, {}, {})
        identifiers = list(self._grid.push_messages(messages))
        pending = {name: waiting[str(i)] for i, name in enumerate(identifiers) if name}
        replies: dict[int, Reply] = {}
        received: dict[int, int] = {}
        while pending and time.monotonic() < until:
            for message in self._pull(pending):
                place, number = pending.pop(message.metadata.reply_to_message_id)
                self._take(place, number, message, replies, received)
            if pending:
                time.sleep(_POLL)
        return Replies(replies, sent, received)

    def _pull(self, pending: Mapping[str, Any]) -> Iterable[Message]:
        return list(self._grid.pull_messages(list(pending)))

    def _take(
        self, place: int, number: int, message: Message, replies: dict[int, Reply], received: dict[int, int]
    ) -> None:
        name = f"hospital {place}"
        try:
            body = body_of(message, name)
            envelope = wire.decode(body, Signed, name, _LIMIT)
            tagged = open_signed(envelope, Tagged, self._members[place - 1], name)
            if tagged.number != number:
                raise PeerError(f"{name} answers an old order.", "It was not used.")
            reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), name, _LIMIT)
        except PeerError as error:
            self._say(f"{name} is left out: {error.message}")
            return
        replies[place], received[place] = reply, len(body)

    def _seal(self, order: Order) -> bytes:
        return wire.encode(sign(self._identity, Tagged(self._number, wire.encode(order))))

    def _nodes(self) -> dict[int, int]:
        """Flower's node number of each member that is connected: by the transport key that its identity signed."""
        transports = {key: identity for identity, key in self._register.transports().items()}
        places: dict[int, int] = {}
        for node in self._grid.get_nodes():
            identity = transports.get(node.public_key)
            if identity in self._members and node.status == "online":
                places[self._members.index(identity) + 1] = node.node_id
        return places


class Log:
    """What the operator of the coordinator can read later: log.txt in the run's folder, and standard error."""

    def __init__(self, run: Run) -> None:
        self._path = run.folder / "log.txt"

    def __call__(self, text: str) -> None:
        """One line."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        sys.stderr.write(line)


def end_with_parent(parent: int) -> None:
    """End this process when Flower's process that started it is gone, which cannot be noticed in another way.

    A server program whose coordinator was killed would hold the run, and ask a SuperLink that is gone, for minutes.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder is named in the run's configuration."""
    wait_briefly()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    state = Path(os.environ["PRIMUM_STATE"])
    run = Run(state / "runs" / Path(str(context.run_config["run"])).name)
    identity = Identity.load_or_make(state / "identity.pem")
    members = Study.parse(run.signed_study().text, "the study").hospitals.identities()
    lock = run.lock()  # the program of a coordinator that was killed may still be ending
    run.set_status(RUNNING)
    say = Log(run)
    rounds = Rounds(run, identity, GridExchange(grid, identity, members, Register(state), say), say)
    try:
        rounds.run_all()
    except PrimumError as error:
        say(str(error))
        run.set_status(FAILED, str(error))
        rounds.tell_end(f"failed: {error.message}")
        return
    run.set_status(FINISHED)
    rounds.tell_end("finished")
    lock.close()
