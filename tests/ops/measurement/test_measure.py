"""Measuring simulated frames: injected positions, fluxes, widths, noise come back."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits import examine
from skyloom.ops.frames import register_source
from skyloom.ops.measurement.measure import FrameMeasurement, measure, measure_cost, measure_frame, measure_spec
from skyloom.ops.registry import get_op

Floats = NDArray[np.float64]
NOISE = 5.0


def profile(dx: Floats, dy: Floats, fwhm: float, beta: float | None) -> Floats:
    r2 = dx**2 + dy**2
    if beta is None:
        s2 = fwhm**2 / (8 * math.log(2))
        return np.asarray(np.exp(-r2 / (2 * s2)) / (2 * math.pi * s2))
    a2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
    return np.asarray((1 + r2 / a2) ** -beta * (beta - 1) / (math.pi * a2))


def paint(
    shape: tuple[int, int],
    x: Floats,
    y: Floats,
    flux: Floats,
    fwhm: float,
    beta: float | None = 3.5,
    ellipticity: float = 0.0,
) -> Floats:
    image = np.zeros(shape)
    reach = int(10 * fwhm)
    q = math.sqrt(1 - ellipticity)
    for px, py, f in zip(x, y, flux, strict=True):
        rows = slice(max(int(py) - reach, 0), int(py) + reach + 1)
        columns = slice(max(int(px) - reach, 0), int(px) + reach + 1)
        gy, gx = np.mgrid[rows, columns]
        gy, gx = (
            gy[: shape[0] - rows.start, : shape[1] - columns.start],
            gx[: shape[0] - rows.start, : shape[1] - columns.start],
        )
        image[rows, columns] += f * profile((gx - px) * q, (gy - py) / q, fwhm, beta)
    return image


def lattice(shape: tuple[int, int], seed: int, pitch: int = 44) -> tuple[Floats, Floats]:
    """Places of stars far enough from each other and from the edge, at all subpixel phases."""
    rng = np.random.default_rng(seed)
    gy, gx = np.mgrid[pitch // 2 + 4 : shape[0] - 20 : pitch, pitch // 2 + 4 : shape[1] - 20 : pitch]
    return gx.ravel() + rng.uniform(-4, 4, gx.size), gy.ravel() + rng.uniform(-4, 4, gx.size)


def noisy(sky: Floats, seed: int, noise: float = NOISE) -> NDArray[np.float32]:
    return np.asarray(sky + np.random.default_rng(seed).normal(0, noise, sky.shape), dtype=np.float32)


def paired(result: FrameMeasurement, x: Floats, y: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of the star table and of the truth that belong together."""
    distance, index = cKDTree(np.stack([x, y], -1)).query(result.stars[:, :2])
    near = np.nonzero(distance < 2)[0]
    return near, index[near]


@pytest.mark.parametrize("beta", [None, 2.8, 3.5])
@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0])
def test_bright_stars_come_back(fwhm: float, beta: float | None) -> None:
    shape = (700, 720)
    x, y = lattice(shape, 1)
    flux = np.random.default_rng(2).uniform(2e4, 1e5, x.size)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image = noisy(1000 + 0.1 * xx + 0.05 * yy + paint(shape, x, y, flux, fwhm, beta), 3)
    result = measure_frame(image, aperture=2.5)
    row, true = paired(result, x, y)
    stars = result.stars[row]
    assert len(row) == len(x) == len(result.stars)
    assert (stars[:, 8] == 0).all()
    assert np.hypot(stars[:, 0] - x[true], stars[:, 1] - y[true]).max() < 0.05
    ratio = stars[:, 2] / flux[true]
    assert ratio.std() < 0.01
    if beta is None:
        assert np.median(ratio) == pytest.approx(1, abs=0.002)
    assert result.summary[2] == pytest.approx(fwhm, rel=0.032 if fwhm == 2 else 0.02)
    assert np.median(stars[:, 4]) == pytest.approx(fwhm, rel=0.032 if fwhm == 2 else 0.02)
    assert result.summary[1] == pytest.approx(NOISE, rel=0.02)
    assert result.summary[6] == 0
    assert (np.diff(result.stars[:, 2]) <= 0).all()


def test_faint_fluxes_scatter_by_their_errors() -> None:
    shape = (900, 900)
    x, y = lattice(shape, 4, 36)
    flux = np.random.default_rng(5).uniform(800, 3000, x.size)
    result = measure_frame(noisy(200 + paint(shape, x, y, flux, 3.0, None), 6))
    row, true = paired(result, x, y)
    assert len(row) > 0.9 * len(x)
    pull = (result.stars[row, 2] - flux[true]) / result.stars[row, 3]
    assert 0.85 < pull.std() < 1.15
    assert abs(pull.mean()) < 0.15


def test_no_star_well_above_the_noise_is_missed() -> None:
    shape = (900, 900)
    found = 0.0
    for seed in (1, 2, 3):
        x, y = lattice(shape, seed, 30)
        flux = np.full(x.size, 12 * NOISE * math.sqrt(math.pi * 36))
        result = measure_frame(noisy(100 + paint(shape, x, y, flux, 3.0), 5 + seed))
        row, true = paired(result, x, y)
        assert len(result.stars) - len(row) <= 2
        found += np.unique(true).size / x.size / 3
    assert found > 0.98


def test_gain_adds_photon_noise() -> None:
    shape = (300, 300)
    x, y = lattice(shape, 7)
    image = noisy(paint(shape, x, y, np.full(x.size, 5e4), 3.0, None), 8)
    without, with_gain = measure_frame(image).stars[0], measure_frame(image, gain=2.0).stars[0]
    assert with_gain[3] ** 2 - without[3] ** 2 == pytest.approx(without[2] / 2, rel=1e-6)


def test_seeing_does_not_change_fluxes() -> None:
    shape = (600, 600)
    x, y = lattice(shape, 9, 60)
    flux = np.full(x.size, 6e4)
    medians = [
        np.median(measure_frame(noisy(500 + paint(shape, x, y, flux, fwhm, 3.0), 10)).stars[:, 2])
        for fwhm in (2.5, 4.5)
    ]
    assert medians[1] == pytest.approx(medians[0], rel=0.01)


def test_elongation() -> None:
    shape = (500, 500)
    x, y = lattice(shape, 11)
    sky = paint(shape, x, y, np.full(x.size, 5e4), 3.0, 3.5, ellipticity=0.3)
    stars = measure_frame(noisy(sky, 12)).stars
    assert np.median(stars[:, 5]) == pytest.approx(0.3, abs=0.02)
    assert np.abs(np.cos(stars[:, 6])).min() > 0.99


def test_nebula_does_not_eat_or_feed_stars() -> None:
    shape = (600, 600)
    x, y = lattice(shape, 13)
    yy, xx = np.mgrid[:600, :600]
    nebula = 400 * np.exp(-((xx - 300) ** 2 + (yy - 280) ** 2) / (2 * 60**2))
    flux = np.full(x.size, 5e4)
    result = measure_frame(noisy(300 + nebula + paint(shape, x, y, flux, 3.0, None), 14), aperture=2.5)
    row, true = paired(result, x, y)
    assert len(row) == len(x)
    assert np.abs(result.stars[row, 2] / flux[true] - 1).max() < 0.02
    assert np.median(result.stars[row, 2]) == pytest.approx(5e4, rel=0.003)


def test_hot_pixels_and_cosmic_rays_are_no_stars() -> None:
    rng = np.random.default_rng(15)
    shape = (500, 500)
    x, y = lattice(shape, 16)
    image = noisy(100 + paint(shape, x, y, np.full(x.size, 3e4), 2.5), 17)
    for px, py in rng.integers(5, 490, (300, 2)):
        image[py, px] += 2000
    for px, py in rng.integers(5, 490, (30, 2)):
        for k in range(4):
            image[py + k, px + k // 2] += 1500
    result = measure_frame(image)
    row, _ = paired(result, x, y)
    assert len(row) > 0.95 * len(x)
    assert len(result.stars) - len(row) <= 3
    assert result.summary[2] == pytest.approx(2.5, rel=0.05)


def test_flags() -> None:
    shape = (400, 400)
    x = np.array([3.0, 100.0, 108.0, 200.0, 300.0, 300.0, 200, 60, 60, 350, 350, 150])
    y = np.array([200.0, 100.0, 100.0, 200.0, 300.0, 100.0, 60, 300, 60, 200, 350, 330])
    flux = np.full(x.size, 4e4)
    flux[4] = 9e5
    image = noisy(100 + paint(shape, x, y, flux, 3.0, None), 18)
    image[203, 201] = np.nan
    clipped = np.minimum(image, 30000)
    for saturation in (math.nan, 30000.0):
        stars = measure_frame(clipped, saturation=saturation).stars
        at = {(round(a), round(b)): int(f) for a, b, f in stars[:, [0, 1, 8]]}
        assert at[(3, 200)] == 2
        assert at[(100, 100)] == at[(108, 100)] == 1
        assert at[(200, 200)] == 2
        assert at[(300, 300)] == 4
        assert at[(300, 100)] == at[(60, 60)] == at[(350, 350)] == 0


def test_cells_keep_nebula_and_lose_stars() -> None:
    shape = (640, 640)
    rng = np.random.default_rng(19)
    x, y = rng.uniform(5, 635, (2, 250))
    yy, xx = np.mgrid[:640, :640]
    diffuse = 500 + 0.2 * xx + 400 * np.exp(-((xx - 320) ** 2 + (yy - 300) ** 2) / (2 * 40**2))
    diffuse = diffuse + 60 * np.exp(-((xx - 480) ** 2 + (yy - 480) ** 2) / (2 * 12**2))
    stars = paint(shape, x, y, 10 ** rng.uniform(3, 5, x.size), 3.0, 3.5)
    image = noisy(diffuse + stars, 20)
    hits = rng.random(shape) < 0.001
    image[hits] += 3000
    cells = measure_frame(image).cells
    truth = diffuse.reshape(40, 16, 40, 16).mean(axis=(1, 3))
    good = cells[..., 2] > 0.3
    assert good.mean() > 0.85
    # The extended sources are still there: their cells are used, not masked.
    assert cells[18:20, 19:21, 2].min() > 0.2
    assert cells[29:31, 29:31, 2].min() > 0.2
    # A masked part of a cell with a gradient moves its mean: compare with the truth of the pixels in it.
    flat = np.hypot(xx - 320, yy - 300).reshape(40, 16, 40, 16).min(axis=(1, 3)) > 130
    flat &= np.hypot(xx - 480, yy - 480).reshape(40, 16, 40, 16).min(axis=(1, 3)) > 45
    error = (cells[..., 0] - truth)[good & flat]
    assert abs(np.mean(error)) < 0.1 * NOISE
    assert abs(np.median(error)) < 0.1 * NOISE
    assert np.std(error) < 3 * NOISE / 16
    bulk = (cells[..., 0] - truth)[good & (cells[..., 2] > 0.95)]
    assert abs(np.mean(bulk)) < 0.1 * NOISE


def test_cells_of_a_smooth_nebula_are_linear() -> None:
    yy, xx = np.mgrid[:512, :512]
    nebula = 100 * np.exp(-((xx - 250) ** 2 + (yy - 260) ** 2) / (2 * 30**2))
    faint, bright = (measure_frame(noisy(200 + k * nebula, 21)).cells[..., 0] for k in (1.0, 2.0))
    truth = nebula.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    assert np.abs(bright - faint - truth).max() < 0.3 * NOISE
    assert abs((bright - faint - truth).mean()) < 0.02 * NOISE


# The op -------------------------------------------------------------------------------------------------------

FRAMES: dict[str, NDArray[np.float32]] = {}
READS: Counter[str] = Counter()
FAULTS: dict[str, Callable[[], None]] = {}


class Source:
    windowed = True

    def __init__(self, key: str) -> None:
        self.key = key
        self.shape = FRAMES[key].shape if key in FRAMES else (64, 64)

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        READS[self.key] += 1
        if self.key in FAULTS:
            FAULTS[self.key]()
        if self.key not in FRAMES:
            raise DataError(f"{self.key}: truncated")
        return FRAMES[self.key][rows, columns].copy()


@pytest.fixture
def session() -> xr.Dataset:
    READS.clear()
    FAULTS.clear()
    FRAMES.clear()
    x, y = lattice((300, 340), 22)
    sky = 100 + paint((300, 340), x, y, np.full(x.size, 3e4), 3.0)
    FRAMES["good"] = noisy(sky, 23)
    FRAMES["dead"] = np.full((300, 340), np.nan, np.float32)
    FRAMES["empty"] = noisy(np.full((200, 250), 100.0), 24)
    FRAMES["shape"] = FRAMES["good"]
    register_source("test-measure", lambda fields: Source(fields["key"]))
    keys = ["good", "dead", "broken", "empty", "shape"]
    shapes = [(300, 340), (300, 340), (64, 64), (200, 250), (300, 400)]
    return session_of(keys, shapes, "test-measure")


def session_of(keys: list[str], shapes: list[tuple[int, int]], kind: str) -> xr.Dataset:
    n = len(keys)
    columns: dict[str, Any] = {
        "name": np.array(keys),
        "source": np.array([json.dumps({"kind": kind, "key": k}) for k in keys]),
        "height": np.array([s[0] for s in shapes]),
        "width": np.array([s[1] for s in shapes]),
        "gain": np.full(n, np.nan),
        "saturation": np.full(n, np.nan),
    }
    return xr.Dataset(
        {k: ("frame", v) for k, v in columns.items()}, coords={"frame": [f"{i:016x}" for i in range(n)]}
    )


def test_building_reads_nothing_and_one_frame_reads_one(session: xr.Dataset) -> None:
    lazy = measure(session)
    assert not READS
    lazy["summary"][3].compute(scheduler="synchronous")
    assert READS == {"empty": 1}
    READS.clear()
    lazy.isel(frame=[0]).compute(scheduler="synchronous")
    assert READS == {"good": 1}


def test_result_is_what_was_promised(session: xr.Dataset) -> None:
    lazy = measure(session, cell=20, max_stars=30)
    assert get_op("measure").unit == ("frame",)
    for name, variable in lazy.data_vars.items():
        assert variable.chunks is not None, name
        assert variable.chunks[0] == (1,) * 5
        assert all(len(c) == 1 for c in variable.chunks[1:])
    result = lazy.compute(scheduler="threads", num_workers=4)
    assert lazy.sizes == result.sizes == {**result.sizes, "cell_y": 15, "cell_x": 20, "star": 30}
    for name in lazy.data_vars:
        assert lazy[name].dtype == result[name].dtype
    xr.testing.assert_identical(result, lazy.compute(scheduler="synchronous"))
    eager = measure_frame(FRAMES["good"], cell=20, max_stars=30)
    np.testing.assert_array_equal(result["stars"][0, : len(eager.stars)], eager.stars)
    np.testing.assert_array_equal(result["cells"][0, :15, :17], eager.cells)
    assert np.isnan(result["cells"][0, :, 17:, :2]).all()


def test_status(session: xr.Dataset) -> None:
    summary = measure(session).compute(scheduler="synchronous")["summary"]
    status = summary.sel(summary_quantity="status").values
    np.testing.assert_array_equal(status, [0, 1, 2, 3, 2])
    assert float(summary.sel(summary_quantity="noise")[3]) == pytest.approx(NOISE, rel=0.02)
    np.testing.assert_array_equal(summary.sel(summary_quantity="valid"), [1, 0, 0, 1, 0])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_fault_of_the_disk_is_not_kept_as_a_status(session: xr.Dataset, wrapped: bool) -> None:
    def fail(code: int | None) -> None:
        fault = OSError(code, "no luck") if code else OSError("invalid data stream")
        if not wrapped:
            raise fault
        raise DataError(f"a.fits: cannot be read: {fault}") from fault

    def status(code: int | None) -> float:
        FAULTS["good"] = lambda: fail(code)
        summary = measure(session)["summary"][0].compute(scheduler="synchronous")
        return float(summary.sel(summary_quantity="status"))

    for code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
        with pytest.raises(OSError, match="no luck") as raised:
            status(code)
        assert raised.value.errno == code
    if wrapped:
        assert [status(code) for code in (errno.ENOENT, errno.EACCES, None)] == [2, 2, 2]
    FAULTS.clear()
    assert float(measure(session)["summary"][0, -1]) == 0


def test_a_damaged_or_missing_file_is_status_2(tmp_path: Path) -> None:
    shape = (60, 70)
    paths = [tmp_path / f"{name}.fits.gz" for name in ("whole", "gone", "broken")]
    for path in paths:
        fits.writeto(path, noisy(np.zeros(shape), 1))
    specs = [examine(path)[0].source.spec() for path in paths]
    paths[1].unlink()
    data, facts = bytearray(paths[2].read_bytes()), paths[2].stat()
    data[5000:5200] = bytes(200)
    paths[2].write_bytes(data)
    os.utime(paths[2], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    results = [measure_spec(spec, shape, cell=16) for spec in specs]
    assert [float(r.summary[6]) for r in results] == [3, 2, 2]
    assert results[2].cells.shape == results[0].cells.shape


def test_names_depend_on_the_arguments_alone(session: xr.Dataset) -> None:
    assert measure(session)["stars"].data.name == measure(session)["stars"].data.name
    assert measure(session)["stars"].data.name != measure(session, threshold=6.0)["stars"].data.name


def test_no_frames() -> None:
    with pytest.raises(DataError, match="no frames"):
        measure(session_of([], [], "test-measure"))


def test_cost_is_per_frame(session: xr.Dataset) -> None:
    cost = measure_cost(session)
    assert cost.work.shape == cost.memory.shape == (5,)
    assert cost.work[0] == pytest.approx(0.102)


@pytest.mark.parametrize("kind", ["noise", "one pixel", "flat", "tiny"])
def test_odd_frames_are_measured(kind: str) -> None:
    image = {
        "noise": noisy(np.zeros((40, 40)), 1),
        "one pixel": np.where(np.arange(400).reshape(20, 20) == 7, 5.0, np.nan).astype(np.float32),
        "flat": np.full((100, 100), 3.0, np.float32),
        "tiny": np.ones((3, 2), np.float32),
    }[kind]
    result = measure_frame(image)
    assert result.summary[6] == 3
    assert not len(result.stars)
    assert np.nanmean(result.cells[..., 0]) == pytest.approx(float(np.nanmean(image)), abs=0.5)


def test_crowd_of_stars_keeps_some_cells() -> None:
    rng = np.random.default_rng(30)
    x, y = rng.uniform(0, 400, (2, 4000))
    result = measure_frame(noisy(paint((400, 400), x, y, 10 ** rng.uniform(2.5, 4.5, x.size), 2.5), 31))
    assert result.summary[6] == 0
    assert (result.cells[..., 2] > 0).mean() > 0.9


def test_real_frame(shared_data: Callable[[str], Path]) -> None:
    path = sorted(shared_data("2mass_m42_J_core").iterdir())[4]
    with fits.open(path) as hdus:
        image = np.ascontiguousarray(hdus[0].data, dtype=np.float32)
    result = measure_frame(image)
    assert result.summary[6] == 0
    assert 2.8 < result.summary[2] < 3.5
    assert 0.3 < result.summary[1] < 0.6
    assert result.summary[4] > 100
