"""What dealer, A and B say to each other, and the JSON of data owners.

    A or B -> dealer   Hello          dealer -> A or B   Welcome
    B -> dealer        Deal           dealer -> B        Material | Sorry
    A -> B             Hello          B -> A             Welcome
    B -> A             Ready          (B has this request)
    A -> B             Start          B -> A             Agree | Sorry
    A -> B             Opening        B -> A             Opening | Sorry

Both servers compute the first number as the larger of the two marks plus one.
"""

import hashlib
from typing import Final, Literal

from primum.mpc.program import Program
from primum.mpc.share import ROLES, Role
from primum.ring import packed_size
from primum.wire import Message, encode

MOST_IMAGES: Final = 64
REPLY_BYTES: Final = 1216
SEED_BYTES: Final = 32


class Hello(Message, frozen=True):
    """First message of a connection: what this role runs, how far it is, and its keys of this connection."""

    role: Role
    deployment: bytes
    model: bytes
    program: bytes
    mark: int
    x25519: bytes
    mlkem: bytes


class Welcome(Message, frozen=True):
    """The answer: `ciphertext` encapsulates to the Hello's key; numbers of this connection start above `base`."""

    deployment: bytes
    model: bytes
    program: bytes
    base: int
    x25519: bytes
    mlkem: bytes
    ciphertext: bytes


class Sorry(Message, frozen=True):
    """No, and why; `code` is the name of an error class."""

    code: str
    message: str
    hint: str


class Ready(Message, frozen=True):
    """Server B holds its half of this request."""

    request: bytes


class Start(Message, frozen=True):
    """Server A proposes to run a request; `session` names its keys with the dealer."""

    request: bytes
    images: int
    mark: int
    session: bytes


class Agree(Message, frozen=True):
    """Server B will run it; its own and the dealer's mark."""

    request: bytes
    mark: int


class Opening(Message, frozen=True):
    """x_i + r_i of all images of a request."""

    request: bytes
    first: int
    data: bytes


class Deal(Message, frozen=True):
    """Server B asks for the material of count numbers; `sessions`: the keys of A and of B that it is to be made with."""

    first: int
    count: int
    sessions: tuple[bytes, bytes]


class Material(Message, frozen=True):
    """The corrections for B."""

    first: int
    count: int
    data: bytes


class Request(Message, frozen=True):
    """One of the two files of a request. `boxes`: SHA-256 of both boxes; equal in both files, so they belong together."""

    server: Role
    deployment: bytes
    id: bytes
    images: int
    boxes: tuple[bytes, bytes]
    box: bytes

    def digest(self) -> bytes:
        """32 bytes that name the request; the same for both servers."""
        return hashlib.sha256(encode(_Pair(self.deployment, self.id, self.images, self.boxes))).digest()

    def purpose(self) -> str:
        """What the box is sealed for."""
        return f"request {self.server} {self.deployment.hex()} {self.id.hex()} {self.images}"

    def own_box_fits(self) -> bool:
        """Whether the box is the one that the digest names."""
        return hashlib.sha256(self.box).digest() == self.boxes[ROLES.index(self.server)]


class _Pair(Message, frozen=True):
    deployment: bytes
    id: bytes
    images: int
    boxes: tuple[bytes, bytes]


class InputShare(Message, frozen=True):
    """In a request's box: the seed of x_A for A, x_B packed for B; and the key that the answer is sealed to."""

    reply: bytes
    share: bytes


class Answer(Message, frozen=True):
    """One server's answer; the box holds a SignedAnswer."""

    server: Role
    request: bytes
    first: int
    model: bytes
    program: bytes
    box: bytes


class SignedAnswer(Message, frozen=True):
    """An AnswerShare's bytes and the server's signature."""

    content: bytes
    signature: bytes


class AnswerShare(Message, frozen=True):
    """A server's share of the logits, packed, of the request and numbers that it names."""

    server: Role
    request: bytes
    first: int
    share: bytes


class Problem(Message, frozen=True):
    """A server's refusal over HTTPS."""

    code: Literal["InputError", "PeerError", "Refused", "MachineError", "Unavailable"]
    message: str
    hint: str


def answer_purpose(role: Role, request: bytes) -> str:
    """What an answer's box is sealed for."""
    return f"answer {role} {request.hex()}"


def request_limit(program: Program) -> int:
    """The longest JSON request to a server, in bytes."""
    return packed_size(MOST_IMAGES * program.wire(program.input).length, program.bits) * 4 // 3 + 16 * 1024


def frame_limit(program: Program) -> int:
    """The longest frame between dealer, A and B, in bytes."""
    widest = max(wire.length for wire in program.wires)
    return packed_size(MOST_IMAGES * widest, program.bits) + 16 * 1024
