"""From a relative solution to the sky."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.registration.anchor import DEFAULT_SCALE, Hint, anchor, first_place, header_error, place_wcs
from skyloom.ops.registration.placing import Place, sky_position, tangent_basis, unit_vector
from skyloom.ops.registration.relink import undistorted

MIDDLE, HALF, SHAPE = np.array([1499.5, 999.5]), 1803.0, (2000, 3000)
STRAIGHT = np.zeros((2, 7))
NONE = Hint("", np.nan, np.nan, np.nan, np.nan)


def at(ra: float, dec: float, rotation: float, scale: float = 2.0) -> Place:
    return first_place(Hint("", ra, dec, scale, rotation), MIDDLE)


def test_the_wcs_says_what_the_place_does() -> None:
    rng = np.random.default_rng(0)
    place, bend = at(83.0, 20.0, 30.0), rng.normal(0, 3, (2, 7))
    wcs = parse_wcs(place_wcs(place, HALF, bend))
    pixels = rng.uniform(0, 2000, (50, 2))
    ra, dec = pixel_to_sky(wcs, *pixels.T)
    vectors = np.array([unit_vector(a, d) for a, d in zip(ra, dec, strict=True)])
    assert np.abs(vectors - place.look(undistorted(pixels, place, HALF, bend))).max() / place.scale < 1e-6
    np.testing.assert_allclose(np.stack(sky_to_pixel(wcs, ra, dec), -1), pixels, atol=1e-5)
    assert header_error(Hint(place_wcs(place, HALF, bend), 0, 0, 0, 0), place, HALF, bend, SHAPE) < 1e-6
    moved = place_wcs(at(83.0, 20.0 + 10 * 2 / 3600, 30.0), HALF, bend)
    assert header_error(Hint(moved, 0, 0, 0, 0), place, HALF, bend, SHAPE) == pytest.approx(10, rel=0.02)
    assert header_error(NONE, place, HALF, bend, SHAPE) == np.inf


def test_the_first_frame_lies_where_its_header_says() -> None:
    north = at(120.0, -30.0, 0.0)
    ra, dec = sky_position(north.look(MIDDLE[None] + (0, 900))[0])
    assert dec == pytest.approx(-29.5, abs=1e-3)
    assert ra == pytest.approx(120.0, abs=1e-3)
    ra, _ = sky_position(north.look(MIDDLE[None] + (-900, 0))[0])
    assert ra > 120.0  # east is to the left
    again = first_place(Hint(place_wcs(at(10, 80, 77), HALF, STRAIGHT), 0, 0, 0, 0), MIDDLE)
    np.testing.assert_allclose(again.linear, at(10, 80, 77).linear, rtol=1e-6)
    assert first_place(NONE, MIDDLE).scale == pytest.approx(np.radians(DEFAULT_SCALE / 3600))


@pytest.mark.parametrize("factor", [1.0, 1.004])
def test_an_island_is_turned_and_scaled_onto_the_headers_and_a_wrong_one_has_no_say(factor: float) -> None:
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    truth = {i: at(83.0 + 0.4 * i, 20.0 + 0.2 * i, 30.0 + i) for i in range(7)}
    hints = {i: Hint(place_wcs(p, HALF, STRAIGHT), 0, 0, 0, 0) for i, p in truth.items()}
    hints[2] = Hint(place_wcs(at(84.6, 20.4, 32.0), HALF, STRAIGHT), 0, 0, 0, 0)  # 0.75° off
    hints[4] = NONE
    from skyloom.ops.registration.placing import rescale

    loose = {}
    for i, p in truth.items():
        centre = turn @ p.centre
        loose[i] = replace(p, centre=centre, linear=tangent_basis(centre)[:2] @ (turn @ p.basis[:2].T) @ p.linear)
    found, agree = anchor(rescale(loose, factor), hints, dict.fromkeys(truth, HALF))
    assert agree == 5
    for i, p in truth.items():
        assert header_error(Hint(place_wcs(p, HALF, STRAIGHT), 0, 0, 0, 0), found[i], HALF, STRAIGHT, SHAPE) < 0.6


def test_without_headers_an_island_stays() -> None:
    places = {0: at(10, 10, 0)}
    assert anchor(places, {0: NONE}, {0: HALF}) == (places, 0)
