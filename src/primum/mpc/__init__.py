"""Two-server inference: a linear model applied to a vector that neither of the two servers can read.

What comes in: shares of the data owner's features and masked weights. What goes out: shares of the logits. No room
here does I/O, keeps a thread or knows a clock; `primum.diagnosis` carries the messages. Read first: `program.py`
(what is computed, in which ring, at what cost), then `party.py`.

| file | what |
|---|---|
| program.py | the list of ring operations that drives dealer, A and B; ranges, precision, rounds, bytes |
| share.py | sharings, ratcheted keys and the streams that masks come from |
| linear.py | products modulo 2^l, and the masked weights |
| dealer.py | the randomness of one number n |
| party.py | server A or B: from a share of x to a share of W x |

Notation. All values are elements of Z_2^l (l = `bits`), held in uint64.

| symbol | what |
|---|---|
| [x] | x = x_A + x_B; A holds x_A, B holds x_B |
| f_x, f_w | fractional bits of features and of weights; a logit has f_x + f_w |
| n | request number: one per image, used once |
| k_i, k_AB | key of server i with the dealer, and of A with B; ratcheted with n |
| r = r_A + r_B | mask of the opened wire; server i and the dealer draw r_i from k_i |
| x^ = x + r | the opened value |
| R_W = R_A + R_B | mask of the weights, drawn from one seed per server, once per deployment |
| W^ = W + R_W | masked weights, known to both servers |
| C = R_W r | dealt: C_A from k_A, the correction C_B is sent to B |

    W_A = -R_A, W_B = W^ - R_B        [W x]_i = W_i x^ - W^ r_i + C_i

Security: semi-honest parties, at most one of dealer, A and B. Every opened value carries a mask that its sender drew
with the dealer alone, every correction is a secret minus a fresh share: one-time pads. Sources: Beaver, CRYPTO 1991;
masked wires with a dealer: Boyle et al., EUROCRYPT 2021; Orca, IEEE S&P 2024.
"""

from primum.mpc.dealer import Dealer
from primum.mpc.linear import encode_features, encode_weight, mask_weight
from primum.mpc.party import Evaluation, Party
from primum.mpc.program import Cost, Linear, Program, Wire, check, cost, linear_program, logit_error
from primum.mpc.share import Ratchet

__all__ = [
    "Cost",
    "Dealer",
    "Evaluation",
    "Linear",
    "Party",
    "Program",
    "Ratchet",
    "Wire",
    "check",
    "cost",
    "encode_features",
    "encode_weight",
    "linear_program",
    "logit_error",
    "mask_weight",
]
