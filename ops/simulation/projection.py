"""From the sphere to pixels: tangent planes of frames, areas of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, pixel_to_sky

ARCSEC = 180.0 / math.pi * 3600.0
"""Arcseconds in a radian."""
_NODE = 64
"""Distance of the places where a grid's pixel area is computed (px)."""


def triad(ra: float, dec: float) -> NDArray[np.float64]:
    """Return unit vectors east, north and outward at a sky position (degrees), as rows."""
    a, d = math.radians(ra), math.radians(dec)
    return np.array(
        [
            [-math.sin(a), math.cos(a), 0.0],
            [-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d)],
            [math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)],
        ]
    )


@dataclass(frozen=True)
class Pointing:
    """A tangent-plane projection (TAN), through a lens that may bend it about the reference pixel.

    A pixel p at the distance r from the reference pixel sees what an ideal lens puts at p + barrel · (r / half)² ·
    (p − reference) / half.
    """

    ra: float
    """Degrees, at the pixel (x, y)."""
    dec: float
    scale: float
    """Arcseconds per pixel."""
    angle: float
    """Position angle of the +y axis (degrees, north through east; 0 = north up, east left)."""
    x: float
    """Zero-based reference pixel."""
    y: float
    barrel: float = 0.0
    """How much nearer to the reference pixel a star appears that is seen `half` from it (px); < 0: pincushion."""
    half: float = 1.0
    """Half the frame's diagonal (px)."""

    def undistorted(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where an ideal lens puts what pixels see."""
        if not self.barrel:
            return x, y
        dx, dy = x - self.x, y - self.y
        factor = 1.0 + self.barrel * (dx * dx + dy * dy) / self.half**3
        return self.x + factor * dx, self.y + factor * dy

    def distorted(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels that see what an ideal lens puts at positions; NaN where the lens folds over."""
        if not self.barrel:
            return x, y
        b = self.barrel / self.half**3
        dx, dy = x - self.x, y - self.y
        wanted = np.hypot(dx, dy)
        if b < 0:
            wanted = np.where(wanted < 2.0 / 3.0 / math.sqrt(-3.0 * b), wanted, np.nan)
        r = np.minimum(wanted, 2.0 * self.half)
        for _ in range(30):
            # Newton; r + b r³ is monotonic there.
            r = r - (r + b * r**3 - wanted) / (1.0 + 3.0 * b * r * r)
        factor = r / np.maximum(wanted, 1e-300)
        return self.x + factor * dx, self.y + factor * dy

    def look(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unit vectors (n, 3) that pixels (n,) see."""
        u, v = self.undistorted(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        vectors = (self.matrix(np.eye(3)) @ np.stack([u, v, np.ones_like(u)])).T
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def recentred(self, x: float, y: float) -> Pointing:
        """Return the projection with its tangent point at what the pixel (x, y) sees, at the same angle there."""
        at = self.look(np.array([x, x]), np.array([y, y + 1.0]))
        a, b, c = at[0].tolist()
        ra, dec = math.degrees(math.atan2(b, a)) % 360.0, math.degrees(math.atan2(c, math.hypot(a, b)))
        east, north, _ = triad(ra, dec)
        step = at[1] - at[0]
        angle = math.degrees(math.atan2(float(step @ east), float(step @ north)))
        return replace(self, ra=ra, dec=dec, angle=angle, x=x, y=y)

    @property
    def cd(self) -> NDArray[np.float64]:
        """CD matrix (degrees per pixel)."""
        c, s = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        return np.array([[-c, s], [s, c]]) * (self.scale / 3600.0)

    def shifted(self, dx: float, dy: float) -> Pointing:
        """Return the projection that puts every sky position (dx, dy) pixels further."""
        return replace(self, x=self.x + dx, y=self.y + dy)

    def cards(self) -> dict[str, float | str | int]:
        """FITS cards of the WCS."""
        cd = self.cd
        bent = "-SIP" if self.barrel else ""
        b = self.barrel / self.half**3
        sip = {"A_ORDER": 3, "B_ORDER": 3, "A_3_0": b, "A_1_2": b, "B_2_1": b, "B_0_3": b} if bent else {}
        return {
            "WCSAXES": 2,
            "CTYPE1": f"RA---TAN{bent}",
            "CTYPE2": f"DEC--TAN{bent}",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": self.x + 1.0,
            "CRPIX2": self.y + 1.0,
            "CD1_1": float(cd[0, 0]),
            "CD1_2": float(cd[0, 1]),
            "CD2_1": float(cd[1, 0]),
            "CD2_2": float(cd[1, 1]),
            "RADESYS": "ICRS",
            **sip,
        }

    def header(self) -> str:
        """Text that `skyloom.ops.grid.parse_wcs` reads."""
        lines = []
        for key, value in self.cards().items():
            text = f"'{value:<8}'" if isinstance(value, str) else repr(value).replace("e", "E")
            lines.append(f"{key:<8}= {text:>20}" if not isinstance(value, str) else f"{key:<8}= {text}")
        return "\n".join(lines)

    def matrix(self, axes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map homogeneous undistorted pixels (x, y, 1) to directions (unnormalized) in the triad `axes`."""
        cd = np.radians(self.cd)
        tangent = np.zeros((3, 3))
        tangent[:2, :2] = cd
        tangent[:2, 2] = -cd @ [self.x, self.y]
        tangent[2, 2] = 1.0
        return np.asarray(axes @ triad(self.ra, self.dec).T @ tangent)


@njit(nogil=True, cache=True, fastmath=False)
def place_pixels(
    matrix: NDArray[np.float64],
    row: int,
    column: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    tilt: float,
    lens: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Put equal-area plane positions (degrees) of pixels into x, y; return their areas, `tilt` at the centre.

    `lens` is the reference pixel and barrel / half³.
    """
    area = np.empty(x.shape)
    cx, cy, bend = lens
    degrees = 180.0 / math.pi
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            px, py = float(column + c), float(row + r)
            stretch = 1.0
            if bend != 0.0:
                dx, dy = px - cx, py - cy
                r2 = bend * (dx * dx + dy * dy)
                px, py = cx + (1.0 + r2) * dx, cy + (1.0 + r2) * dy
                stretch = (1.0 + r2) * (1.0 + 3.0 * r2)
            a = matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2]
            b = matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2]
            z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2]
            inverse = 1.0 / math.sqrt(a * a + b * b + z * z)
            k = degrees * inverse * math.sqrt(2.0 / (1.0 + z * inverse))
            x[r, c], y[r, c] = k * a, k * b
            # Solid angle of a tangent-plane pixel: cos³ of the distance from the tangent point.
            area[r, c] = stretch * tilt * inverse * inverse * inverse
    return area


def pixel_area(grid: Grid, window: tuple[slice, slice]) -> NDArray[np.float64]:
    """Solid angle of each pixel of a window (square arcseconds), shape of the window.

    Exact on nodes 64 px apart, linear between them (the area of a projection varies over degrees).
    """
    rows, columns = window
    # Nodes of the grid, not of the window: a window is a cut of the whole.
    ys, xs = (np.arange(part.start // _NODE, part.stop // _NODE + 2, dtype=np.float64) * _NODE for part in window)
    px, py = np.meshgrid(xs, ys)
    sides = []
    for dx, dy in ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5)):
        ra, dec = (np.radians(v) for v in pixel_to_sky(grid.wcs, px + dx, py + dy))
        sides.append(np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1))
    cross = np.cross(sides[1] - sides[0], sides[3] - sides[2])
    nodes = np.linalg.norm(cross, axis=-1) * ARCSEC**2
    across = np.stack([np.interp(np.arange(columns.start, columns.stop), xs, row) for row in nodes])
    at = np.interp(np.arange(rows.start, rows.stop), ys, np.arange(ys.size))
    low = np.minimum(at.astype(np.intp), ys.size - 2)
    part = (at - low)[:, None]
    return np.asarray((1.0 - part) * across[low] + part * across[low + 1])
