"""Differential privacy: clipping, noise, sampling, accounting, ledger.

What comes in: per-example gradients, a budget. What goes out: integer vectors with integer noise, and a record of what
they cost. Guarantee: (epsilon, delta), add or remove one patient of one hospital (or one image), as long as
AES-256-CTR is a pseudorandom generator. Knows no model of ours, no network, no masks.
Read first: `mechanism.py`; it joins the rest and has the notation.

| file | what |
|---|---|
| clip.py | per-example gradients, clipped and summed (never averaged) |
| sampling.py | who is in a step: Poisson, the same q everywhere; the public maximum |
| table.py | alias tables of the discrete Gaussian, exact to the last bit |
| noise.py | discrete Gaussian integers from AES-CTR |
| centred.py | the same around real numbers: rounding and noise in one |
| mechanism.py | scale, draw integers around it: one hospital's share of one step |
| account.py | epsilon of it all, by dp_accounting; calibration |
| histogram.py | one score a patient, counted with noise |
| ledger.py | reserve before, refuse before overspending, survive a kill |
"""

from primum.dp.account import Budget, Steps, calibrate, epsilon
from primum.dp.centred import CentredGaussian
from primum.dp.clip import clipped_sum
from primum.dp.ledger import Cap, Ledger
from primum.dp.mechanism import Mechanism
from primum.dp.noise import DiscreteGaussian
from primum.dp.sampling import draw, public_maximum

__all__ = [
    "Budget",
    "Cap",
    "CentredGaussian",
    "DiscreteGaussian",
    "Ledger",
    "Mechanism",
    "Steps",
    "calibrate",
    "clipped_sum",
    "draw",
    "epsilon",
    "public_maximum",
]
