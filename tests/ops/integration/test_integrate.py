"""Integration: truth on the canvas, laziness, and independence of tiles and strips."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from skyloom.ops import surface
from skyloom.ops.errors import CapacityError, ConfigError, DataError, NotYetKnown
from skyloom.ops.formats.examine import examine
from skyloom.ops.frames import register_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.integration.integrate import integrate
from skyloom.ops.integration.overlaps import FrameSpec
from skyloom.ops.integration.rejection import Rejection
from skyloom.ops.integration.solution import Solution
from skyloom.ops.integration.tiles import Options, TileSpec, integrate_tile
from skyloom.ops.registry import get_op

KIND = "integrate-test"
SKY = 300.0
NOISE = 5.0


def header(
    shape: tuple[int, int], *, rotation: float = 0.0, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0
) -> str:
    """TAN header with its centre dx, dy arcsec off the canvas'."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = (83.0 - dx / 3600 / np.cos(np.radians(5)), -5.0 + dy / 3600)
    wcs.wcs.crpix = ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    return wcs_header(wcs)


@dataclass
class Sky:
    """Frames of a known sky, served from memory."""

    shape: tuple[int, int] = (200, 240)
    canvas: tuple[int, int] = (320, 352)
    frames: list[NDArray[np.float32]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    bands: list[str] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    shifts: list[tuple[float, float]] = field(default_factory=list)
    use: list[bool] = field(default_factory=list)
    confidence: NDArray[np.float64] | None = None
    reads: Counter[int] = field(default_factory=Counter)
    pixels_read: int = 0

    @property
    def grid(self) -> Grid:
        return Grid(header(self.canvas), self.canvas, 1024)

    def add(
        self, *, a: float = 1.0, b: float = 0.0, noise: float = NOISE, shift: tuple[float, float] = (0, 0),
        stars: NDArray[np.float64] | None = None, fwhm: float = 3.0, band: str = "L", seed: int = 0,
        **where: float,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Add a frame d = (s / a) + b of the sky plus stars (canvas x, y, flux), s per frame pixel."""
        wcs = header(self.shape, **where)
        frame = np.full(self.shape, SKY, dtype=np.float64)
        if stars is not None:
            x, y = sky_to_pixel(parse_wcs(wcs), *pixel_to_sky(self.grid.wcs, stars[:, 0], stars[:, 1]))
            yy, xx = np.mgrid[: self.shape[0], : self.shape[1]]
            s = fwhm / 2.3548
            for px, py, flux in zip(x + shift[0], y + shift[1], stars[:, 2], strict=True):
                frame += flux / (2 * np.pi * s * s) * np.exp(-((xx - px) ** 2 + (yy - py) ** 2) / (2 * s * s))
        rng = np.random.default_rng(1000 * seed + len(self.frames))
        pixels = (frame / a + b + rng.normal(0, noise, self.shape)).astype(np.float32)
        self.frames.append(pixels)
        self.headers.append(wcs)
        self.bands.append(band)
        self.scales.append(a)
        self.offsets.append(b)
        self.noises.append(noise or 1.0)
        self.shifts.append(shift)
        self.use.append(True)
        return pixels

    @property
    def session(self) -> xr.Dataset:
        n = len(self.frames)
        specs = [json.dumps({"kind": KIND, "index": i}) for i in range(n)]
        return xr.Dataset(
            {
                "name": ("frame", np.array([f"night/{i:03d}.fits" for i in range(n)])),
                "source": ("frame", np.array(specs)),
                "height": ("frame", np.full(n, self.shape[0])),
                "width": ("frame", np.full(n, self.shape[1])),
                "wcs": ("frame", np.array(self.headers)),
                "kind": ("frame", np.full(n, "light")),
                "band": ("frame", np.array(self.bands)),
                "units": ("frame", np.full(n, "adu")),
            },
            coords={"frame": np.array([f"{i:016x}" for i in range(n)])},
        )

    @property
    def registration(self) -> xr.Dataset:
        n = len(self.frames)
        use, shift = np.array(self.use), np.array(self.shifts, dtype=float)
        return xr.Dataset(
            {
                "use": ("frame", da.from_array(use, chunks=-1)),
                "shift": (("frame", "axis"), da.from_array(shift, chunks=-1)),
                "in_canvas": ("frame", np.ones(n, dtype=bool)),
            },
            attrs=self.grid.to_attrs(),
        )

    @property
    def normalization(self) -> xr.Dataset:
        n = len(self.frames)
        dims = ("frame", "node_y", "node_x")
        more = {} if self.confidence is None else {"confidence": (dims, da.from_array(self.confidence, chunks=-1))}
        return xr.Dataset(
            {
                **more,
                "use": ("frame", np.ones(n, dtype=bool)),
                "scale": (dims, da.from_array(np.stack([surface.constant(a) for a in self.scales]), chunks=-1)),
                "offset": (dims, da.from_array(np.stack([surface.constant(b) for b in self.offsets]), chunks=-1)),
                "noise": ("frame", da.from_array(np.array(self.noises), chunks=-1)),
            }
        )

    def integrate(self, approval: xr.Dataset | None = None, **parameters: object) -> xr.Dataset:
        return integrate(self.session, self.registration, self.normalization, approval, **parameters)  # type: ignore[arg-type]

    def computed(self, approval: xr.Dataset | None = None, **parameters: object) -> xr.Dataset:
        with dask.config.set(scheduler="synchronous"):
            return self.integrate(approval, **parameters).compute()

    def approval(self, **measures: list[float]) -> xr.Dataset:
        values = {name: ("frame", da.from_array(np.array(v), chunks=-1)) for name, v in measures.items()}
        return xr.Dataset(values, coords={"frame": self.session["frame"].values})


@dataclass(frozen=True)
class MemorySource:
    sky: Sky
    index: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.sky.frames[self.index].shape

    @property
    def windowed(self) -> bool:
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        assert 0 <= rows.start < rows.stop <= self.shape[0]
        assert 0 <= columns.start < columns.stop <= self.shape[1]
        self.sky.reads[self.index] += 1
        out = self.sky.frames[self.index][rows, columns].copy()
        self.sky.pixels_read += out.size
        return out


@pytest.fixture
def sky() -> Iterator[Sky]:
    made = Sky()
    register_source(KIND, lambda fields: MemorySource(made, int(fields["index"])))
    yield made
    register_source(KIND, lambda fields: pytest.fail("a frame of a test that is over"))


def dithered(sky: Sky, n: int, **extra: object) -> None:
    rng = np.random.default_rng(9)
    for i in range(n):
        dx, dy = rng.uniform(-12, 12, 2)
        sky.add(rotation=float(rng.uniform(-3, 3)), dx=dx, dy=dy, seed=i, **extra)  # type: ignore[arg-type]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was computed")


def test_building_computes_nothing_and_says_what_comes(sky: Sky) -> None:
    dithered(sky, 3)
    with dask.config.set(scheduler=refuse):
        lazy = sky.integrate(tile=96)
        cost = get_op_cost(sky, tile=96)
    assert sky.reads.total() == 0
    assert lazy.sizes == {"band": 1, "y": 320, "x": 352}
    assert lazy.image.chunks == ((1,), (96, 96, 96, 32), (96, 96, 96, 64))
    assert {v: str(lazy[v].dtype) for v in lazy.variables if v != "band"} == {
        "image": "float32", "weight": "float32", "variance": "float32",
        "count": "uint16", "rejected_low": "uint16", "rejected_high": "uint16",
    }  # fmt: skip
    assert all(lazy[v].chunks == lazy.image.chunks for v in lazy.data_vars)
    assert Grid.from_attrs(lazy.attrs) == sky.grid.retile(96)
    assert lazy.attrs["units"] == "adu"
    json.dumps(lazy.attrs)
    assert cost.work.shape == (1, 4, 4)
    same = sky.integrate(tile=96)
    assert same.image.data.name == lazy.image.data.name
    assert sky.integrate(tile=96, high=4.0).image.data.name != lazy.image.data.name


def get_op_cost(sky: Sky, **parameters: object):  # type: ignore[no-untyped-def]
    import skyloom.ops.integration.integrate  # noqa: F401

    op = get_op("integrate")
    assert op.cost is not None
    return op.cost(sky.session, sky.registration, sky.normalization, **op.check(parameters))


def test_a_window_reads_only_the_frames_over_it(sky: Sky) -> None:
    sky.shape, sky.canvas = (64, 64), (512, 512)
    for k, dx in enumerate((-200.0, -190.0, 0.0, 200.0)):
        sky.add(dx=dx, dy=-200.0, band="L" if k != 1 else "R")
    lazy = sky.integrate(tile=64)
    assert list(lazy.band.values) == ["L", "R"]
    # Frames lie around canvas x = 255 + dx, y = 255 - 200 (the sky's x runs with the canvas').
    image = lazy.image.sel(band="L")[32:80, 240:270]
    with dask.config.set(scheduler="synchronous"):
        values = image.compute()
    assert set(sky.reads) == {2}
    assert np.isfinite(values).any()
    (culled,) = dask.optimize(image.data)  # type: ignore[attr-defined, no-untyped-call]
    # Two tiles of the window's four have frames: tiles, six-fold results not asked for, and the solution.
    assert len(dict(culled.__dask_graph__())) <= 30


def test_tiles_without_frames_are_no_data(sky: Sky) -> None:
    sky.shape, sky.canvas = (64, 64), (512, 512)
    sky.add(dx=-200.0, dy=-200.0)
    result = sky.computed(tile=64)
    covered = result["count"].values[0] > 0
    assert 62 * 62 <= covered.sum() <= 66 * 66
    assert np.isnan(result.image.values[0][~covered]).all()
    assert np.isfinite(result.image.values[0][covered]).all()
    cost = get_op_cost(sky, tile=64)
    assert (cost.work == 0).sum() > 40
    assert cost.work.sum() == pytest.approx(64 * 64 / 1e6, abs=0.03)


def test_level_weight_and_variance_are_the_truth(sky: Sky) -> None:
    # Twice as sensitive frames carry half the noise onto the canvas.
    for i in range(12):
        a = 1.0 if i % 2 else 0.5
        sky.add(a=a, b=20.0 * i, rotation=3.0 * i, seed=i, dx=i, dy=-i)
    result = sky.computed(tile=128)
    core = (0, slice(130, 190), slice(140, 210))
    image = result.image.values[core]
    assert image.mean() == pytest.approx(SKY, abs=0.05)
    expected = 6 / NOISE**2 + 6 / (0.5 * NOISE) ** 2
    assert np.median(result.weight.values[core]) == pytest.approx(expected, rel=1e-4)
    assert np.median(result.variance.values[core]) == pytest.approx(1 / expected, rel=1e-4)
    factor = result.attrs["kernel_noise_factor"]
    assert image.var() == pytest.approx(factor / expected, rel=0.1)
    flat = sky.computed(tile=128, weighting="none", rejection="none")
    np.testing.assert_allclose(flat.weight.values[core], 12.0, rtol=1e-5)
    assert flat.image.values[core].var() > 1.2 * image.var()
    assert (flat["count"].values[core] == 12).all()


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_star_fluxes_survive_rotation_and_scale(sky: Sky, scale: float) -> None:
    rng = np.random.default_rng(4)
    stars = np.stack([np.linspace(120, 230, 5), rng.uniform(120, 200, 5), np.full(5, 40000.0)], axis=1)
    a = 1.2
    for i in range(3):
        sky.add(
            a=a, b=100.0, noise=0.0, stars=stars, fwhm=3.2, shift=(1.3, -0.7),
            rotation=40.0 * i + 5, scale=scale, dx=3.0 * i, dy=-2.0 * i,
        )  # fmt: skip
    result = sky.computed(tile=96)
    image = result.image.values[0] - SKY / scale**2
    yy, xx = np.mgrid[:320, :352]
    for x, y, flux in stars:
        near = np.hypot(xx - x, yy - y) < 10
        light = image[near].astype(float)
        assert light.sum() == pytest.approx(flux, rel=2e-3)
        assert (light * xx[near]).sum() / light.sum() == pytest.approx(x, abs=0.01)
        assert (light * yy[near]).sum() / light.sum() == pytest.approx(y, abs=0.01)


@pytest.mark.parametrize("n", [2, 4, 10])
def test_tiles_and_strips_do_not_show(sky: Sky, n: int) -> None:
    dithered(sky, n)
    rng = np.random.default_rng(1)
    for frame in sky.frames:
        frame[rng.random(frame.shape) < 0.002] += 400
        frame[rng.random(frame.shape) < 0.002] = np.nan
        frame[80:83, :] += 60
    whole = sky.computed(tile=512)
    assert whole.rejected_high.values.sum() > 500
    for parameters in ({"tile": 64}, {"tile": 96}, {"tile": 512, "task_memory": 5.2e6}):
        part = sky.computed(**parameters)
        for name in whole.data_vars:
            np.testing.assert_array_equal(part[name].values, whole[name].values, err_msg=f"{name} {parameters}")
    # The last of these worked in strips.
    assert sky.reads[0] > 1 + 20 + 12


def seeing(sky: Sky, n: int) -> NDArray[np.float64]:
    """Frames of the same stars with a FWHM of 2 … 4 px; the stars."""
    rng = np.random.default_rng(8)
    stars = np.stack([rng.uniform(110, 240, 14), rng.uniform(110, 210, 14), np.geomspace(500, 1e5, 14)], axis=1)
    for i, fwhm in enumerate(np.linspace(2.0, 4.0, n)):
        sky.add(stars=stars, fwhm=float(fwhm), rotation=0.7 * i, dx=2.0 * i, dy=-1.5 * i, seed=i)
    return stars


@pytest.mark.parametrize("n", [3, 5, 8, 12])
def test_star_cores_survive_seeing(sky: Sky, n: int) -> None:
    stars = seeing(sky, n)
    plain = sky.computed(rejection="none").image.values[0]
    difference = sky.computed().image.values[0] - plain
    yy, xx = np.mgrid[:320, :352]
    for x, y, flux in stars:
        near = np.hypot(xx - x, yy - y) < 6
        assert abs(difference[near].sum()) < 0.002 * flux + NOISE / np.sqrt(n) * 6
        assert np.abs(difference[near]).max() < 0.01 * (plain[near].max() - SKY) + 4 * NOISE / np.sqrt(n)


def test_cosmic_rays_and_trails_are_gone(sky: Sky) -> None:
    stars = seeing(sky, 6)
    clean = sky.computed(rejection="none")
    rng = np.random.default_rng(2)
    for i, frame in enumerate(sky.frames):
        for _ in range(40):
            y, x = rng.integers(5, 190), rng.integers(5, 230)
            frame[y, x : x + 2] += rng.uniform(300, 5000)
        if i == 2:
            yy, xx = np.mgrid[: frame.shape[0], : frame.shape[1]]
            frame += (200 * np.exp(-((yy - 0.4 * xx - 50) ** 2) / (2 * 1.5**2))).astype(np.float32)
    core = (0, slice(100, 220), slice(100, 250))
    yy, xx = np.mgrid[100:220, 100:250]
    away = np.ones(xx.shape, dtype=bool)
    for x, y, _ in stars:
        away &= np.hypot(xx - x, yy - y) > 10
    noise = NOISE / np.sqrt(6)
    kept = sky.computed(rejection="none").image.values[core] - clean.image.values[core]
    difference = sky.computed().image.values[core] - clean.image.values[core]
    assert np.abs(kept[away]).max() > 100 * noise
    assert np.abs(difference[away]).max() < 5 * noise
    assert abs(difference[away].mean()) < 0.1 * noise
    ungrown = sky.computed(grow=False).image.values[core] - clean.image.values[core]
    assert difference[away].std() < ungrown[away].std()


def test_frames_not_used_leave_no_trace(sky: Sky) -> None:
    dithered(sky, 4)
    sky.frames[1][:] = 1e6
    sky.use[1] = False
    result = sky.computed(rejection="none")
    assert np.nanmax(result.image.values) < 2 * SKY
    assert result["count"].values.max() == 3
    assert sky.reads[1] == 0


def test_taper_hides_the_edge_of_a_mismatched_frame(sky: Sky) -> None:
    for i in range(4):
        sky.add(noise=0.0, dx=0.0 if i else 60.0, seed=i)
    sky.frames[0] += np.float32(8.0)
    soft = sky.computed(rejection="none", taper=0.1).image.values[0, 160, 80:330]
    hard = sky.computed(rejection="none", taper=0.0).image.values[0, 160, 80:330]
    assert np.nanmax(np.abs(np.diff(hard))) > 5
    assert np.nanmax(np.abs(np.diff(soft))) < 1.5
    # Where one frame alone is, it survives the taper.
    assert np.isfinite(soft).sum() == np.isfinite(hard).sum()


def half_trusted(sky: Sky, number: int) -> NDArray[np.float64]:
    """Full confidence but for the right half of one frame."""
    at = surface.sample_positions()
    out = np.ones((len(sky.frames), surface.NODES + 2, surface.NODES + 2))
    out[number] = surface.fit(np.broadcast_to(np.clip(4.0 * (0.5 - at), 0.0, 1.0), (len(at), len(at))))
    return out


def test_a_frame_counts_for_little_where_it_is_not_trusted(sky: Sky) -> None:
    sky.shape, sky.canvas = (160, 200), (200, 300)
    for i in range(3):
        sky.add(seed=i, dx=-30.0, noise=1e-3)
    # Wrong on its right half, which reaches beyond the others.
    wrong = sky.add(dx=20.0, noise=1e-3)
    wrong[:, 100:] -= 90.0
    shared, alone = (0, slice(40, 160), slice(180, 206)), (0, slice(40, 160), slice(240, 260))
    plain = sky.computed(tile=96, rejection="none").image.values
    assert np.abs(plain[shared] - SKY).min() > 20
    # Without a word about it, all are trusted.
    sky.confidence = np.ones((4, surface.NODES + 2, surface.NODES + 2))
    np.testing.assert_array_equal(sky.computed(tile=96, rejection="none").image.values, plain)
    sky.confidence = half_trusted(sky, 3)
    faded = sky.computed(tile=96, rejection="none")
    # Roots of weights are straight between places 32 pixels apart.
    assert np.abs(faded.image.values[shared] - SKY).max() < 2.0
    assert np.abs(faded.image.values[alone] - (SKY - 90)).max() < 0.5
    np.testing.assert_array_equal(np.isfinite(faded.image.values), np.isfinite(plain))
    one = sky.computed(tile=1024, rejection="none")
    np.testing.assert_array_equal(faded.weight.values, one.weight.values)
    np.testing.assert_array_equal(faded.image.values, one.image.values)


def test_a_tile_depends_on_the_confidence_of_its_frames(sky: Sky) -> None:
    sky.shape, sky.canvas = (64, 64), (96, 480)
    for dx in (-190.0, 0.0, 190.0):
        sky.add(dx=dx)
    sky.confidence = np.ones((3, surface.NODES + 2, surface.NODES + 2))
    before = tile_keys(sky)
    sky.confidence = half_trusted(sky, 0)
    changed = tile_keys(sky) != before
    assert changed[0, 0]
    assert not changed[0, 2:].any()


def test_errors_name_the_frame_and_the_remedy(sky: Sky) -> None:
    dithered(sky, 3)
    with pytest.raises(ConfigError, match="multiple of 32"):
        sky.integrate(tile=100)
    with pytest.raises(CapacityError, match="raise the memory limit"):
        sky.integrate(task_memory=1e6)
    sky.shifts[1] = (90.0, 0.0)
    with pytest.raises(DataError, match=r"001\.fits is shifted by 90"):
        sky.computed()
    sky.shifts[1] = (0.0, 0.0)
    sky.noises[2] = np.nan
    with pytest.raises(DataError, match=r"002\.fits has no noise"):
        sky.computed()
    sky.noises[2] = 1.0
    session = sky.session.assign(height=("frame", np.array([200, 199, 200])))
    with dask.config.set(scheduler="synchronous"), pytest.raises(DataError, match=r"001\.fits has 200"):
        integrate(session, sky.registration, sky.normalization).image.compute()
    broken = [json.dumps({"kind": "nonesuch"})] * 3
    session = sky.session.assign(source=("frame", np.array(broken)))
    with dask.config.set(scheduler="synchronous"), pytest.raises(DataError, match=r"000\.fits cannot be read"):
        integrate(session, sky.registration, sky.normalization).image.compute()


@pytest.mark.parametrize(
    ("n", "memory", "parameters"),
    [
        (2, 2.0**30, {}),
        (12, 2.0**30, {}),
        (12, 24e6, {}),
        (12, 2.0**30, {"rejection": "esd", "combination": "median"}),
        (3, 2.0**30, {"resampling": "area"}),
    ],
)
def test_memory_of_a_tile_is_what_the_cost_says(
    sky: Sky, n: int, memory: float, parameters: dict[str, object]
) -> None:
    sky.shape, sky.canvas = (768, 768), (640, 640)
    frame = np.full(sky.shape, SKY, dtype=np.float32)
    for i in range(n):
        sky.add(rotation=4.0 * i)
        sky.frames[-1] = frame
    lazy = sky.integrate(tile=640, task_memory=memory, **parameters)  # type: ignore[arg-type]
    cost = get_op_cost(sky, tile=640, task_memory=memory, **parameters)
    predicted = cost.memory[0, 0, 0]
    assert predicted <= memory
    with dask.config.set(scheduler="synchronous"):
        lazy.image.compute()  # compiled code and caches
        tracemalloc.start()
        # All variables of one task; the six results are views of what it holds.
        lazy.compute()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The frames are served by a copy: no decoding buffer beside it.
    assert 0.75 * predicted < peak < 1.1 * predicted


def test_a_tile_can_be_computed_by_hand(sky: Sky) -> None:
    dithered(sky, 3)
    frames = tuple(
        FrameSpec(i, f"{i}", json.dumps({"kind": KIND, "index": i}), sky.headers[i], sky.shape) for i in range(3)
    )
    options = Options(Rejection("none"), 2.0**30, 8.0)
    spec = TileSpec(sky.grid.retile(128), (1, 1), frames, options)
    ones = np.stack([surface.constant(1.0)] * 3)
    solution = Solution(np.ones(3, bool), np.zeros((3, 2)), ones, 0 * ones, np.full(3, NOISE), ones, np.ones(3))
    by_hand = integrate_tile(spec, solution)
    lazy = sky.computed(tile=128, rejection="none")
    np.testing.assert_array_equal(by_hand.image, lazy.image.values[0, 128:256, 128:256])


CORE = (0, slice(130, 190), slice(140, 210))


def test_weights_are_what_they_say(sky: Sky) -> None:
    for i in range(4):
        sky.add(a=(1.0, 2.0)[i % 2], seed=i, rotation=17.0 * i + 5.0)
    variance = np.array([NOISE, 2 * NOISE, NOISE, 2 * NOISE]) ** 2
    approval = sky.approval(
        fwhm=[2.0, 2.5, 3.0, 4.0], psf_signal=[1.0, 2.0, 3.0, 4.0], psf_snr=[5.0, 1.0, 2.0, 2.0],
        exposure=[60.0, 60.0, 30.0, 120.0], snr=[1.0, 3.0, 5.0, 7.0],
    )  # fmt: skip
    fwhm, scale = np.array([2.0, 2.5, 3.0, 4.0]), np.array([1.0, 2.0, 1.0, 2.0])
    for weighting, rule, weight in (
        ("inverse_variance", "", 1 / variance),
        ("point_source", "", 1 / variance / fwhm**2),
        ("psf_signal", "", np.array([1.0, 2.0, 3.0, 4.0])),
        ("psf_snr", "", np.array([5.0, 1.0, 2.0, 2.0])),
        ("exposure", "", np.array([60.0, 60.0, 30.0, 120.0])),
        ("expression", "(snr / (scale * fwhm)) ** 2 / best(snr)", (np.arange(1, 8, 2) / scale / fwhm) ** 2 / 7),
        ("none", "", np.ones(4)),
    ):
        result = sky.computed(approval, rejection="none", weighting=weighting, weight_rule=rule)
        np.testing.assert_allclose(np.median(result.weight.values[CORE]), weight.sum(), rtol=1e-4)
        expected = (weight**2 * variance).sum() / weight.sum() ** 2
        np.testing.assert_allclose(np.median(result.variance.values[CORE]), expected, rtol=1e-4)
        true = result.image.values[CORE].var() / result.attrs["kernel_noise_factor"]
        assert true == pytest.approx(expected, rel=0.12), weighting


def test_weights_that_lack_something_say_so(sky: Sky) -> None:
    dithered(sky, 3)
    for weighting, name in (("point_source", "fwhm"), ("psf_signal", "psf_signal"), ("exposure", "exposure")):
        with pytest.raises(ConfigError, match=rf"each frame's {name}.*input approval"):
            sky.integrate(weighting=weighting)
    with pytest.raises(ConfigError, match="needs weight_rule"):
        sky.integrate(weighting="expression")
    with pytest.raises(ConfigError, match="unknown name 'fhwm'; did you mean 'fwhm'"):
        sky.integrate(weighting="expression", weight_rule="1 / fhwm")
    with pytest.raises(ConfigError, match="is for weighting"):
        sky.integrate(weight_rule="fwhm")
    with pytest.raises(DataError, match=r"000\.fits has no file whose header could say SSWEIGHT"):
        sky.integrate(weighting="keyword", weight_rule="SSWEIGHT")
    bad = sky.approval(fwhm=[2.0, np.nan, 3.0])
    with pytest.raises(DataError, match=r"001\.fits by point_source is nan"):
        sky.computed(bad, weighting="point_source")
    other = bad.assign_coords(frame=["a", "b", "c"])
    with pytest.raises(ConfigError, match="not the session's"):
        sky.integrate(other, weighting="point_source")


def test_keyword_weights_come_from_the_headers(sky: Sky, tmp_path: Path) -> None:
    specs = []
    for i in range(2):
        pixels = sky.add(seed=i)
        path = tmp_path / f"{i}.fits"
        fits.PrimaryHDU(pixels, fits.Header({"SSWEIGHT": 3.0 + 4.0 * i})).writeto(path)
        (frame,) = examine(path)
        # One as it is, one as a calibrated frame has it.
        spec = json.loads(frame.source.spec())
        specs.append(json.dumps(spec if i == 0 else {"kind": KIND, "index": 1, "light": spec}))
    session = sky.session.assign(source=("frame", np.array(specs)))

    def made(keyword: str) -> xr.Dataset:
        return integrate(
            session, sky.registration, sky.normalization,
            rejection="none", weighting="keyword", weight_rule=keyword,
        )  # fmt: skip

    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_allclose(made("ssweight").weight.values[CORE], 10.0, rtol=1e-5)
    with pytest.raises(DataError, match=r"header of night/000\.fits has no WEIGHT"):
        made("WEIGHT")


@pytest.mark.parametrize("resampling", ["auto", "lanczos4", "bicubic", "bilinear", "nearest", "area"])
@pytest.mark.parametrize("combination", ["mean", "median"])
def test_variance_is_true_for_every_kernel(sky: Sky, resampling: str, combination: str) -> None:
    for i in range(7):
        sky.add(rotation=13.0 * i + 5, seed=i, dx=0.3 * i, dy=-0.4 * i)
    result = sky.computed(resampling=resampling, combination=combination, rejection="none", weighting="none")
    core = (0, slice(100, 220), slice(110, 240))
    image, variance = result.image.values[core], result.variance.values[core]
    factor = result.attrs["kernel_noise_factor"]
    # Squeezed noise is no longer normal under a median: nearest alone leaves it as it was.
    assert image.var() / factor == pytest.approx(float(np.median(variance)), rel=0.05)
    assert image.mean() == pytest.approx(SKY, abs=0.1)


def test_a_coarse_canvas_averages_and_says_how_noisy_it_is(sky: Sky) -> None:
    for i in range(3):
        sky.add(scale=0.5, rotation=7.0 + 10.0 * i, seed=i)
    result = sky.computed(rejection="none", tile=96)
    core = (0, slice(135, 185), slice(140, 210))
    image, variance = result.image.values[core], result.variance.values[core]
    assert image.mean() == pytest.approx(4 * SKY, rel=1e-3)
    assert np.median(variance) == pytest.approx(4 * NOISE**2 / 3, rel=1e-3)
    assert image.var() / result.attrs["kernel_noise_factor"] == pytest.approx(4 * NOISE**2 / 3, rel=0.08)
    whole = sky.computed(rejection="none", tile=512)
    for name in whole.data_vars:
        np.testing.assert_array_equal(result[name].values, whole[name].values, err_msg=name)


@pytest.mark.parametrize("tile", [64, 512])
def test_auto_finds_cosmic_rays_where_one_frame_is_alone(sky: Sky, tile: int) -> None:
    rng = np.random.default_rng(3)
    stars = np.stack([rng.uniform(70, 270, 20), rng.uniform(80, 240, 20), np.geomspace(500, 5e4, 20)], axis=1)
    sky.add(stars=stars, fwhm=2.6, rotation=12.0)
    sky.add(dx=90.0, dy=70.0, stars=stars, fwhm=2.6)
    clean = sky.computed(rejection="none", tile=tile)
    hits = rng.integers(6, 190, (60, 2))
    for y, x in hits:
        sky.frames[0][y, x] += rng.uniform(200, 3000)
    plain = sky.computed(tile=tile)
    auto = sky.computed(rejection="auto", tile=tile)
    alone = (clean["count"].values[0] == 1) & np.isfinite(clean.image.values[0])
    before = np.nan_to_num(np.abs(plain.image.values[0] - clean.image.values[0]))[alone]
    after = np.nan_to_num(np.abs(auto.image.values[0] - clean.image.values[0]))[alone]
    assert before.sum() > 10000
    assert after.sum() < 0.01 * before.sum()
    holes = alone & ~np.isfinite(auto.image.values[0])
    assert 30 < holes.sum() < 4 * len(hits)
    np.testing.assert_array_equal(auto.rejected_high.values[0][holes], 1)
    assert (auto["count"].values[0][holes] == 0).all()
    # Stars lose nothing where no ray fell, and where both frames are nothing changes.
    struck = maximum_filter(np.abs(plain.image.values[0] - clean.image.values[0]) > 5, 3)[alone]
    assert (after[~struck] > 5).sum() == 0
    both = clean["count"].values[0] == 2
    np.testing.assert_array_equal(auto.image.values[0][both], plain.image.values[0][both])


def test_a_thousand_frames_fit_the_memory_and_strips_do_not_show(sky: Sky) -> None:
    sky.shape, sky.canvas = (80, 64), (128, 96)
    rng = np.random.default_rng(5)
    dithers = rng.uniform(-9, 9, (25, 2))
    for i in range(1000):
        sky.add(dx=float(dithers[i % 25, 0]), dy=float(dithers[i % 25, 1]), noise=NOISE, seed=i)
        sky.frames[-1][rng.integers(0, 80, 12), rng.integers(0, 64, 12)] += 500
    whole = sky.computed(tile=128)
    memory = 30e6
    cost = get_op_cost(sky, tile=128, task_memory=memory)
    assert 20e6 < cost.memory.max() <= memory
    assert 2 * memory < 1000 * 128 * 96 * 5
    tracemalloc.start()
    strips = sky.computed(tile=128, task_memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * memory
    for name in whole.data_vars:
        np.testing.assert_array_equal(strips[name].values, whole[name].values, err_msg=name)
    image, variance = (whole[n].values[0, 50:80, 35:60] for n in ("image", "variance"))
    assert image.mean() == pytest.approx(SKY, abs=0.05)
    assert np.median(variance) == pytest.approx(NOISE**2 / 1000, rel=0.05)
    assert image.std() < 1.1 * NOISE / 1000**0.5


def tile_keys(sky: Sky, registration: xr.Dataset | None = None) -> NDArray[np.str_]:
    """Keys of the tiles of the first band, tile 96."""
    op = get_op("integrate")
    assert op.keys is not None
    registration = (sky.registration if registration is None else registration).compute()
    normalization = sky.normalization.compute()
    keys = op.keys(sky.session, registration, normalization, **op.check({"tile": 96}))
    assert keys.shape[0] == 1
    return np.array(keys[0], dtype=np.str_)


def wide(sky: Sky) -> None:
    """Frames on the left and on the right of a canvas, far apart."""
    sky.canvas = (320, 912)
    for i in range(3):
        sky.add(dx=-300.0 + 3 * i, dy=2.0 * i, rotation=float(i))
        sky.add(dx=300.0 - 3 * i, dy=2.0 * i)


def test_keys_compute_nothing(sky: Sky) -> None:
    wide(sky)
    op = get_op("integrate")
    assert op.keys is not None
    with dask.config.set(scheduler=refuse), pytest.raises(NotYetKnown):
        op.keys(sky.session, sky.registration, sky.normalization, **op.check({}))
    assert sky.reads.total() == 0


def test_a_tile_depends_on_the_frames_over_it(sky: Sky) -> None:
    wide(sky)
    before, pixels = tile_keys(sky), sky.computed(tile=96)
    tiles = before != ""
    assert not tiles[:, 4].any(), "nothing is there"
    left, right = tiles.copy(), tiles.copy()
    left[:, 5:], right[:, :5] = False, False

    def touched() -> NDArray[np.bool_]:
        changed: NDArray[np.bool_] = tile_keys(sky) != before
        return changed

    assert not touched().any()
    for name, value in {"scales": 1.5, "offsets": 2.0, "noises": 6.0, "shifts": (1.0, 0.0), "use": False}.items():
        values = getattr(sky, name)
        kept, values[1] = values[1], value
        assert touched()[right].all(), name
        assert not touched()[left].any(), name
        values[1] = kept
    sky.add(dx=300.0, dy=1.0, rotation=4.0, a=1.2)
    changed = touched()
    assert not changed[left].any()
    assert changed[right].all()
    after = sky.computed(tile=96)
    for variable in after.data_vars:
        one, other = pixels[variable].values[0], after[variable].values[0]
        assert one[:, :480].tobytes() == other[:, :480].tobytes()
    assert not np.array_equal(pixels["image"].values, after["image"].values, equal_nan=True)


def test_a_tile_is_the_same_wherever_the_canvas_begins(sky: Sky) -> None:
    wide(sky)
    small, one = tile_keys(sky), sky.computed(tile=96)
    cards = parse_wcs(sky.grid.header).deepcopy()
    cards.wcs.crpix = np.add(cards.wcs.crpix, (2 * 96, 96))
    larger = Grid(wcs_header(cards), (320 + 3 * 96, 912 + 4 * 96), 1024)
    registration = sky.registration.assign_attrs(larger.to_attrs())
    large = tile_keys(sky, registration)
    with dask.config.set(scheduler="synchronous"):
        other = integrate(sky.session, registration, sky.normalization, tile=96).compute()
    same = 0
    for ty, tx in zip(*np.nonzero(small), strict=True):
        if small[ty, tx] != large[ty + 1, tx + 2]:
            # Cut off by an edge of the smaller canvas, or beside it.
            assert ty in (0, 3) or tx in (0, 9)
            continue
        same += 1
        for name in one.data_vars:
            a = one[name].values[0, 96 * ty : 96 * ty + 96, 96 * tx : 96 * tx + 96]
            b = other[name].values[0, 96 * ty + 96 : 96 * ty + 192, 96 * tx + 192 : 96 * tx + 288]
            assert a.tobytes() == b.tobytes(), (name, ty, tx)
    assert same >= 8
    cards.wcs.crpix = np.add(cards.wcs.crpix, (0.5, 0.0))
    moved = sky.registration.assign_attrs(Grid(wcs_header(cards), larger.shape, 1024).to_attrs())
    assert not set(tile_keys(sky, moved)[large != ""]) & set(large[large != ""])


def test_a_tile_depends_on_the_weights_of_its_frames_alone(sky: Sky) -> None:
    wide(sky)
    op = get_op("integrate")
    assert op.keys is not None

    def keys(fwhm: list[float]) -> NDArray[np.str_]:
        assert op.keys is not None
        known = [d.compute() for d in (sky.registration, sky.normalization, sky.approval(fwhm=fwhm))]
        made = op.keys(sky.session, *known, **op.check({"tile": 96, "weighting": "point_source"}))
        return np.array(made[0], dtype=np.str_)

    before, after = keys([2.0] * 6), keys([2.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    changed = before != after
    assert changed[:, 5:][before[:, 5:] != ""].all()
    assert not changed[:, :5].any()
