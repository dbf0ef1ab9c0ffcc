"""A fixed front end: the scattering transform, its logarithm, standardised, of length at most 1.

Nothing here is learned, so it costs no privacy, and a data owner can compute it in clear before an encrypted diagnosis
(Tramèr and Boneh, "Differentially private learning needs better features", ICLR 2021).

Scattering transform: Bruna and Mallat, "Invariant scattering convolution networks", IEEE PAMI 35(8), 2013, section 2;
filters and their constants as in Andreux et al., "Kymatio", JMLR 21(60), 2020 (filter_bank.py of its scattering2d).

| symbol | here | meaning |
|---|---|---|
| J, L | `scales`, `angles` | scales of the wavelets, rotations in [0, pi) |
| psi_(j, theta) | `Filters.psi[j][r]` | Morlet wavelets of width 0.8 * 2^j, in Fourier, grid subsampled by 2^r |
| phi_J | `Filters.phi[r]` | Gaussian of width 0.8 * 2^(J-1), separable: a matrix that averages, subsamples, unpads |
| S0, S1, S2 | `scatter` | x * phi, abs(x * psi1) * phi, abs(abs(x * psi1) * psi2) * phi with j1 < j2; every 2^J pixels |
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from primum.errors import ModelError

SIGMA: Final = 0.8
"""Width of the finest envelope, in pixels."""
XI: Final = 3 * math.pi / 4
"""Centre frequency of the finest wavelets, in radians per pixel."""

_SOFT: Final = 1e-2  # the logarithm is log(1 + S / _SOFT): zero where there is nothing, and never infinite
_FLAT: Final = 1e-6  # an image with a smaller standard deviation than this is flat
_CHANNEL_FLAT: Final = 1e-3  # the same for one log-scattering channel
_BELOW_ONE: Final = 1 - 2.0**-20  # rounding to float32 moves a norm by less than 2^-23
_CHUNK_VALUES: Final = 1 << 20  # complex values held at once: 8 MiB, about a processor's cache

Float64 = npt.NDArray[np.float64]


def gabor(size: int, sigma: float, theta: float, xi: float, slant: float) -> npt.NDArray[np.complex128]:
    """Gabor function on a `size` x `size` torus: Gaussian of width `sigma`, elongated by 1/`slant`, times a plane wave.

    Direction `theta` (radians) and frequency `xi` (radians per pixel); row index first. Integral of the envelope is 1.
    """
    axis = np.arange(-2 * size, 3 * size, dtype=np.float64)
    row, column = axis[:, None], axis[None, :]
    along = row * math.cos(theta) + column * math.sin(theta)
    across = -row * math.sin(theta) + column * math.cos(theta)
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    wave = envelope * np.exp(1j * xi * along) * (slant / (2 * math.pi * sigma**2))
    periodic: npt.NDArray[np.complex128] = wave.reshape(5, size, 5, size).sum(axis=(0, 2))
    return periodic


def morlet(size: int, scale: int, angle: int, angles: int) -> npt.NDArray[np.complex128]:
    """Morlet wavelet psi_(j, theta) in space, on a `size` x `size` torus: a Gabor function made to have mean zero.

    j = `scale`; theta = (L/2 - 1 - `angle`) pi / L with L = `angles`.
    """
    sigma, xi, slant = SIGMA * 2.0**scale, XI / 2.0**scale, 4.0 / angles
    theta = (int(angles - angles / 2 - 1) - angle) * math.pi / angles
    wave, envelope = gabor(size, sigma, theta, xi, slant), gabor(size, sigma, theta, 0.0, slant)
    wavelet: npt.NDArray[np.complex128] = wave - (wave.sum() / envelope.sum()) * envelope
    return wavelet


def gaussian(size: int, sigma: float) -> Float64:
    """Gaussian of width `sigma` and sum 1 (in the continuum) on a torus of `size` points: one axis of phi_J."""
    axis = np.arange(-2 * size, 3 * size, dtype=np.float64)
    values = np.exp(-(axis**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    periodic: Float64 = values.reshape(5, size).sum(axis=0)
    return periodic


@dataclass(frozen=True)
class Filters:
    """The filters for images padded to `padded` pixels a side, `margin` of them before the first.

    `psi[j][r]`: real values as complex64 [L, padded/2^r, padded/2^r]; `phi[r]`: float32 [size//2^J, padded/2^r].
    """

    padded: int
    margin: int
    psi: tuple[tuple[Tensor, ...], ...]
    phi: tuple[Tensor, ...]


def padded_size(size: int, scales: int) -> int:
    """The side after padding: a multiple of 2^J with at least half a window on both sides (as in kymatio)."""
    step = 1 << scales
    return ((size + step) // step + 1) * step


@lru_cache(maxsize=8)
def filters(size: int, scales: int, angles: int) -> Filters:
    """All filters for images of side `size`; float64 arithmetic, then float32."""
    padded = padded_size(size, scales)
    psi = []
    for scale in range(scales):
        bank = np.stack([np.fft.fft2(morlet(padded, scale, angle, angles)).real for angle in range(angles)])
        levels = (_alias_sum(bank, 1 << level) for level in range(scale + 1))
        psi.append(tuple(torch.from_numpy(level).to(torch.complex64) for level in levels))
    phi = tuple(_averaging(size, padded, scales, level) for level in range(scales))
    return Filters(padded, (padded - size) // 2, tuple(psi), phi)


def _alias_sum(bank: Float64, step: int) -> Float64:
    """The same filters, in Fourier, for a signal that keeps every `step`-th pixel; the gain stays."""
    count, side, _ = bank.shape
    folded: Float64 = bank.reshape(count, step, side // step, step, side // step).sum(axis=(1, 3))
    return folded


def _averaging(size: int, padded: int, scales: int, level: int) -> Tensor:
    """Matrix [size // 2^J, padded / 2^level]: circular convolution with phi_J, every 2^J-th pixel, padding cut off."""
    step = 1 << level
    window = gaussian(padded, SIGMA * 2.0 ** (scales - 1))[::step] * step
    outputs = np.arange(1, 1 + size // (1 << scales)) << (scales - level)
    inputs = np.arange(padded // step)
    return torch.from_numpy(window[(outputs[:, None] - inputs[None, :]) % len(inputs)]).to(torch.float32)


def scatter(images: Tensor, scales: int, angles: int) -> Tensor:
    """Scattering coefficients of order 0, 1, 2.

    `images`: float32 [n, size, size]; returns float32 [n, 1 + J L + L^2 J(J-1)/2, size // 2^J, size // 2^J]. The border
    is mirrored (the edge pixel not repeated). Order: S0, then by j1: its L channels of S1; then S2 by (j1, j2, angle1,
    angle2).
    """
    bank = filters(images.shape[-1], scales, angles)
    after = bank.padded - bank.margin - images.shape[-1]
    signal = _mirror(images, bank.margin, after)
    first, second = [], []
    spectrum = torch.fft.fft2(signal)[:, None]
    for j1 in range(scales):
        u1 = _wavelet(spectrum, bank.psi[j1][0], 1 << j1)
        first.append(_average(u1, bank.phi[j1]))
        if j1 + 1 == scales:
            break
        inner = torch.fft.fft2(u1)[:, :, None]
        for j2 in range(j1 + 1, scales):
            u2 = _wavelet(inner, bank.psi[j2][j1], 1 << (j2 - j1))
            second.append(_average(u2, bank.phi[j2]).flatten(1, 2))
    return torch.cat([_average(signal[:, None], bank.phi[0]), *first, *second], dim=1)


def _mirror(images: Tensor, before: int, after: int) -> Tensor:
    return pad(images[:, None], (before, after, before, after), mode="reflect")[:, 0]


def _wavelet(spectrum: Tensor, psi: Tensor, step: int) -> Tensor:
    """abs(x * psi), every `step`-th pixel; subsampled in Fourier, where it is a mean over step^2 aliases."""
    side = psi.shape[-1] // step
    folded = torch.zeros(())
    for row in range(step):
        for column in range(step):
            part = (..., slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            if row == column == 0:
                folded = spectrum[part] * psi[part]
            else:
                folded.addcmul_(spectrum[part], psi[part])
    pairs = torch.view_as_real(torch.fft.ifft2(folded))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    return torch.addcmul(real * real, imaginary, imaginary).sqrt_().div_(step**2)  # four times as fast as abs()


def _average(signal: Tensor, phi: Tensor) -> Tensor:
    return phi @ (signal @ phi.T)


def refuse_other_images(images: Tensor, channels: int, size: int, depth: int | None = None) -> None:
    """ValueError unless they are finite and of shape [n, channels, size, size], of patches [n, channels, depth, size, size]."""
    expected = (channels, size, size) if depth is None else (channels, depth, size, size)
    if images.shape[1:] != expected:
        raise ValueError(f"expected images of shape [n, {expected}], got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("the images have values that are not finite")


@dataclass(frozen=True)
class FrontEnd:
    """Images -> feature vectors of length at most 1. Fixed and public: `scales` is J, `angles` is L.

    Raises ModelError where the image is smaller than two windows of 2^J pixels.
    """

    size: int
    scales: int
    angles: int = 8
    channels: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= 6:
            raise ModelError(f"a front end has 1 to 6 scales, got {self.scales}", "Set `scales` to 2 or 3.")
        if self.size < 2 << self.scales or self.size > 4096:
            raise ModelError(
                f"images of {self.size} x {self.size} pixels do not fit {self.scales} scales",
                f"Set `size` to at least {2 << self.scales}, or use fewer `scales`.",
            )
        if not 1 <= self.angles <= 32 or self.channels not in (1, 3):
            raise ModelError(
                f"a front end has 1 to 32 angles and 1 or 3 channels, got {self.angles} and {self.channels}"
            )

    @property
    def paths(self) -> int:
        """Scattering channels of one image channel: 1 + J L + L^2 J(J-1)/2."""
        return 1 + self.scales * self.angles + self.angles**2 * self.scales * (self.scales - 1) // 2

    @property
    def dimension(self) -> int:
        """Length of a feature vector: every path at every place, and every path's mean."""
        places = (self.size >> self.scales) ** 2
        return self.channels * self.paths * (places + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what one image gives."""
        return (self.dimension,)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, dimension], each row of L2 norm at most 1; a flat image gives a row of zeros.

        `images`: float32 [n, channels, size, size] in [0, 1]. Works in pieces: memory does not grow with n beyond the
        result. Raises ValueError on another shape or on values that are not finite.
        """
        refuse_other_images(images, self.channels, self.size)
        piece = max(1, _CHUNK_VALUES // (padded_size(self.size, self.scales) ** 2 * self.angles**2 * self.channels))
        out = torch.empty(len(images), self.dimension)
        with torch.no_grad():
            for start in range(0, len(images), piece):
                out[start : start + piece] = self._piece(images[start : start + piece])
        return out

    def _piece(self, images: Tensor) -> Tensor:
        count = len(images)
        coefficients = scatter(_standardise(images).flatten(0, 1), self.scales, self.angles)
        coefficients[:, 1:] = torch.log1p(coefficients[:, 1:].clamp(min=0) / _SOFT)
        maps = coefficients.view(count, self.channels * self.paths, -1).to(torch.float64)
        mean = maps.mean(dim=2, keepdim=True)
        deviation = (maps - mean).square().mean(dim=2, keepdim=True).sqrt()
        maps = (maps - mean) / deviation.clamp(min=_CHANNEL_FLAT)
        rows = torch.cat([maps.flatten(1), mean.flatten(1)], dim=1)
        norm = rows.norm(dim=1, keepdim=True)
        shortened: Tensor = rows * (_BELOW_ONE / norm.clamp(min=1e-12))
        return shortened.to(torch.float32)


def _standardise(images: Tensor) -> Tensor:
    """Each image by itself: mean 0 and deviation 1 over all its pixels and channels; a flat one becomes 0."""
    flat = images.flatten(1).to(torch.float64)
    centred = flat - flat.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    scaled = torch.where(deviation < _FLAT, torch.zeros_like(centred), centred / deviation.clamp(min=_FLAT))
    return scaled.view_as(images).to(torch.float32)
