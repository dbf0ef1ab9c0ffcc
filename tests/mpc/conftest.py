"""All roles of one deployment in one process, every message kept."""

import os
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from primum.mpc.dealer import Dealer
from primum.mpc.linear import encode_features, mask_weight
from primum.mpc.party import Party
from primum.mpc.program import Program, linear_program
from primum.mpc.share import ROLES, Ratchet, Role, expand_input, from_bytes, split_input, to_bytes
from primum.ring import decode, mask


@dataclass
class Theatre:
    """Model owner, dealer, A, B and data owner; `wire` has what went over each wire in the last run."""

    program: Program
    dealer: Dealer
    parties: dict[Role, Party]
    masked: bytes
    with_dealer: dict[Role, Ratchet]
    at_dealer: dict[Role, Ratchet]
    between: dict[Role, Ratchet]
    wire: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, weight: npt.NDArray[np.floating], *, coarse: bool = False, model: bytes = b"m" * 32) -> "Theatre":
        program = linear_program(weight, coarse=coarse)
        seeds: dict[Role, bytes] = {role: os.urandom(32) for role in ROLES}
        masked = to_bytes(mask_weight(program, weight, model, seeds), program.bits)
        parties = {role: Party.make(role, program, model, masked, seeds[role]) for role in ROLES}
        keys = {role: os.urandom(32) for role in ROLES}
        common = os.urandom(32)
        return cls(
            program,
            Dealer.make(program, model, seeds),
            parties,
            masked,
            {role: Ratchet(keys[role], 1) for role in ROLES},
            {role: Ratchet(keys[role], 1) for role in ROLES},
            {role: Ratchet(common, 1) for role in ROLES},
        )

    def infer(self, number: int, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """The logits [n, outputs] of features [n, dimension], numbers from `number` on."""
        count, bits = len(features), self.program.bits
        seed = os.urandom(32)
        share_b = to_bytes(split_input(encode_features(self.program, features), seed, bits), bits)
        shares = {
            "A": expand_input(seed, features.shape, bits),
            "B": from_bytes(share_b, features.shape, bits, "the data owner"),
        }
        runs = {
            role: party.evaluate(number, count, self.with_dealer[role], self.between[role])
            for role, party in self.parties.items()
        }
        correction = self.dealer.deal(number, count, self.at_dealer)
        openings = {role: runs[role].open(shares[role]) for role in ROLES}
        answers = {
            "A": runs["A"].receive(openings["B"]),
            "B": runs["B"].receive(openings["A"], correction),
        }
        self.wire = {
            "seed": seed,
            "share": share_b,
            "dealt": correction,
            **{f"opening {role}": openings[role] for role in ROLES},
            **{f"answer {role}": answers[role] for role in ROLES},
        }
        ring = self.program.answer_bits
        shape = (count, self.program.wire("logits").length)
        total = sum((from_bytes(answers[role], shape, ring, role) for role in ROLES), np.zeros(shape, np.uint64))
        return decode(total & mask(ring), self.program.answer_fraction, ring)


def unit_rows(count: int, dimension: int) -> npt.NDArray[np.float64]:
    """Random rows of length 1."""
    rows = np.frombuffer(os.urandom(8 * count * dimension), np.int64).reshape(count, dimension).astype(np.float64)
    unit: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture
def theatre() -> type[Theatre]:
    return Theatre


@pytest.fixture
def rows():
    return unit_rows
