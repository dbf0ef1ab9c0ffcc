"""Requests and answers: sealed by the data owner, opened by a server, and back.

Each box opens at one server only; both together would be the image. A gets a 32-byte seed, B a share. Sizes depend on
the number of images and on the program, never on an image.
"""

import hashlib
import os
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.messages import (
    REPLY_BYTES,
    SEED_BYTES,
    Answer,
    AnswerShare,
    InputShare,
    Request,
    SignedAnswer,
    answer_purpose,
    most_images,
)
from primum.diagnosis.tokens import Asked, Permit, Token, check_token
from primum.errors import InputError, PeerError
from primum.kernels.words import packed_size
from primum.keys.identity import Identity, verify
from primum.keys.sealing import SealingKey, seal
from primum.mpc.program import Program, Wire
from primum.mpc.share import ROLES, Elements, Role, expand_input, from_bytes, split_input, to_bytes
from primum.ring import decode, encode, mask
from primum.wire import decode as decode_message
from primum.wire import encode as encode_message

_SLACK = 1e-2


def make_requests(
    inputs: npt.NDArray[np.float32], deployment: Deployment, reply: bytes, permit: Permit | None = None
) -> tuple[Request, Request]:
    """The requests to A and to B for inputs [n, height, width, channels]; answers go to the key `reply`.

    Fresh randomness in every call: the same image twice gives two unrelated requests. InputError for another shape, or
    for a value outside the range that the model was made for.
    """
    program = deployment.program
    _check_inputs(inputs, program)
    wire = program.wire(program.input)
    seed = os.urandom(SEED_BYTES)
    share = split_input(encode(inputs, wire.fraction, wire.bits), seed, wire.bits)
    return _seal_pair(deployment, len(inputs), reply, (seed, to_bytes(share, wire.bits).tobytes()), permit)


def _seal_pair(
    deployment: Deployment, images: int, reply: bytes, shares: tuple[bytes, bytes], permit: Permit | None = None
) -> tuple[Request, Request]:
    bare = [Request(role, deployment.digest(), b"", images, (b"", b""), b"") for role in ROLES]
    identifier = os.urandom(16)
    named = [msgspec.structs.replace(request, id=identifier) for request in bare]
    boxes = tuple(
        seal(
            deployment.server(request.server).sealing,
            encode_message(_content(request, reply, share, permit)),
            request.purpose(),
        )
        for request, share in zip(named, shares, strict=True)
    )
    digests = (hashlib.sha256(boxes[0]).digest(), hashlib.sha256(boxes[1]).digest())
    first, second = (
        msgspec.structs.replace(request, boxes=digests, box=box) for request, box in zip(named, boxes, strict=True)
    )
    return first, second


def _content(request: Request, reply: bytes, share: bytes, permit: Permit | None) -> InputShare:
    if permit is None:
        return InputShare(reply, share)
    return InputShare(reply, share, permit.token, permit.sign(_asked(request, reply, share)))


def _asked(request: Request, reply: bytes, share: bytes) -> Asked:
    digest = hashlib.sha256(share).digest()
    return Asked(request.server, request.deployment, request.id, request.images, reply, digest)


def _check_inputs(inputs: npt.NDArray[np.float32], program: Program) -> None:
    wire, most = program.wire(program.input), most_images(program)
    if inputs.shape[1:] != wire.shape or not 1 <= len(inputs) <= most:
        raise InputError(
            f"A request has 1 to {most} inputs of shape {wire.shape}, got {inputs.shape}.",
            "Check that front end and deployment belong together.",
        )
    if not np.isfinite(inputs).all():
        raise InputError("A value of the input is not a finite number.", "Check the image.")
    if np.abs(inputs).max() > 2.0**wire.magnitude * (1 + _SLACK):
        raise InputError(
            f"A value of the input is larger than {2.0**wire.magnitude:g}.",
            "The range of the model would not hold; check the front end.",
        )


@dataclass(frozen=True)
class OpenedRequest:
    """What a server holds of a request while it waits: its half as it came, and the data owner's key; prints neither."""

    digest: bytes
    images: int
    reply: bytes = field(repr=False)
    token: Token | None
    _role: Role
    _wire: Wire
    _half: bytes = field(repr=False)

    def share(self) -> Elements:
        """This server's share, [images, height, width, channels]; A makes it from a seed only now."""
        shape = (self.images, *self._wire.shape)
        if self._role == "A":
            return expand_input(self._half, shape)
        return from_bytes(self._half, shape, self._wire.bits, "the data owner")


def open_request(request: Request, role: Role, deployment: Deployment, key: SealingKey) -> OpenedRequest:
    """This server's share in `request`; PeerError, InputError or Refused that says what is wrong with it."""
    if request.server != role:
        raise InputError(f"This is the request for server {request.server}; here is server {role}.", "Swap the files.")
    if request.deployment != deployment.digest():
        raise InputError("This request is for another deployment.", "Use the public file of this deployment.")
    sound = len(request.id) == 16 and 1 <= request.images <= most_images(deployment.program)
    if not sound or not request.own_box_fits():
        raise PeerError("The request contradicts itself.", "It was altered; make a new one.")
    data = key.open(request.box, request.purpose(), "the data owner")
    content = decode_message(data, InputShare, "the data owner")
    if len(content.reply) != REPLY_BYTES:
        raise PeerError("The data owner sent a reply key of a wrong length.", "Make a new request.")
    token = check_token(content.token, content.proof, _asked(request, content.reply, content.share), deployment)
    wire = deployment.program.wire(deployment.program.input)
    due = SEED_BYTES if role == "A" else packed_size(request.images * wire.size, wire.bits)
    if len(content.share) != due:
        raise PeerError(f"The data owner sent {len(content.share)} bytes where {due} are due.", "Make a new request.")
    return OpenedRequest(request.digest(), request.images, content.reply, token, role, wire, content.share)


def seal_answer(
    opened: OpenedRequest, role: Role, first: int, share: bytes, deployment: Deployment, identity: Identity
) -> Answer:
    """A server's answer: its packed share, signed, in a box for the data owner."""
    content = encode_message(AnswerShare(role, opened.digest, first, share))
    signed = encode_message(SignedAnswer(content, identity.sign("answer", content)))
    box = seal(opened.reply, signed, answer_purpose(role, opened.digest))
    return Answer(role, opened.digest, first, deployment.model, deployment.program.digest(), box)


def open_answers(
    answers: tuple[Answer, Answer], request: Request, deployment: Deployment, key: SealingKey
) -> tuple[npt.NDArray[np.float64], int]:
    """(outputs [n, height, width, channels], first number) from the answers of A and B to `request`.

    PeerError if an answer is forged, of another request or number, or if a logit lies outside the model's range.
    """
    shares = [_open_answer(answer, role, request, deployment, key) for answer, role in zip(answers, ROLES, strict=True)]
    if shares[0].first != shares[1].first:
        raise PeerError("The two answers have different request numbers.", "Make a new request.")
    program = deployment.program
    shape = (request.images, *program.wire(program.output).shape)
    parts = [
        from_bytes(share.share, shape, program.answer_bits, f"server {role}").astype(np.uint64)
        for share, role in zip(shares, ROLES, strict=True)
    ]
    total = (parts[0] + parts[1]) & mask(program.answer_bits)
    logits = decode(total, program.answer_fraction, program.answer_bits)
    _check_range(logits, program)
    return logits, shares[0].first


def _open_answer(answer: Answer, role: Role, request: Request, deployment: Deployment, key: SealingKey) -> AnswerShare:
    peer = f"server {role}"
    if answer.server != role or answer.request != request.digest():
        raise PeerError(f"The answer of {peer} belongs to another request.", "Use the two answers to this request.")
    if (answer.model, answer.program) != (deployment.model, deployment.program.digest()):
        raise PeerError(f"The answer of {peer} comes from another model.", "Use the public file of this deployment.")
    data = key.open(answer.box, answer_purpose(role, request.digest()), peer)
    signed = decode_message(data, SignedAnswer, peer)
    verify(deployment.server(role).identity, "answer", signed.content, signed.signature, peer)
    content = decode_message(signed.content, AnswerShare, peer)
    if (content.server, content.request, content.first) != (role, answer.request, answer.first):
        raise PeerError(f"The answer of {peer} contradicts itself.", "It was not used.")
    return content


def _check_range(logits: npt.NDArray[np.float64], program: Program) -> None:
    rounding = 2.0**-program.answer_fraction
    bound = 2.0 ** program.wire(program.output).magnitude * (1 + _SLACK) + rounding
    if np.abs(logits).max() > bound:
        raise PeerError(
            "The answer lies outside the range that this model can have: no diagnosis.",
            "A server, the dealer or the network altered something, or they run different files. Tell the model owner.",
        )
