"""Mutated messages of encrypted inference: at servers, dealer and data owner. roles.py sends them to real
processes.

Accepted is a mutant that is answered (or an answer that is opened) although a field was changed that has to be checked.
Left to the sender are, and so are not counted:

- of a request its id, its share of the image and the key for the answer; the digest of the other server's box and, at A,
  whose half is a seed, how many images it is for: halves whose digests differ are of two requests, and neither runs
- InputShare.proof and .token where no tokens are asked for (here they are)
- AnswerShare.share: servers are trusted to compute (docs/threat-model.md); what no such model gives is refused
- of a greeting the sender's own fresh keys and ciphertext, and its mark, upwards: another key is another session, in
  which nothing fits
- Deal.first, Start.mark, upwards, and how many images: numbers are the sender's, and used once
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.diagnosis.conftest import Cluster
from tests.fuzz.counts import Counts
from tests.fuzz.mutations import Draw, Mutant, changed_bytes, mutate

from primum import wire
from primum.diagnosis.deployment import Deployment
from primum.diagnosis.files import from_json, to_json
from primum.diagnosis.messages import (
    FRAME_LIMIT,
    Answer,
    AnswerShare,
    Hello,
    InputShare,
    Request,
    SignedAnswer,
    Welcome,
    answer_purpose,
)
from primum.diagnosis.requests import _asked, make_requests, open_answers, open_request, seal_answer
from primum.diagnosis.roles import RoleKeys, load_keys
from primum.diagnosis.session import accept, hello, welcome
from primum.diagnosis.tokens import Permit, make_token
from primum.errors import PeerError, PrimumError
from primum.keys.agreement import KeyPair
from primum.keys.identity import Identity
from primum.keys.sealing import SealingKey, seal
from primum.mpc.share import ROLES, Role, to_bytes
from primum.ring import encode, mask
from primum.rng import Stream

FREE = frozenset(
    {
        "Request.id",
        "Request.boxes",
        "Request.boxes reversed",
        "Request.images",
        "InputShare.share",
        "InputShare.reply",
        "AnswerShare.share",
        "Hello.mark",
        "Hello.x25519",
        "Hello.mlkem",
        "Welcome.base",
        "Welcome.x25519",
        "Welcome.mlkem",
        "Welcome.ciphertext",
        "Deal.first",
        "Deal.images",
    }
)


class Stage:
    """A deployment with tokens that was made and not started, and a data owner who holds one."""

    def __init__(self, folder: Path) -> None:
        owner = Identity.generate()
        self.cluster = Cluster.make(folder, owner=owner, tokens=True)
        self.keys: dict[str, RoleKeys] = {role: load_keys(folder / role) for role in ("dealer", *ROLES)}
        self.reply = SealingKey.generate()
        token = make_token(owner, self.deployment, "clinic", 1 << 30, 1)
        self.permit = Permit(wire.encode(token.token), Identity.from_pem(token.secret, "the token"))

    @property
    def deployment(self) -> Deployment:
        return self.cluster.public.deployment

    def requests(self) -> tuple[Request, Request]:
        """For one drawn vector of features."""
        shape = self.deployment.program.wire(self.deployment.program.input).shape
        row = np.asarray(Stream.public("fuzz features").uniform((1, *shape)), np.float32)
        return make_requests(row / np.linalg.norm(row), self.deployment, self.reply.public, self.permit)

    def answer(self, request: Request, role: Role, logit: float = 1.5) -> Answer:
        """As a server gives; the two halves add up to `logit`."""
        program = self.deployment.program
        value = encode(np.array([[logit]]), program.answer_fraction, program.answer_bits)
        half = np.full_like(value, 12345)
        share = half if role == "A" else (value - half) & mask(program.answer_bits)
        opened = open_request(request, role, self.deployment, self.keys[role].sealing)
        packed = to_bytes(share, program.answer_bits).tobytes()
        return seal_answer(opened, role, 1, packed, self.deployment, self.keys[role].identity)


def judged(counts: Counts, where: str, mutant: Mutant, past: bool, take: Callable[[], Any]) -> None:
    """Let a receiver take one mutant, and count what came of it."""
    counts.count(past)
    name = f"{where}, {'.'.join(mutant.path)}"
    try:
        take()
    except PrimumError as error:
        counts.refusals[error.message[:80]] += 1
    except Exception as error:  # a crash: what this looks for
        counts.crash(name, error)
    else:
        counts.refusals["taken, as the sender may"] += 1
        if not mutant.touches(FREE):
            counts.accepted.append(name)


# -- requests and answers -----------------------------------------------------------------------------------------------


def fuzz_requests(stage: Stage, count: int, label: str = "requests") -> Counts:
    """Mutants of requests at both servers, up to the sealed answer."""
    counts, draw = Counts(), Draw(label)
    pair = stage.requests()
    for number in range(count):
        request = pair[number % 2]
        mutant = mutated_request(stage, request, draw)

        def take(changed: Request = mutant.message, role: Role = request.server) -> None:
            read = from_json(to_json(changed), Request, "the data owner", 1 << 20)
            opened = open_request(read, role, stage.deployment, stage.keys[role].sealing)
            share = to_bytes(np.zeros((opened.images, 1), np.uint64), stage.deployment.program.answer_bits).tobytes()
            seal_answer(opened, role, 1, share, stage.deployment, stage.keys[role].identity)

        judged(counts, "server", mutant, is_sealed(stage, mutant.message, request.server), take)
    return counts


def mutated_request(stage: Stage, request: Request, draw: Draw) -> Mutant:
    """One field of a request, or of what its box holds, changed by the data owner: signed, sealed and named anew."""
    key = stage.keys[request.server].sealing
    content = wire.decode(key.open(request.box, request.purpose(), "x"), InputShare, "x")
    if draw.one_in(30):
        return Mutant(msgspec.structs.replace(request, box=changed_bytes(request.box, draw)), ("box",))
    if draw.one_in(3):
        outer = mutate(request, draw)
        if outer.path[0].startswith("Request.box") or outer.message.server not in ROLES:
            return outer
        return Mutant(_sealed(stage, outer.message, _signed(stage, outer.message, content)), outer.path)
    inner = mutate(content, draw)
    signed = inner.message if "InputShare.proof" in inner.path else _signed(stage, request, inner.message)
    return Mutant(_sealed(stage, request, signed), inner.path)


def _signed(stage: Stage, request: Request, content: InputShare) -> InputShare:
    proof = stage.permit.sign(_asked(request, content.reply, content.share))
    return msgspec.structs.replace(content, proof=proof)


def _sealed(stage: Stage, request: Request, content: InputShare) -> Request:
    box = seal(stage.deployment.server(request.server).sealing, wire.encode(content), request.purpose())
    place = ROLES.index(request.server)
    boxes = tuple(_digest(box) if at == place else other for at, other in enumerate(request.boxes))
    return msgspec.structs.replace(request, box=box, boxes=boxes)  # type: ignore[arg-type]


def _digest(box: bytes) -> bytes:
    return hashlib.sha256(box).digest()


def is_sealed(stage: Stage, request: Request, role: Role) -> bool:
    """Whether it is read, and its box opens, if it is for this server: then a field is what is refused."""
    try:
        read = from_json(to_json(request), Request, "x", 1 << 20)
        if read.server == role:
            data = stage.keys[role].sealing.open(request.box, request.purpose(), "x")
            wire.decode(data, InputShare, "x")
    except PeerError:
        return False
    return True


def fuzz_answers(stage: Stage, count: int, label: str = "answers") -> Counts:
    """Mutants of one server's answer at the data owner, signed and sealed again by that server."""
    counts, draw = Counts(), Draw(label)
    pair = stage.requests()
    honest = tuple(stage.answer(request, role) for request, role in zip(pair, ROLES, strict=True))
    for number in range(count):
        role = ROLES[number % 2]
        mutant = _mutated_answer(stage, honest[number % 2], role, draw)
        past = _opens(stage, mutant.message, role, pair[0].digest())

        def take(changed: Answer = mutant.message, role: Role = role) -> None:
            read = from_json(to_json(changed), Answer, f"server {role}", 1 << 20)
            given = (read, honest[1]) if role == "A" else (honest[0], read)
            open_answers(given, pair[0], stage.deployment, stage.reply)

        judged(counts, "data owner", mutant, past, take)
    return counts


def _mutated_answer(stage: Stage, answer: Answer, role: Role, draw: Draw) -> Mutant:
    if draw.one_in(30):
        return Mutant(msgspec.structs.replace(answer, box=changed_bytes(answer.box, draw)), ("box",))
    purpose, identity = answer_purpose(role, answer.request), stage.keys[role].identity
    signed = wire.decode(stage.reply.open(answer.box, purpose, "x"), SignedAnswer, "x")
    content = wire.decode(signed.content, AnswerShare, "x")
    choice = draw.below(4)
    if choice == 0:
        outer = mutate(answer, draw)
        if "Answer.box" not in outer.path:
            return outer
    if choice == 1:
        changed = Mutant(
            msgspec.structs.replace(signed, signature=changed_bytes(signed.signature, draw)), ("signature",)
        )
    else:
        inner = mutate(content, draw)
        body = wire.encode(inner.message)
        changed = Mutant(SignedAnswer(body, identity.sign("answer", body)), inner.path)
    box = seal(stage.reply.public, wire.encode(changed.message), purpose)
    return Mutant(msgspec.structs.replace(answer, box=box), changed.path)


def _opens(stage: Stage, answer: Answer, role: Role, request: bytes) -> bool:
    """Whether it is read, its box opens, and what is in it is an answer."""
    try:
        from_json(to_json(answer), Answer, "x", 1 << 20)
        data = stage.reply.open(answer.box, answer_purpose(role, request), "x")
        wire.decode(wire.decode(data, SignedAnswer, "x").content, AnswerShare, "x")
    except PeerError:
        return False
    return True


# -- greetings ----------------------------------------------------------------------------------------------------------


def fuzz_greetings(stage: Stage, count: int, label: str = "greetings") -> Counts:
    """Mutants of Hello at the side that answers, and of Welcome at the side that asked."""
    counts, draw = Counts(), Draw(label)
    deployment, keys = stage.deployment, KeyPair.generate()
    said = hello(deployment, "A", 7, keys)
    for number in range(count):
        if number % 2:
            mutant = mutate(said, draw)
            while mutant.path == ("Hello.role",):  # whoever calls it compares that with the certificate
                mutant = mutate(said, draw)
            past = decodes(mutant.message, Hello)
            judged(counts, "dealer", mutant, past, lambda m=mutant.message: welcome(deployment, m, 7, "server A"))
        else:
            answer, _ = welcome(deployment, said, 7, "server A")
            mutant = mutate(answer, draw)
            judged(
                counts,
                "server A",
                mutant,
                decodes(mutant.message, Welcome),
                lambda m=mutant.message: accept(deployment, "A", m, 7, keys, "the dealer"),
            )
    return counts


def decodes(message: wire.Message, kind: type[wire.Message]) -> bool:
    try:
        wire.decode(wire.encode(message), kind, "x", FRAME_LIMIT)
    except PeerError:
        return False
    return True
