"""What the sky goes through on its way into a frame: optics, air, foreground, detector.

A frame is d = scale · (stars ⊗ PSF + nebula · pixel area) + background(u, v) + noise. Noise, hot pixels and
response are hashes of (seed, frame, pixel): any window of a frame is the same pixels as the whole of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.sky import (
    STAR_FLOOR,
    SkyModel,
    add_stars,
    hash_key,
    mix,
    poisson,
    random_stream,
    star_reach,
    triad,
    uniform,
)

BAYER = {"RGGB", "BGGR", "GRBG", "GBRG"}
_ROWS = 64
_NOISE, _HOT, _RESPONSE, _COSMIC, _TRAIL, _DUST, _COLUMNS = range(11, 18)


@dataclass(frozen=True)
class Camera:
    """A detector and the shade in front of it."""

    height: int = 2048
    """Pixels."""
    width: int = 2048
    gain: float = 5.2
    """Electrons per DN."""
    read_noise: float = 10.0
    """Electrons rms."""
    bias: float = 500.0
    """DN of an empty read-out (raw frames)."""
    dark: float = 0.05
    """Dark current (electrons per second and pixel)."""
    saturation: float = 60000.0
    """DN above which the pixel is clipped."""
    bayer: str = ""
    """Colour filter array as read from pixel (0, 0) along x, then y; "" for a monochrome sensor."""
    hot_fraction: float = 0.0
    """Fraction of hot pixels."""
    hot_level: float = 2000.0
    """Mean excess of a hot pixel (electrons)."""
    vignetting: float = 0.0
    """Loss of light in the corner (fraction)."""
    dust: int = 0
    """Shadows of dust grains."""
    response: float = 0.0
    """Rms of the pixels' relative sensitivity."""
    seed: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.gain <= 0 or self.read_noise < 0:
            raise ConfigError(
                f"a camera needs pixels, gain > 0 and read noise ≥ 0: {self.height} by {self.width} px, "
                f"gain {self.gain:g} e-/DN, read noise {self.read_noise:g} e-"
            )
        if self.bayer and self.bayer not in BAYER:
            raise ConfigError(f"no colour filter array {self.bayer!r}; choose from {', '.join(sorted(BAYER))}")

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the colour filter array; empty for a monochrome sensor."""
        return ("R", "G", "B") if self.bayer else ()


@dataclass(frozen=True)
class Pointing:
    """A tangent-plane projection (TAN) without distortion."""

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
        return {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
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
        }

    def header(self) -> str:
        """Text that `skyloom.ops.grid.parse_wcs` reads."""
        lines = []
        for key, value in self.cards().items():
            text = f"'{value:<8}'" if isinstance(value, str) else repr(value).replace("e", "E")
            lines.append(f"{key:<8}= {text:>20}" if not isinstance(value, str) else f"{key:<8}= {text}")
        return "\n".join(lines)

    def matrix(self, axes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map homogeneous pixels (x, y, 1) to directions (unnormalized) in the triad `axes`."""
        cd = np.radians(self.cd)
        tangent = np.zeros((3, 3))
        tangent[:2, :2] = cd
        tangent[:2, 2] = -cd @ [self.x, self.y]
        tangent[2, 2] = 1.0
        return np.asarray(axes @ triad(self.ra, self.dec).T @ tangent)


@dataclass(frozen=True)
class Background:
    """Foreground light over a frame: a surface in detector coordinates (DN).

    b = level · (1 + linear · (x, y) + quadratic · (x², xy, y²)) + moon · exp(steepness (x cos φ + y sin φ)),
    with x = u − ½, y = v − ½ and u, v from 0 to 1 between the centres of the outer pixels.
    """

    level: float
    linear: tuple[float, float] = (0.0, 0.0)
    """Peak-to-peak along each axis, fraction of the level."""
    quadratic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Coefficients of x², xy and y², fractions of the level."""
    moon: float = 0.0
    """Moonlight at the frame's centre (DN)."""
    moon_angle: float = 0.0
    """Direction of the moon on the detector, φ (degrees)."""
    steepness: float = 0.7

    def at(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Background (DN) at normalized detector positions of equal or broadcastable shape."""
        x, y = u - 0.5, v - 0.5
        p, q = self.linear
        a, b, c = self.quadratic
        phi = math.radians(self.moon_angle)
        surface = self.level * ((1.0 + p * x + a * x * x) + y * (q + b * x + c * y))
        if self.moon:
            k = self.steepness
            surface = surface + self.moon * (np.exp(k * math.cos(phi) * x) * np.exp(k * math.sin(phi) * y))
        return np.asarray(surface)


@dataclass(frozen=True)
class Exposure:
    """One frame: where, through which air, for how long."""

    index: int
    """Number of the frame: with the camera's seed it keys the noise."""
    seconds: float
    pointing: Pointing | None = None
    """None for a shutter that stays closed."""
    band: str = "L"
    fwhm: float = 3.0
    """Seeing (px)."""
    scale: float = 1.0
    """DN per sky unit: transparency · exposure · reference gain / gain."""
    background: Background = Background(0.0)
    flat_level: float = 0.0
    """Uniform light of a flat panel (DN at the centre)."""
    cosmic_rays: float = 0.0
    """Expected hits per megapixel."""
    trail: float = 0.0
    """Peak of a satellite trail (DN); 0 = none."""


@njit(nogil=True, cache=True, fastmath=False)
def _plane(
    matrix: NDArray[np.float64],
    row: int,
    column: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    tilt: float,
) -> NDArray[np.float64]:
    """Put equal-area plane positions (degrees) of pixels into x, y; return their areas, `tilt` at the centre."""
    area = np.empty(x.shape)
    degrees = 180.0 / math.pi
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            px, py = float(column + c), float(row + r)
            a = matrix[0, 0] * px + matrix[0, 1] * py + matrix[0, 2]
            b = matrix[1, 0] * px + matrix[1, 1] * py + matrix[1, 2]
            z = matrix[2, 0] * px + matrix[2, 1] * py + matrix[2, 2]
            inverse = 1.0 / math.sqrt(a * a + b * b + z * z)
            k = degrees * inverse * math.sqrt(2.0 / (1.0 + z * inverse))
            x[r, c], y[r, c] = k * a, k * b
            # Solid angle of a tangent-plane pixel: cos³ of the distance from the tangent point.
            area[r, c] = tilt * inverse * inverse * inverse
    return area


@njit(nogil=True, cache=True, inline="always")
def _normal(bits: np.uint64) -> float:
    u1 = (float(bits >> np.uint64(32)) + 0.5) * (1.0 / 4294967296.0)
    u2 = float(bits & np.uint64(0xFFFFFFFF)) * (1.0 / 4294967296.0)
    return math.sqrt(-2.0 * math.log(u1)) * math.cos(2.0 * math.pi * u2)


@njit(nogil=True, cache=True, fastmath=False)
def _detect(
    light: NDArray[np.float64],
    flat: NDArray[np.float64],
    extra: NDArray[np.float64],
    row: int,
    column: int,
    width: int,
    keys: tuple[np.uint64, np.uint64],
    gain: float,
    read_noise: float,
    dark: float,
    hot_fraction: float,
    hot_level: float,
    out: NDArray[np.float64],
) -> None:
    """Electrons read from each pixel, given light (DN before the flat), flat and cosmic rays (electrons)."""
    noise_key, hot_key = keys
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            pixel = np.uint64(np.int64(row + r) * width + column + c)
            mean = light[r, c] * flat[r, c] * gain + dark
            if hot_fraction > 0.0:
                bits = mix(hot_key, pixel)
                if uniform(bits) < hot_fraction:
                    mean += -hot_level * math.log(uniform(mix(bits, np.uint64(1))))
            bits = mix(noise_key, pixel)
            second = mix(bits, np.uint64(1))
            if mean > 30.0:
                z = _normal(bits)
                # Cornish-Fisher keeps the Poisson law's skewness.
                electrons = mean + math.sqrt(mean) * z + (z * z - 1.0) / 6.0
            elif mean > 0.0:
                electrons = float(poisson(mean, uniform(bits)))
            else:
                electrons = 0.0
            out[r, c] = electrons + extra[r, c] + read_noise * _normal(second)


@njit(nogil=True, cache=True, fastmath=False)
def _tracks(hits: NDArray[np.float64], row: int, column: int, out: NDArray[np.float64]) -> None:
    """Add straight tracks (x, y, dx, dy, electrons) to a window, in steps of a quarter pixel."""
    for n in range(hits.shape[0]):
        x, y, dx, dy, electrons = hits[n]
        steps = 1 + int(4.0 * math.hypot(dx, dy))
        for k in range(steps):
            t = (k + 0.5) / steps
            c = math.floor(x + t * dx + 0.5) - column
            r = math.floor(y + t * dy + 0.5) - row
            if 0 <= r < out.shape[0] and 0 <= c < out.shape[1]:
                out[r, c] += electrons / steps


@njit(nogil=True, cache=True, fastmath=False)
def _trail(
    x0: float,
    y0: float,
    angle: float,
    sigma: float,
    peak: float,
    row: int,
    column: int,
    out: NDArray[np.float64],
) -> None:
    """Add a straight trail through (x0, y0) with a Gaussian profile and a slow tumble."""
    c, s = math.cos(angle), math.sin(angle)
    for r in range(out.shape[0]):
        for k in range(out.shape[1]):
            dx, dy = column + k - x0, row + r - y0
            across = -s * dx + c * dy
            if abs(across) < 6.0 * sigma:
                along = c * dx + s * dy
                tumble = 1.0 + 0.3 * math.sin(along / 150.0)
                out[r, k] += peak * tumble * math.exp(-0.5 * (across / sigma) ** 2)


@njit(nogil=True, cache=True, fastmath=False)
def _flat(
    row: int,
    column: int,
    height: int,
    width: int,
    vignetting: float,
    response: float,
    grains: NDArray[np.float64],
    key: np.uint64,
    out: NDArray[np.float64],
) -> None:
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    corner = max(cx * cx + cy * cy, 1.0)
    for r in range(out.shape[0]):
        y = float(row + r)
        for c in range(out.shape[1]):
            x = float(column + c)
            value = 1.0 - vignetting * ((x - cx) ** 2 + (y - cy) ** 2) / corner
            for g in range(grains.shape[0]):
                d = math.hypot(x - grains[g, 0], y - grains[g, 1]) / grains[g, 2]
                if d < 2.0:
                    value *= 1.0 - grains[g, 3] * math.exp(-((d - 0.8) ** 2) * 12.0)
            if response > 0.0:
                pixel = np.uint64(np.int64(row + r) * width + column + c)
                value *= 1.0 + response * _normal(mix(key, pixel))
            out[r, c] = value


def flat_field(camera: Camera, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Relative sensitivity of the pixels of a window: vignetting × dust × response, 1 at a clean centre."""
    out = np.ones((rows.stop - rows.start, columns.stop - columns.start))
    if not (camera.vignetting or camera.response or camera.dust):
        return out
    random = random_stream(camera.seed, _DUST)
    size = min(camera.height, camera.width)
    grains = np.stack(
        [
            random.uniform(0, camera.width, camera.dust),
            random.uniform(0, camera.height, camera.dust),
            size * random.uniform(0.01, 0.03, camera.dust),
            random.uniform(0.03, 0.12, camera.dust),
        ],
        axis=-1,
    )
    _flat(
        rows.start,
        columns.start,
        camera.height,
        camera.width,
        camera.vignetting,
        camera.response,
        grains,
        hash_key(camera.seed, _RESPONSE),
        out,
    )
    return out


def cosmic_rays(camera: Camera, exposure: Exposure) -> NDArray[np.float64]:
    """Hits of a frame: rows of x, y, dx, dy (px) and electrons; half of them points, half short tracks."""
    random = random_stream(camera.seed, exposure.index, _COSMIC)
    count = int(random.poisson(exposure.cosmic_rays * camera.height * camera.width / 1e6))
    length = np.where(random.uniform(size=count) < 0.5, 0.0, 1.0 + random.exponential(4.0, count))
    angle = random.uniform(0.0, 2.0 * np.pi, count)
    return np.stack(
        [
            random.uniform(-0.5, camera.width - 0.5, count),
            random.uniform(-0.5, camera.height - 0.5, count),
            length * np.cos(angle),
            length * np.sin(angle),
            2000.0 * np.exp(random.normal(0.0, 0.7, count)) * (1.0 + 0.5 * length),
        ],
        axis=-1,
    )


def trail_line(camera: Camera, exposure: Exposure) -> tuple[float, float, float]:
    """Point (x, y, px) and angle (rad) of a frame's satellite trail."""
    random = random_stream(camera.seed, exposure.index, _TRAIL)
    x, y = random.uniform(0.25, 0.75, 2)
    return float(x) * camera.width, float(y) * camera.height, float(random.uniform(0.0, np.pi))


def light(
    camera: Camera, exposure: Exposure, sky: SkyModel | None, rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Noise-free light of a window (DN before flat, bias and dark), without cosmic rays.

    Parameters
    ----------
    camera, exposure
        What looks.
    sky
        What it looks at; may be None when the exposure has no pointing.
    rows, columns
        Window, explicit bounds, step 1.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    out = np.full(shape, exposure.flat_level)
    if exposure.pointing is None or sky is None:
        return out
    bands = camera.bands or (exposure.band,)
    matrix = exposure.pointing.matrix(sky.axes)
    planes = np.zeros((len(bands), *shape))
    table, x, y = _stars_near(exposure, sky, matrix, rows, columns)
    for plane, band in zip(planes, bands, strict=True):
        flux = exposure.scale * sky.star_flux(table, band)
        add_stars(plane, rows.start, columns.start, x, y, flux, exposure.fwhm, STAR_FLOOR * exposure.scale)
    # |matrix · (x, y, 1)| is 1 / cos of the distance from the tangent point.
    pixel = exposure.scale * exposure.pointing.scale**2
    u = np.arange(columns.start, columns.stop) / max(camera.width - 1, 1)
    v = np.arange(rows.start, rows.stop)[:, None] / max(camera.height - 1, 1)
    for start in range(0, shape[0], _ROWS):
        strip = slice(start, min(start + _ROWS, shape[0]))
        if sky.nebula > 0:
            px, py = np.empty((2, strip.stop - strip.start, shape[1]))
            area = _plane(matrix, rows.start + start, columns.start, px, py, pixel)
            planes[:, strip] += sky.plane_brightness(px, py, bands) * area
        out[strip] += exposure.background.at(u, v[strip])
    if camera.bayer:
        for k, name in enumerate(camera.bayer):
            r0, c0 = (k // 2 - rows.start) % 2, (k % 2 - columns.start) % 2
            out[r0::2, c0::2] += planes["RGB".index(name), r0::2, c0::2]
    else:
        out += planes[0]
    if exposure.trail > 0:
        x0, y0, angle = trail_line(camera, exposure)
        sigma = exposure.fwhm / 2.3548
        _trail(x0, y0, angle, sigma, exposure.trail, rows.start, columns.start, out)
    return out


def _stars_near(
    exposure: Exposure, sky: SkyModel, matrix: NDArray[np.float64], rows: slice, columns: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    margin = star_reach(exposure.fwhm, sky.star_bright)
    t = np.linspace(0.0, 1.0, 17)
    xs = columns.start - margin + t * (columns.stop - columns.start + 2 * margin)
    ys = rows.start - margin + t * (rows.stop - rows.start + 2 * margin)
    px, py = np.meshgrid(xs, ys)
    vectors = matrix @ np.stack([px.ravel(), py.ravel(), np.ones(px.size)])
    u, v = sky.plane_of(vectors / np.linalg.norm(vectors, axis=0), np.eye(3))
    table = sky.plane_stars((float(u.min()), float(v.min())), (float(u.max()), float(v.max())))
    ray = np.linalg.solve(matrix, sky.unplane(table[:, 0], table[:, 1]))
    ahead = ray[2] > 0
    ray = ray[:, ahead]
    return table[ahead], ray[0] / ray[2], ray[1] / ray[2]


def expose(
    camera: Camera,
    exposure: Exposure,
    sky: SkyModel | None,
    rows: slice,
    columns: slice,
    *,
    raw: bool = False,
) -> NDArray[np.float32] | NDArray[np.uint16]:
    """Pixels of a window of a frame.

    Parameters
    ----------
    camera, exposure, sky
        As for `light`.
    rows, columns
        Window, explicit bounds, step 1.
    raw
        True: counts as read out, with bias, dark and flat in them. False: what a perfect calibration makes of
        those counts (hot pixels stay), so that vignetting shows only in the noise.

    Returns
    -------
    ndarray
        uint16 (raw) or float32, shape of the window, DN.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    extra = np.zeros(shape)
    if exposure.cosmic_rays > 0:
        _tracks(cosmic_rays(camera, exposure), rows.start, columns.start, extra)
    flat = flat_field(camera, rows, columns)
    dark = camera.dark * exposure.seconds
    out = np.empty(shape)
    _detect(
        light(camera, exposure, sky, rows, columns),
        flat,
        extra,
        rows.start,
        columns.start,
        camera.width,
        (hash_key(camera.seed, exposure.index, _NOISE), hash_key(camera.seed, _HOT)),
        camera.gain,
        camera.read_noise,
        dark,
        camera.hot_fraction,
        # A hot pixel gathers charge: none in a bias frame.
        camera.hot_level * min(exposure.seconds / 60.0, 10.0),
        out,
    )
    if raw:
        pattern = np.random.Generator(np.random.Philox(int(hash_key(camera.seed, _COLUMNS))))
        counts = out / camera.gain + camera.bias + 2.0 * pattern.normal(size=camera.width)[columns]
        return np.clip(np.rint(counts), 0, min(camera.saturation, 65535)).astype(np.uint16)
    return np.minimum((out - dark) / (camera.gain * flat), camera.saturation).astype(np.float32)
