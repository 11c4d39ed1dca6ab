"""Masks of blobs against injected light: all but a trace is covered, by hardly more than the smallest mask."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.artifacts.blob_edges import until_light_ends
from skyloom.ops.artifacts.blobs import find_blobs
from skyloom.ops.artifacts.difference import Difference

SIDE, NOISE = 192, 0.28
Light = NDArray[np.float64]


def disc(x: Light, y: Light, radius: float) -> Light:
    return np.asarray(1 / (1 + np.exp(np.clip((np.hypot(x, y) - radius) / 0.5, -50, 50))))


def soft(x: Light, y: Light, radius: float) -> Light:
    return np.asarray(np.exp(-0.5 * (x * x + y * y) / radius**2))


def oval(x: Light, y: Light, radius: float) -> Light:
    along, across = (x + y) / 2**0.5, (x - y) / 2**0.5
    return np.asarray(np.exp(-0.5 * ((along / radius) ** 2 + (2.5 * across / radius) ** 2)))


def ring(x: Light, y: Light, radius: float) -> Light:
    return np.asarray(1 / (1 + np.exp(np.clip((np.abs(np.hypot(x, y) - radius) - radius / 3) / 0.7, -50, 50))))


def smallest(light: Light, part: float) -> int:
    """Blocks of the smallest mask that covers this part of the light."""
    total = np.cumsum(np.sort(light, axis=None)[::-1])
    return int(np.searchsorted(total, part * total[-1])) + 1


# Radius in blocks of 4 px, height in σ of a pixel; a block's noise is a quarter of it.
@pytest.mark.parametrize(
    ("shape", "radius", "height"),
    [(disc, 10, 0.6), (disc, 22, 0.3), (disc, 22, 5.0), (soft, 8, 1.0), (soft, 13, 0.6), (soft, 13, 5.0),
     (oval, 15, 0.8), (ring, 15, 0.5)],
)  # fmt: skip
def test_a_blob_is_masked_to_where_its_light_ends(shape, radius, height) -> None:  # type: ignore[no-untyped-def]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:SIDE, :SIDE] - rng.uniform(80, 110, (2, 1, 1))
        light = height * shape(x, y, radius)
        value = (light + rng.normal(0, NOISE, light.shape)).astype(np.float32)
        error = np.full(value.shape, NOISE, dtype=np.float32)
        for row, column in rng.integers(2, SIDE - 3, (40, 2)):
            star = np.s_[row - 1 : row + 2, column - 1 : column + 2]
            value[star] += rng.normal(0, 2, (3, 3))
            error[star] = 2
        mask, count = find_blobs(
            Difference(value, error, np.zeros_like(value)), np.zeros_like(value, bool), threshold=6
        )
        covered = float(light[mask].sum() / light.sum())
        assert count >= 1
        assert covered > 0.99
        # Of one area more light is hardly to be had; of a ring, the hole has some of the area.
        assert mask.sum() < 1.2 * smallest(light, min(covered, 0.9999))
        assert mask.sum() < 1.6 * smallest(light, 0.99)


def test_what_the_first_outline_lacks_is_found_and_data_may_have_gaps() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:90, :90] - 45.0
    light = 0.8 * disc(x, y, 15)
    value = (light + rng.normal(0, NOISE, light.shape)).astype(np.float32)
    weight = np.full(value.shape, NOISE**-2, dtype=np.float32)
    # A trail of another frame lies across, and the outline has the middle only.
    weight[:, 38:44] = 0
    outline = (np.abs(x) < 8) & (np.abs(y) < 8)
    mask = until_light_ends(outline, value * weight, weight, 20)
    assert light[mask].sum() > 0.99 * light.sum()
    assert mask.sum() < 1.25 * smallest(light, 0.99)


def test_an_outline_that_is_too_wide_shrinks() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:90, :90] - 45.0
    light = 0.8 * disc(x, y, 12)
    value = (light + rng.normal(0, NOISE, light.shape)).astype(np.float32)
    weight = np.full(value.shape, NOISE**-2, dtype=np.float32)
    mask = until_light_ends(np.hypot(x, y) < 22, value * weight, weight, 10)
    assert light[mask].sum() > 0.99 * light.sum()
    assert mask.sum() < 1.25 * smallest(light, 0.99)
