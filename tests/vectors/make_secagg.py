"""Writes secagg.json: what four nodes said in one session and two rounds, and the same with one fault each.

    python -m tests.vectors.make_secagg

Made once for a version of the wire format; keys and masks are random, so every run writes another file.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.secagg.playing import MODEL, RUN, build

from primum import wire
from primum.keys.identity import Identity
from primum.secagg import Encapsulated, MaskedVector, Opening, Signed, masks
from primum.secagg.messages import Context, Deal, Encapsulations, KeyOffer, Shares, VectorStatement, sign

FILE = Path(__file__).with_name("secagg.json")
BITS, LENGTH = 20, 6


def line(call: str, place: int, message: wire.Message) -> dict[str, Any]:
    return {"call": call, "place": place, "message": wire.encode(message).hex()}


class Transcript:
    """Four nodes talk to a server; every message is written down, and some lies that are never delivered."""

    def __init__(self) -> None:
        self.world = build(4, may_vanish=1, length=LENGTH, bits=BITS)
        self.steps: list[dict[str, Any]] = []
        self.bad: list[dict[str, Any]] = []

    def take(self, call: str, place: int, message: wire.Message) -> None:
        getattr(self.world.server, call)(place, message)
        self.steps.append(line(call, place, message))

    def fault(self, name: str, error: str, call: str, place: int, message: wire.Message) -> None:
        self.bad.append({"name": name, "after": len(self.steps), "error": error, **line(call, place, message)})

    def resigned(self, place: int, envelope: Signed, kind: type[Any], **changed: Any) -> Signed:
        body = wire.decode(envelope.body, kind, "x")
        return sign(self.world.identities[place - 1], msgspec.structs.replace(body, **changed))

    def session(self) -> None:
        nodes, server = self.world.nodes, self.world.server
        server.begin_session(1, 1)
        offers = {place: node.offer(1, 1) for place, node in nodes.items()}
        other = Context(b"another run" + bytes(5), 1, 0)
        self.fault(
            "offer_of_another_run", "another run", "take_offer", 1, self.resigned(1, offers[1], KeyOffer, context=other)
        )
        self.fault("offer_signed_by_another_member", "signed by somebody else", "take_offer", 2, offers[1])
        stranger = sign(Identity.generate(), wire.decode(offers[3].body, KeyOffer, "x"))
        self.fault("offer_of_a_stranger", "signed by somebody else", "take_offer", 3, stranger)
        flipped = offers[1].signature[:-1] + bytes([offers[1].signature[-1] ^ 1])
        broken = Signed(offers[1].body, offers[1].signer, flipped)
        self.fault("offer_with_a_broken_signature", "signature of member 1", "take_offer", 1, broken)
        for place, offer in offers.items():
            self.take("take_offer", place, offer)
        shown = server.offers()
        self.steps.append({"call": "offers"})
        sent = {place: node.encapsulate(shown) for place, node in nodes.items()}
        fewer = Encapsulated(sent[1].statement, sent[1].ciphertexts[1:])
        self.fault("ciphertext_left_out", "wrong members", "take_encapsulated", 1, fewer)
        hashes = wire.decode(sent[1].statement.body, Encapsulations, "x").hashes
        lie = self.resigned(1, sent[1].statement, Encapsulations, hashes=hashes[:-1])
        self.fault(
            "ciphertext_hash_left_out", "wrong members", "take_encapsulated", 1, Encapsulated(lie, sent[1].ciphertexts)
        )
        story = self.resigned(1, sent[1].statement, Encapsulations, story=bytes(32))
        self.fault("another_story", "another story", "take_encapsulated", 1, Encapsulated(story, sent[1].ciphertexts))
        swapped = tuple((place, data[:-1] + b"\0") for place, data in sent[1].ciphertexts)
        self.fault(
            "other_ciphertexts", "other ciphertexts", "take_encapsulated", 1, Encapsulated(sent[1].statement, swapped)
        )
        for place, message in sent.items():
            self.take("take_encapsulated", place, message)
        for place, node in nodes.items():
            deal = node.deal(server.encapsulated_for(place))
            late = self.resigned(place, deal, Deal, context=Context(RUN, 1, 7))
            self.fault("deal_for_another_round", "round 7 came in session 1, round 1", "take_deal", place, late)
            self.take("take_deal", place, deal)

    def round(self, vectors: dict[int, np.ndarray], vanish: tuple[int, ...]) -> None:
        nodes, server = self.world.nodes, self.world.server
        number = server.round
        starts = server.start(MODEL, self.world.shape)
        self.steps.append({"call": "start"})
        for place, message in starts.items():
            if place in vanish:
                continue
            nodes[place].start(message)
            masked = nodes[place].mask(vectors[place], BITS)
            self.vector_faults(place, masked)
            self.take("take_vector", place, masked)
        request = server.request()
        self.steps.append({"call": "request"})
        openings = {place: nodes[place].open(request) for place in starts if place not in vanish}
        self.opening_faults(number, openings)
        total = server.finish(openings)
        messages = {str(place): wire.encode(opening).hex() for place, opening in openings.items()}
        self.steps.append(
            {"call": "finish", "openings": messages, "total": total.total.tolist(), "included": list(total.included)}
        )

    def vector_faults(self, place: int, masked: MaskedVector) -> None:
        def lie(**changed: Any) -> MaskedVector:
            return MaskedVector(self.resigned(place, masked.statement, VectorStatement, **changed), masked.vector)

        group, model = "other participants or another model", bytes(32)
        self.fault("vector_for_other_participants", group, "take_vector", place, lie(participants=bytes(32)))
        self.fault("vector_on_another_model", group, "take_vector", place, lie(model=model))
        changed = MaskedVector(masked.statement, bytes(masked.vector[:-1]) + bytes([masked.vector[-1] ^ 1]))
        self.fault("vector_that_was_not_signed", "another vector than it signed", "take_vector", place, changed)
        longer = bytes(masked.vector) + b"\0"
        signed = self.resigned(place, masked.statement, VectorStatement, vector=masks.vector_digest(longer))
        self.fault("vector_too_long", "wrong length", "take_vector", place, MaskedVector(signed, longer))

    def opening_faults(self, number: int, openings: dict[int, Opening]) -> None:
        for name, error, changed in (
            ("shares_of_another_round", "are needed", {"context": Context(RUN, 1, number + 1)}),
            ("shares_left_out", "are needed", {"self_keys": ()}),
        ):
            lies = {
                place: Opening(
                    self.resigned(place, opening.shares, Shares, **changed), opening.settlement, opening.next_deal
                )
                for place, opening in openings.items()
            }
            self.final_fault(name, error, lies)
        wrong = {}
        for place, opening in openings.items():
            own = wire.decode(opening.shares.body, Shares, "x")
            keys = tuple((other, bytes(32)) for other, _ in own.self_keys)
            wrong[place] = Opening(
                self.resigned(place, opening.shares, Shares, self_keys=keys), opening.settlement, opening.next_deal
            )
        self.final_fault("shares_that_open_nothing", "cannot be opened", wrong)

    def final_fault(self, name: str, error: str, openings: dict[int, Opening]) -> None:
        messages = {str(place): wire.encode(opening).hex() for place, opening in openings.items()}
        self.bad.append(
            {"name": name, "after": len(self.steps), "error": error, "call": "finish", "openings": messages}
        )


def main() -> None:
    made = Transcript()
    made.session()
    vectors = {place: np.array([place, -place, 1000 * place, 0, 7, -131072 // 4]) for place in made.world.nodes}
    made.round(vectors, ())
    made.round(vectors, (2,))
    data = {
        "members": [identity.public.hex() for identity in made.world.identities],
        "run": RUN.hex(),
        "model": MODEL.hex(),
        "setup": {"n": 4, "colluding": 1, "may_vanish": 1},
        "shape": {"length": LENGTH, "bits": BITS},
        "steps": made.steps,
        "bad": made.bad,
    }
    FILE.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
