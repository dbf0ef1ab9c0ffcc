"""Differential privacy: clipping, noise, sampling, accounting, ledger.

What comes in: per-example gradients (from `primum.clipping`), a budget. What goes out: integer vectors with integer
noise, and a record of what they cost. Guarantee: (epsilon, delta), add or remove one patient of one hospital (or one
image), as long as AES-256-CTR is a pseudorandom generator. Knows no model of ours, no network, no masks.
Read first: `mechanism.py`; it joins the rest and has the notation. For a training loop of your own: `privatize.py`.

| file | what |
|---|---|
| sampling.py | who is in a step: Poisson, the same q everywhere; the public maximum |
| table.py | alias tables of the discrete Gaussian, exact to the last bit |
| noise.py | discrete Gaussian integers from AES-CTR |
| centred.py | the same around real numbers: rounding and noise in one |
| mechanism.py | scale, draw integers around it: one hospital's share of one step |
| account.py | epsilon of it all, by dp_accounting; calibration |
| accountant.py | one study's account in a loop of one's own: finds the noise, charges before |
| privatize.py | a clipped sum, noise, `.grad`: the last line of a private step |
| quantile.py | a clipping norm that follows the gradients, paid for with noise |
| banded.py | noise that later steps partly cancel, where no samples can be drawn |
| histogram.py | one score a patient, counted with noise |
| ledger.py | reserve before, refuse before overspending, survive a kill |
"""

from primum.clipping import Automatic, Clipper, Flat, PerLayer
from primum.dp.account import Budget, Steps, calibrate, epsilon, suggest
from primum.dp.accountant import Accountant, LedgerPage
from primum.dp.banded import Banded
from primum.dp.centred import CentredGaussian
from primum.dp.ledger import Cap, Ledger
from primum.dp.mechanism import Mechanism
from primum.dp.noise import DiscreteGaussian
from primum.dp.privatize import privatize
from primum.dp.quantile import QuantileNorm
from primum.dp.sampling import PatientSampler, PoissonSampler, Sample, draw, public_maximum

__all__ = [
    "Accountant",
    "Automatic",
    "Banded",
    "Budget",
    "Cap",
    "CentredGaussian",
    "Clipper",
    "DiscreteGaussian",
    "Flat",
    "Ledger",
    "LedgerPage",
    "Mechanism",
    "PatientSampler",
    "PerLayer",
    "PoissonSampler",
    "QuantileNorm",
    "Sample",
    "Steps",
    "calibrate",
    "draw",
    "epsilon",
    "privatize",
    "public_maximum",
    "suggest",
]
