"""Each side's journal seen by the other: signed heads that are exchanged in every round, and what they prove later.

Whoever rewrites its journal changes every later hash. The heads that it signed before stand in the other side's journal,
and are then in no line of the new one: `compare` names the first such head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from primum import wire
from primum.errors import InputError, PeerError
from primum.federation.messages import JournalHead
from primum.journal import Journal, Link, read_chain
from primum.keys.identity import Identity, verify
from primum.secagg.messages import Signed, open_signed, sign

FIELD: Final = "their_journals"
"""The key of an entry's details under which the heads of others are kept: signed envelopes in hex."""


@dataclass(frozen=True)
class Seen:
    """A head that `signer` showed in a run, and the number of the entry that keeps it."""

    signer: bytes
    run: bytes
    head: str
    entry: int


def head_of(journal: Journal, run: bytes, identity: Identity) -> Signed:
    """The journal's head, signed, to be shown to the other side."""
    return sign(identity, JournalHead(run, bytes.fromhex(journal.head)))


def kept(statement: Signed, run: bytes, signer: bytes, name: str) -> str:
    """Another side's head as an entry keeps it; PeerError that names the peer where it is not its own, of this run."""
    shown = open_signed(statement, JournalHead, signer, name)
    if shown.run != run or len(shown.head) != 32:
        raise PeerError(f"{name} showed the head of another journal.", "The round was not joined.")
    return wire.encode(statement).hex()


def read_verified(path: Path, owner: bytes) -> list[Link]:
    """The journal in `path`: chain and every signature of `owner` checked; InputError names the first wrong line."""
    if not path.is_file():
        raise InputError(f"{path} is not there.", "Give a journal.jsonl, or a state folder that has one.")
    return read_chain(path, lambda purpose, data, signature: verify(owner, purpose, data, signature, path.name))


@dataclass(frozen=True)
class Owned:
    """A journal whose chain and signatures were checked, and the key of its owner."""

    path: Path
    owner: bytes
    links: list[Link]

    @classmethod
    def open(cls, path: Path, owner: str | None, option: str = "--owner") -> "Owned":
        """The journal of a state folder (whose identity is its owner's), or a journal file of the `owner` (hex).

        `option`: what a hint calls `owner`. InputError where nothing is there or nobody is named; PeerError where a
        line is not the owner's.
        """
        file = path / "journal.jsonl" if path.is_dir() else path
        if owner is None:
            beside = file.parent / "identity.pem"
            if not beside.is_file():
                raise InputError(
                    f"Whose journal {file} is, is not known.", f"Give {option} with the key, 64 hex digits."
                )
            key = Identity.load_or_make(beside).public
        else:
            try:
                key = bytes.fromhex(owner)
            except ValueError:
                raise InputError(f"{owner!r} is not a key.", "A key is 64 hex digits, as identity.pub holds.") from None
        return cls(file, key, read_verified(file, key))


def seen_in(links: Iterable[Link]) -> list[Seen]:
    """All heads of others in a journal, in order; each envelope's signature is checked."""
    found = []
    for link in links:
        for text in _envelopes(link.entry["details"]):
            statement = wire.decode(bytes.fromhex(text), Signed, "the journal")
            shown = open_signed(statement, JournalHead, statement.signer, f"entry {link.entry['n']}")
            found.append(Seen(statement.signer, shown.run, shown.head.hex(), link.entry["n"]))
    return found


def compare(theirs: list[Link], owner: bytes, ours: list[Link]) -> int:
    """How many heads of `owner` are kept in `ours` and stand in `theirs`; InputError if one does not.

    Those of one run must also come in the same order; what two runs show at once may overtake each other on the way.
    """
    places = {link.hash: number for number, link in enumerate(theirs)}
    last: dict[bytes, int] = {}
    count = 0
    for seen in seen_in(ours):
        if seen.signer != owner:
            continue
        place = places.get(seen.head)
        if place is None or place < last.get(seen.run, 0):
            raise InputError(
                f"The head that was shown in entry {seen.entry} is not in the other journal (at its place).",
                "That journal was written anew, or cut off, after it was shown.",
            )
        last[seen.run], count = place, count + 1
    return count


def _envelopes(details: dict[str, Any]) -> list[str]:
    held = details.get(FIELD, [])
    return list(held) if isinstance(held, list) else []
