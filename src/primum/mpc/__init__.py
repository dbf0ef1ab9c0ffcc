"""Two-server inference: a neural network applied to an image that neither of the two servers can read.

What comes in: shares of the data owner's input, masked weights, and a program, which is public. What goes out: shares
of the output. No room here does I/O, keeps a thread or knows a clock; `primum.diagnosis` carries the messages, and
`primum.compiler` makes programs from models. Read first: `program.py` (what is computed, in which rings), then
`rule.py` (what every operation has), then `party.py`.

| file | what |
|---|---|
| program.py | the list of ring operations that drives dealer, A and B |
| check.py | whether a program can be run; rounds and bytes of each operation |
| share.py | sharings, ratcheted keys and the streams that masks come from |
| rule.py | the parts of an operation: what is drawn, dealt and sent; deal, prepare, evaluate |
| linear.py | openings, convolutions, biases and products; the masked weights |
| compare.py | cuts, signs, ReLU, max pooling, and the way back to the large ring |
| local.py | sums, public factors, and moving elements about: no message |
| dealer.py | the randomness of one number n |
| party.py | server A or B: from a share of x to a share of the output |
| rehearsal.py | all roles in one process, to see what a program gives and where its time goes |

Notation. All values are elements of Z_2^l (l = `bits` of their wire), held in the smallest unsigned type.

| symbol | what |
|---|---|
| [x] | x = x_A + x_B; A holds x_A, B holds x_B |
| f_x, f_w | fractional bits of a value and of weights; a product has f_x + f_w |
| n | request number: one per image, used once |
| k_i, k_AB | key of server i with the dealer, and of A with B; ratcheted with n |
| r = r_A + r_B | mask of an opened wire; server i and the dealer draw r_i from k_i |
| x^ = x + r | the opened value; from then on x_A = x^ - r_A and x_B = -r_B |
| R_W = R_A + R_B | mask of the weights, drawn from one seed per server, once per deployment |
| W^ = W + R_W | masked weights, known to both servers |
| C = R_W r | dealt: C_A from k_A, the correction C_B is sent to B |
| T, T^ = T + rho | a value cut to Z_2^t, and opened under its own mask rho; m = msb(rho), q = 1 - msb(T^) |
| mu, kappa | mask bits of the seven looked-up bits and of the sign |
| d, d^ = d xor s | the sign [T >= 0], and what is public of it; s = 1 xor m xor kappa |

    W_A = -R_A, W_B = W^ - R_B        [W x]_i = W_i x^ - W^ r_i + C_i

Security: semi-honest parties, at most one of dealer, A and B. Every opened value carries a mask that its sender drew
with the dealer alone, every correction is a secret minus (or xor) a fresh share: one-time pads. Sources: Beaver,
CRYPTO 1991; one-time truth tables: Ishai et al., TCC 2013; comparison by digits: CrypTFlow2, CCS 2020; masked wires
with a dealer: Boyle et al., EUROCRYPT 2021; cut: SIRNN, IEEE S&P 2021; Orca, IEEE S&P 2024.
"""

from primum.mpc import compare, linear, local  # their rules register when they are imported
from primum.mpc.check import Cost, cost, elements, material_sizes, step_cost
from primum.mpc.dealer import Dealer
from primum.mpc.linear import mask_weights
from primum.mpc.party import Evaluation, Party
from primum.mpc.program import Program, Wire
from primum.mpc.share import Ratchet, Role

__all__ = [
    "Cost",
    "Dealer",
    "Evaluation",
    "Party",
    "Program",
    "Ratchet",
    "Role",
    "Wire",
    "compare",
    "cost",
    "elements",
    "linear",
    "local",
    "mask_weights",
    "material_sizes",
    "step_cost",
]
