"""The keys of one connection: agreed afresh (X25519 and ML-KEM-768), in memory only, ratcheted with the number.

k_A, k_B (with the dealer) and k_AB (between the servers) are never on a disk. A key stolen later opens nothing that
was recorded before, and a state folder restored from a snapshot, at one role or at all three, cannot bring a mask
back: after a restart the masks come from another key, whatever the numbers say.
"""

from dataclasses import dataclass, field

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.messages import Hello, Welcome
from primum.errors import PeerError
from primum.keys.agreement import KeyPair, PublicKeys, hkdf
from primum.mpc.share import FARTHEST_SKIP, Ratchet, Role


@dataclass(frozen=True)
class Session:
    """`id` names the key to whoever has it too; `base` is the mark that both sides started from."""

    id: bytes
    base: int
    ratchet: Ratchet = field(repr=False)


def hello(deployment: Deployment, role: Role, mark: int, keys: KeyPair) -> Hello:
    """What `role` says first; `keys` are fresh for this connection."""
    program = deployment.program.digest()
    public = keys.public
    return Hello(role, deployment.digest(), deployment.model, program, mark, public.x25519, public.mlkem)


def welcome(deployment: Deployment, said: Hello, mark: int, peer: str) -> tuple[Welcome, Session]:
    """The answer to a Hello, and the session; PeerError that names what differs. `mark`: this side's highest number."""
    _compare(deployment, said, peer)
    if said.mark > mark + FARTHEST_SKIP:  # marks never go back: one such would be the last
        raise PeerError(f"{peer} is far ahead with its numbers.", "Its used.bin is not of this deployment's roles.")
    keys = KeyPair.generate()
    secret, ciphertext = keys.initiate(PublicKeys(said.x25519, said.mlkem), peer)
    base = max(mark, said.mark)
    program = deployment.program.digest()
    public = keys.public
    answer = Welcome(deployment.digest(), deployment.model, program, base, public.x25519, public.mlkem, ciphertext)
    return answer, _session(secret, said.role, base)


def accept(deployment: Deployment, role: Role, said: Welcome, mark: int, keys: KeyPair, peer: str) -> Session:
    """The session on the side that said Hello with `mark` and `keys`."""
    _compare(deployment, said, peer)
    if said.base < mark:
        raise PeerError(f"{peer} would use request numbers again.", "Nothing was sent.")
    secret = keys.respond(PublicKeys(said.x25519, said.mlkem), said.ciphertext, peer)
    return _session(secret, role, said.base)


def _session(secret: bytes, role: Role, base: int) -> Session:
    key = hkdf(secret, "session key", role, base)
    return Session(hkdf(secret, "session id", role, base), base, Ratchet(key, base + 1))


def _compare(deployment: Deployment, said: Hello | Welcome, peer: str) -> None:
    ours = {"model": deployment.model, "program": deployment.program.digest(), "deployment": deployment.digest()}
    for name, value in ours.items():
        if getattr(said, name) != value:
            raise PeerError(
                f"{peer} runs another {name} than this deployment file names.",
                "All three roles need the files of one and the same deployment.",
            )
    if not 0 <= (said.mark if isinstance(said, Hello) else said.base) < 1 << 62:
        raise PeerError(f"{peer} sent a request number out of range.", "The connection was closed.")
