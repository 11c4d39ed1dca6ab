"""Registration of simulated star tables (no pixels needed): planted errors are found, named and corrected."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import register_source
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.measurement.measure import measure
from skyloom.ops.registration.register import register
from skyloom.ops.registry import get_op

SHAPE = (400, 500)
SCALE = 2.0
COUNTED: list[str] = []


def make_wcs(ra: float, dec: float, turn: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * SCALE / 3600
    wcs.wcs.set()
    return wcs


class Sky:
    """Stars around (50°, 20°) seen by frames whose headers err by a known shift (frame pixels)."""

    def __init__(self, density: float = 1.2e-3, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        n = int(density * (2.4 * 3600 / SCALE) * (1.6 * 3600 / SCALE))
        self.ra = 50 + self.rng.uniform(-1.2, 1.2, n) / np.cos(np.radians(20))
        self.dec = 20 + self.rng.uniform(-0.8, 0.8, n)
        self.flux = 10 ** self.rng.uniform(3, 5, n)
        self.frames: list[dict[str, Any]] = []

    def add(
        self,
        ra: float,
        dec: float,
        *,
        error: tuple[float, float] = (0, 0),
        turn: float = 0.0,
        status: int = 0,
        scatter: float = 0.03,
        share: float = 0.9,
        header: str | None = None,
    ) -> None:
        wcs = make_wcs(ra, dec, turn)
        x, y = sky_to_pixel(wcs, self.ra, self.dec)
        seen = (x > 0) & (x < SHAPE[1] - 1) & (y > 0) & (y < SHAPE[0] - 1)
        seen &= self.rng.random(x.size) < share
        index = np.nonzero(seen)[0][np.argsort(-self.flux[seen])]
        table = np.zeros((index.size, 9))
        table[:, 0] = x[index] + error[0] + self.rng.normal(0, scatter, index.size)
        table[:, 1] = y[index] + error[1] + self.rng.normal(0, scatter, index.size)
        table[:, 2], table[:, 3], table[:, 4] = self.flux[index], 30.0, 3.0
        if status in (1, 2, 3):
            table = table[:0]
        text = wcs_header(wcs) if header is None else header
        self.frames.append({"wcs": text, "stars": table, "status": status})

    def tables(self) -> tuple[xr.Dataset, xr.Dataset]:
        n = len(self.frames)
        columns: dict[str, Any] = {
            "name": [f"frame_{i}.fits" for i in range(n)],
            "wcs": [f["wcs"] for f in self.frames],
            "kind": ["light"] * n,
            "height": np.full(n, SHAPE[0]),
            "width": np.full(n, SHAPE[1]),
        }
        session = xr.Dataset(
            {k: ("frame", np.array(v)) for k, v in columns.items()},
            coords={"frame": [f"{i:016x}" for i in range(n)]},
        )
        stars = np.full((n, max(len(f["stars"]) for f in self.frames) or 1, 9), np.nan)
        summary = np.zeros((n, 7))
        for i, frame in enumerate(self.frames):
            stars[i, : len(frame["stars"])] = frame["stars"]
            summary[i, -1] = frame["status"]

        def counted(block: NDArray[np.float64]) -> NDArray[np.float64]:
            COUNTED.append("block")
            return block

        def lazy(values: NDArray[np.float64]) -> da.Array:
            chunked = da.from_array(values, chunks=(1, *values.shape[1:]))
            meta = np.empty((0,) * values.ndim)
            array: da.Array = chunked.map_blocks(counted, meta=meta, token=tokenize(values))
            return array

        measurement = xr.Dataset(
            {
                "stars": (("frame", "star", "star_quantity"), lazy(stars)),
                "summary": (("frame", "summary_quantity"), lazy(summary)),
            },
            coords={"frame": session["frame"].values},
        )
        return session, measurement

    def register(self, **parameters: Any) -> xr.Dataset:
        return register(*self.tables(), **parameters).compute(scheduler="synchronous")


def mosaic(sky: Sky, errors: dict[int, tuple[float, float]] | None = None, **kwargs: Any) -> Sky:
    """3 × 2 panels with 20 % overlap, two frames each."""
    k = 0
    for dec in (19.9, 20.08):
        for ra in (49.77, 50.0, 50.23):
            for _ in range(2):
                sky.add(ra, dec, error=(errors or {}).get(k, (0, 0)), **kwargs)
                k += 1
    return sky


def shifts(result: xr.Dataset) -> NDArray[np.float64]:
    return np.asarray(result["shift"].values)


def test_good_headers_are_left_alone() -> None:
    result = mosaic(Sky()).register()
    assert result["use"].all()
    assert (result["reason"] == "").all()
    assert np.abs(shifts(result)).max() < 0.02
    assert (result["matches"] > 20).all()
    assert float(result["residual"].max()) < 0.1
    assert (result["island"] == 0).all()


def test_small_errors_are_recovered() -> None:
    rng = np.random.default_rng(2)
    planted = rng.normal(0, 0.7, (12, 2))
    planted -= planted.mean(axis=0)
    result = mosaic(Sky(), {k: tuple(e) for k, e in enumerate(planted)}).register()
    assert result["use"].all()
    assert np.abs(shifts(result) - planted).max() < 0.05
    assert float(result["residual"].max()) < 0.1


def test_rotated_frames_get_shifts_in_their_own_pixels() -> None:
    sky = Sky()
    for turn in (0, 90, 180, 200):
        sky.add(50, 20, turn=turn, error=(0.8, -0.5) if turn == 90 else (0, 0))
    error = shifts(sky.register())
    # The mean over the sky is the gauge: compare with the frame that is not rotated.
    wcs = [make_wcs(50, 20, t) for t in (0, 90)]
    x, y = np.array([249.5]), np.array([199.5])
    at = [
        np.array(pixel_to_sky(w, x - e[0] + p[0], y - e[1] + p[1]))
        for w, e, p in zip(wcs, error[:2], ((0, 0), (0.8, -0.5)), strict=True)
    ]
    assert np.abs(at[0] - at[1]).max() * 3600 / SCALE < 0.05


def test_wrong_wcs_is_found_and_corrected() -> None:
    result = mosaic(Sky(), {5: (12.0, -3.0)}).register()
    assert result["use"].all()
    expected = np.zeros((12, 2))
    expected[5] = 12, -3
    assert np.abs(shifts(result) - expected).max() < 0.05
    assert float(result["residual"][5]) < 0.1


def test_two_halves_that_disagree_meet_in_the_middle() -> None:
    """Every header is off by half of it: no frame is left to hold the rest.

    That none drifts away without a prior shows only on a whole session (tests/workflows/test_raw.py).
    """
    sky = Sky()
    for k in range(6):
        sky.add(50 + 0.05 * k, 20, error=(5.0, 0.0) if k < 3 else (-5.0, 0.0))
    result = sky.register()
    found = shifts(result)
    assert result["use"].values.all()
    np.testing.assert_allclose(found[:3] - found[3:], [[10.0, 0.0]] * 3, atol=0.2)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.5)


def test_the_frame_with_most_stars_may_be_the_wrong_one() -> None:
    sky = Sky()
    sky.add(50, 20, error=(-9.0, 8.0), share=1.0)
    for _ in range(5):
        sky.add(50, 20, share=0.7)
    result = sky.register()
    assert np.abs(shifts(result) - [[-9, 8]])[0].max() < 0.05
    assert np.abs(shifts(result)[1:]).max() < 0.05


def test_wrong_wcs_is_left_out_when_only_verifying() -> None:
    result = mosaic(Sky(), {5: (12.0, -3.0)}).register(refine="none")
    assert result["use"].values.tolist() == [k != 5 for k in range(12)]
    reason = str(result["reason"][5].values)
    assert "12.4 px" in reason
    assert "refine = shift" in reason
    assert (shifts(result) == 0).all()
    assert int(result["island"][5]) == -1
    assert float(result["residual"][:5].max()) < 0.1


def test_hopeless_wcs_is_left_out_with_numbers() -> None:
    result = mosaic(Sky(), {5: (220.0, -130.0)}).register()
    assert result["use"].values.tolist() == [k != 5 for k in range(12)]
    reason = str(result["reason"][5].values)
    assert "within 30 px" in reason
    assert "stars in the overlap match none" in reason
    assert np.abs(np.delete(shifts(result), 5, axis=0)).max() < 0.05


def test_rotation_error_shows_in_the_residual() -> None:
    sky = mosaic(Sky())
    stars = sky.frames[3]["stars"]
    turn = np.radians(0.8)
    centred = stars[:, :2] - [250, 200]
    stars[:, 0] = 250 + np.cos(turn) * centred[:, 0] - np.sin(turn) * centred[:, 1]
    stars[:, 1] = 200 + np.sin(turn) * centred[:, 0] + np.cos(turn) * centred[:, 1]
    result = sky.register()
    assert result["use"].values.tolist() == [k != 3 for k in range(12)]
    assert "px rms over" in str(result["reason"][3].values) or "match none" in str(result["reason"][3].values)
    assert np.abs(np.delete(shifts(result), 3, axis=0)).max() < 0.05


def test_measurement_status_is_heeded() -> None:
    sky = mosaic(Sky())
    sky.add(50, 20, status=1)
    sky.add(50, 20, status=2)
    sky.add(50, 20, status=3)
    sky.add(50, 20, header="")
    result = sky.register()
    assert result["use"].values[12:].tolist() == [False, False, True, False]
    assert result["reason"].values[12:].tolist() == [
        "no valid pixels",
        "cannot be read",
        "",
        "no usable WCS in the header",
    ]
    assert int(result["matches"][14]) == 0
    assert np.isnan(result["residual"][14])
    assert (shifts(result)[14] == 0).all()
    assert result["in_canvas"].values[12:].tolist() == [True, True, True, False]


def test_islands_are_numbered_by_size() -> None:
    sky = Sky()
    sky.add(49.3, 20)
    for k in range(3):
        sky.add(50.3 + 0.02 * k, 20, error=(0.4 * (k - 1), 0))
    result = sky.register()
    assert result["island"].values.tolist() == [1, 0, 0, 0]
    assert result["use"].all()
    assert int(result["matches"][0]) == 0
    np.testing.assert_allclose(shifts(result)[1:].mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(shifts(result)[:, 0], [0, -0.4, 0, 0.4], atol=0.05)


def test_building_computes_nothing_and_knows_the_grid() -> None:
    session, measurement = mosaic(Sky()).tables()
    COUNTED.clear()
    lazy = register(session, measurement)
    assert not COUNTED
    assert get_op("register").unit == ()
    grid = Grid.from_attrs(lazy.attrs)
    assert grid.pixel_scale == pytest.approx(SCALE, rel=1e-6)
    assert lazy["in_canvas"].chunks is None
    assert json.loads(json.dumps(lazy.attrs)) == lazy.attrs
    result = lazy.compute(scheduler="synchronous")
    assert COUNTED
    for name in lazy.data_vars:
        assert lazy[name].dtype == result[name].dtype == result[name].values.dtype
        assert lazy[name].shape == result[name].values.shape
    xr.testing.assert_identical(result, register(session, measurement).compute(scheduler="threads"))
    again = register(session, measurement)
    assert again["shift"].data.name == lazy["shift"].data.name
    assert register(session, measurement, tolerance=2.0)["shift"].data.name != lazy["shift"].data.name


def test_no_positions_at_all() -> None:
    sky = Sky()
    sky.add(50, 20, header="")
    with pytest.raises(DataError, match="usable WCS"):
        sky.register()


class RealSource:
    windowed = True

    def __init__(self, path: str) -> None:
        with fits.open(io.BytesIO(unpacked(Path(path)))) as hdus:
            self.image = np.asarray(hdus[0].data, dtype=np.float32)
        self.shape = self.image.shape

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.image[rows, columns]).copy()


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.mark.parametrize("name", ["2mass_m101_J", "2mass_m42_J_core"])
def test_real_frames_agree_with_their_wcs(shared_data: Callable[[str], Path], name: str) -> None:
    register_source("test-register", lambda fields: RealSource(fields["path"]))
    paths = sorted(shared_data(name).glob("*.fits"))
    n = len(paths)
    headers, shapes = [], []
    for path in paths:
        with fits.open(io.BytesIO(unpacked(path))) as hdus:
            headers.append(wcs_header(WCS(hdus[0].header, naxis=2)))
            shapes.append(hdus[0].data.shape)
    columns: dict[str, Any] = {
        "name": [p.name for p in paths],
        "source": [json.dumps({"kind": "test-register", "path": str(p)}) for p in paths],
        "wcs": headers,
        "kind": ["light"] * n,
        "height": [s[0] for s in shapes],
        "width": [s[1] for s in shapes],
        "gain": np.full(n, np.nan),
        "saturation": np.full(n, np.nan),
    }
    session = xr.Dataset(
        {k: ("frame", np.array(v)) for k, v in columns.items()}, coords={"frame": [f"{i:016x}" for i in range(n)]}
    )
    result = register(session, measure(session).compute(scheduler="threads")).compute()
    assert result["use"].all(), result["reason"].values
    assert (result["island"] == 0).all()
    assert float(result["residual"].max()) < 0.3
    assert np.abs(shifts(result)).max() < 0.4


def parts(sky: Sky, frames: list[int], **parameters: Any) -> xr.Dataset:
    session, measurement = (d.isel(frame=frames) for d in sky.tables())
    return register(session, measurement, **parameters).compute(scheduler="synchronous")


def test_frames_of_the_last_run_stay_and_new_ones_are_placed_among_them() -> None:
    rng = np.random.default_rng(5)
    planted = rng.normal(0, 0.8, (12, 2))
    planted[3] = 14.0, 5.0
    sky = mosaic(Sky(), {k: tuple(e) for k, e in enumerate(planted)})
    first = parts(sky, [0, 2, 4, 6, 8, 10])
    assert not first["kept"].any()
    both = sky.register(earlier=first, solution="keep of it")
    assert both["kept"].values.tolist() == [True, False] * 6
    for name in ("shift", "residual", "matches"):
        assert both[name].values[::2].tobytes() == first[name].values.tobytes()
    assert both["use"].all()
    # The gauge is that of the frames that stay.
    gauge = (shifts(both) - planted)[::2].mean(axis=0)
    assert np.abs(shifts(both) - planted - gauge).max() < 0.08
    fewer = parts(sky, [1, 2, 3, 4], earlier=both, solution="keep of it")
    assert fewer["shift"].values.tobytes() == both["shift"].values[1:5].tobytes()


def test_new_frames_that_contradict_what_stays_do_not_push_it_out() -> None:
    """Two frames that stay against four that share their panel and an error of 60 px."""
    sky = Sky(density=4e-4)
    sky.add(50, 20)
    sky.add(50.05, 20)
    for _ in range(4):
        sky.add(50, 20.01, error=(60.0, 0.0))
    first = parts(sky, [0, 1])
    alone = sky.register()
    assert alone["use"].values.tolist() == [False] * 2 + [True] * 4
    kept = sky.register(earlier=first, solution="keep of it")
    assert kept["use"].values.tolist() == [True] * 2 + [False] * 4
    assert "the WCS in the header is wrong" in str(kept["reason"].values[2])
    assert kept["shift"].values[:2].tobytes() == first["shift"].values.tobytes()


def test_a_frame_whose_file_or_header_is_another_is_placed_anew() -> None:
    sky = mosaic(Sky())
    first = sky.register()
    session, measurement = sky.tables()
    texts = session["wcs"].values.copy()
    texts[2] = wcs_header(make_wcs(50.0 + 1e-4, 19.9))
    moved = session.assign(wcs=("frame", texts))
    again = register(moved, measurement, earlier=first, solution="keep of it").compute(scheduler="synchronous")
    assert np.flatnonzero(~again["kept"].values).tolist() == [2]
    assert float(np.hypot(*again["shift"].values[2])) > 0.1
