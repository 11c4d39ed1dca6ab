"""Resampling: positions, pixel values, missing data, edges and independence of the window."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray
from scipy.special import erf

from skyloom.ops import surface
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.integration.coordinates import CanvasNodes, CoordinateGrid, central_jacobian, coordinate_grid
from skyloom.ops.integration.interpolation import VALID_TAPS
from skyloom.ops.integration.kernels import (
    REACH,
    RINGING,
    chosen,
    kernel_noise_factor,
    lanczos,
    lanczos_taps,
    taps,
    window_reach,
)
from skyloom.ops.integration.resample import resample
from skyloom.ops.integration.taper import taper_weight


def header(
    side: int,
    *,
    rotation: float = 0.0,
    scale: float = 1.0,
    sip: float = 0.0,
    at: tuple[float, float] = (83.0, -5.0),
    centre: tuple[float, float] | None = None,
) -> str:
    """TAN header; scale in arcsec, sip = pixels of distortion at the corner."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = at
    wcs.wcs.crpix = centre or ((side + 1) / 2, (side + 1) / 2)
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    if sip:
        half = side / 2
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[1, 2] = sip / half**2, 0.5 * sip / half**3
        b[0, 2], b[2, 1] = -0.7 * sip / half**2, 0.5 * sip / half**3
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return wcs_header(wcs)


def canvas(side: int, **changes: float) -> Grid:
    return Grid(header(side, **changes), (side, side), 1024)  # type: ignore[arg-type]


def mapped(grid: Grid, wcs: str, side: int, rows: slice, columns: slice, **extra: object) -> CoordinateGrid:
    nodes = CanvasNodes.around(grid, rows, columns)
    return coordinate_grid(nodes, wcs, (side, side), **extra)  # type: ignore[arg-type]


def project(
    frame: NDArray[np.float32],
    grid: Grid,
    wcs: str,
    rows: slice,
    columns: slice,
    *,
    taper: float = 0.0,
    kernel: str = "lanczos3",
    clamp: float = 0.0,
    **extra: object,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    seen = mapped(grid, wcs, frame.shape[0], rows, columns, **extra)
    window = seen.window(rows, columns, reach=window_reach(kernel) if kernel in REACH else seen.pixel_reach())
    assert window is not None
    pixels = np.ascontiguousarray(frame[window])
    return resample(pixels, window, seen, rows, columns, taper=taper, kernel=kernel, clamp=clamp)


def exact(grid: Grid, wcs: str, rows: slice, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xx, yy = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    x, y = sky_to_pixel(parse_wcs(wcs), *pixel_to_sky(grid.wcs, xx.ravel() * 1.0, yy.ravel() * 1.0))
    return x.reshape(xx.shape), y.reshape(xx.shape)


def interpolated(seen: CoordinateGrid, rows: slice, columns: slice) -> NDArray[np.float64]:
    """All five fields at every canvas pixel (plain numpy)."""
    xx, yy = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    ky, kx = yy // 32 - seen.origin[0], xx // 32 - seen.origin[1]
    ty, tx = (yy % 32) / 32, (xx % 32) / 32
    f = seen.fields
    left = f[:, ky, kx] + ty * (f[:, ky + 1, kx] - f[:, ky, kx])
    right = f[:, ky, kx + 1] + ty * (f[:, ky + 1, kx + 1] - f[:, ky, kx + 1])
    return np.asarray(left + tx * (right - left))


def too_sharp(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of peaks along x that is too sharp for a kernel, the rule in plain words."""
    light = np.zeros(frame.shape)
    for y, x in np.ndindex(frame.shape):
        if not (2 <= y < frame.shape[0] - 2 and 3 <= x < frame.shape[1] - 3):
            continue
        row, sides = frame[y, x - 3 : x + 4], frame[y - 2 : y + 3, [x - 2, x + 2]]
        if not (
            row[3] >= row[2] and row[3] > row[4] and np.isfinite(sides).all() and np.isfinite(row[[0, 6]]).all()
        ):
            continue
        level, around = np.sort(sides.ravel())[4], np.append(sides.ravel(), row[[0, 6]])
        height, spread = row[3] - level, np.ptp(around)
        if height <= 4 * spread:
            continue
        stands_out = min(height / (4 * spread) - 1, 1.0) if spread else 1.0
        star, at = np.maximum(row[1:6] - level, 0), np.arange(-2, 3)
        variance = np.average(at**2, weights=star) - np.average(at, weights=star) ** 2
        light[y, x - 1 : x + 2] = stands_out * np.clip((0.58 - variance) / 0.33, 0, 1) * star[1:4]
    return light


def naive(
    frame: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64], kernel: str, clamp: float
) -> NDArray[np.float64]:
    """Pixel by pixel, float64, taps over missing pixels left out."""
    pixels = frame.astype(np.float64)
    sharp = (1 - clamp) * np.maximum(too_sharp(pixels), too_sharp(pixels.T).T)
    if kernel not in RINGING or not sharp.any():
        return plain(pixels, x, y, kernel)
    return plain(pixels - sharp, x, y, kernel) + plain(np.pad(sharp, 1), x + 1, y + 1, "bilinear")


def plain(
    frame: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], kernel: str
) -> NDArray[np.float64]:
    """Interpolation with one kernel."""
    out = np.full(x.shape, np.nan)
    height, width = frame.shape
    reach = REACH[kernel]
    for index in np.ndindex(x.shape):
        px, py = x[index], y[index]
        if not (-0.5 <= px < width - 0.5 and -0.5 <= py < height - 0.5):
            continue
        if not np.isfinite(frame[int(np.floor(py + 0.5)), int(np.floor(px + 0.5))]):
            continue
        ix, iy = (np.floor(p) + np.arange(1 - reach, reach + 1) for p in (px, py))
        along_y, along_x = taps(kernel, py - np.floor(py)), taps(kernel, px - np.floor(px))
        weights = np.outer(along_y, along_x)
        inside = ((iy >= 0) & (iy < height))[:, None] & ((ix >= 0) & (ix < width))
        values = frame[np.clip(iy, 0, height - 1).astype(int)[:, None], np.clip(ix, 0, width - 1).astype(int)]
        good = inside & np.isfinite(values)
        if weights[good].sum() >= VALID_TAPS:
            out[index] = (weights * np.where(good, values, 0.0)).sum() / weights[good].sum()
    return out


def sampled_area(
    frame: NDArray[np.float32], grid: Grid, wcs: str, row: int, column: int, fine: int = 60
) -> tuple[float, float]:
    """Mean of the frame over one canvas pixel from many points in it, and the part of them that meets data."""
    step = (np.arange(fine) + 0.5) / fine - 0.5
    xx, yy = np.meshgrid(column + step, row + step)
    x, y = sky_to_pixel(parse_wcs(wcs), *pixel_to_sky(grid.wcs, xx.ravel(), yy.ravel()))
    ix, iy = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    inside = (ix >= 0) & (iy >= 0) & (ix < frame.shape[1]) & (iy < frame.shape[0])
    values = np.full(x.size, np.nan)
    values[inside] = frame[iy[inside], ix[inside]]
    good = np.isfinite(values)
    return (float(values[good].mean()) if good.any() else np.nan), float(good.mean())


@pytest.mark.parametrize("sip", [0.0, 12.0])
@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_positions_follow_the_wcs_to_a_two_hundredth_of_a_pixel(sip: float, scale: float) -> None:
    grid = canvas(6000)
    wcs = header(3000, rotation=33.0, scale=scale, sip=sip, at=(83.2, -5.3))
    rows, columns = slice(3000, 4200), slice(1800, 3000)
    seen = mapped(grid, wcs, 3000, rows, columns)
    fields = interpolated(seen, rows, columns)
    x, y = exact(grid, wcs, rows, columns)
    inside = (x > -1) & (x < 3000) & (y > -1) & (y < 3000)
    assert inside.mean() > 0.2
    assert np.abs(fields[0] - x)[inside].max() < 0.005
    assert np.abs(fields[1] - y)[inside].max() < 0.005
    area = np.abs(
        np.gradient(x, axis=1) * np.gradient(y, axis=0) - np.gradient(x, axis=0) * np.gradient(y, axis=1)
    )
    core = (slice(1, -1), slice(1, -1))
    assert np.abs(fields[2] / area - 1)[core][inside[core]].max() < 1e-4


def test_shift_is_added_to_the_frame_position() -> None:
    grid, wcs = canvas(256), header(200, rotation=20.0)
    rows = columns = slice(60, 200)
    plain = mapped(grid, wcs, 200, rows, columns)
    moved = mapped(grid, wcs, 200, rows, columns, shift=(1.5, -2.25))
    np.testing.assert_allclose(moved.fields[0] - plain.fields[0], 1.5, atol=1e-12)
    np.testing.assert_allclose(moved.fields[1] - plain.fields[1], -2.25, atol=1e-12)


@pytest.mark.parametrize("kernel", list(REACH))
@pytest.mark.parametrize("clamp", [0.0, 0.25, 1.0])
def test_kernel_equals_its_naive_twin_with_missing_pixels_and_edges(kernel: str, clamp: float) -> None:
    rng = np.random.default_rng(3)
    frame = rng.normal(100, 10, (90, 90)).astype(np.float32)
    rows_, columns_ = rng.integers(0, 90, (2, 40))
    frame[rows_, columns_] += rng.uniform(100, 3000, 40).astype(np.float32)
    for k, (star_x, star_y) in enumerate(rng.uniform(4, 85, (12, 2)).tolist()):
        frame += pixel_star(90, star_x, star_y, 1.0 + 0.08 * k, 4000.0)
    frame[:, 30] += 900
    frame[rng.random(frame.shape) < 0.03] = np.nan
    # Turned frames are worked a pixel at a time, others in runs.
    grid, wcs = canvas(128), header(90, rotation=27.0 if clamp else 180.0, scale=1.1 if clamp else 1.0)
    rows, columns = slice(0, 128), slice(0, 128)
    seen = mapped(grid, wcs, 90, rows, columns)
    x, y, gain, base, _ = interpolated(seen, rows, columns)
    got, codes = project(frame, grid, wcs, rows, columns, kernel=kernel, clamp=clamp)
    # The kernel's table has 2048 phases a pixel.
    want = gain * (naive(frame, np.round(x * 2048) / 2048, np.round(y * 2048) / 2048, kernel, clamp) - base)
    assert 0.3 < np.isfinite(want).mean() < 0.9
    # A pixel at the very limit of valid taps may fall to either side of it.
    differ = np.isfinite(want) != np.isfinite(got)
    assert differ.sum() <= 3
    both = np.isfinite(want) & np.isfinite(got)
    off = np.sort(np.abs(got - want)[both])
    # Positions half way between two phases may go to either; of nearest, to the other neighbour.
    assert off[-20 if kernel == "nearest" else -3] < 0.01
    assert kernel == "nearest" or off.max() < 2.0
    inside = (x >= -0.5) & (x < 89.5) & (y >= -0.5) & (y < 89.5)
    np.testing.assert_array_equal(codes > 0, inside)


def test_every_canvas_pixel_between_the_outer_pixel_centres_has_data() -> None:
    frame = np.full((64, 64), 7.0, dtype=np.float32)
    grid, wcs = canvas(128), header(64, rotation=13.0, scale=1.0)
    rows = columns = slice(0, 128)
    x, y, *_ = interpolated(mapped(grid, wcs, 64, rows, columns), rows, columns)
    got, _ = project(frame, grid, wcs, rows, columns)
    assert np.isfinite(got[(x >= 0) & (x <= 63) & (y >= 0) & (y <= 63)]).all()
    assert not np.isfinite(got[(x < -0.5) | (x >= 63.5) | (y < -0.5) | (y >= 63.5)]).any()


def test_taps_keep_levels_and_ramps_and_stay_close_to_lanczos() -> None:
    fraction = np.linspace(0, 1, 101)
    weights = lanczos_taps(fraction)
    offsets = np.arange(-2, 4)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights @ offsets, fraction, atol=1e-12)
    assert np.abs(weights - lanczos(fraction[:, None] - offsets)).max() < 0.02


def test_constant_frame_stays_constant_and_is_scaled_by_the_jacobian() -> None:
    frame = np.full((300, 300), 1000.0, dtype=np.float32)
    for scale in (0.8, 1.0, 1.25):
        grid, wcs = canvas(512), header(300, rotation=31.0, scale=scale)
        rows = columns = slice(0, 512)
        got, _ = project(frame, grid, wcs, rows, columns)
        area = 1 / scale**2
        np.testing.assert_allclose(got[np.isfinite(got)], 1000.0 * area, rtol=2e-5)
        assert central_jacobian(grid.header, wcs, (300, 300)) == pytest.approx(area, rel=1e-5)


def gaussian(side: int, x: float, y: float, fwhm: float, flux: float) -> NDArray[np.float32]:
    s = fwhm / 2.3548
    yy, xx = np.mgrid[:side, :side]
    image = flux / (2 * np.pi * s * s) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * s * s))
    return np.asarray(image, dtype=np.float32)


@pytest.mark.parametrize(("scale", "rotation"), [(0.35, 20.0), (0.7, -33.0), (1.0, 0.0), (1.3, 71.0)])
def test_area_equals_a_dense_sampling_of_each_pixel(scale: float, rotation: float) -> None:
    rng = np.random.default_rng(6)
    frame = rng.normal(100, 10, (70, 70)).astype(np.float32)
    frame[rng.random(frame.shape) < 0.05] = np.nan
    grid, wcs = canvas(128), header(70, rotation=rotation, scale=scale)
    rows = columns = slice(0, 128)
    got, codes = project(frame, grid, wcs, rows, columns, kernel="area")
    inside = np.argwhere(codes > 0)
    compared = 0
    for row, column in inside[:: max(len(inside) // 60, 1)]:
        mean, part = sampled_area(frame, grid, wcs, int(row), int(column))
        if abs(part - 0.5) < 0.05:
            continue
        assert np.isfinite(got[row, column]) == (part > 0.5)
        if part > 0.5:
            assert got[row, column] == pytest.approx(mean / scale**2, rel=6e-3)
            compared += 1
    assert compared > 30


def pixel_star(side: int, x: float, y: float, fwhm: float, flux: float) -> NDArray[np.float32]:
    """Star whose light is summed over each pixel, as a detector does."""
    s = fwhm / 2.3548 * 2**0.5
    edges = np.arange(side + 1) - 0.5
    along_x, along_y = (np.diff(erf((edges - c) / s)) / 2 for c in (x, y))
    return np.asarray(flux * np.outer(along_y, along_x), dtype=np.float32)


# Kernels alias where they shrink: auto and area are for that.
@pytest.mark.parametrize(
    ("kernel", "scale"),
    [(k, s) for k in ("auto", "area") for s in (0.3, 0.55, 0.8, 0.9, 1.0, 1.4, 3.0)]
    + [(k, s) for k in ("lanczos4", "bicubic") for s in (0.9, 1.0, 1.4, 3.0)],
)
def test_star_fluxes_and_places_are_true_from_a_third_to_three_times(kernel: str, scale: float) -> None:
    # `scale` = size of a frame pixel in canvas pixels; a FWHM of 2.6 pixels of whichever is coarser.
    side, flux, size = 112, 50000.0, 448 if scale > 1.5 else 192
    grid, wcs = canvas(size), header(side, rotation=0.0 if scale == 1.0 else 23.0, scale=scale)
    rows = columns = slice(0, size)
    shift, rng = (0.6, -0.3), np.random.default_rng(7)
    fwhm = max(2.6, 2.6 / scale)
    for _ in range(3):
        x, y = rng.uniform(52, 60, 2)
        frame = pixel_star(side, x, y, fwhm, flux) + np.float32(50.0)
        got, _ = project(
            frame, grid, wcs, rows, columns, kernel=chosen(kernel, 1 / scale**2), shift=shift,
            offset=surface.constant(50.0),
        )  # fmt: skip
        cx, cy = sky_to_pixel(
            grid.wcs, *pixel_to_sky(parse_wcs(wcs), np.array([x - shift[0]]), np.array([y - shift[1]]))
        )
        yy, xx = np.mgrid[:size, :size]
        near = np.hypot(xx - cx[0], yy - cy[0]) < 5 * fwhm * scale
        light = got[near].astype(float)
        assert light.sum() == pytest.approx(flux, rel=1e-3)
        assert (light * xx[near]).sum() / light.sum() == pytest.approx(cx[0], abs=0.01)
        assert (light * yy[near]).sum() / light.sum() == pytest.approx(cy[0], abs=0.01)


def one_by_one(frame: NDArray[np.float32], dx: float, dy: float, kernel: str, clamp: float) -> NDArray[np.float32]:
    """A frame on a canvas of its own scale, moved by parts of a pixel."""
    side = frame.shape[0]
    rows = columns = slice(0, side)
    return project(frame, canvas(side), header(side), rows, columns, kernel=kernel, clamp=clamp, shift=(dx, dy))[0]


@pytest.mark.parametrize("kernel", RINGING)
@pytest.mark.parametrize("fwhm", [1.2, 1.5, 2.0, 4.0])
def test_stars_keep_their_flux_and_place_at_all_phases_and_narrow_ones_hardly_ring(
    kernel: str, fwhm: float
) -> None:
    rng = np.random.default_rng(7)
    yy, xx = np.mgrid[:48, :48]
    for _ in range(12):
        x, y = rng.uniform(23, 25, 2)
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        star = pixel_star(48, x, y, fwhm, 10000.0)
        got = one_by_one(star + np.float32(100.0), dx, dy, kernel, 0.0)
        light = np.nan_to_num(got - 100.0).astype(float)[4:-4, 4:-4]
        assert light.sum() == pytest.approx(10000.0, rel=1e-3)
        assert (light * xx[4:-4, 4:-4]).sum() / light.sum() == pytest.approx(x - dx, abs=0.01)
        assert (light * yy[4:-4, 4:-4]).sum() / light.sum() == pytest.approx(y - dy, abs=0.01)
        assert light.min() > -0.02 * light.max()
        noisy = star + rng.normal(100, 3, star.shape).astype(np.float32)
        free, kept = (one_by_one(noisy, dx, dy, kernel, c)[8:-8, 8:-8] for c in (1.0, 0.0))
        assert (kept - free).astype(float).sum() == pytest.approx(0.0, abs=15.0)


@pytest.mark.parametrize("kernel", RINGING)
@pytest.mark.parametrize(
    "shape",
    [
        [(0, 0)],
        [(0, 0), (0, 1)],
        [(0, 0), (1, 1)],
        [(0, 0), (0, 1), (1, 0), (1, 1)],
        [(k, 0) for k in range(-24, 24)],
    ],
)
def test_hot_pixels_and_columns_have_no_dark_ring(kernel: str, shape: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(8)
    frame = rng.normal(100, 2, (48, 48)).astype(np.float32)
    clean = frame.copy()
    for y, x in shape:
        frame[24 + y, 24 + x] += 1000.0
    for _ in range(6):
        dx, dy = rng.uniform(0.2, 0.8, 2)
        inner = np.s_[6:-6, 6:-6]
        free, kept = (
            (one_by_one(frame, dx, dy, kernel, c) - one_by_one(clean, dx, dy, kernel, 1.0))[inner]
            for c in (1.0, 0.0)
        )
        assert free.min() < -40
        assert kept.min() > -15
        assert kept.sum() == pytest.approx(free.sum(), rel=2e-3)


def test_noise_and_stars_of_two_pixels_go_through_the_plain_kernel() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(100, 5, (128, 128)).astype(np.float32)
    star = noise + pixel_star(128, 63.3, 64.4, 2.2, 50000.0)
    for frame in (noise, star):
        free, kept = (one_by_one(frame, 0.3, 0.4, "lanczos3", c) for c in (1.0, 0.0))
        np.testing.assert_array_equal(free, kept)


# A canvas coarser than the frame (scale 0.8) aliases: 0.4 % of the flux at 3.0 px, 1 % at 2.2 px.
@pytest.mark.parametrize(
    ("fwhm", "scale", "rotation"),
    [
        (2.2, 1.0, 0.0),
        (2.2, 1.0, 37.0),
        (2.2, 1.25, 205.0),
        (3.5, 0.8, 12.0),
        (3.5, 1.0, 0.0),
        (3.5, 1.0, 37.0),
        (3.5, 1.25, 205.0),
    ],
)
def test_star_keeps_its_place_and_flux(fwhm: float, scale: float, rotation: float) -> None:
    side, flux = 128, 50000.0
    grid, wcs = canvas(256), header(side, rotation=rotation, scale=scale)
    rows = columns = slice(0, 256)
    rng = np.random.default_rng(5)
    shift = (0.75, -1.5)
    for _ in range(6):
        x, y = rng.uniform(50, 78, 2)
        frame = gaussian(side, x, y, fwhm, flux) + np.float32(50.0)
        got, _ = project(
            frame, grid, wcs, rows, columns,
            shift=shift, scale=surface.constant(1.3), offset=surface.constant(50.0),
        )  # fmt: skip
        cx, cy = sky_to_pixel(
            grid.wcs, *pixel_to_sky(parse_wcs(wcs), np.array([x - shift[0]]), np.array([y - shift[1]]))
        )
        yy, xx = np.mgrid[:256, :256]
        near = np.hypot(xx - cx[0], yy - cy[0]) < 6 * fwhm * scale
        light = got[near].astype(float)
        assert light.sum() == pytest.approx(1.3 * flux, rel=2e-3)
        assert (light * xx[near]).sum() / light.sum() == pytest.approx(cx[0], abs=0.01)
        assert (light * yy[near]).sum() / light.sum() == pytest.approx(cy[0], abs=0.01)


def test_normalization_surfaces_are_applied_in_detector_coordinates() -> None:
    side = 400
    grid, wcs = canvas(640), header(side, rotation=25.0)
    rows = columns = slice(0, 640)
    u = surface.sample_positions()
    scale = surface.fit(1.0 + 0.2 * u[None, :] * u[:, None])
    offset = surface.fit(100.0 + 80.0 * u[None, :] ** 2 - 60.0 * u[:, None])
    uu, vv = np.meshgrid(np.arange(side) / (side - 1), np.arange(side) / (side - 1))
    sky = 500.0
    frame = (sky / (1.0 + 0.2 * uu * vv) + 100.0 + 80.0 * uu**2 - 60.0 * vv).astype(np.float32)
    got, _ = project(frame, grid, wcs, rows, columns, scale=scale, offset=offset)
    # To the frame's very edge, where the outer nodes lie beyond it.
    assert np.nanmax(np.abs(got - sky)) < 0.4
    assert np.nanstd(got) < 0.1


def test_a_missing_pixel_neither_spreads_nor_is_filled() -> None:
    frame = np.full((96, 96), 20.0, dtype=np.float32)
    frame[48, 48] = np.nan
    grid, wcs = canvas(128), header(96, centre=(48.3, 48.6))
    got, _ = project(frame, grid, wcs, slice(32, 96), slice(32, 96))
    assert 1 <= np.isnan(got).sum() <= 2
    np.testing.assert_allclose(got[np.isfinite(got)], 20.0, rtol=1e-6)
    frame[40:56, 40:56] = np.nan
    got, _ = project(frame, grid, wcs, slice(32, 96), slice(32, 96))
    assert 15 * 15 <= np.isnan(got).sum() <= 18 * 18


def test_taper_falls_smoothly_to_the_edge_and_never_to_zero() -> None:
    frame = np.ones((128, 128), dtype=np.float32)
    # The frame covers canvas pixels 64 … 191 exactly.
    grid, wcs = canvas(256), header(128)
    rows = columns = slice(0, 256)
    _, codes = project(frame, grid, wcs, rows, columns, taper=20.0)
    profile = taper_weight(codes[128, 64:192])
    t = np.clip((np.minimum(np.arange(128), np.arange(127, -1, -1)) + 0.5) / 20.0, 0, 1)
    np.testing.assert_allclose(profile, t**3 * (10 - 15 * t + 6 * t * t), atol=0.005)
    assert profile.min() > 0
    assert (codes[64:192, 64:192] >= 1).all()
    assert codes[:64].max() == 0


@pytest.mark.parametrize("sip", [0.0, 8.0])
def test_a_pixel_does_not_depend_on_the_window_it_is_computed_in(sip: float) -> None:
    rng = np.random.default_rng(11)
    frame = rng.normal(100, 10, (300, 300)).astype(np.float32)
    frame[rng.random(frame.shape) < 0.01] += 500
    frame[rng.random(frame.shape) < 0.01] = np.nan
    grid, wcs = canvas(512), header(300, rotation=17.0, sip=sip, at=(83.01, -5.01))
    extra = {"scale": surface.constant(1.1), "offset": surface.constant(3.0), "taper": 15.0}
    rows = columns = slice(0, 512)
    whole, codes = project(frame, grid, wcs, rows, columns, **extra)  # type: ignore[arg-type]
    for r, c in (
        (slice(201, 264), slice(103, 400)),
        (slice(256, 257), slice(90, 333)),
        (slice(96, 160), slice(128, 256)),
    ):
        part, part_codes = project(frame, grid, wcs, r, c, **extra)  # type: ignore[arg-type]
        np.testing.assert_array_equal(part, whole[r, c])
        np.testing.assert_array_equal(part_codes, codes[r, c])


@pytest.mark.parametrize("kernel", list(REACH))
def test_noise_factor_is_what_white_noise_shows(kernel: str) -> None:
    rng = np.random.default_rng(2)
    frame = rng.normal(0, 1, (400, 400)).astype(np.float32)
    grid, wcs = canvas(512), header(400, rotation=29.0)
    got, _ = project(frame, grid, wcs, slice(150, 360), slice(150, 360), kernel=kernel)
    assert np.var(got) == pytest.approx(kernel_noise_factor(kernel), rel=0.04)
    assert 0.7 < kernel_noise_factor() < 0.9


@pytest.mark.parametrize(("scale", "rotation"), [(0.3, 0.0), (0.5, 15.0), (0.8, 40.0), (1.0, 3.0), (1.25, 20.0)])
def test_noise_factor_of_areas_is_what_white_noise_shows(scale: float, rotation: float) -> None:
    rng = np.random.default_rng(2)
    frame = rng.normal(0, 1, (600, 600)).astype(np.float32)
    grid, wcs = canvas(512), header(600, rotation=rotation, scale=scale)
    got, _ = project(frame, grid, wcs, slice(190, 320), slice(190, 320), kernel="area")
    # Carried: J independent pixels' sum.
    carried = 1 / scale**2
    assert np.var(got) / carried == pytest.approx(kernel_noise_factor("area", 1 / scale**2), rel=0.08)


def test_window_is_none_where_frame_and_canvas_do_not_meet() -> None:
    grid, wcs = canvas(1024), header(128)
    seen = mapped(grid, wcs, 128, slice(0, 128), slice(0, 128))
    assert seen.window(slice(0, 128), slice(0, 128)) is None


@pytest.mark.parametrize("kernel", ["lanczos3", "bilinear", "area"])
def test_weights_are_taper_times_confidence(kernel: str) -> None:
    rng = np.random.default_rng(4)
    frame = rng.normal(100, 10, (160, 160)).astype(np.float32)
    grid, wcs = canvas(160), header(160, rotation=12.0, scale=0.9)
    rows, columns = slice(0, 160), slice(0, 160)
    at = surface.sample_positions()
    fading = surface.fit(np.broadcast_to(np.clip(1.4 - 1.4 * at, 0.0, 1.0), (len(at), len(at))))
    plain, sure = project(frame, grid, wcs, rows, columns, taper=20.0, kernel=kernel)
    values, codes = project(frame, grid, wcs, rows, columns, taper=20.0, kernel=kernel, confidence=fading)
    np.testing.assert_array_equal(values, plain)
    np.testing.assert_array_equal(codes == 0, sure == 0)
    seen = mapped(grid, wcs, 160, rows, columns, confidence=fading)
    x, y, _, _, root = interpolated(seen, rows, columns)
    at_nodes = np.sqrt(np.clip(surface.evaluate(fading, *(f / 159 for f in seen.fields[:2])), 1e-3, 1.0))
    within = (np.abs(seen.fields[:2] / 159 - 0.5) < 0.5).all(axis=0)
    np.testing.assert_allclose(seen.fields[4][within], at_nodes[within], atol=1e-9)
    t = np.clip((np.minimum(np.minimum(x, 159 - x), np.minimum(y, 159 - y)) + 0.5) / 20.0, 0, 1)
    wanted = np.sqrt(t**3 * (10 - 15 * t + 6 * t * t)) * root
    inside = codes > 0
    assert np.abs(np.sqrt(taper_weight(codes)) - wanted)[inside].max() < 1.1 / 255
    assert codes[inside].min() >= 1
    assert codes[inside & (x > 140)].max() < 0.45 * sure.max()
