"""One smooth map a frame, as good as its WCS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skyloom.ops import surface
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.normalization.frame_map import frame_map

Tangent = Callable[..., str]


@pytest.mark.parametrize(("angle", "sip"), [(0.0, False), (37.0, False), (180.0, True)])
def test_mapping_follows_the_wcs(tangent: Tangent, canvas: Grid, angle: float, sip: bool) -> None:
    header = tangent(800, ra=40.03, dec=30.02, angle=angle, sip=sip)
    shift = np.array([3.0, -2.0])
    mapping = frame_map(header, (800, 800), shift, canvas)
    assert mapping is not None
    x, y = np.linspace(450, 700, 9), np.linspace(500, 750, 7)
    fx, fy, area = mapping.grid(x, y)
    gx, gy = np.meshgrid(x, y)
    ex, ey = sky_to_pixel(parse_wcs(header), *pixel_to_sky(canvas.wcs, gx.ravel(), gy.ravel()))
    assert np.allclose(fx.ravel(), ex + 3.0, atol=0.02)
    assert np.allclose(fy.ravel(), ey - 2.0, atol=0.02)
    h = 0.5
    right = mapping.grid(x + h, y)
    left = mapping.grid(x - h, y)
    up, down = mapping.grid(x, y + h), mapping.grid(x, y - h)
    numeric = (right[0] - left[0]) * (up[1] - down[1]) - (right[1] - left[1]) * (up[0] - down[0])
    assert np.allclose(area, np.abs(numeric), rtol=1e-6)
    # The same J, asked at the frame's own positions.
    field = surface.fit(mapping.area)
    assert np.allclose(surface.evaluate(field, fx / 799, fy / 799), area, rtol=1e-4)
    u, v = fx.ravel() / 799, fy.ravel() / 799
    px, py = mapping.placement @ np.stack([u, v, np.ones_like(u)])
    assert np.allclose(px, gx.ravel(), atol=3)
    assert np.allclose(py, gy.ravel(), atol=3)


def test_frame_behind_the_tangent_plane_has_no_map(tangent: Tangent, canvas: Grid) -> None:
    assert frame_map(tangent(100, ra=220.0, dec=-30.0), (100, 100), np.zeros(2), canvas) is None
