"""The scattering transform against the published filters and against a slow twin that convolves in space."""

import cmath
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import ModelError
from primum.models import FrontEnd
from primum.models.scattering import filters, gabor, gaussian, morlet, padded_size, scatter
from primum.rng import Stream


def _images(count: int, size: int, channels: int = 1) -> torch.Tensor:
    values = Stream.public("scattering tests").uniform((count, channels, size, size))
    return torch.from_numpy(values).to(torch.float32)


def _published_gabor(row: int, column: int, sigma: float, theta: float, xi: float, slant: float) -> complex:
    """One value as kymatio writes it: exp(-u^T R D R^-1 u / (2 sigma^2) + i xi u.(cos, sin)) slant / (2 pi sigma^2)."""
    cos, sin = math.cos(theta), math.sin(theta)
    curve = (
        (cos * cos + slant**2 * sin * sin),
        (1 - slant**2) * sin * cos,
        (sin * sin + slant**2 * cos * cos),
    )
    exponent = -(curve[0] * row * row + 2 * curve[1] * row * column + curve[2] * column * column) / (2 * sigma**2)
    return cmath.exp(exponent + 1j * xi * (row * cos + column * sin)) * slant / (2 * math.pi * sigma**2)


@pytest.mark.parametrize(("sigma", "theta", "xi", "slant"), [(0.8, 0.3, 2.3562, 0.5), (1.6, 2.0, 1.1781, 0.5)])
def test_gabor_is_the_published_formula_summed_over_25_periods(
    sigma: float, theta: float, xi: float, slant: float
) -> None:
    size = 12
    ours = gabor(size, sigma, theta, xi, slant)
    for row, column in [(0, 0), (1, 0), (0, 1), (3, 5), (11, 2), (6, 6)]:
        expected = sum(
            _published_gabor(row + size * a, column + size * b, sigma, theta, xi, slant)
            for a in range(-2, 3)
            for b in range(-2, 3)
        )
        assert ours[row, column] == pytest.approx(expected, abs=1e-12)


def test_morlet_has_the_published_angles_scales_and_mean_zero() -> None:
    for scale in range(3):
        for angle in range(8):
            wavelet = morlet(64, scale, angle, 8)
            assert abs(wavelet.sum()) < 1e-9
            spectrum = np.fft.fft2(wavelet)
            assert np.abs(spectrum.imag).max() < 1e-9
            peak = np.unravel_index(np.argmax(spectrum.real), spectrum.shape)
            frequency = 2 * math.pi * np.fft.fftfreq(64)[list(peak)]
            expected = 3 * math.pi / 4 / 2**scale
            assert np.linalg.norm(frequency) == pytest.approx(expected, abs=0.3 / 2**scale + 0.1)
            along = (3 - angle) * math.pi / 8
            assert abs(np.dot(frequency, [math.cos(along), math.sin(along)])) > 0.97 * np.linalg.norm(frequency)


def test_low_pass_has_unit_gain_and_the_published_width() -> None:
    for scales in (1, 2, 3):
        sigma = 0.8 * 2 ** (scales - 1)
        window = gaussian(64, sigma)
        assert window[0] == pytest.approx(1 / (math.sqrt(2 * math.pi) * sigma))
        assert window[3] / window[0] == pytest.approx(math.exp(-9 / (2 * sigma**2)))
        assert window.sum() == pytest.approx(1, abs=0.01)


def test_filters_leave_no_frequency_out_and_do_not_amplify() -> None:
    """Littlewood-Paley sum of the bank (Bruna and Mallat 2013, eq. 4), as kymatio's constants give it."""
    size = 64
    total = np.abs(np.fft.fft2(np.outer(gaussian(size, 3.2), gaussian(size, 3.2)))) ** 2
    for scale in range(3):
        for angle in range(8):
            spectrum = np.abs(np.fft.fft2(morlet(size, scale, angle, 8))) ** 2
            total += (spectrum + np.roll(spectrum[::-1, ::-1], (1, 1), (0, 1))) / 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) * 2 * math.pi
    assert total.max() < 1.6
    assert total[radius < 0.9 * math.pi].min() > 0.1


def _circular(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Circular convolution, term by term."""
    out = np.zeros(signal.shape, np.complex128)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            out += kernel[row, column] * np.roll(signal, (row, column), (0, 1))
    return out


def _slow_scatter(image: np.ndarray, scales: int, angles: int) -> np.ndarray:
    """The definition: mirror, convolve in space, modulus, keep every 2^j-th pixel, average, cut the padding off."""
    size = len(image)
    padded = padded_size(size, scales)
    before = (padded - size) // 2
    signal = np.pad(image, (before, padded - size - before), mode="reflect")
    low = np.outer(gaussian(padded, 0.8 * 2 ** (scales - 1)), gaussian(padded, 0.8 * 2 ** (scales - 1)))

    def average(u: np.ndarray, level: int) -> np.ndarray:
        kernel = low[:: 1 << level, :: 1 << level] * 4**level
        step = 1 << (scales - level)
        return _circular(u, kernel).real[::step, ::step][1 : 1 + size // 2**scales, 1 : 1 + size // 2**scales]

    def wavelet(u: np.ndarray, level: int, scale: int, angle: int) -> np.ndarray:
        kernel = morlet(padded, scale, angle, angles)[:: 1 << level, :: 1 << level] * 4**level
        step = 1 << (scale - level)
        return np.abs(_circular(u, kernel))[::step, ::step]

    first, second = [], []
    for j1 in range(scales):
        u1 = [wavelet(signal, 0, j1, angle) for angle in range(angles)]
        first += [average(u, j1) for u in u1]
        for j2 in range(j1 + 1, scales):
            second += [average(wavelet(u, j1, j2, angle), j2) for u in u1 for angle in range(angles)]
    return np.stack([average(signal, 0), *first, *second])


@pytest.mark.parametrize(("size", "scales", "angles"), [(8, 1, 4), (13, 2, 3), (12, 2, 4), (17, 3, 2)])
def test_scatter_equals_its_slow_twin(size: int, scales: int, angles: int) -> None:
    image = _images(1, size)[0, 0]
    fast = scatter(image[None], scales, angles)[0].numpy()
    slow = _slow_scatter(image.numpy().astype(np.float64), scales, angles)
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).max() < 2e-6 * np.abs(slow).max() + 2e-6


def test_order_zero_of_a_constant_is_the_constant_and_wavelets_see_nothing() -> None:
    out = scatter(torch.full((1, 32, 32), 0.7), 2, 8)[0]
    assert torch.allclose(out[0], torch.full((8, 8), 0.7), atol=0.01)
    assert out[1:].abs().max() < 1e-5


def test_a_grating_answers_in_its_own_channel() -> None:
    rows = torch.arange(64, dtype=torch.float32)
    image = torch.cos(3 * math.pi / 8 * rows)[:, None].expand(64, 64)[None]
    first = scatter(image, 2, 8)[0, 1:17].mean(dim=(1, 2))
    assert int(first.argmax()) == 8 + 3  # scale 1, angle 3 of 8 is theta = 0: along the rows


def test_a_small_shift_changes_little() -> None:
    """Bruna and Mallat 2013, section 2.3: nearly invariant to shifts well below 2^J."""
    smooth = torch.nn.functional.avg_pool2d(_images(1, 66), 3, stride=1)[:, 0]
    here, there = smooth[:, :, :60], smooth[:, :, 1:61]
    here, there = here[:, :60], there[:, :60]
    a, b = scatter(here, 3, 8), scatter(there, 3, 8)
    pixels = (here - there).norm() / here.norm()
    assert (a[:, 1:] - b[:, 1:]).norm() / a[:, 1:].norm() < 0.5 * pixels / (here.std() / here.mean())


@given(
    size=st.integers(8, 40),
    scales=st.integers(1, 2),
    angles=st.sampled_from([2, 4]),
    channels=st.sampled_from([1, 3]),
    scale=st.sampled_from([1.0, 1e-3, 1e-7, 0.0]),
)
def test_every_row_has_length_at_most_one(size: int, scales: int, angles: int, channels: int, scale: float) -> None:
    front_end = FrontEnd(size, scales, angles, channels)
    features = front_end.features(_images(2, size, channels) * scale)
    assert features.shape == (2, front_end.dimension) and features.dtype == torch.float32
    exact = [math.fsum(value * value for value in row) for row in features.tolist()]
    assert all(length <= 1 for length in exact)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("size", "scales", "dimension"), [(28, 2, 81 * 50), (64, 3, 217 * 65), (96, 3, 217 * 145)])
def test_dimension_is_what_features_have(size: int, scales: int, dimension: int) -> None:
    front_end = FrontEnd(size, scales)
    features = front_end.features(_images(2, size))
    assert front_end.dimension == dimension == features.shape[1]
    assert features.norm(dim=1).min() > 0.99999


def test_a_flat_image_gives_zeros() -> None:
    assert FrontEnd(16, 2).features(torch.full((2, 1, 16, 16), 0.3)).abs().max() == 0


def test_brightness_and_contrast_do_not_matter() -> None:
    images = _images(3, 28)
    front_end = FrontEnd(28, 2)
    assert torch.allclose(front_end.features(images), front_end.features(0.4 * images + 0.2), atol=1e-4)


def test_images_do_not_see_each_other() -> None:
    """The features of an image are the same alone and in any batch: otherwise sensitivity would not be 1."""
    images = _images(70, 28)
    front_end = FrontEnd(28, 2)
    together = front_end.features(images)
    alone = torch.cat([front_end.features(images[i : i + 1]) for i in (0, 31, 69)])
    assert torch.allclose(together[[0, 31, 69]], alone, atol=1e-6)


def test_another_process_computes_the_same() -> None:
    code = (
        "import hashlib, torch; from primum.models import FrontEnd; from primum.rng import Stream; "
        "torch.set_num_threads(1); "
        "x = torch.from_numpy(Stream.public('scattering tests').uniform((4, 1, 28, 28))).float(); "
        "print(hashlib.sha256(FrontEnd(28, 2).features(x).numpy().tobytes()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


def test_memory_does_not_grow_with_the_batch() -> None:
    """Filters are kept once; pieces are bounded, so that only the result grows."""
    assert filters(28, 2, 8) is filters(28, 2, 8)
    assert FrontEnd(28, 2).features(_images(300, 28)).shape == (300, 4050)


@pytest.mark.parametrize(
    "arguments", [(7, 2), (64, 0), (64, 7), (8192, 2), (64, 2, 0), (64, 2, 8, 2)], ids=lambda value: str(value)
)
def test_impossible_front_ends_are_refused_by_name(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        FrontEnd(*arguments)


def test_wrong_images_are_refused() -> None:
    front_end = FrontEnd(16, 2)
    with pytest.raises(ValueError, match="shape"):
        front_end.features(torch.zeros(2, 16, 16))
    with pytest.raises(ValueError, match="finite"):
        front_end.features(torch.full((1, 1, 16, 16), float("nan")))
