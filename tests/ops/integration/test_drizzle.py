"""Drizzle: flux, resolution, noise and rejection against simulated skies, and independence of tiles and strips."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.special import erf

from skyloom.ops import surface
from skyloom.ops.calibration.debayer import debayer
from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.ops.frames import register_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.integration.drizzle import drizzle
from skyloom.ops.integration.drizzle_tiles import finer
from skyloom.ops.integration.integrate import integrate
from skyloom.ops.registry import Cost, get_op

KIND = "drizzle-test"
NOISE = 5.0
SKY = 300.0
CANVAS = (128, 160)
FRAME = (112, 140)

Floats = NDArray[np.float64]


def header(
    shape: tuple[int, int], *, rotation: float = 0.0, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0
) -> str:
    """TAN header, `scale` arcsec a pixel, its centre dx, dy arcsec off the canvas'."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = (83.0 - dx / 3600 / np.cos(np.radians(5)), -5.0 + dy / 3600)
    wcs.wcs.crpix = ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs_header(wcs)


@dataclass
class Frames:
    """Frames of stars (canvas x, y, flux), integrated over their pixels, served from memory."""

    canvas: tuple[int, int] = CANVAS
    shape: tuple[int, int] = FRAME
    canvas_scale: float = 1.0
    pixels: list[NDArray[np.float32]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    shifts: list[tuple[float, float]] = field(default_factory=list)
    serial: int = field(default_factory=itertools.count().__next__)
    """What is found of a source's pixels is kept in the process by its text."""

    @property
    def grid(self) -> Grid:
        return Grid(header(self.canvas, scale=self.canvas_scale), self.canvas, 64)

    def add(
        self, *, a: float = 1.0, b: float = 0.0, noise: float = NOISE, shift: tuple[float, float] = (0.0, 0.0),
        stars: Floats | None = None, fwhm: float = 1.2, seed: int = 0, sky: float = SKY, **where: float,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Add a frame d = s / a + b."""
        wcs = header(self.shape, **where)
        frame = np.full(self.shape, sky)
        if stars is not None:
            x, y = sky_to_pixel(parse_wcs(wcs), *pixel_to_sky(self.grid.wcs, stars[:, 0], stars[:, 1]))
            s = fwhm / 2.3548 * np.sqrt(2)
            for px, py, flux in zip(x + shift[0], y + shift[1], stars[:, 2], strict=True):
                along = [
                    0.5 * (erf((np.arange(n) + 0.5 - p) / s) - erf((np.arange(n) - 0.5 - p) / s))
                    for n, p in zip(self.shape, (py, px), strict=True)
                ]
                frame += flux * np.outer(*along)
        rng = np.random.default_rng((seed, len(self.pixels)))
        self.pixels.append((frame / a + b + rng.normal(0, noise, self.shape)).astype(np.float32))
        self.headers.append(wcs)
        self.scales.append(a)
        self.offsets.append(b)
        self.noises.append(noise or 1.0)
        self.shifts.append(shift)
        return self.pixels[-1]

    @property
    def session(self) -> xr.Dataset:
        n = len(self.pixels)
        specs = [json.dumps({"kind": KIND, "index": i, "of": self.serial}) for i in range(n)]
        return xr.Dataset(
            {
                "name": ("frame", np.array([f"night/{i:03d}.fits" for i in range(n)])),
                "source": (
                    "frame",
                    np.array(specs),
                ),
                "height": ("frame", np.full(n, self.shape[0])),
                "width": ("frame", np.full(n, self.shape[1])),
                "wcs": ("frame", np.array(self.headers)),
                "kind": ("frame", np.full(n, "light")),
                "band": ("frame", np.full(n, "L")),
                "units": ("frame", np.full(n, "adu")),
            },
            coords={"frame": np.array([f"{i:016x}" for i in range(n)])},
        )

    @property
    def inputs(self) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
        n = len(self.pixels)
        dims = ("frame", "node_y", "node_x")

        def lazy(values: object) -> Any:
            return da.from_array(np.asarray(values), chunks=-1)

        registration = xr.Dataset(
            {
                "use": ("frame", lazy(np.ones(n, dtype=bool))),
                "shift": (("frame", "axis"), lazy(np.array(self.shifts, dtype=float))),
                "in_canvas": ("frame", np.ones(n, dtype=bool)),
            },
            attrs=self.grid.to_attrs(),
        )
        normalization = xr.Dataset(
            {
                "use": ("frame", np.ones(n, dtype=bool)),
                "scale": (dims, lazy([surface.constant(a) for a in self.scales])),
                "offset": (dims, lazy([surface.constant(b) for b in self.offsets])),
                "noise": ("frame", lazy(self.noises)),
            }
        )
        return self.session, registration, normalization

    def drizzled(self, **parameters: object) -> xr.Dataset:
        with dask.config.set(scheduler="synchronous"):
            return drizzle(*self.inputs, **parameters).compute()  # type: ignore[arg-type]

    def integrated(self, **parameters: object) -> xr.Dataset:
        with dask.config.set(scheduler="synchronous"):
            return integrate(*self.inputs, **parameters).compute()  # type: ignore[arg-type]

    def cost(self, **parameters: object) -> Cost:
        op = get_op("drizzle")
        assert op.cost is not None
        return op.cost(*self.inputs, **op.check(parameters))


@dataclass(frozen=True)
class Memory:
    frames: Frames
    index: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.frames.pixels[self.index].shape

    @property
    def windowed(self) -> bool:
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        assert 0 <= rows.start < rows.stop <= self.shape[0]
        assert 0 <= columns.start < columns.stop <= self.shape[1]
        return self.frames.pixels[self.index][rows, columns].copy()


def served(frames: Frames) -> None:
    register_source(KIND, lambda fields: Memory(frames, int(fields["index"])))


@pytest.fixture
def frames() -> Iterator[Frames]:
    made = Frames()
    served(made)
    yield made
    register_source(KIND, lambda fields: pytest.fail("a frame of a test that is over"))


def dithered(frames: Frames, n: int, *, turn: float = 2.0, **extra: object) -> None:
    rng = np.random.default_rng(9)
    for i in range(n):
        dx, dy = rng.uniform(-6, 6, 2)
        frames.add(rotation=float(rng.uniform(-turn, turn)), dx=dx, dy=dy, seed=i, **extra)  # type: ignore[arg-type]


def test_a_finer_canvas_cuts_every_pixel() -> None:
    grid = Grid(header((100, 128), rotation=20.0, scale=1.3), (100, 128), 32)
    for scale in (1, 2, 3, 5):
        fine = finer(grid, scale)
        assert (fine.shape, fine.tile, fine.tiles) == ((100 * scale, 128 * scale), 32 * scale, grid.tiles)
        assert fine.pixel_scale == pytest.approx(grid.pixel_scale / scale, rel=1e-12)
        x, y = np.array([-0.5, 0.0, 127.5, 60.25]), np.array([-0.5, 99.5, 0.0, 31.0])
        u, v = sky_to_pixel(fine.wcs, *pixel_to_sky(grid.wcs, x, y))
        np.testing.assert_allclose((u, v), (scale * (x + 0.5) - 0.5, scale * (y + 0.5) - 0.5), atol=2e-8)


def test_building_computes_nothing_and_says_what_comes(frames: Frames) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    dithered(frames, 2)
    with dask.config.set(scheduler=refuse):
        lazy = drizzle(*frames.inputs, scale=3, tile=64)
        cost = frames.cost(scale=3, tile=64)
    assert lazy.sizes == {"band": 1, "y": 384, "x": 480}
    assert lazy.image.chunks == ((1,), (192, 192), (192, 192, 96))
    assert Grid.from_attrs(lazy.attrs) == finer(frames.grid.retile(64), 3)
    assert cost.work.shape == (1, 2, 3)
    json.dumps(lazy.attrs)
    assert drizzle(*frames.inputs, scale=3, tile=64).image.data.name == lazy.image.data.name
    for other in ({"pixfrac": 0.5}, {"kernel": "point"}, {"scale": 2}):
        changed: dict[str, Any] = {"scale": 3, "tile": 64, **other}
        assert drizzle(*frames.inputs, **changed).image.data.name != lazy.image.data.name


@pytest.mark.parametrize(
    ("kernel", "pixfrac", "width"),
    # Points sample the sky unevenly: as many as here measure wide stars only.
    [("square", 0.9, 1.6), ("square", 0.5, 1.6), ("turbo", 0.8, 1.6), ("point", 0.5, 4.0)],
)
def test_star_fluxes_and_places_survive(frames: Frames, kernel: str, pixfrac: float, width: float) -> None:
    stars = np.array([[50.3, 40.6, 40000.0], [80.0, 64.5, 20000.0], [104.7, 90.2, 60000.0]])
    a = 1.2
    rng = np.random.default_rng(2)
    for i in range(48):
        frames.add(
            a=a, b=100.0 + i, noise=0.0, stars=stars, fwhm=width, shift=(1.3, -0.7),
            rotation=37.0 * i, scale=1.0 + 0.003 * i, dx=rng.uniform(-4, 4), dy=rng.uniform(-4, 4), sky=0.0,
        )  # fmt: skip
    result = frames.drizzled(kernel=kernel, pixfrac=pixfrac, rejection="none")
    image = result.image.values[0]
    assert np.isfinite(image[50:200, 60:260]).mean() > (0.98 if kernel == "point" else 0.9999)
    image = np.nan_to_num(image)
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    for x, y, flux in stars:
        near = np.hypot(xx - 2 * x - 0.5, yy - 2 * y - 0.5) < 14
        light = image[near].astype(float)
        assert light.sum() == pytest.approx(flux, rel=3e-3)
        assert (light * xx[near]).sum() / light.sum() == pytest.approx(2 * x + 0.5, abs=0.05)
        assert (light * yy[near]).sum() / light.sum() == pytest.approx(2 * y + 0.5, abs=0.05)


def fwhm(image: NDArray[np.float32], x: float, y: float) -> float:
    """FWHM (pixels) of a round Gaussian fitted to a star."""
    rows, columns = slice(int(y) - 9, int(y) + 11), slice(int(x) - 9, int(x) + 11)
    yy, xx = np.mgrid[rows, columns]

    def model(_: Floats, flux: float, x0: float, y0: float, s: float, level: float) -> Floats:
        return np.ravel(level + flux * np.exp(-((xx - x0) ** 2 + (yy - y0) ** 2) / (2 * s * s)))

    cut = np.ravel(image[rows, columns]).astype(float)
    best, _ = curve_fit(model, np.zeros(cut.size), cut, p0=(cut.max(), x, y, 1.5, 0.0))
    return 2.3548 * abs(float(best[3]))


def test_dithered_undersampled_stars_get_sharper(frames: Frames) -> None:
    # Stars of 0.8 pixels FWHM, with the pixel's own width 1.05.
    stars = np.array([[50.3, 40.6, 4e4], [80.0, 64.5, 4e4], [104.7, 90.2, 4e4]])
    dithered(frames, 60, noise=0.0, stars=stars, sky=0.0, fwhm=0.8)
    images = {
        "half": (frames.drizzled(pixfrac=0.5, rejection="none").image.values[0], 2),
        "default": (frames.drizzled(rejection="none").image.values[0], 2),
        "interpolated": (frames.integrated(rejection="none").image.values[0], 1),
    }
    frames.canvas, frames.canvas_scale = (256, 320), 0.5
    images["interpolated finely"] = (frames.integrated(rejection="none").image.values[0], 2)
    width, flux = {}, {}
    for name, (image, s) in images.items():
        places = [(s * (x + 0.5) - 0.5, s * (y + 0.5) - 0.5) for x, y, _ in stars]
        width[name] = np.mean([fwhm(image, x, y) / s for x, y in places])
        yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
        flux[name] = [image[np.hypot(xx - x, yy - y) < 7 * s].sum(dtype=float) for x, y in places]
    # A drop of half a pixel and a canvas pixel of half a pixel widen 1.05 to 1.16.
    assert width["half"] == pytest.approx(1.16, abs=0.05)
    assert width["half"] < 0.9 * width["interpolated finely"]
    assert width["half"] < 0.98 * width["interpolated"]
    assert width["default"] < width["interpolated finely"]
    for name in ("half", "default"):
        np.testing.assert_allclose(flux[name], 4e4, rtol=3e-3)


def block_noise(kernel: str, side: float, block: int) -> float:
    """Noise of a sum over block × block pixels over that of as many independent ones, drops lying evenly."""
    t = (np.arange(6400) - 3200) / 400
    spread = np.clip(np.minimum(t + side / 2, 0.5) - np.maximum(t - side / 2, -0.5), 0, None)
    if kernel == "point":
        spread = np.where((t >= -0.5) & (t < 0.5), 1.0, 0.0)
    shared = [np.sum(spread[400 * k :] * spread[: spread.size - 400 * k]) for k in range(8)]
    whole = block * shared[0] + 2 * sum((block - k) * shared[k] for k in range(1, 8))
    return float(whole / (block * shared[0]))


@pytest.mark.parametrize(("kernel", "pixfrac"), [("square", 0.8), ("square", 0.4), ("turbo", 0.8), ("point", 1.0)])
def test_variance_and_correlation_are_those_of_the_noise(frames: Frames, kernel: str, pixfrac: float) -> None:
    rng = np.random.default_rng(9)
    for i in range(40):
        dx, dy = rng.uniform(-6, 6, 2)
        a = 1.0 if i % 2 else 0.5
        frames.add(a=a, b=20.0 * i, dx=dx, dy=dy, seed=i, rotation=float(rng.uniform(-2, 2)), sky=300.0)
    result = frames.drizzled(kernel=kernel, pixfrac=pixfrac, rejection="none")
    core = (0, slice(48, 208), slice(48, 272))
    image, variance = result.image.values[core].astype(float), result.variance.values[core].astype(float)
    covered = np.isfinite(image)
    assert covered.mean() > 0.99
    deviation = np.where(covered, image - SKY / 4, 0.0)
    assert deviation.mean() == pytest.approx(0.0, abs=0.02)
    assert np.mean(deviation[covered] ** 2 / variance[covered]) == pytest.approx(1.0, rel=0.04)
    # Of frames half as noisy on the canvas, four times the weight.
    expected = (20 / NOISE**2 + 20 / (0.5 * NOISE) ** 2) * 4
    assert result.weight.values[core][covered].mean() == pytest.approx(expected, rel=0.01)
    blocks = deviation.reshape(20, 8, 28, 8).sum(axis=(1, 3))
    ideal = np.where(covered, variance, 0.0).reshape(20, 8, 28, 8).sum(axis=(1, 3))
    ratio = float(np.mean(blocks**2 / ideal)) ** 0.5
    assert ratio == pytest.approx(block_noise(kernel, 2 * pixfrac, 8), rel=0.05)
    assert result.attrs["noise_correlation"] == pytest.approx(block_noise(kernel, 2 * pixfrac, 100_000), rel=0.01)


def test_frames_of_larger_pixels_weigh_by_their_area(frames: Frames) -> None:
    # The same noise over an area, in pixels of different sizes: the same weight.
    for i in range(12):
        large = i % 2 == 1
        frames.add(scale=1.6 if large else 1.0, noise=NOISE * (1.6 if large else 1.0), dx=0.3 * i, seed=i)
    work = frames.drizzled(rejection="none")
    alone = []
    columns = ("pixels", "headers", "scales", "offsets", "noises", "shifts")
    for first in (0, 1):
        other = Frames(frames.canvas, frames.shape, 1.0, *(getattr(frames, n)[first::2] for n in columns))
        served(other)
        alone.append(float(np.mean(other.drizzled(rejection="none").weight.values[0, 100:150, 100:200])))
    assert alone[0] == pytest.approx(alone[1], rel=0.02)
    together = float(np.mean(work.weight.values[0, 100:150, 100:200]))
    assert together == pytest.approx(alone[0] + alone[1], rel=0.02)


def spoil(frames: Frames) -> None:
    """Cosmic rays, dead pixels and a trail."""
    rng = np.random.default_rng(1)
    for i, frame in enumerate(frames.pixels):
        frame[rng.random(frame.shape) < 0.002] += 400
        frame[rng.random(frame.shape) < 0.002] = np.nan
        if i == 2:
            frame[50:53, :] += 60


@pytest.mark.parametrize(("n", "parameters"), [(3, {"rejection": "auto"}), (10, {}), (10, {"kernel": "turbo"})])
def test_tiles_and_strips_do_not_show(frames: Frames, n: int, parameters: dict[str, object]) -> None:
    dithered(frames, n)
    spoil(frames)
    whole = frames.drizzled(tile=512, **parameters)
    assert whole.rejected_high.values.sum() > 500
    least = float(frames.cost(tile=512, task_memory=2.0**30, **parameters).memory.max())
    for other in ({"tile": 32}, {"tile": 96}, {"tile": 512, "task_memory": 0.95 * least}):
        part = frames.drizzled(**parameters, **other)
        for name in whole.data_vars:
            np.testing.assert_array_equal(part[name].values, whole[name].values, err_msg=f"{name} {other}")


def test_outliers_are_gone(frames: Frames) -> None:
    dithered(frames, 12)
    clean = frames.drizzled(rejection="none")
    good = [f.copy() for f in frames.pixels]
    spoil(frames)
    hit = sum(int(np.sum(f > g + 30)) for f, g in zip(frames.pixels, good, strict=True))
    core = (0, slice(60, 200), slice(60, 260))
    kept = frames.drizzled(rejection="none").image.values[core] - clean.image.values[core]
    result = frames.drizzled()
    difference = result.image.values[core] - clean.image.values[core]
    noise = np.sqrt(np.median(clean.variance.values[core]))
    assert np.abs(kept).max() > 5 * noise
    assert np.abs(difference).max() < 4 * noise
    assert abs(difference.mean()) < 0.02 * noise
    assert (result["count"] + result.rejected_high + result.rejected_low <= 24).all()
    assert hit > 0
    # As much is rejected as on the canvas itself.
    coarse = frames.integrated()
    rejected = [float(r.rejected_high.sum() + r.rejected_low.sum()) for r in (result, coarse)]
    assert 4.0 * rejected[1] < rejected[0] < 10.0 * rejected[1]


@pytest.mark.parametrize("n", [8, 24])
def test_sharp_star_cores_are_no_outliers(frames: Frames, n: int) -> None:
    # Of stars narrower than a pixel no two frames see the same.
    stars = np.array([[50.3, 40.6, 4e4], [80.0, 64.5, 4e3], [104.7, 90.2, 4e4]])
    dithered(frames, n, stars=stars, fwhm=0.8)
    plain, result = (frames.drizzled(rejection=r).image.values[0] for r in ("none", "winsorized"))
    yy, xx = np.mgrid[: plain.shape[0], : plain.shape[1]]
    for x, y, flux in stars:
        near = np.hypot(xx - 2 * x - 0.5, yy - 2 * y - 0.5) < 6
        assert abs(float(np.sum(result[near] - plain[near]))) < 2e-3 * flux
        assert np.max(np.abs(result[near] - plain[near])) < 0.01 * plain[near].max()


def test_cosmic_rays_where_one_frame_is_alone(frames: Frames) -> None:
    frames.add(dx=-10.0, rotation=30.0)
    rng = np.random.default_rng(3)
    for y, x in zip(rng.integers(10, 100, 40), rng.integers(10, 130, 40), strict=True):
        # Two pixels may have their centres in one of the canvas: its sample is that of the nearer one.
        frames.pixels[0][y, x] += 4000
    rays = frames.drizzled(rejection="auto")
    assert np.nanmax(rays.image.values) < SKY / 4 + 8 * NOISE / 4
    assert rays.rejected_high.values.sum() > 8
    assert np.nanmax(frames.drizzled().image.values) > 500


def test_holes_are_no_data(frames: Frames) -> None:
    frames.add(rotation=1.0)
    result = frames.drizzled(kernel="point", rejection="none")
    there = result["count"].values[0] > 0
    assert there.sum() == pytest.approx(FRAME[0] * FRAME[1], rel=1e-3)
    for name in ("image", "weight", "variance"):
        np.testing.assert_array_equal(np.isfinite(result[name].values[0]), there)
    np.testing.assert_allclose(result.weight.values[0][there].max(), 4 * 4 / NOISE**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("n", "part", "parameters"),
    [(2, 1.0, {}), (12, 1.0, {}), (12, 0.6, {}), (12, 1.0, {"rejection": "none"}), (6, 1.0, {"rejection": "esd"})],
)
def test_memory_of_a_tile_is_what_the_cost_says(
    frames: Frames, n: int, part: float, parameters: dict[str, object]
) -> None:
    frames.shape, frames.canvas = (480, 480), (416, 416)
    for i in range(n):
        frames.add(rotation=4.0 * i)
    whole = float(frames.cost(tile=416, task_memory=2.0**30, **parameters).memory[0, 0, 0])
    arguments = {"tile": 416, "task_memory": part * whole, **parameters}
    predicted = float(frames.cost(**arguments).memory[0, 0, 0])
    assert predicted <= part * whole
    lazy = drizzle(*frames.inputs, **arguments)  # type: ignore[arg-type]
    with dask.config.set(scheduler="synchronous"):
        lazy.image.compute()  # compiled code and caches
        tracemalloc.start()
        lazy.compute()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 0.75 * predicted < peak < 1.1 * predicted


def test_keys_follow_what_a_tile_depends_on(frames: Frames) -> None:
    dithered(frames, 3)
    op = get_op("drizzle")
    assert op.keys is not None

    def keys(**parameters: object) -> NDArray[np.str_]:
        session, registration, normalization = frames.inputs
        arguments = op.check({"tile": 64, **parameters})
        assert op.keys is not None
        return np.asarray(op.keys(session, registration.compute(), normalization.compute(), **arguments))

    before = keys()
    assert before.shape == (1, 2, 3)
    assert (before != "").all()
    np.testing.assert_array_equal(keys(), before)
    frames.offsets[1] = 3.0
    assert (keys() != before).all()


def test_errors_name_the_frame_and_the_remedy(frames: Frames) -> None:
    dithered(frames, 3)
    with pytest.raises(ConfigError, match="multiple of 32"):
        drizzle(*frames.inputs, tile=100)
    with pytest.raises(CapacityError, match="raise the memory limit"):
        drizzle(*frames.inputs, task_memory=1e6)
    frames.noises[2] = np.nan
    with pytest.raises(DataError, match=r"002\.fits has no noise"):
        frames.drizzled()


def colour_session(frames: Frames, bayer: str, method: str = "superpixel") -> xr.Dataset:
    """The frames as those of a colour sensor, taken apart by colour."""
    n = len(frames.pixels)
    session = frames.session.assign(
        bayer=("frame", np.full(n, bayer)), facts=("frame", np.full(n, "{}")), gain=("frame", np.ones(n))
    )
    return debayer(session, method=method)  # type: ignore[arg-type]


def colour_inputs(
    frames: Frames, session: xr.Dataset, **noises: float
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Inputs of `drizzle` for planes: shifts are in superpixels, each noise that of its band."""
    planes = Frames(frames.canvas, frames.shape)
    bands = session["band"].values.tolist()
    planes.pixels = [frames.pixels[0]] * len(bands)
    planes.headers = [frames.headers[i // 3] for i in range(len(bands))]
    for i, band in enumerate(bands):
        planes.scales.append(frames.scales[i // 3])
        planes.offsets.append(frames.offsets[i // 3])
        planes.noises.append(noises.get(band, frames.noises[i // 3]))
        planes.shifts.append(tuple(0.5 * s for s in frames.shifts[i // 3]))  # type: ignore[arg-type]
    _, registration, normalization = planes.inputs
    registration.attrs.update(frames.grid.to_attrs())
    return session, registration, normalization


def coloured(
    frames: Frames, session: xr.Dataset, *, noises: dict[str, float] | None = None, **parameters: Any
) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return drizzle(*colour_inputs(frames, session, **(noises or {})), **parameters).compute()


@pytest.mark.parametrize("bayer", ["RGGB", "GRBG", "GBRG", "BGGR"])
@pytest.mark.parametrize("kernel", ["square", "point"])
def test_colours_are_the_pixels_of_the_sensor(frames: Frames, bayer: str, kernel: str) -> None:
    # A canvas of superpixels, twice as fine again: pixels of the sensor, dropped where they lie there.
    frames.canvas, frames.canvas_scale = (64, 80), 2.0
    dithered(frames, 6, shift=(1.4, -0.6))
    frames.pixels[1][40:44, 60:63] = np.nan
    session = colour_session(frames, bayer)
    parameters: dict[str, Any] = {
        "kernel": kernel, "pixfrac": 0.9, "rejection": "none", "weighting": "none", "taper": 0.0,
    }  # fmt: skip
    colours = coloured(frames, session, **parameters)
    assert colours.band.values.tolist() == ["B", "G", "R"]
    whole = list(frames.pixels)
    for band, share in (("R", 4), ("G", 2), ("B", 4)):
        # The same by hand: frames of which all but one colour is no data.
        own = np.array([[colour == band for colour in row] for row in (bayer[:2], bayer[2:])])
        mask = np.tile(own, (FRAME[0] // 2, FRAME[1] // 2))
        frames.pixels[:] = [np.where(mask, p, np.nan).astype(np.float32) for p in whole]
        alone = frames.drizzled(**parameters).isel(band=0)
        one = colours.sel(band=band)
        np.testing.assert_array_equal(one["count"].values, alone["count"].values)
        # An area of the canvas in superpixels is a quarter of that in pixels.
        np.testing.assert_allclose(one.image.values, alone.image.values / 4, rtol=2e-5)
        np.testing.assert_allclose(one.weight.values, alone.weight.values * share, rtol=1e-4, atol=1e-6)


def test_stars_lie_on_each_other_in_all_colours(frames: Frames) -> None:
    frames.canvas, frames.canvas_scale = (64, 80), 2.0
    stars = np.array([[25.3, 20.6, 4e4], [40.0, 32.5, 4e4], [52.7, 45.2, 4e4]])
    dithered(frames, 90, noise=0.0, stars=stars, sky=0.0, fwhm=1.8)
    session = colour_session(frames, "GRBG")
    fine = coloured(frames, session, pixfrac=1.0, rejection="none")
    planes = coloured(frames, session, pixfrac=1.0, rejection="none", colours="planes")
    yy, xx = np.mgrid[: fine.sizes["y"], : fine.sizes["x"]]
    for band in ("R", "G", "B"):
        image = fine.image.sel(band=band).values
        assert np.isfinite(image[20:108, 20:140]).all()
        for x, y, flux in stars:
            near = np.hypot(xx - 2 * x - 0.5, yy - 2 * y - 0.5) < 9
            light = image[near].astype(float)
            # Superpixels see a quarter of the light in each colour.
            assert light.sum() == pytest.approx(flux / 4, rel=0.01)
            assert (light * xx[near]).sum() / light.sum() == pytest.approx(2 * x + 0.5, abs=0.03)
            assert (light * yy[near]).sum() / light.sum() == pytest.approx(2 * y + 0.5, abs=0.03)
            sharp, wide = (fwhm(i.image.sel(band=band).values, 2 * x + 0.5, 2 * y + 0.5) for i in (fine, planes))
            # 1.8 widened by pixel, drop and canvas pixel, 0.68 each; the drop of a superpixel is twice as wide.
            assert sharp == pytest.approx(2.15, abs=0.1)
            assert sharp < 0.9 * wide


def test_noise_of_colours_is_that_of_single_pixels(frames: Frames) -> None:
    frames.canvas, frames.canvas_scale = (64, 80), 2.0
    dithered(frames, 60)
    session = colour_session(frames, "RGGB")
    # As measured on planes, where greens are means of two.
    result = coloured(frames, session, pixfrac=1.0, rejection="none", noises={"G": NOISE / 2**0.5})
    core = (slice(20, 108), slice(20, 140))
    for band in ("R", "G", "B"):
        one = result.sel(band=band)
        deviation, variance = one.image.values[core] - SKY / 4, one.variance.values[core]
        assert np.mean(deviation**2 / variance) == pytest.approx(1.0, rel=0.05)
        noise = NOISE / 2**0.5 if band == "G" else NOISE
        # Of superpixels a fine pixel is a quarter.
        assert one.weight.values[core].mean() == pytest.approx(60 * 4 / noise**2, rel=0.02)
    # Drops as large as the fine pixels.
    assert result.attrs["noise_correlation"] == pytest.approx(1.5, rel=0.01)


def test_outliers_of_colours_are_gone_and_tiles_do_not_show(frames: Frames) -> None:
    frames.canvas, frames.canvas_scale = (64, 80), 2.0
    dithered(frames, 14)
    clean = coloured(frames, colour_session(frames, "GBRG"), rejection="none")
    spoil(frames)
    session = colour_session(frames, "GBRG")
    noises = {"G": NOISE / 2**0.5}
    whole = coloured(frames, session, noises=noises)
    for name, values in coloured(frames, session, noises=noises, tile=32).data_vars.items():
        np.testing.assert_array_equal(values.values, whole[name].values, err_msg=str(name))
    there = np.isfinite(whole.image.values) & np.isfinite(clean.image.values)
    there[:, :16] = there[:, -16:] = there[:, :, :16] = there[:, :, -16:] = False
    difference = np.abs(whole.image.values - clean.image.values)[there]
    noise = np.sqrt(clean.variance.values)[there]
    spoiled = coloured(frames, session, rejection="none")
    assert np.nanmax(np.abs(spoiled.image.values - clean.image.values)[there] / noise) > 30
    assert np.max(difference / noise) < 8
    assert np.mean(difference / noise > 4) < 1e-3


def test_interpolated_planes_are_refused(frames: Frames) -> None:
    dithered(frames, 2)
    session = colour_session(frames, "RGGB", "interpolate")
    with pytest.raises(ConfigError, match=r"000\.fits \[R\] is interpolated.*debayer\.method = superpixel"):
        drizzle(*colour_inputs(frames, session))
    drizzle(*colour_inputs(frames, session), colours="planes")
