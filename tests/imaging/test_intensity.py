"""Grey levels: presets of radiologists, percentiles of whole volumes, equalisation against a slow twin."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.imaging.intensity import PRESETS, clahe, preset_window, stretch, stretch_volume
from primum.rng import Stream


def _drawn(shape: tuple[int, ...], label: str = "equalise") -> np.ndarray:
    ramp = sum(np.meshgrid(*(np.linspace(0, 0.5, side) for side in shape), indexing="ij")) / len(shape)
    return np.clip(ramp + 0.3 * Stream.public(label).uniform(shape), 0, 1).astype(np.float32)


def _slow_clahe(values: np.ndarray) -> np.ndarray:
    """One pixel after the other, each by the tables of the tiles around it."""
    counts = [max(1, min(8, side // 8)) for side in values.shape]
    edges = [[int(x) for x in np.linspace(0, side, n + 1)] for side, n in zip(values.shape, counts, strict=True)]
    tables = {}
    for tile in product(*map(range, counts)):
        part = values[tuple(slice(edges[a][t], edges[a][t + 1]) for a, t in enumerate(tile))].ravel()
        heights = [0.0] * 256
        for value in part.tolist():
            heights[min(int(value * 256), 255)] += 1
        cut = [min(height, 2.0 * len(part) / 256) for height in heights]
        spread = (sum(heights) - sum(cut)) / 256
        tables[tile] = np.cumsum([height + spread for height in cut]) / len(part)
    out = np.empty(values.shape)
    for place in np.ndindex(*values.shape):
        around = []
        for axis, x in enumerate(place):
            middles = [(edges[axis][t] + edges[axis][t + 1] - 1) / 2 for t in range(counts[axis])]
            below = max([t for t, middle in enumerate(middles) if middle <= x], default=0)
            above = min([t for t, middle in enumerate(middles) if middle >= x], default=counts[axis] - 1)
            if x < middles[0]:
                below = above = 0
            share = 0.0 if above == below else (x - middles[below]) / (middles[above] - middles[below])
            around.append(((below, 1 - share), (above, share)))
        level = min(int(values[place] * 256), 255)
        out[place] = sum(
            float(np.prod([weight for _, weight in corner])) * tables[tuple(t for t, _ in corner)][level]
            for corner in product(*around)
        )
    return out


@pytest.mark.parametrize("shape", [(40, 33), (7, 90), (5, 20, 17), (17, 16, 9), (1, 8, 40)], ids=str)
def test_equalisation_is_that_of_its_slow_twin(shape: tuple[int, ...]) -> None:
    values = _drawn(shape)
    assert np.allclose(clahe(values), _slow_clahe(values), atol=1e-5)


def test_equalisation_brings_out_faint_detail_up_to_its_limit() -> None:
    """Levels between 0.45 and 0.55 are spread, but never by more than the limit (2) and what was cut (1)."""
    faint = (0.45 + 0.1 * Stream.public("noise").uniform((64, 64))).astype(np.float32)
    gain = clahe(faint).std() / faint.std()
    assert 1.5 < gain < 3
    flat = clahe(np.full((64, 64), 0.5, np.float32))
    assert np.ptp(flat) < 0.05 and abs(flat.mean() - 0.5) < 0.05


def test_a_large_volume_is_equalised_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _drawn((20, 24, 25))
    whole = clahe(values)
    monkeypatch.setattr("primum.imaging.intensity._SLAB", 3 * 24 * 25)
    assert np.array_equal(clahe(values), whole)


@given(st.sampled_from(sorted(PRESETS)))
def test_presets_span_their_width(preset: str) -> None:
    centre, width = PRESETS[preset]
    values = np.array([-3000, centre - width / 2, centre, centre + width / 2, 3000], np.float32)
    assert np.allclose(preset_window(values, preset), [0, 0, 0.5, 1, 1])


def test_presets_show_what_they_are_named_for() -> None:
    lung, fat, liver, bone = -850.0, -100.0, 60.0, 700.0
    values = np.array([lung, fat, liver, bone], np.float32)
    assert np.ptp(preset_window(values[:2], "lung")) > 0.4 and preset_window(values[:1], "soft-tissue") == 0
    assert np.ptp(preset_window(values[1:3], "soft-tissue")) > 0.3
    assert 0.5 < preset_window(values[3:], "bone") < 1 and preset_window(values[3:], "brain") == 1


def test_percentiles_of_a_volume_are_those_of_all_its_slices() -> None:
    values = (1000 * _drawn((9, 20, 20))).astype(np.float32)
    values[3] *= 5
    assert np.allclose(stretch_volume(values), stretch(values.astype(np.float64)), atol=1e-6)
    assert not stretch_volume(np.full((2, 3, 4), 7, np.float32)).any()
    spike = np.zeros((4, 30, 30), np.float32)
    spike[2, 3, 3] = 9
    assert stretch_volume(spike)[2, 3, 3] == 1
