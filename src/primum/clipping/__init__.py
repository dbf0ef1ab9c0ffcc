"""Per-example gradients, clipped and summed, at about the price of a plain step.

What comes in: any nn.Module, a loss with a value an example, a batch. What goes out: the sum of the gradients, each
clipped to a norm. Guarantee: adding or removing one unit (an example, or a patient's images) moves the sum by at most
the clipping norm. Knows no noise, no accounting, no model of ours. Read first: `clipper.py`, then `capture.py`.

| file | what |
|---|---|
| clipper.py | what users hold: add batches, take the sum |
| engine.py | one batch's gradients; the first of a kind is looked at closely |
| capture.py | watching a forward pass: which function uses which parameter |
| rules.py | one rule a function |
| product.py, geometry.py | layers that multiply: five ways to measure, the quickest found by timing |
| convolution.py, small_maps.py, winograd.py | convolutions forward and backward: over few positions, and of 3 x 3 |
| pooling.py | max pools |
| timing.py, threads.py | which way is quickest here; threads of ours while PyTorch's are out of the way |
| derived.py | weights computed from parameters: norms, and one pull-back of the sum |
| factors.py | flat, per layer, normalising |
| single.py | by vmap; and the slow twin, one example after another |
| memory.py | how many rows fit |
| validate.py, mixing.py | what stands in the way of private training, by kind and by trying |
| convert.py, folding.py, layers.py | networks with batch normalisation become private ones |
"""

from primum.clipping.clipper import Clipper
from primum.clipping.convert import Comparison, changes, compare, convert, report
from primum.clipping.factors import Automatic, Clipping, Flat, PerLayer
from primum.clipping.layers import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d
from primum.clipping.validate import Finding, validate

__all__ = [
    "Automatic",
    "Clipper",
    "Clipping",
    "Comparison",
    "Finding",
    "Flat",
    "PerLayer",
    "ScaledStdConv1d",
    "ScaledStdConv2d",
    "ScaledStdConv3d",
    "changes",
    "compare",
    "convert",
    "report",
    "validate",
]
