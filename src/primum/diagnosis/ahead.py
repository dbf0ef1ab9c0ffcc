"""What a server makes before anybody asks: one evaluation in memory, and at B material of further numbers on disk.

Both are bound to the keys of the connections that are up, which live in memory only: after a restart of any of the
three, or a broken connection, they are worthless and are deleted. Material is deleted before it is used; on disk it is
enciphered under a key that is in memory only, since to server A, or a thief with A's keys, it would be masks.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from primum.diagnosis.session import Session
from primum.errors import MachineError
from primum.kernels.words import Bytes
from primum.mpc.check import material_sizes
from primum.mpc.party import Evaluation, Party
from primum.rng import KEY_BYTES, Stream
from primum.state_folder import make_private

Deal = Callable[[int, int], Iterator[Bytes]]


def _nothing(first: int, images: int) -> Iterator[Bytes]:
    return iter(())


@dataclass(frozen=True)
class Keys:
    """The connections that a run needs: with the dealer, and between the servers. `deal`: B's way to material.

    `names`: what tells these keys from those of other connections; it includes A's with the dealer.
    """

    dealt: Session
    between: Session
    a_dealt: bytes
    deal: Deal = field(default=_nothing, repr=False)

    @property
    def names(self) -> tuple[bytes, ...]:
        return self.dealt.id, self.between.id, self.a_dealt

    @property
    def taken(self) -> int:
        """The highest number whose keys were taken."""
        return max(self.dealt.ratchet.next, self.between.ratchet.next) - 1


class Ahead:
    """One server's stock, for requests of one image. Used by one thread at a time.

    `folder`: where B keeps material, emptied at the start; `depth`: how many numbers of it beside the one in memory.
    """

    def __init__(self, party: Party, folder: Path, depth: int) -> None:
        self._party = party
        self._folder = folder
        self._depth = depth if party.role == "B" else 0
        self._names: tuple[bytes, ...] = ()
        self._prepared: tuple[int, Evaluation] | None = None
        self._stored: list[int] = []
        self._pads: dict[int, bytes] = {}
        self._dealt = 0
        self._sizes = material_sizes(party.program, 1)
        for path in folder.glob("*.material"):
            path.unlink()
        if self._depth:
            make_private(folder)

    def first(self, keys: Keys) -> int | None:
        """The number that is prepared under these keys."""
        self._keep(keys)
        return self._prepared[0] if self._prepared is not None else None

    def taken(self, keys: Keys) -> int:
        """The highest number that was taken or dealt under these keys."""
        self._keep(keys)
        return max(keys.taken, self._dealt)

    def take(self, number: int, images: int, keys: Keys) -> Evaluation:
        """The evaluation of these numbers: the prepared one if it is that, else a fresh one."""
        self._keep(keys)
        prepared, self._prepared = self._prepared, None
        if prepared is not None and (prepared[0], images) == (number, 1):
            return prepared[1]
        if images == 1 and number in self._stored:
            dealt = self._from_store(number)
        else:
            dealt = keys.deal(number, images)
        self._forget_up_to(number + images - 1)
        return self._party.evaluate(number, images, keys.dealt.ratchet, keys.between.ratchet, dealt)

    def fill(self, keys: Keys, mark: int) -> bool:
        """Make one thing more, with a number above `mark`; False if the stock is full."""
        self._keep(keys)
        self._forget_up_to(mark)
        if self._prepared is None:
            number = self._stored[0] if self._stored else max(mark, self.taken(keys)) + 1
            self._prepared = number, self.take(number, 1, keys)
            return True
        if len(self._stored) >= self._depth:
            return False
        self._store(max(mark, self.taken(keys)) + 1, keys)
        return True

    def _keep(self, keys: Keys) -> None:
        """Drop what belongs to other connections."""
        if keys.names != self._names:
            self._names = keys.names
            self._prepared = None
            self._dealt = 0
            self._forget_up_to(max(self._stored, default=0))

    def _forget_up_to(self, number: int) -> None:
        for stored in [stored for stored in self._stored if stored <= number]:
            self._stored.remove(stored)
            self._pads.pop(stored, None)
            self._path(stored).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.material"

    def _store(self, number: int, keys: Keys) -> None:
        path = self._path(number)
        self._dealt = number  # also where its material is lost
        self._pads[number] = os.urandom(KEY_BYTES)
        pad = Stream(self._pads[number])
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                for message in keys.deal(number, 1):
                    file.write((message ^ pad.array(len(message))).data)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self._depth = 0  # else it would be tried for ever, each time under new keys
            raise MachineError(
                f"{path} cannot be written: {error.strerror}.", "Nothing is kept ahead any more; restart to try again."
            ) from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._stored.append(number)

    def _from_store(self, number: int) -> Iterator[Bytes]:
        path = self._path(number)
        try:
            data = np.fromfile(path, np.uint8)
            data ^= Stream(self._pads.pop(number)).array(len(data))
        except OSError as error:
            raise MachineError(
                f"{path} cannot be read: {error.strerror}.", "Leave the store to this process."
            ) from None
        finally:
            self._stored.remove(number)
            path.unlink(missing_ok=True)
        if len(data) != sum(self._sizes):
            raise MachineError(f"{path} was cut short.", "Ask again; somebody touches this server's store.")
        ends = np.cumsum(self._sizes)
        return iter(np.split(data, ends[:-1]))
