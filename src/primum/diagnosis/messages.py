"""What dealer, A and B say to each other, and the JSON of data owners.

    A or B -> dealer   Hello          dealer -> A or B   Welcome
    A -> B             Hello          B -> A             Welcome
    A -> B             Provide        (the keys that A's next material comes from)
    B -> A             Ready          (B has this request)
    A -> B             Queued         (A has it too)
    A -> B             Start          B -> A             Waiting, ..., Agree | Sorry

On lanes (`lane.py`):

    B -> dealer        Deal           dealer -> B        Dealt, then the material | Sorry
    A <-> B            Waiting, ..., Run | Sorry, then the program's messages

B chooses the first number, above both marks.
"""

import hashlib
from typing import Final, Literal

from primum.kernels.words import packed_size
from primum.mpc.program import Program
from primum.mpc.share import ROLES, Role
from primum.wire import Message, encode

MOST_IMAGES: Final = 64
REPLY_BYTES: Final = 1216
SEED_BYTES: Final = 32
FRAME_LIMIT: Final = 16 * 1024
_REQUEST_BYTES: Final = 48 * 1024 * 1024


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


class Queued(Message, frozen=True):
    """Server A holds its half of this request, too, and will start it in its turn."""

    request: bytes


class Waiting(Message, frozen=True):
    """The sender is there, and will answer when it has finished what it is doing."""


class Start(Message, frozen=True):
    """Server A proposes to run a request with numbers above `mark`; `session` names its keys with the dealer."""

    request: bytes
    images: int
    mark: int
    session: bytes


class Provide(Message, frozen=True):
    """Server A's keys with the dealer have this name: B may have material made ahead of time."""

    session: bytes


class Agree(Message, frozen=True):
    """Server B will run the request, with numbers from `first` on."""

    request: bytes
    first: int


class Run(Message, frozen=True):
    """Begins a group of images on a lane; both sides send the same."""

    request: bytes
    first: int
    images: int


class Deal(Message, frozen=True):
    """Server B asks for the material of `images` numbers; `sessions`: the keys of A and of B that it is made with."""

    first: int
    images: int
    sessions: tuple[bytes, bytes]


class Dealt(Message, frozen=True):
    """The corrections for B follow, as long as the program says."""

    first: int
    images: int


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
    """In a request's box: the seed of x_A for A, x_B packed for B; the key that the answer is sealed to; a token.

    `proof`: the token's holder signs what the box is for and holds (`tokens.Asked`).
    """

    reply: bytes
    share: bytes
    token: bytes = b""
    proof: bytes = b""


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


def request_limit(program: Program, role: Role = "B") -> int:
    """The longest JSON request to a server, in bytes; A's half is a seed."""
    if role == "A":
        return 16 * 1024
    return packed_size(most_images(program) * program.wire(program.input).size, program.bits) * 4 // 3 + 16 * 1024


def answer_limit(program: Program) -> int:
    """The longest JSON answer of a server, in bytes."""
    return packed_size(most_images(program) * program.wire(program.output).size, 64) * 2 + 1024 * 1024


def most_images(program: Program) -> int:
    """How many images a request may have: 64, fewer where they or their masks are large."""
    largest = max(program.wire(program.input).size, program.wire(program.output).size)
    return max(1, min(MOST_IMAGES, _REQUEST_BYTES // packed_size(largest, program.bits)))
