"""Per-example gradients, clipped and summed, at about the price of a plain step.

What comes in: any nn.Module, a loss with a value an example, a batch. What goes out: the sum of the gradients, each
clipped to a norm. Guarantee: adding or removing one unit (an example, or a patient's images) moves the sum by at most
the clipping norm. Knows no noise, no accounting, no model of ours. Read first: `clipper.py`, then `capture.py`.
"""

from primum.clipping.clipper import Clipper
from primum.clipping.factors import Automatic, Clipping, Flat, PerLayer

__all__ = ["Automatic", "Clipper", "Clipping", "Flat", "PerLayer"]
