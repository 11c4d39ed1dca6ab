"""A session for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from skyloom.ops.session.describe import describe
from skyloom.ops.session.ingest import ingest

TAN: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 20.5,
    "CRPIX2": 15.5,
    "CRVAL1": 83.8,
    "CRVAL2": -5.4,
    "CDELT1": -5e-4,
    "CDELT2": 5e-4,
}


def write(path: Path, seed: int, shape: tuple[int, int] = (30, 40), **cards: Any) -> None:
    data = np.random.default_rng(seed).normal(1000, 9, shape).astype(np.uint16)
    fits.PrimaryHDU(data, fits.Header({k.replace("_", "-"): v for k, v in cards.items()})).writeto(path)


def test_rows(tmp_path: Path) -> None:
    light: dict[str, Any] = {
        "IMAGETYP": "Light",
        "DATE_OBS": "2024-01-02T03:04:05",
        "INSTRUME": "ASI",
        "EXPTIME": 5.0,
    }
    write(tmp_path / "a.fits", 1, FILTER="R", GAIN=100, CCD_TEMP=-9.96, **light, **TAN)
    write(
        tmp_path / "b.fits", 2, BAYERPAT="RGGB", RA=83.0, DEC=-5.0, **{**light, "DATE_OBS": "2024-01-02T03:05:00"}
    )
    rows = describe(ingest(tmp_path))
    facts = rows[0].pop("facts")
    assert rows[0] == {
        "name": "a.fits",
        "kind": "light",
        "master": False,
        "band": "R",
        "filter": "R",
        "camera": "ASI",
        "exposure": 5.0,
        "temperature": -9.96,
        "gain": None,
        "gain_setting": 100.0,
        "offset_setting": None,
        "binning": None,
        "bayer": None,
        "rotation": None,
        "night": "2024-01-01",
        "date": "2024-01-02T03:04:05.000",
        "size": "40 x 30",
        "scale": 1.8,
        "ra": 83.8,
        "dec": -5.4,
        "pixel_size": None,
        "focal_length": None,
        "oddities": [],
    }
    assert facts["temperature"] == [-9.96, "header CCD-TEMP"]
    assert facts["read_noise"] == [None, "default"]
    assert (rows[1]["band"], rows[1]["bayer"], rows[1]["ra"], rows[1]["dec"]) == ("CFA", "RGGB", 83.0, -5.0)
    assert rows[1]["scale"] is None
    assert rows[1]["oddities"] == ["no WCS: solve it (ASTAP, astrometry.net) before a mosaic"]
    json.dumps(rows, allow_nan=False)


def test_a_wcs_that_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "c.fits", 3, IMAGETYP="Light", **{**TAN, "CDELT1": 0.0})
    (row,) = describe(ingest(tmp_path))
    assert [o.partition(":")[0] for o in row["oddities"]][:1] == ["WCS not used"]
    assert not any(o.startswith("no WCS") for o in row["oddities"])


def test_a_session_made_by_hand_need_not_have_all() -> None:
    columns = {"name": ["a"], "wcs": [""], "height": [10], "width": [20], "kind": ["light"], "band": ["L"]}
    (row,) = describe(xr.Dataset({k: ("frame", np.array(v)) for k, v in columns.items()}))
    assert (row["name"], row["size"], row["exposure"], row["facts"]) == ("a", "20 x 10", None, {})
    assert row["oddities"]
