"""Frames written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import register_source
from skyloom.ops.grid import wcs_header
from skyloom.workflows.frame_files import file_names, write_frames

SHAPE = (600, 70)
PIXELS = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)


class Plain:
    shape = SHAPE
    windowed = True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        assert rows.stop - rows.start <= 256
        return PIXELS[rows, columns].copy()


class Calibrated(Plain):
    def variance(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return PIXELS[rows, columns] ** 2

    def flags(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        return (PIXELS[rows, columns] > 1).astype(np.uint8)


def session(kind: str, names: list[str]) -> xr.Dataset:
    register_source("plain-test", lambda fields: Plain())
    register_source("calibrated-test", lambda fields: Calibrated())
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = (
        ["RA---TAN", "DEC--TAN"],
        [10, 20],
        [30, 300],
        [-1e-3, 1e-3],
    )
    count = len(names)
    columns: dict[str, Any] = {
        "name": names,
        "source": [json.dumps({"kind": kind, "n": i}) for i in range(count)],
        "height": [SHAPE[0]] * count,
        "width": [SHAPE[1]] * count,
        "wcs": [wcs_header(wcs)] * count,
        "band": ["Hα"] * count,
        "exposure": [120.0] * count,
        "gain": [np.nan] * count,
        "date": ["2026-01-10T20:00:00"] * count,
        "facts": [json.dumps({"object": ["M 31", "header OBJECT"], "calibrated": ["dark k=1.00", "skyloom"]})]
        * count,
        "units": ["adu"] * count,
    }
    return xr.Dataset({k: ("frame", np.array(v)) for k, v in columns.items()})


def test_frames_come_out_as_they_are(tmp_path: Path) -> None:
    paths = write_frames(session("calibrated-test", ["a/x.fits", "b/x.fits"]), tmp_path, variance=True, flags=True)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == ["frames/a_x.fits", "frames/b_x.fits"]
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == ["a_x.fits", "b_x.fits"]
    with fits.open(paths[0]) as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus[0].data, PIXELS)
        np.testing.assert_array_equal(hdus["VARIANCE"].data, PIXELS**2)
        np.testing.assert_array_equal(hdus["FLAGS"].data, PIXELS > 1)
        header = hdus[0].header
        assert (header["OBJECT"], header["EXPTIME"], header["BUNIT"]) == ("M 31", 120.0, "adu")
        assert header["FILTER"] == "H?"
        assert "EGAIN" not in header
        assert "dark k=1.00" in str(header["HISTORY"])
        np.testing.assert_allclose(WCS(header).wcs_pix2world(29, 299, 0), [10, 20], atol=1e-9)


def test_variance_of_frames_that_have_none(tmp_path: Path) -> None:
    frames = session("plain-test", ["x.fits"])
    assert len(write_frames(frames, tmp_path)) == 1
    with pytest.raises(DataError, match="no variance: only calibrated ones do"):
        write_frames(frames, tmp_path, variance=True)


def test_names_are_unique_and_safe() -> None:
    names = ["night 1/L.fits", "night_1/L.fit", "Ü.xisf [R]", "///", "m31.fits.gz"]
    assert file_names(session("plain-test", names)) == ["night_1_L", "night_1_L_2", "R", "frame", "m31"]
