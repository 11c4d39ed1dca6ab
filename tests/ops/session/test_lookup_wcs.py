"""Distortions by tables: positions against astropy's with the tables themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable
from numpy.typing import NDArray

from skyloom.ops.calibration.window_wcs import window_wcs
from skyloom.ops.formats.examine import examine
from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.integration.coordinates import frame_positions
from skyloom.ops.registration.given_canvas import read_canvas
from skyloom.ops.session.header_wcs import celestial_wcs
from skyloom.ops.session.ingest import ingest

SHAPE = (400, 600)
SCALE = 1.8  # arcsec a pixel
CARDS: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 301.0,
    "CRPIX2": 199.5,
    "CRVAL1": 83.8,
    "CRVAL2": -5.4,
    "CD1_1": -5e-4,
    "CD1_2": 1e-5,
    "CD2_1": 1.2e-5,
    "CD2_2": 5.1e-4,
    "RADESYS": "ICRS",
}
SIP: dict[str, Any] = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 3,
    "A_2_0": 3e-6,
    "A_1_1": -1e-6,
    "A_0_3": 4e-9,
    "B_ORDER": 2,
    "B_0_2": 2e-6,
    "AP_ORDER": 2,
    "AP_2_0": -3e-6,
    "BP_ORDER": 2,
    "BP_0_2": -2e-6,
}
TPV: dict[str, Any] = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV1_7": 0.2, "PV2_1": 1.001}
Y, X = (c.ravel() for c in np.mgrid[0 : SHAPE[0] - 1 : 47j, 0 : SHAPE[1] - 1 : 71j])


def table(phase: float, amplitude: float = 0.5, nodes: tuple[int, int] = (17, 33)) -> DistortionLookupTable:
    """Smooth offsets (px), given at nodes over the frame."""
    y, x = np.mgrid[-1 : 1 : nodes[0] * 1j, -1 : 1 : nodes[1] * 1j]
    return table_of(amplitude * np.sin(1.3 * x + phase) * np.cos(0.9 * y - phase))


def table_of(values: NDArray[np.float64]) -> DistortionLookupTable:
    rows, columns = values.shape
    step = ((SHAPE[1] - 1) / (columns - 1), (SHAPE[0] - 1) / (rows - 1))
    return DistortionLookupTable(values.astype(np.float32), (1.0, 1.0), (1.0, 1.0), step)


def rough(seed: int, amplitude: float = 0.3) -> DistortionLookupTable:
    return table_of(np.random.default_rng(seed).uniform(-amplitude, amplitude, (17, 33)))


def with_tables(cards: dict[str, Any], **tables: DistortionLookupTable) -> WCS:
    wcs = WCS(fits.Header({**CARDS, **cards}))
    for name, value in tables.items():
        setattr(wcs, name, value)
    return wcs


def write(path: Path, wcs: WCS) -> Path:
    units = wcs.to_fits(relax=True)
    units[0].data = np.random.default_rng(1).normal(100, 3, SHAPE).astype(np.float32)
    units.writeto(path)
    return path


def text_of(path: Path, part: int = 0) -> tuple[str, list[str]]:
    frame = examine(path)[part]
    return celestial_wcs(frame.wcs_header, frame.source.shape, frame.tables)


def apart(text: str, truth: WCS, x: Any = X, y: Any = Y) -> NDArray[np.float64]:
    """Distances (px) between the positions of two WCS."""
    found, true = np.radians(pixel_to_sky(parse_wcs(text), x, y)), np.radians(truth.all_pix2world(x, y, 0))
    east = (found[0] - true[0]) * np.cos(true[1])
    return np.asarray(np.degrees(np.hypot(east, found[1] - true[1])) * 3600 / SCALE)


@pytest.mark.parametrize(
    "cards",
    [
        {},
        SIP,
        TPV,
        {"CRPIX1": -5000.0, "CRPIX2": 3000.0},
        {**SIP, "CRPIX1": -1500.0},
    ],
    ids=["tan", "sip", "tpv", "far", "far-sip"],
)
@pytest.mark.parametrize("kinds", [("cpdis1", "cpdis2"), ("det2im1",), ("cpdis1", "cpdis2", "det2im1", "det2im2")])
def test_smooth_tables_are_followed(tmp_path: Path, cards: dict[str, Any], kinds: tuple[str, ...]) -> None:
    truth = with_tables(cards, **{kind: table(0.4 * k) for k, kind in enumerate(kinds)})
    text, notes = text_of(write(tmp_path / "a.fits", truth))
    assert notes == []
    assert apart(text, truth).max() < 0.012
    bare = with_tables(cards)
    assert apart(text, bare).max() > 0.2  # the tables matter
    assert np.allclose(parse_wcs(text).wcs.crpix, bare.wcs.crpix, atol=0)
    assert np.allclose(parse_wcs(text).wcs.crval, bare.wcs.crval, atol=0)
    assert np.allclose(parse_wcs(text).pixel_scale_matrix, bare.pixel_scale_matrix, rtol=1e-14)


@pytest.mark.parametrize("cards", [{}, SIP, TPV], ids=["tan", "sip", "tpv"])
def test_pixels_come_back(tmp_path: Path, cards: dict[str, Any]) -> None:
    truth = with_tables(cards, cpdis1=table(0.1), cpdis2=table(0.7), det2im2=table(1.0))
    text, _ = text_of(write(tmp_path / "a.fits", truth))
    sky = pixel_to_sky(parse_wcs(text), X, Y)
    for x, y in (sky_to_pixel(parse_wcs(text), *sky), frame_positions(text, *sky)):
        assert max(np.abs(x - X).max(), np.abs(y - Y).max()) < 1e-5
    part = window_wcs(text, row=20, column=31, step=2)
    assert apart(part, truth).max() > 1
    x, y = np.array([0.0, 100.0, 280.0]), np.array([0.0, 180.0, 33.0])
    whole = pixel_to_sky(parse_wcs(text), 31 + 2 * x, 20 + 2 * y)
    assert np.abs(np.subtract(pixel_to_sky(parse_wcs(part), x, y), whole)).max() < 1e-9


def test_a_small_shift_takes_the_least_degree_and_sip_keeps_its_terms(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:17j, -1:1:33j]
    truth = with_tables(SIP, cpdis1=table_of(0.4 + 0.0 * x), cpdis2=table_of(0.3 * x - 0.2 * y))
    text, notes = text_of(write(tmp_path / "a.fits", truth))
    sip, old = parse_wcs(text).sip, WCS(fits.Header({**CARDS, **SIP})).sip
    assert notes == []
    assert sip.a[0, 0] == pytest.approx(0.4, abs=1e-6)
    assert sip.b[1, 0] == pytest.approx(0.3 / 299.5, rel=1e-5)
    for i, j in [(2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]:
        assert sip.a[i, j] == pytest.approx(old.a[i, j], rel=1e-12)
    assert sip.ap is None  # the inverse was that of the old terms
    assert apart(text, truth).max() < 1e-5


def test_no_more_degrees_than_needed(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:65j, -1:1:65j]
    truth = with_tables({}, cpdis1=table_of(0.4 * x * y**2 + 0.008 * x**5), cpdis2=table_of(0.3 * y))
    text, _ = text_of(write(tmp_path / "a.fits", truth))
    assert parse_wcs(text).sip.a_order == 3
    assert apart(text, truth).max() < 0.012


def test_what_a_polynomial_cannot_follow_is_told(tmp_path: Path) -> None:
    truth = with_tables(SIP, cpdis1=rough(1), cpdis2=rough(2))
    text, notes = text_of(write(tmp_path / "a.fits", truth))
    y, x = (c.ravel() for c in np.indices(SHAPE))
    worst = apart(text, truth, x, y).max()
    assert 0.1 < worst < 0.5
    assert len(notes) == 1
    assert notes[0].startswith("lookup distortion followed to 0.")
    assert float(notes[0].split()[-2]) == pytest.approx(worst, rel=0.08)
    dx, dy = np.subtract(truth.pix2foc(X, Y, 0), with_tables(SIP).pix2foc(X, Y, 0))
    assert (apart(text, truth) ** 2).mean() < (dx**2 + dy**2).mean()


def test_a_correction_by_column_in_the_old_form(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    step = (np.arange(SHAPE[1]) / 600 - 0.5) ** 2
    header = fits.Header({**CARDS, "AXISCORR": 1, "D2IMERR1": 0.1})
    column = fits.ImageHDU(step.astype(np.float32), name="D2IMARR", ver=1)
    fits.HDUList([fits.PrimaryHDU(np.ones(SHAPE, np.float32), header), column]).writeto(path)
    text, notes = text_of(path)
    assert notes == []
    x, y = np.array([1.0, 100.0, 500.0]), np.array([200.0, 10.0, 390.0])
    moved = with_tables({}).all_pix2world(x + step[x.astype(int)], y, 0)
    assert np.abs(np.subtract(pixel_to_sky(parse_wcs(text), x, y), moved)).max() * 3600 / SCALE < 0.02


def chips(path: Path) -> list[WCS]:
    """A camera of two chips, each with its tables."""
    truths = [with_tables({**SIP, "CRVAL1": 83.8 + k}, cpdis1=table(k), cpdis2=table(k + 0.5)) for k in range(2)]
    units = fits.HDUList([fits.PrimaryHDU()])
    tables = []
    for k, truth in enumerate(truths):
        made = truth.to_fits(relax=True)
        made[0].header["DP1.EXTVER"], made[0].header["DP2.EXTVER"] = 2 * k + 1, 2 * k + 2
        data = np.random.default_rng(k).normal(100, 3, SHAPE).astype(np.float32)
        units.append(fits.ImageHDU(data, made[0].header, name="SCI", ver=k + 1))
        for unit in made[1:]:
            unit.ver += 2 * k
            tables.append(unit)
    units.extend(tables)
    units.writeto(path)
    return truths


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
def test_each_chip_has_its_tables(tmp_path: Path, name: str) -> None:
    truths = chips(tmp_path / name)
    session = ingest(tmp_path)
    assert session["name"].values.tolist() == [f"{name} [SCI1]", f"{name} [SCI2]"]
    for text, truth in zip(session["wcs"].values, truths, strict=True):
        assert apart(str(text), truth).max() < 0.012


def test_compressed_by_tiles(tmp_path: Path) -> None:
    path, truth = tmp_path / "a.fits.fz", with_tables(SIP, cpdis1=table(0.2), cpdis2=table(0.9))
    units = truth.to_fits(relax=True)
    data = np.random.default_rng(1).normal(100, 3, SHAPE).astype(np.int16)
    image = fits.CompImageHDU(data, units[0].header, name="SCI", compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image, *units[1:]]).writeto(path)
    text, notes = text_of(path)
    assert notes == []
    assert apart(text, truth).max() < 0.012


def test_other_coordinates_keep_the_tables(tmp_path: Path) -> None:
    cards = {**SIP, "CTYPE1": "GLON-TAN-SIP", "CTYPE2": "GLAT-TAN-SIP"}
    cards |= {"CRVAL1": 209.0, "CRVAL2": -19.4}
    del (plain := {**CARDS, **cards})["RADESYS"]
    truth = WCS(fits.Header(plain))
    truth.cpdis1, truth.cpdis2 = table(0.3), table(0.5)
    text, notes = text_of(write(tmp_path / "a.fits", truth))
    assert notes == ["WCS in Galactic: converted to ICRS"]
    moved = np.stack(truth.pix2foc(X, Y, 0))
    assert np.abs(np.stack(parse_wcs(text).pix2foc(X, Y, 0)) - moved).max() < 0.012


def test_a_canvas_may_have_tables(tmp_path: Path) -> None:
    truth = with_tables({}, cpdis1=table(0.3), cpdis2=table(0.8))
    grid = read_canvas(str(write(tmp_path / "a.fits", truth)), tile=256)
    assert apart(grid.header, truth).max() < 0.012


def cut(path: Path, unit: int) -> None:
    """End the file inside of a table."""
    with fits.open(path) as units:
        start = units[unit].fileinfo()["datLoc"]
    path.write_bytes(path.read_bytes()[: start + 500])


def broken(path: Path, how: str) -> str:
    """Write a file whose tables cannot be used, and say with what words that is told."""
    hole = np.zeros((17, 33))
    hole[3, 4] = np.nan
    holed = {"cpdis1": table_of(hole)} if how == "nan" else {}
    write(path, with_tables(SIP, **{"cpdis1": table(0.2), "cpdis2": table(0.9), **holed}))
    if how == "nan":
        return "not finite"
    if how == "cut":
        cut(path, 2)
        return ""
    with fits.open(path, mode="update") as units:
        if how == "missing":
            del units[2]
            return "('WCSDVARR', 2"
        if how == "polynomial":
            units[0].header["CPDIS2"] = "TPD"
            return "CPDIS2 = TPD is none that is known"
        if how == "empty":
            units[1].data = np.zeros((0, 0), np.float32)
            return "no such table"
        del units[0].header["DP1.AXIS.1"]
        return "DP1.AXIS.1"


@pytest.mark.parametrize("how", ["nan", "cut", "missing", "polynomial", "empty", "axis"])
def test_tables_that_cannot_be_used_are_ignored_with_one_note(tmp_path: Path, how: str) -> None:
    said = broken(tmp_path / "a.fits", how)
    session = ingest(tmp_path / "a.fits")
    assert apart(str(session["wcs"].values[0]), with_tables(SIP)).max() < 1e-4
    notes = [n for n in json.loads(str(session["facts"].values[0]))["notes"][0] if "lookup" in n]
    assert len(notes) == 1
    assert notes[0].startswith("the WCS has lookup distortions: ignored (")
    assert said in notes[0]
    assert "\n" not in notes[0]


def test_no_file_is_opened_for_other_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", with_tables(SIP))
    frame = examine(path)[0]
    assert frame.tables is None
    text, notes = text_of(path)
    assert notes == []
    assert parse_wcs(text).sip.a[0, 0] == 0.0
    assert apart(text, with_tables(SIP)).max() < 1e-5


def test_a_frame_of_hubble(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("odd_fits") / "astropy" / "wcs__dist_lookup.fits.gz"
    text, notes = text_of(path)
    assert notes == []
    y, x = (c.ravel() for c in np.mgrid[0:99:34j, 0:99:34j])
    with fits.open(path) as units:
        truth = WCS(units["SCI", 1].header, fobj=units)
        bare = celestial_wcs(examine(path)[0].wcs_header, (100, 100))[0]
    fine = SCALE / (np.sqrt(abs(np.linalg.det(truth.pixel_scale_matrix))) * 3600)
    assert apart(text, truth, x, y).max() * fine < 0.012
    assert apart(bare, truth, x, y).max() * fine > 0.03
