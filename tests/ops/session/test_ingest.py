"""Folders and files become a session; what cannot be used is left out with its reason."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.frames import open_source
from skyloom.ops.registry import get_op
from skyloom.ops.session.describe import describe
from skyloom.ops.session.ingest import ingest, open_session
from skyloom.ops.session.pixels import frame_pixels

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


def write(path: Path, seed: int = 1, shape: tuple[int, int] = (30, 40), **cards: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(1000, 9, shape).astype(np.uint16)
    header = fits.Header({k.replace("_", "-"): v for k, v in cards.items()})
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def left_out(session: xr.Dataset) -> dict[str, str]:
    return dict(json.loads(session.attrs["left_out"]))


def no_compute(graph: object, keys: object, **_: object) -> None:
    raise AssertionError("computed")


def test_the_table(tmp_path: Path) -> None:
    write(
        tmp_path / "b.fits",
        2,
        IMAGETYP="Light",
        FILTER="Red",
        EXPTIME=30.0,
        EGAIN=0.5,
        DATE_OBS="2024-01-02T03:04:05",
    )
    write(tmp_path / "a.fits", 1, shape=(20, 50), INSTRUME="ZWO", **TAN)
    with dask.config.set(scheduler=no_compute):
        session = ingest([tmp_path / "b.fits", str(tmp_path / "a.fits")])
    assert session.sizes == {"frame": 2}
    columns = {name: session[name].values.tolist() for name in session.data_vars}
    assert columns["name"] == ["a.fits", "b.fits"]
    assert columns["height"] == [20, 30]
    assert columns["width"] == [50, 40]
    assert columns["kind"] == ["unknown", "light"]
    assert columns["band"] == ["none", "R"]
    assert columns["camera"] == ["ZWO", ""]
    assert columns["units"] == ["adu", "adu"]
    assert columns["saturation"] == [65535.0, 65535.0]
    assert columns["date"] == ["", "2024-01-02T03:04:05.000"]
    np.testing.assert_array_equal(session["exposure"], [np.nan, 30.0])
    np.testing.assert_array_equal(session["gain"], [np.nan, 0.5])
    assert [bool(w) for w in columns["wcs"]] == [True, False]
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in session["frame"].values.tolist())
    facts = json.loads(columns["facts"][1])
    assert facts["band"] == ["R", "header FILTER"]
    assert facts["exposure"] == [30.0, "header EXPTIME"]
    assert json.loads(columns["facts"][0])["exposure"] == [None, "default"]
    assert session.attrs == {"left_out": "[]", "notes": "[]"}
    kinds = {session[v].dtype.kind for v in session.variables}
    assert kinds == {"U", "i", "f", "b"}
    assert all(isinstance(v.data, np.ndarray) for v in session.variables.values())
    assert {str(v) for v in session.data_vars} == {
        *("name", "source", "height", "width", "wcs", "facts"),
        *("kind", "master", "band", "filter", "exposure", "gain", "saturation", "units", "date", "camera"),
        *("temperature", "gain_setting", "offset_setting", "binning", "bayer", "rotation", "night", "ra", "dec"),
        *("pedestal", "read_noise", "trim", "overscan", "telescope", "pixel_size", "focal_length"),
    }
    assert columns["master"] == [False, False]
    assert columns["pedestal"] == [0.0, 0.0]
    assert columns["night"] == ["", "2024-01-01"]
    assert columns["binning"] == ["", ""]
    np.testing.assert_array_equal(session["temperature"], [np.nan, np.nan])


def test_sources_read_the_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits")
    source = open_source(str(ingest(path)["source"].values[0]))
    np.testing.assert_array_equal(source.read(slice(3, 9), slice(2, 40)), fits.getdata(path)[3:9, 2:40])


def test_folders_are_searched(tmp_path: Path) -> None:
    names = ["a.fits", "x/b.FIT", "x/y/c.fts", "x/d.fits.fz", "e.fits.gz"]
    for i, name in enumerate(names):
        write(tmp_path / "plain.fits", i)
        shutil.move(tmp_path / "plain.fits", _made(tmp_path / name))
    for name in ("notes.txt", "x/.hidden/h.fits", "x/._a.fits", "project.zarr/f.fits", "picture.png"):
        _made(tmp_path / name).write_bytes(b"no frame")
    _made(tmp_path / "x/night.zip").write_bytes(b"PK\x03\x04")
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["a.fits", "b.FIT", "c.fts", "d.fits.fz", "e.fits.gz"]
    assert left_out(session) == {"night.zip": ".zip files are not read; unpack it or save it as FITS"}


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_names_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    for i, name in enumerate(["p/n1/l.fits", "p/n2/l.fits", "q/n1/l.fits", "q/m.fits"]):
        write(tmp_path / name, i)
    names = ingest([tmp_path])["name"].values.tolist()
    assert names == ["m.fits", "n2/l.fits", "p/n1/l.fits", "q/n1/l.fits"]


def test_the_order_does_not_depend_on_how_files_are_given(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i % 3}/{i}.fits", i) for i in range(30)]
    first = ingest(paths)
    for given in (paths[::-1], [tmp_path], [tmp_path, *paths[3:7]], tmp_path):
        xr.testing.assert_identical(first, ingest(given))


def test_broken_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "good.fits")
    cut = write(tmp_path / "cut.fits", 2, shape=(300, 300))
    os.truncate(cut, 90_000)
    (tmp_path / "empty.fits").touch()
    (tmp_path / "lfs.fits").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "link.fits").symlink_to(tmp_path / "gone.fits")
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["good.fits"]
    reasons = left_out(session)
    assert list(reasons) == ["cut.fits", "empty.fits", "lfs.fits", "link.fits"]
    assert "the file has 90000" in reasons["cut.fits"]
    assert "0 bytes" in reasons["empty.fits"]
    assert "git lfs pull" in reasons["lfs.fits"]
    assert "No such file" in reasons["link.fits"]


def test_nothing_left(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.fits").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"no frame to use, 5 left out \(0\.fits: not a FITS file.*; and 2 more\)"):
        ingest(tmp_path)


def test_nothing_given(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files given"):
        ingest([])
    with pytest.raises(DataError, match=r"no frames in .*; names of frames end in \.fit"):
        ingest(tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.fits: there is no such file or folder"):
        ingest([tmp_path / "nowhere.fits"])
    for name in ("a.zip", "b.7z", "c.7z"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"there are: 2 \.7z, 1 \.zip, not read"):
        ingest(tmp_path)


def test_calibration_frames_are_for_the_preset_that_calibrates(tmp_path: Path) -> None:
    write(tmp_path / "l.fits", 1, IMAGETYP="Light Frame")
    write(tmp_path / "d.fits", 2, IMAGETYP="Dark Frame")
    write(tmp_path / "masterFlat.fits", 3)
    write(tmp_path / "u.fits", 4)
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["l.fits", "u.fits"]
    reasons = left_out(session)
    remedy = "only calibrated lights are taken here; the preset 'raw' calibrates them"
    assert reasons["d.fits"] == f"a dark (header IMAGETYP): {remedy}"
    assert reasons["masterFlat.fits"] == f"a master flat (file name): {remedy}"
    every = open_session(tmp_path)
    assert dict(zip(every["name"].values.tolist(), every["kind"].values.tolist(), strict=True)) == {
        "d.fits": "dark",
        "l.fits": "light",
        "masterFlat.fits": "flat",
        "u.fits": "unknown",
    }


def test_bands_can_be_chosen(tmp_path: Path) -> None:
    for i, band in enumerate("LRGB"):
        write(tmp_path / f"{band}.fits", i, FILTER=band)
    session = ingest(tmp_path, bands=["R", "B"])
    assert session["band"].values.tolist() == ["B", "R"]
    assert left_out(session) == {f"{b}.fits": f"band {b}: not among R, B" for b in "GL"}


def test_frames_of_a_colour_sensor_are_chosen_by_their_filter(tmp_path: Path) -> None:
    for i, name in enumerate(("IRCUT", "L-eXtreme")):
        write(tmp_path / f"{name}.fits", i, FILTER=name, BAYERPAT="RGGB")
    assert ingest(tmp_path)["band"].values.tolist() == ["CFA", "CFA"]
    session = ingest(tmp_path, bands=["L-eXtreme"])
    assert session["filter"].values.tolist() == ["L-eXtreme"]
    assert ingest(tmp_path, bands=["CFA"]).sizes["frame"] == 2
    assert left_out(session) == {"IRCUT.fits": "band CFA: not among L-eXtreme"}


def test_what_the_user_states(tmp_path: Path) -> None:
    write(tmp_path / "flats/a.fits", 1, IMAGETYP="Light", FILTER="R")
    write(tmp_path / "lights/M42_60s_b.fits", 2)
    rules = [
        {"match": "*/flats/*", "kind": "flat", "band": "Ha", "night": "2024-01-31"},
        {"match": "*/flat/*", "kind": "flat"},
    ]
    session = ingest(tmp_path, take="all", overrule=rules, patterns=["{object}_{exposure}s_*", "{kind}-{night}"])
    assert session["kind"].values.tolist() == ["light", "flat"]
    assert session["band"].values.tolist() == ["none", "Ha"]
    assert session["exposure"].values.tolist()[0] == 60.0
    assert session["night"].values.tolist() == ["", "2024-01-31"]
    facts = [json.loads(t) for t in session["facts"].values.tolist()]
    assert facts[1]["kind"] == ["flat", "user '*/flats/*'"]
    assert facts[0]["object"] == ["M42", "file name '{object}_{exposure}s_*'"]
    assert json.loads(session.attrs["notes"]) == [
        "overrule '*/flat/*' matches none of the 2 files",
        "pattern '{kind}-{night}' fits none of the 2 names",
    ]
    assert ingest(tmp_path, overrule=rules)["name"].values.tolist() == ["M42_60s_b.fits"]


def test_wrong_patterns_are_told_before_a_file_is_read() -> None:
    with pytest.raises(ConfigError, match="did you mean 'exposure'"):
        ingest("nowhere", patterns=["{expsure}s"])
    with pytest.raises(ConfigError, match="did you mean 'kind'"):
        ingest("nowhere", overrule=[{"match": "*", "kin": "flat"}])


def test_planes_of_a_colour_image(tmp_path: Path) -> None:
    data = np.random.default_rng(3).normal(1000, 9, (3, 30, 40)).astype(np.float32)
    fits.PrimaryHDU(data, fits.Header({"FILTER": "L-eXtreme", "IMAGETYP": "Light"})).writeto(tmp_path / "x.fits")
    write(tmp_path / "y.fits")
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["x.fits [B]", "x.fits [G]", "x.fits [R]", "y.fits"]
    assert session["band"].values.tolist() == ["B", "G", "R", "none"]
    assert session["filter"].values.tolist() == ["L-eXtreme"] * 3 + [""]
    assert len(set(session["frame"].values.tolist())) == 4
    for i, plane in ((0, 2), (1, 1), (2, 0)):
        pixels = open_source(str(session["source"].values[i])).read(slice(0, 30), slice(0, 40))
        np.testing.assert_array_equal(pixels, data[plane])
    stated = ingest(tmp_path, overrule=[{"match": "x.fits [[]R]", "band": "Ha"}])
    assert stated["band"].values.tolist() == ["B", "G", "Ha", "none"]


def test_equal_content_is_taken_once(tmp_path: Path) -> None:
    first = write(tmp_path / "a.fits", 1, shape=(300, 400))
    shutil.copy(first, tmp_path / "b.fits")
    (tmp_path / "c.fits.gz").write_bytes(gzip.compress(first.read_bytes()))
    write(tmp_path / "d.fits", 2, shape=(300, 400))
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["a.fits", "d.fits"]
    assert left_out(session) == {"b.fits": "same content as a.fits", "c.fits.gz": "same content as a.fits"}


def test_a_frame_keeps_its_id_when_it_moves(tmp_path: Path) -> None:
    write(tmp_path / "x/a.fits")
    before = ingest(tmp_path)["frame"].values.tolist()
    shutil.move(tmp_path / "x/a.fits", tmp_path / "renamed.fit")
    assert ingest(tmp_path)["frame"].values.tolist() == before


def test_a_changed_file_is_noticed_at_the_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits")
    pixels = frame_pixels(ingest(tmp_path), 0)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"a\.fits: changed since it was ingested"):
        pixels.compute(scheduler="synchronous")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9buleuse.fits"))
    try:
        shutil.move(path, odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == ["n\ufffdbuleuse.fits"]
    json.dumps(session["source"].values.tolist()).encode("utf-8")
    np.testing.assert_array_equal(frame_pixels(session, 0).compute(scheduler="synchronous"), fits.getdata(odd))


def test_it_is_an_op() -> None:
    op = get_op("ingest")
    assert op.inputs == ("files",)
    nothing = {"bands": None, "take": "lights", "patterns": None, "overrule": None}
    assert op.check({}) == nothing
    given = {"bands": ["L"], "take": "all", "patterns": ["{kind}_*"], "overrule": [{"match": "*", "exposure": 3}]}
    assert op.check(given) == given
    with pytest.raises(ConfigError, match="overrule = "):
        op.check({"overrule": {"match": "*"}})
    with pytest.raises(ConfigError, match="take = 'everything'"):
        op.check({"take": "everything"})
    assert all(p.doc for p in op.parameters.values())


# --- real folders ---


@pytest.mark.parametrize(
    ("name", "count", "bands", "wcs"),
    [
        ("2mass_m101_J", 10, {"J"}, 10),
        ("2mass_m42_J_core", 10, {"J"}, 10),
        ("jocular_m8_LRGB", 33, {"L", "R", "G", "B"}, 0),
        ("jocular_arp145_L", 17, {"L"}, 0),
        ("seestar_m94_s1", 8, {"CFA"}, 0),
        ("als_samples", 6, {"CFA"}, 6),
        ("ic310_dfot_bias_flat", 5, {"J"}, 0),
        ("2mass_gc_JHK", 3, {"J", "H", "K"}, 3),
        ("decam_stamps_grz", 25, {"g", "r", "z", "zd", "bokr"}, 25),
    ],
)
def test_real_folders(
    shared_data: Callable[[str], Path], name: str, count: int, bands: set[str], wcs: int
) -> None:
    session = ingest(shared_data(name))
    assert session.sizes["frame"] == count
    assert set(session["band"].values.tolist()) == bands
    assert sum(bool(w) for w in session["wcs"].values.tolist()) == wcs
    pixels = frame_pixels(session, count - 1).compute(scheduler="synchronous")
    assert np.isfinite(pixels.values).any()
    assert len(describe(session)) == count


def test_odd_folder(shared_data: Callable[[str], Path]) -> None:
    session = ingest(shared_data("odd_fits"))
    reasons = left_out(session)
    assert session.sizes["frame"] >= 50
    assert sum(r.startswith("same content as ") for r in reasons.values()) >= 7
    assert all(r and "\n" not in r for r in reasons.values())
