"""Convolutions for networks without normalisation: standardised weights with a learned gain.

They live with the model surgeon (`primum.clipping.layers`), which turns pretrained convolutions into them; residual
branches want a He-scaled sum, which is the network's own affair (Brock et al., ICLR 2021).
"""

from primum.clipping.layers import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d

__all__ = ["ScaledStdConv1d", "ScaledStdConv2d", "ScaledStdConv3d"]
