"""The last line of a private step: rounding and noise once, divided by the expected batch, into `.grad`.

for chosen in sampler:                            # charged before it is drawn
    clipper.add(images[chosen], labels[chosen])   # as often as memory asks for
    privatize(clipper, sampler)                   # noise once, whatever the number of physical batches
    optimiser.step()                              # any optimiser: post-processing
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch

from primum.clipping import Clipper
from primum.dp.mechanism import Mechanism
from primum.dp.quantile import QuantileNorm
from primum.dp.sampling import Charged
from primum.errors import InputError
from primum.rng import Stream

_SHARE_WIDTH: Final = 64.0  # integer units of noise: they never travel, so their bits cost nothing


def privatize(clipper: Clipper, sampler: Charged, quantile: QuantileNorm | None = None) -> None:
    """Set each parameter's `.grad` to (clipped sum + noise) / (q N), and start the clipper's sum again.

    Guarantee: with all steps of `sampler`, (epsilon, delta) of its accountant for one unit added or removed. Noise is
    integer, from AES-CTR keyed by the operating system, drawn around the exact sum (`mechanism.py`). An empty sample is
    noise alone. With `quantile` the next clipping norm is set too, from one coordinate more of the same release.
    BudgetError where this step was not charged or was released before, or where the sum holds more units than were drawn
    (accumulating over several samples would need their noise); InputError where the accountant was made for fewer
    coordinates. With an accountant without noise: the clipped sum over q N, and no guarantee.
    """
    if not isinstance(sampler, Charged):
        raise InputError(
            f"Noise is paid for by a sampler, not by a {type(sampler).__name__}.",
            "Draw from PoissonSampler or PatientSampler: a shuffling loader's samples are not what is accounted for.",
        )
    accountant, dimension = sampler.accountant, clipper.dimension + (quantile is not None)
    if accountant.dimension < dimension:
        raise InputError(
            f"The accountant was made for {accountant.dimension:,} coordinates, a step releases {dimension:,}.",
            f"Make it with dimension={dimension}.",
        )
    if quantile and accountant.charged == 1 and clipper.clipping_norm != quantile.start:
        raise InputError(
            f"The clipper's norm is {clipper.clipping_norm:g}, the quantile norm begins at {quantile.start:g}.",
            "Make both with the same norm.",
        )
    sampler.release(clipper.units, whole=clipper.images_per_unit > 1)
    norm, units, within = clipper.clipping_norm, clipper.units, clipper.within
    total = clipper.take().numpy()
    length = quantile.sensitivity(norm) if quantile else norm
    if quantile:
        total = np.append(total, quantile.coordinate(norm, within, units))
    if accountant.private:
        mechanism = _mechanism(dimension, accountant.noise_multiplier, sampler.largest_batch)
        total = mechanism.restore(mechanism.share(total / length, Stream.from_os())) * length
    if quantile:
        clipper.clipping_norm = quantile.next(norm, float(total[-1]), sampler.expected_batch)
    clipper.write(torch.from_numpy(total[: clipper.dimension]) / sampler.expected_batch)


@lru_cache(maxsize=8)
def _mechanism(dimension: int, accounted: float, largest_batch: int) -> Mechanism:
    """Of sums of sensitivity 1, of one site alone."""
    one = Mechanism(dimension, 1.0, 1.0, 1, 1, largest_batch, share_width=_SHARE_WIDTH)
    sigma = one.multiplier_for(accounted)
    return Mechanism(dimension, 1.0, sigma, 1, 1, largest_batch, share_width=_SHARE_WIDTH)
