"""Integration: truth on the canvas, laziness, and independence of tiles and strips."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.errors import CapacityError, ConfigError, DataError, NotYetKnown
from skyloom.ops.frames import register_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.integration.integrate import FrameSpec, Options, Solution, TileSpec, integrate, integrate_tile
from skyloom.ops.integration.reject import Rejection
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
        return xr.Dataset(
            {
                "use": ("frame", np.ones(n, dtype=bool)),
                "scale": (dims, da.from_array(np.stack([surface.constant(a) for a in self.scales]), chunks=-1)),
                "offset": (dims, da.from_array(np.stack([surface.constant(b) for b in self.offsets]), chunks=-1)),
                "noise": ("frame", da.from_array(np.array(self.noises), chunks=-1)),
            }
        )

    def integrate(self, **parameters: object) -> xr.Dataset:
        return integrate(self.session, self.registration, self.normalization, **parameters)  # type: ignore[arg-type]

    def computed(self, **parameters: object) -> xr.Dataset:
        with dask.config.set(scheduler="synchronous"):
            return self.integrate(**parameters).compute()


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


@pytest.mark.parametrize(("n", "memory"), [(2, 2.0**30), (12, 2.0**30), (12, 24e6)])
def test_memory_of_a_tile_is_what_the_cost_says(sky: Sky, n: int, memory: float) -> None:
    sky.shape, sky.canvas = (768, 768), (640, 640)
    frame = np.full(sky.shape, SKY, dtype=np.float32)
    for i in range(n):
        sky.add(rotation=4.0 * i)
        sky.frames[-1] = frame
    lazy = sky.integrate(tile=640, task_memory=memory)
    cost = get_op_cost(sky, tile=640, task_memory=memory)
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
    options = Options(Rejection("none"), 0.03, "inverse_variance", 2.0**30, 8.0)
    spec = TileSpec(sky.grid.retile(128), (1, 1), frames, options)
    ones = np.stack([surface.constant(1.0)] * 3)
    solution = Solution(np.ones(3, bool), np.zeros((3, 2)), ones, 0 * ones, np.full(3, NOISE))
    by_hand = integrate_tile(spec, solution)
    lazy = sky.computed(tile=128, rejection="none")
    np.testing.assert_array_equal(by_hand.image, lazy.image.values[0, 128:256, 128:256])


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
