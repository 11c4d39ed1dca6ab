"""Artifacts from frames to the mosaic: injected trails and ghosts go, the sky stays, tiles do not show."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
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

from skyloom.ops import surface
from skyloom.ops.arrays import array_spec
from skyloom.ops.artifacts.artifacts import artifacts
from skyloom.ops.artifacts.coarse import Placement, Shrunken, coarse_nodes, on_coarse_canvas, reaches
from skyloom.ops.artifacts.consensus import consensus
from skyloom.ops.artifacts.shrink import shrink
from skyloom.ops.errors import ConfigError, DataError, NotYetKnown
from skyloom.ops.frames import register_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.integration.coordinates import CanvasNodes, coordinate_grid
from skyloom.ops.integration.integrate import integrate
from skyloom.ops.integration.masked import drop_artifacts, frame_masks, mark_cells
from skyloom.ops.integration.overlaps import frame_spec
from skyloom.ops.integration.resample import resample
from skyloom.ops.registry import get_op

KIND = "artifacts-test"
SKY, NOISE = 200.0, 4.0
SHAPE, CANVAS = (420, 500), (600, 680)

Pixels = NDArray[np.float32]


def header(shape: tuple[int, int], rotation: float = 0.0, dx: float = 0.0, dy: float = 0.0) -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = (83.0 - dx / 3600 / np.cos(np.radians(5)), -5.0 + dy / 3600)
    wcs.wcs.crpix = ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) / 3600
    return wcs_header(wcs)


def trail(angle: float, width: float, amount: float, shift: float = 0.0) -> Pixels:
    """A straight trail of a Gaussian profile, in units of a pixel's noise."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    a = np.radians(angle)
    across = (x - SHAPE[1] / 2) * np.sin(a) - (y - SHAPE[0] / 2) * np.cos(a) - shift
    return np.asarray(amount * np.exp(-4 * np.log(2) * (across / width) ** 2), dtype=np.float32)


def ghost(x: float, y: float, radius: float, amount: float) -> Pixels:
    """A soft disc."""
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = np.clip((np.hypot(xx - x, yy - y) - radius) / 2, -40, 40)
    return np.asarray(amount / (1 + np.exp(far)), dtype=np.float32)


@dataclass
class Scene:
    """Frames of one sky: stars in changing seeing, a filament, a spike; served from memory."""

    frames: list[Pixels] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    reads: Counter[int] = field(default_factory=Counter)
    pixels: int = 0

    @property
    def grid(self) -> Grid:
        return Grid(header(CANVAS), CANVAS, 1024)

    def fill(self, n: int, *, seed: int = 0, crowded: bool = True) -> None:
        rng = np.random.default_rng(100 + seed)
        count = 60 if crowded else 0
        stars = np.stack(
            [rng.uniform(60, 620, count), rng.uniform(60, 540, count), np.geomspace(300, 60000, count)], axis=1
        )
        for i in range(n):
            scale = (1.0, 0.8, 1.25)[i % 3]
            turn, dx, dy = 1.5 * rng.normal(), *(9.0 * rng.normal(size=2))
            wcs = header(SHAPE, float(turn), float(dx), float(dy))
            frame = np.full(SHAPE, SKY)
            yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
            s = np.linspace(2.0, 4.0, n)[i] / 2.3548
            x, y = sky_to_pixel(parse_wcs(wcs), *pixel_to_sky(self.grid.wcs, stars[:, 0], stars[:, 1]))
            for px, py, flux in zip(x, y, stars[:, 2], strict=True):
                near = np.s_[
                    max(int(py) - 14, 0) : max(int(py) + 15, 0), max(int(px) - 14, 0) : max(int(px) + 15, 0)
                ]
                r2 = (xx[near] - px) ** 2 + (yy[near] - py) ** 2
                frame[near] += flux / (2 * np.pi * s * s) * np.exp(-r2 / (2 * s * s))
            if crowded:
                ra, dec = pixel_to_sky(parse_wcs(wcs), xx.ravel().astype(float), yy.ravel().astype(float))
                cx, cy = (p.reshape(SHAPE) for p in sky_to_pixel(self.grid.wcs, ra, dec))
                frame += 25 * np.exp(-0.5 * ((cy - 300 - 40 * np.sin(cx / 90)) / 3) ** 2)
                frame += 60 * np.exp(-0.5 * ((cx - cy - 20) / 1.5) ** 2) * np.exp(-np.abs(cx - 300) / 60)
            pixels = frame / scale + 30.0 * i + rng.normal(0, NOISE, SHAPE)
            hit = rng.random(SHAPE) < 1e-4
            pixels[hit] += 200.0
            self.frames.append(pixels.astype(np.float32))
            self.headers.append(wcs)
            self.scales.append(scale)

    def add(self, index: int, light: Pixels) -> None:
        self.frames[index] = self.frames[index] + np.float32(NOISE) * light

    @property
    def session(self) -> xr.Dataset:
        n = len(self.frames)
        specs = [json.dumps({"kind": KIND, "index": i}) for i in range(n)]
        columns = {
            "name": np.array([f"{i}.fits" for i in range(n)]),
            "source": np.array(specs),
            "height": np.full(n, SHAPE[0]),
            "width": np.full(n, SHAPE[1]),
            "wcs": np.array(self.headers),
            "kind": np.full(n, "light"),
            "band": np.full(n, "L"),
            "units": np.full(n, "adu"),
        }
        return xr.Dataset(
            {k: ("frame", v) for k, v in columns.items()},
            coords={"frame": np.array([f"{i:04x}" for i in range(n)])},
        )

    @property
    def registration(self) -> xr.Dataset:
        n = len(self.frames)
        return xr.Dataset(
            {
                "use": ("frame", da.from_array(np.ones(n, dtype=bool))),
                "shift": (("frame", "axis"), np.zeros((n, 2))),
                "in_canvas": ("frame", np.ones(n, dtype=bool)),
            },
            coords={"frame": self.session["frame"].values},
            attrs=self.grid.to_attrs(),
        )

    @property
    def normalization(self) -> xr.Dataset:
        n = len(self.frames)
        dims = ("frame", "node_y", "node_x")
        return xr.Dataset(
            {
                "use": ("frame", np.ones(n, dtype=bool)),
                "scale": (dims, np.stack([surface.constant(a) for a in self.scales])),
                "offset": (dims, np.stack([surface.constant(30.0 * i) for i in range(n)])),
                "noise": ("frame", da.from_array(np.full(n, NOISE))),
            }
        )

    def found(self, tile: int = 1024, **parameters: Any) -> tuple[xr.Dataset, xr.Dataset]:
        """Consensus and artifacts, computed."""
        with dask.config.set(scheduler="synchronous"):
            small = shrink(self.session).compute()
            agreed = consensus(self.session, small, self.registration, self.normalization, tile=tile).compute()
            made = artifacts(
                self.session, small, self.registration, self.normalization, agreed, **parameters
            )  # fmt: skip
            return agreed, made.compute()

    def mosaic(self, masks: xr.Dataset | None, tile: int = 1024, **parameters: Any) -> xr.Dataset:
        with dask.config.set(scheduler="synchronous"):
            return integrate(
                self.session, self.registration, self.normalization, None, masks, tile=tile, **parameters
            ).compute()

    def marked(self, masks: xr.Dataset, index: int) -> NDArray[np.bool_]:
        """The mask of a frame on the canvas."""
        out = np.zeros(CANVAS, dtype=bool)
        mask = frame_masks(self.session, self.grid, masks)[index]
        assert mask is not None
        part = mask.read(slice(0, CANVAS[0]), slice(0, CANVAS[1]))
        assert part is not None
        mark_cells(*part, mask.step, 0, 0, out)
        return out

    def on_canvas(self, index: int, pixels: Pixels) -> Pixels:
        rows, columns = (slice(0, n) for n in CANVAS)
        seen = coordinate_grid(CanvasNodes.around(self.grid, rows, columns), self.headers[index], SHAPE)
        window = seen.window(rows, columns)
        assert window is not None
        values, _ = resample(np.ascontiguousarray(pixels[window]), window, seen, rows, columns)
        return values


@dataclass(frozen=True)
class MemorySource:
    scene: Scene
    index: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.scene.frames[self.index].shape

    @property
    def windowed(self) -> bool:
        return True

    def read(self, rows: slice, columns: slice) -> Pixels:
        self.scene.reads[self.index] += 1
        out = self.scene.frames[self.index][rows, columns].copy()
        self.scene.pixels += out.size
        return out


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    register_source(KIND, lambda fields: MemorySource(made, int(fields["index"])))
    yield made
    register_source(KIND, lambda fields: pytest.fail("a frame of a test that is over"))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was computed")


@pytest.mark.parametrize("n", [3, 6])
def test_injected_trails_and_ghosts_go_and_the_sky_stays(scene: Scene, n: int) -> None:
    scene.fill(n)
    lights = [trail(31, 2.0, 1.0 if n > 4 else 2.0, 20), trail(118, 6.0, 20.0, -30), ghost(250, 190, 50, 0.7)]
    for i, light in enumerate(lights):
        scene.add(i, light)
    _, masks = scene.found()
    lost = 0.0
    for i, light in enumerate(lights):
        marked, there = scene.marked(masks, i), scene.on_canvas(i, light)
        # Of three frames, all of them hit, the others do not say where the ghost ends upon the filament.
        assert np.nansum(there[marked]) > (0.98 if n == 3 and i == 2 else 0.99) * np.nansum(there)
        lost += float((marked & (there < 0.1)).sum())
    assert masks["trail_count"].values.tolist() == [1, 1] + [0] * (n - 2)
    assert (masks["blob_count"].values > 0).tolist() == [False, False, True] + [False] * (n - 3)
    assert (masks["content"].values == "").tolist() == [False] * 3 + [True] * (n - 3)
    # Of each frame that is hit; of a real one, six times as wide, a trail takes a sixth of that.
    assert lost < 0.03 * len(lights) * SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("n", [2, 3, 7])
def test_nothing_is_found_where_there_is_nothing(scene: Scene, n: int) -> None:
    scene.fill(n)
    _, masks = scene.found()
    assert masks["masked"].values.max() < 5e-4
    assert masks["trail_count"].values.sum() == 0


def test_what_most_frames_show_is_the_sky(scene: Scene) -> None:
    scene.fill(5, crowded=False)
    for i in range(3):
        # The same place on the sky, wherever the frames look.
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        ra, dec = pixel_to_sky(parse_wcs(scene.headers[i]), x.ravel().astype(float), y.ravel().astype(float))
        cx, cy = (p.reshape(SHAPE) for p in sky_to_pixel(scene.grid.wcs, ra, dec))
        line = np.exp(-0.5 * ((cy - 0.4 * cx - 160) / 2) ** 2)
        scene.add(i, (5 * line).astype(np.float32))
    _, masks = scene.found()
    assert masks["masked"].values[:3].max() < 1e-3
    assert masks["trail_count"].values.sum() == 0


def test_of_two_frames_the_brighter_one_is_at_fault(scene: Scene) -> None:
    scene.fill(2, crowded=False)
    light = trail(63, 3.0, 6.0)
    scene.add(1, light)
    _, masks = scene.found()
    assert masks["trail_count"].values.tolist() == [0, 1]
    clean, kept = scene.on_canvas(1, light), scene.mosaic(masks)
    both = np.isfinite(scene.on_canvas(0, scene.frames[0])) & (clean > 0.3)
    assert kept["rejected_high"].values[0][both].mean() > 0.99
    # Where one frame alone is, nothing can be taken out.
    alone = (clean > 0.3) & ~np.isfinite(scene.on_canvas(0, scene.frames[0]))
    assert (kept["count"].values[0][alone] == 1).all()


def test_a_bright_trail_across_a_corner_is_a_trail(scene: Scene) -> None:
    scene.fill(4, crowded=False)
    light = trail(60, 3.0, 100.0, 245)
    assert 100 * 200 < float((light > 50).sum()) * 100 < 100 * 900
    scene.add(1, light)
    _, masks = scene.found()
    assert masks["trail_count"].values.tolist() == [0, 1, 0, 0]
    assert masks["blob_count"].values.sum() == 0
    marked, there = scene.marked(masks, 1), scene.on_canvas(1, light)
    assert np.nansum(there[marked]) > 0.99 * np.nansum(there)
    assert masks["masked"].values[1] < 0.02


def test_the_mosaic_is_rid_of_them_and_says_so(scene: Scene) -> None:
    scene.fill(6)
    clean = scene.mosaic(None)
    light = trail(20, 4.0, 1.0) + ghost(260, 160, 45, 0.6)
    scene.add(2, light)
    _, masks = scene.found()
    plain, kept = scene.mosaic(None), scene.mosaic(masks)
    where = scene.on_canvas(2, light) > 0.05
    before = np.nansum((plain.image.values - clean.image.values)[0][where])
    after = np.nansum((kept.image.values - clean.image.values)[0][where])
    assert before > 0.3 * np.nansum(scene.on_canvas(2, light)) * NOISE / 6
    # The rest is the noise of the samples that are gone.
    assert abs(after) < 0.03 * before + 3 * NOISE / 6 * np.sqrt(where.sum())
    assert kept["rejected_high"].values[0][where].mean() > 0.95
    # Nowhere else is anything changed.
    away = ~scene.marked(masks, 2)
    away[:8], away[-8:], away[:, :8], away[:, -8:] = False, False, False, False
    far = away & ~np.isnan(plain.image.values[0])
    changed = (kept.image.values != plain.image.values)[0] & far
    assert changed.sum() < 0.02 * far.sum()


def test_tiles_do_not_show(scene: Scene) -> None:
    scene.fill(5)
    scene.add(0, trail(15, 3.0, 3.0) + ghost(300, 250, 60, 0.8))
    agreed, masks = scene.found()
    whole = scene.mosaic(masks)
    assert masks["masked"].values[0] > 0.03
    for tile in (128, 256):
        other, same = scene.found(tile)
        for name in agreed.data_vars:
            np.testing.assert_array_equal(other[name].values, agreed[name].values, err_msg=str(name))
        for name in masks.data_vars:
            np.testing.assert_array_equal(same[name].values, masks[name].values, err_msg=str(name))
        part = scene.mosaic(masks, tile)
        for name in whole.data_vars:
            np.testing.assert_array_equal(part[name].values, whole[name].values, err_msg=f"{name} {tile}")
    strips = scene.mosaic(masks, 1024, task_memory=11e6)
    np.testing.assert_array_equal(strips.image.values, whole.image.values)


def test_building_computes_nothing_and_frames_are_read_once(scene: Scene) -> None:
    scene.fill(3, crowded=False)
    with dask.config.set(scheduler=refuse):
        small = shrink(scene.session)
        agreed = consensus(scene.session, small, scene.registration, scene.normalization, tile=128)
        masks = artifacts(scene.session, small, scene.registration, scene.normalization, agreed)
        mosaic = integrate(scene.session, scene.registration, scene.normalization, None, masks, tile=128)
    assert scene.pixels == 0
    assert small["mean"].shape == (3, 105, 125)
    assert agreed["middle"].chunks == ((1,), (32, 32, 32, 32, 22), (32, 32, 32, 32, 32, 10))
    assert masks["mask"].shape[0] == 3
    assert mosaic.image.dtype == np.float32
    with dask.config.set(scheduler="synchronous"):
        small.compute()
    assert scene.pixels == 3 * SHAPE[0] * SHAPE[1]


def test_a_frame_on_the_coarse_canvas_is_its_sky(scene: Scene) -> None:
    scene.fill(2, crowded=False)
    scene.frames[1][:] = SKY / scene.scales[1] + 30.0
    with dask.config.set(scheduler="synchronous"):
        small = shrink(scene.session).compute()
    window = reaches(scene.session, scene.grid)[1]
    assert window is not None
    normalization = scene.normalization
    placed = Placement.of(
        np.ones(2, bool), np.zeros((2, 2)), np.ones(2, bool),
        *(normalization[v].values for v in ("scale", "offset", "noise")),
    )  # fmt: skip
    source = Shrunken(frame_spec(scene.session, 1), array_spec(small, "mean", frame=1))
    out = np.empty([s.stop - s.start for s in window], dtype=np.float32)
    assert on_coarse_canvas(source, scene.grid, window, coarse_nodes(scene.grid, *window), placed, out)
    covered = np.isfinite(out)
    np.testing.assert_allclose(out[covered], SKY, rtol=1e-4)
    full = np.isfinite(scene.on_canvas(1, scene.frames[1]))
    y, x = (int(s.start) * 4 for s in window)
    inside = full[y : y + 4 * out.shape[0], x : x + 4 * out.shape[1]]
    assert covered.sum() * 16 == pytest.approx(inside.sum(), rel=0.02)


def test_all_masked_samples_are_kept() -> None:
    class Everywhere:
        step = 2

        def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], int, int]:
            return np.full((4, 1), 0b11000000, dtype=np.uint8), 0, 0

    samples = np.ones((3, 8, 8), dtype=np.float32)
    samples[2, :, :2] = np.nan
    out = drop_artifacts(samples, [Everywhere(), Everywhere(), None], slice(0, 8), slice(0, 8))  # type: ignore[list-item]
    assert out is not None
    np.testing.assert_array_equal(out[:, :2], 0)
    np.testing.assert_array_equal(out[:, 2:4], 2)
    np.testing.assert_array_equal(out[:, 4:], 0)
    assert np.isfinite(samples[:2, :, :2]).all()
    assert np.isnan(samples[:2, :, 2:4]).all()
    assert np.isfinite(samples[2, :, 2:]).all()


def test_costs_hold_the_memory(scene: Scene) -> None:
    scene.fill(4, crowded=False)
    scene.add(0, trail(15, 3.0, 3.0) + ghost(300, 250, 60, 0.8))
    agreed, _ = scene.found()
    with dask.config.set(scheduler="synchronous"):
        small = shrink(scene.session).compute()
    inputs = (scene.session, small, scene.registration, scene.normalization)
    for name, arguments, lazy in (
        ("consensus", (*inputs,), consensus(*inputs)),
        ("artifacts", (*inputs, agreed), artifacts(*inputs, agreed)),
    ):
        op = get_op(name)
        assert op.cost is not None
        cost = op.cost(*arguments, **op.check({}))
        assert (cost.work > 0).all()
        assert cost.work.shape == ((1, 1, 1) if name == "consensus" else (4,))
        part = lazy if name == "consensus" else lazy.isel(frame=[0])
        with dask.config.set(scheduler="synchronous"):
            part.compute()
            tracemalloc.start()
            part.compute()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert 0.1 * cost.memory.max() < peak < cost.memory.max()


def test_keys_follow_what_a_mask_depends_on(scene: Scene) -> None:
    scene.fill(3, crowded=False)
    agreed, masks = scene.found()
    stored = xr.Dataset({k: (v.dims, np.asarray(v.values)) for k, v in scene.normalization.items()})
    registration = scene.registration.compute()

    def keys(normalization: xr.Dataset) -> list[str]:
        op = get_op("artifacts")
        assert op.keys is not None
        return list(op.keys(scene.session, masks, registration, normalization, agreed, **op.check({})))

    before = keys(stored)
    assert len(set(before)) == 3
    assert keys(stored) == before
    moved = stored.copy(deep=True)
    moved["offset"].values[1] += 1.0
    # All three overlap.
    assert not set(keys(moved)) & set(before)

    op = get_op("integrate")
    assert op.keys is not None
    parameters = op.check({"tile": 128})
    plain = op.keys(scene.session, registration, stored, **parameters)
    scene.add(0, trail(15, 3.0, 9.0))
    _, other = scene.found()
    changed = op.keys(scene.session, registration, stored, None, other, **parameters)
    assert (changed != plain).any()
    np.testing.assert_array_equal(op.keys(scene.session, registration, stored, None, masks, **parameters), plain)
    lazy = other.chunk()
    with pytest.raises(NotYetKnown):
        op.keys(scene.session, registration, stored, None, lazy, **parameters)


def test_errors_name_the_node_and_the_remedy(scene: Scene) -> None:
    scene.fill(3, crowded=False)
    agreed, masks = scene.found()
    with pytest.raises(ConfigError, match="multiple of 32"):
        consensus(scene.session, shrink(scene.session), scene.registration, scene.normalization, tile=100)
    fewer = scene.session.isel(frame=[0, 1])
    with pytest.raises(DataError, match="consensus: the shrunken is not of the session's 3 frames"):
        consensus(scene.session, shrink(fewer), scene.registration, scene.normalization)
    with pytest.raises(DataError, match="integrate: the artifacts"):
        integrate(scene.session, scene.registration, scene.normalization, None, masks.isel(frame=[0, 2]))
    with pytest.raises(DataError, match="no frames to shrink"):
        shrink(scene.session.isel(frame=[]))
    assert agreed.attrs["step"] == 4


def test_thresholds_of_nothing_find_nothing(scene: Scene) -> None:
    scene.fill(3, crowded=False)
    scene.add(0, trail(31, 3.0, 9.0))
    scene.add(1, ghost(250, 190, 50, 2.0))
    _, masks = scene.found(trails=0.0, blobs=0.0)
    assert masks["masked"].values.max() == 0
    _, masks = scene.found(blobs=0.0)
    assert masks["trail_count"].values.tolist() == [1, 0, 0]
    assert masks["blob_count"].values.sum() == 0
