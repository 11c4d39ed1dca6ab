"""Debayer: three frames for one, each with its own place on the sky, size and statistics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.cfa import BANDS, PATTERNS, CfaSource, Method, places
from skyloom.ops.calibration.debayer import debayer
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.measurement.measure import measure_frame
from skyloom.ops.simulation.camera import Background, Camera, Exposure
from skyloom.ops.simulation.light import light
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.sky import SkyModel

METHODS: tuple[Method, ...] = ("superpixel", "interpolate")
SIDE = 400
POINTING = Pointing(10.1, -40.05, 2.0, 33.0, 203.4, 188.1)
SKY = SkyModel(seed=4, ra=10.0, dec=-40.0, star_density=40000.0, nebula=0.0)


def frames(pixels: np.ndarray, **columns: Any) -> xr.Dataset:
    """A session of one frame."""
    row: dict[str, Any] = {
        "name": "m31.fits", "source": array_spec(xr.Dataset({"image": (("y", "x"), pixels)}), "image"),
        "height": pixels.shape[0], "width": pixels.shape[1], "wcs": "", "kind": "light", "band": "CFA",
        "exposure": 30.0, "gain": 1.5, "saturation": 60000.0, "read_noise": 4.0, "bayer": "RGGB",
        "pixel_size": 3.76, "facts": "{}", **columns,
    }  # fmt: skip
    return xr.Dataset(
        {name: ("frame", np.array([value])) for name, value in row.items()},
        coords={"frame": np.array(["0123456789abcdef"])},
        attrs={"left_out": "[]", "source_bytes": 9.0},
    )


def read(table: xr.Dataset, index: int) -> np.ndarray:
    source = open_source(str(table["source"].values[index]))
    assert source.shape == (int(table["height"].values[index]), int(table["width"].values[index]))
    return source.read(*(slice(0, n) for n in source.shape))


def exposed(bayer: str, fwhm: float) -> np.ndarray:
    """Noise-free stars on a colour sensor."""
    camera = Camera(height=SIDE, width=SIDE, bayer=bayer)
    exposure = Exposure(index=1, seconds=60.0, pointing=POINTING, fwhm=fwhm, background=Background(1000.0))
    return light(camera, exposure, SKY, slice(0, SIDE), slice(0, SIDE)).astype(np.float32)


# --- the table ---


def test_three_frames_for_one() -> None:
    session = xr.concat(
        [frames(np.zeros((10, 13), np.float32)), frames(np.zeros((8, 8)), bayer="", name="mono.fits", band="Ha")],
        "frame",
    )
    session["frame"] = ["0123456789abcdef", "fedcba9876543210"]
    table = debayer(session)
    assert table["name"].values.tolist() == ["m31.fits [R]", "m31.fits [G]", "m31.fits [B]", "mono.fits"]
    assert table["band"].values.tolist() == ["R", "G", "B", "Ha"]
    assert table["bayer"].values.tolist() == ["", "", "", ""]
    assert table["height"].values.tolist() == [5, 5, 5, 8]
    assert table["width"].values.tolist() == [6, 6, 6, 8]
    assert table["gain"].values.tolist() == [1.5, 3.0, 1.5, 1.5]
    np.testing.assert_allclose(table["read_noise"].values, [4, 4 * math.sqrt(2), 4, 4])
    assert table["pixel_size"].values.tolist() == [7.52, 7.52, 7.52, 3.76]
    assert table["saturation"].values.tolist() == [60000.0] * 4
    assert table["exposure"].values.tolist() == [30.0] * 4
    assert len(set(table["frame"].values.tolist())) == 4
    assert str(table["frame"].values[3]) == "fedcba9876543210"
    assert str(table["source"].values[3]) == str(session["source"].values[1])
    assert json.loads(str(table["facts"].values[1])) == {
        "band": ["G", "debayer"],
        "debayered": ["superpixel of RGGB", "debayer"],
    }
    assert table.attrs["source_bytes"] == 4 * 9
    assert table.height.dtype == np.int64
    full = debayer(session, method="interpolate")
    assert full["height"].values.tolist() == [10, 10, 10, 8]
    assert full["gain"].values.tolist() == [0.375, 0.75, 0.375, 1.5]
    np.testing.assert_allclose(full["read_noise"].values, [2, 4 / math.sqrt(2), 2, 4])
    assert full["pixel_size"].values.tolist() == [3.76] * 4
    assert full.attrs["source_bytes"] == 12
    assert not set(full["frame"].values.tolist()[:3]) & set(table["frame"].values.tolist())


def test_calibration_frames_and_monochrome_ones_pass() -> None:
    flat = frames(np.zeros((8, 8)), kind="flat")
    xr.testing.assert_identical(debayer(flat).drop_attrs(), flat.drop_attrs())
    mono = frames(np.zeros((8, 8)), bayer="")
    assert debayer(mono).attrs["source_bytes"] == 9


@pytest.mark.parametrize(
    ("bayer", "shape", "reason"), [("CYGM", (8, 8), "none of RGGB"), ("RGGB", (3, 9), "9 × 3 pixels: too few")]
)
def test_what_cannot_be_taken_apart_is_left_out(bayer: str, shape: tuple[int, int], reason: str) -> None:
    odd = frames(np.zeros(shape), bayer=bayer)
    with pytest.raises(DataError, match=reason):
        debayer(odd)
    good = frames(np.zeros((8, 8)), name="good.fits")
    both = xr.concat([odd, good], "frame", combine_attrs="override")
    table = debayer(both)
    assert table.sizes["frame"] == 3
    ((name, why),) = json.loads(table.attrs["left_out"])
    assert name == "m31.fits"
    assert reason in why


# --- the sky ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bayer", PATTERNS)
def test_every_plane_knows_where_its_pixels_lie(bayer: str, method: Method) -> None:
    session = frames(np.zeros((SIDE, SIDE), np.float32), wcs=POINTING.header(), bayer=bayer)
    table = debayer(session, method=method)
    x, y = np.array([0.0, 90.0, 7.0]), np.array([0.0, 3.0, 150.0])
    for i, band in enumerate(BANDS):
        found = pixel_to_sky(parse_wcs(str(table["wcs"].values[i])), x, y)
        if method == "interpolate":
            expected = pixel_to_sky(parse_wcs(POINTING.header()), x, y)
        else:
            row, column = np.mean(places(bayer, band), axis=0)
            expected = pixel_to_sky(parse_wcs(POINTING.header()), 2 * x + column, 2 * y + row)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("method", "fwhm"), [("superpixel", 4.0), ("interpolate", 3.0)])
def test_stars_of_all_colours_lie_at_the_same_place_of_the_sky(method: Method, fwhm: float) -> None:
    table = debayer(frames(exposed("GRBG", fwhm), wcs=POINTING.header(), bayer="GRBG"), method=method)
    random = np.random.default_rng(1)
    wcs = parse_wcs(POINTING.header())
    found = []
    for i in range(3):
        image = read(table, i)
        stars = measure_frame((image + random.normal(0, 0.5, image.shape)).astype(np.float32)).stars
        stars = stars[(stars[:, 8] == 0) & (stars[:, 2] > 300)]
        found.append(
            np.stack(sky_to_pixel(wcs, *pixel_to_sky(parse_wcs(str(table["wcs"].values[i])), *stars[:, :2].T)))
        )
    for other in (found[0], found[2]):
        apart = other[:, :, None] - found[1][:, None]
        near = np.hypot(*apart).argmin(axis=1)
        matched = np.take_along_axis(apart, near[None, :, None], axis=2)[..., 0]
        matched = matched[:, np.hypot(*matched) < 0.5]
        assert matched.shape[1] > 25
        # Pixels of the sensor, each axis.
        assert abs(np.median(matched, axis=1)).max() < 0.02
        assert (1.4826 * np.median(abs(matched - np.median(matched, axis=1)[:, None]), axis=1)).max() < 0.04


@pytest.mark.parametrize("method", METHODS)
def test_light_of_stars_is_kept(method: Method) -> None:
    """Their colours too: interpolation takes detail from the other colours, and no light."""
    cfa = exposed("RGGB", 2.8)
    camera = Camera(height=SIDE, width=SIDE)
    table = debayer(frames(cfa), method=method)
    for i, band in enumerate(BANDS):
        alone = Exposure(
            index=1, seconds=60.0, pointing=POINTING, band=band, fwhm=2.8, background=Background(1000.0)
        )
        truth = light(camera, alone, SKY, slice(0, SIDE), slice(0, SIDE)) - 1000
        flux = (read(table, i).astype(float) - 1000).sum() * (4 if method == "superpixel" else 1)
        assert flux == pytest.approx(truth.sum(), rel=0.02)
        if method == "interpolate":
            off = read(table, i) - 1000 - truth
            bilinear = _bilinear(cfa, i) - 1000 - truth
            assert off[4:-4, 4:-4].std() < 0.75 * bilinear[4:-4, 4:-4].std()


def _bilinear(cfa: np.ndarray, band: int) -> np.ndarray:
    mask = np.zeros(cfa.shape)
    for r, c in places("RGGB", BANDS[band]):
        mask[r::2, c::2] = 1
    weights = {1: 0.25, 0: 0.5}
    padded = [np.pad(a, 1, mode="reflect") for a in (cfa * mask, mask)]
    total, norm = (
        np.sum(
            [
                np.roll(p, (dy, dx), (0, 1)) * (1.0 if dy == dx == 0 else weights[abs(dy * dx)])
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ],
            axis=0,
        )[1:-1, 1:-1]
        for p in padded
    )
    return np.asarray(total / norm)


# --- real frames ---


def _session(files: list[Path], bayer: str) -> xr.Dataset:
    from skyloom.ops.session.ingest import ingest

    table = ingest(files)
    return table.assign(bayer=("frame", np.full(table.sizes["frame"], bayer)))


@pytest.mark.parametrize(("name", "bayer"), [("seestar_m94_s1", "GRBG"), ("als_samples", "RGGB")])
def test_real_frames_have_the_right_phase(shared_data: Any, name: str, bayer: str) -> None:
    """Same colours agree; of the interpolated planes no phase differs from another."""
    session = _session(sorted(shared_data(name).glob("*.fit*"))[:1], bayer)

    pixels = read(session, 0)
    seen = phase_means(pixels)
    first, second = (seen[k] for k, colour in enumerate(bayer) if colour == "G")
    red, blue = seen[bayer.index("R")], seen[bayer.index("B")]
    assert abs(first - second) < 0.05 * abs(red - blue)
    table = debayer(session, method="interpolate")
    for i in range(3):
        # What the two greens of the sensor differ by (0.2 % of the sky) stays; superpixels average it.
        assert np.ptp(phase_means(read(table, i))) < 1.1 * abs(first - second) + 0.005 * abs(red - blue)
    # The other way round green is made of red and blue pixels: a chequerboard.
    wrong = debayer(
        session.assign(bayer=("frame", [bayer[1] + bayer[0] + bayer[3] + bayer[2]])), method="interpolate"
    )
    assert np.ptp(phase_means(read(wrong, 1))) > 0.9 * abs(red - blue)


def phase_means(pixels: np.ndarray) -> list[float]:
    """Means of the pixels of each place in the 2 × 2."""
    return [float(pixels[r::2, c::2].mean(dtype=float)) for r in range(2) for c in range(2)]


def test_is_an_op_without_pixels() -> None:
    source = open_source(str(debayer(frames(np.zeros((8, 8))))["source"].values[0]))
    assert isinstance(source, CfaSource)
