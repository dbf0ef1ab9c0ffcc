"""The dealer: randomness that it made itself. It never receives a message about an image or a weight."""

from dataclasses import dataclass, field

from primum.mpc.linear import product, weight_mask
from primum.mpc.program import Program, check
from primum.mpc.share import ROLES, Ratchet, Role, draw_rows, take, to_bytes
from primum.ring import Ring, mask


@dataclass(frozen=True)
class Dealer:
    """What the dealer knows of one deployment: the program and R_W, not the weights.

    `deal` returns the corrections for B; A's half of the material is already in A's stream.
    """

    program: Program
    model: bytes
    _weight_mask: Ring = field(repr=False)

    @classmethod
    def make(cls, program: Program, model: bytes, seeds: dict[Role, bytes]) -> "Dealer":
        """The dealer of `program` for the model that the 32 bytes `model` name; both weight-mask seeds."""
        check(program)
        masks = [weight_mask(program, program.layer, model, seeds[role]) for role in ROLES]
        return cls(program, model, (masks[0] + masks[1]) & mask(program.bits))

    def deal(self, first: int, count: int, ratchets: dict[Role, Ratchet]) -> bytes:
        """C_B = R_W r - C_A of the numbers first .. first + count - 1, packed: count x outputs elements.

        Refused if a number was dealt before under these keys; the keys of all numbers up to the last are erased.
        """
        keys = {role: take(ratchets[role], first, count) for role in ROLES}
        label = (self.model, self.program.digest(), self.program.layer.source)
        width = self.program.wire(self.program.layer.source).length
        masks = [draw_rows(keys[role], (*label, "mask"), width, self.program.bits) for role in ROLES]
        opened_mask = (masks[0] + masks[1]) & mask(self.program.bits)
        outputs = self.program.wire(self.program.layer.target).length
        share = draw_rows(keys["A"], (*label, "product"), outputs, self.program.bits)
        products = product(opened_mask, self._weight_mask, self.program.bits)
        return to_bytes((products - share) & mask(self.program.bits), self.program.bits)
