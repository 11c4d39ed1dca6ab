"""A WCS only where it can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.fits_header import Header
from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.session.header_wcs import celestial_wcs


def header_of(cards: dict[str, Any]) -> Header:
    return Header(fits.Header(cards).tostring().encode("ascii"))


SHAPE = (400, 600)
X = np.array([0.0, 599.0, 300.0, 12.0])
Y = np.array([0.0, 399.0, 200.0, 380.0])
TAN: dict[str, Any] = {
    "NAXIS": 2,
    "NAXIS1": 600,
    "NAXIS2": 400,
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 301.0,
    "CRPIX2": 199.5,
    "CRVAL1": 83.8,
    "CRVAL2": -5.4,
}
CD: dict[str, Any] = {"CD1_1": -5e-4, "CD1_2": 1e-5, "CD2_1": 1.2e-5, "CD2_2": 5.1e-4}


def positions(text: str) -> SkyCoord:
    return SkyCoord(*pixel_to_sky(parse_wcs(text), X, Y), unit="deg")


def truth(cards: dict[str, Any], frame: str = "icrs", **options: Any) -> SkyCoord:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lon, lat = WCS(fits.Header(cards)).all_pix2world(X, Y, 0)[:2]
    return SkyCoord(lon, lat, unit="deg", frame=frame, **options).icrs


SIP = {"A_ORDER": 2, "A_2_0": 3e-6, "A_1_1": -1e-6, "B_ORDER": 2, "B_0_2": 2e-6, "A_DMAX": 1.0}


@pytest.mark.parametrize(
    "cards",
    [
        {**TAN, **CD},
        {**TAN, "CDELT1": -5e-4, "CDELT2": 5e-4},
        {**TAN, "CDELT1": -5e-4, "CDELT2": 5e-4, "CROTA2": 33.0},
        {**TAN, "CDELT1": 4e-4, "CDELT2": 4e-4, "CROTA1": 303.0, "CROTA2": 303.0},
        {**TAN, "CDELT1": -5e-4, "CDELT2": 5e-4, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
        {**TAN, **CD, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
        {**TAN, **CD, **SIP, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
        {**TAN, **CD, "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV1_7": 0.02, "PV2_1": 1.001},
        {**TAN, **CD, "CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 40.0},
        {**TAN, **CD, "CRVAL1": 0.01, "CRVAL2": 89.95},
        {**TAN, **CD, "RADECSYS": "FK5", "EQUINOX": 2000},
    ],
    ids=["cd", "cdelt", "crota", "crota-indi", "pc", "sin", "sip", "tpv", "zpn", "pole", "radecsys"],
)
def test_usable_wcs_keep_their_positions(cards: dict[str, Any]) -> None:
    text, notes = celestial_wcs(header_of(cards), SHAPE)
    assert notes == []
    assert positions(text).separation(truth(cards)).arcsec.max() < 1e-4


def test_coordinates_of_another_axis_are_dropped() -> None:
    cards = {**TAN, **CD, "NAXIS": 3, "NAXIS3": 1, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CRPIX3": 1.0, "CD3_3": 1e6}
    text, notes = celestial_wcs(header_of({**cards, "WCSAXES": 3}), SHAPE)
    assert notes == []
    assert positions(text).separation(truth({**TAN, **CD})).arcsec.max() < 1e-4


@pytest.mark.parametrize(
    ("extra", "frame", "options", "note"),
    [
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "fk4", {"equinox": "B1950"}, "FK4"),
        ({"EQUINOX": 2025.5}, "fk5", {"equinox": "J2025.5"}, "FK5, equinox 2025.5"),
        ({"RADESYS": "FK5", "EQUINOX": 1975.0}, "fk5", {"equinox": "J1975"}, "FK5, equinox 1975"),
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, "galactic", {}, "Galactic"),
    ],
)
@pytest.mark.parametrize("geometry", [CD, {"CDELT1": -5e-4, "CDELT2": 5e-4, "CROTA2": 20.0}])
def test_other_coordinates_become_icrs(
    extra: dict[str, Any], frame: str, options: dict[str, Any], note: str, geometry: dict[str, Any]
) -> None:
    cards = {**TAN, **geometry, **extra}
    text, notes = celestial_wcs(header_of(cards), SHAPE)
    assert len(notes) == 1
    assert note in notes[0]
    assert "converted to ICRS" in notes[0]
    # FK4's aberration terms change by this much over the frame.
    assert positions(text).separation(truth(cards, frame, **options)).arcsec.max() < (
        0.01 if frame == "fk4" else 1e-4
    )


def test_sip_survives_the_change_of_coordinates() -> None:
    cards = {**TAN, **CD, **SIP, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "EQUINOX": 2020.0}
    text, _ = celestial_wcs(header_of(cards), SHAPE)
    expected = truth(cards, "fk5", equinox="J2020")
    assert positions(text).separation(expected).arcsec.max() < 1e-4


def test_declination_first() -> None:
    swap = {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": -5.4, "CRVAL2": 83.8}
    cards = {**TAN, **swap, "CD1_1": 5e-4, "CD1_2": 1e-5, "CD2_1": 2e-5, "CD2_2": -4e-4}
    text, notes = celestial_wcs(header_of(cards), SHAPE)
    assert notes == ["the WCS has declination on its first axis: axes exchanged"]
    dec, ra = WCS(fits.Header(cards)).wcs_pix2world(X, Y, 0)
    assert positions(text).separation(SkyCoord(ra, dec, unit="deg")).arcsec.max() < 1e-4


def test_scamp_polynomials_under_the_name_of_tan() -> None:
    polynomial = {"PV1_0": 1e-4, "PV1_1": 1.0, "PV1_4": 0.01, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_6": -0.02}
    text, notes = celestial_wcs(header_of({**TAN, **CD, **polynomial}), SHAPE)
    assert notes == ["WCS written as TAN with PV polynomials: read as TPV"]
    named = {**TAN, **CD, **polynomial, "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}
    assert positions(text).separation(truth(named)).arcsec.max() < 1e-4


def test_scamp_next_to_sip_counts_once() -> None:
    cards = {**TAN, **CD, **SIP, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
    text, _ = celestial_wcs(header_of({**cards, "PV1_5": 0.1, "PV2_5": 0.2, "PV1_1": 1.0}), SHAPE)
    assert positions(text).separation(truth(cards)).arcsec.max() < 1e-4


def test_lookup_distortions_are_ignored_and_said() -> None:
    text, notes = celestial_wcs(header_of({**TAN, **CD, "CPDIS1": "LOOKUP", "CPDIS2": "LOOKUP"}), SHAPE)
    assert len(notes) == 1
    assert "lookup distortions: ignored" in notes[0]
    assert positions(text).separation(truth({**TAN, **CD})).arcsec.max() < 1e-4


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({**TAN, "CD1_1": 1e-4, "CD1_2": 2e-4, "CD2_1": 2e-4, "CD2_2": 4e-4}, "cannot be inverted"),
        ({**TAN, "CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}, ""),
        ({**TAN, "CDELT1": -1.0, "CDELT2": 1.0}, "pixels of 3.6e+03 by 3.6e+03 arcsec"),
        ({**TAN}, "arcsec"),
        ({**TAN, "CDELT1": 1e-9, "CDELT2": 1e-9}, "arcsec"),
        ({**TAN, **CD, "CRVAL2": 95.0}, ""),
        ({**TAN, **CD, "CTYPE2": "PIXEL"}, ""),
        ({**TAN, **CD, "CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, ""),
        ({**TAN, **CD, "CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, "ELON are not taken"),
        ({**TAN, **CD, "CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR"}, "solve the frame again"),
        ({**TAN, **CD, "CRPIX1": 1e9}, "90 degrees from its reference point"),
        ({**TAN, **CD, "EQUINOX": 20.0}, "EQUINOX = 20 makes no sense"),
    ],
)
def test_a_wcs_that_cannot_be_trusted_is_not_used(cards: dict[str, Any], reason: str) -> None:
    text, notes = celestial_wcs(header_of(cards), SHAPE)
    assert text == ""
    assert notes[-1].startswith("WCS not used: ")
    assert reason in notes[-1]
    assert "\n" not in notes[-1]


@pytest.mark.parametrize("cards", [{}, {"CTYPE1": "PIXEL", "CTYPE2": "PIXEL"}, {"RA": 12.0, "DEC": 4.0}])
def test_no_wcs_no_note(cards: dict[str, Any]) -> None:
    assert celestial_wcs(header_of(cards), SHAPE) == ("", [])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [*TAN, *CD, *SIP, "CDELT1", "CDELT2", "CROTA2", "PV2_1", "PV1_1", "LONPOLE", "EQUINOX", "CUNIT1"]
        ),
        st.sampled_from(
            ["0", "1E300", "-1", "NaN", "'deg'", "'RA---TAN'", "'DEC--CAR'", "T", "", "7", "1E-9", "'x\xe9'"]
        ),
        max_size=5,
    )
)
def test_no_wcs_keyword_raises_or_warns(changes: dict[str, str]) -> None:
    cards = {k: repr(v) if isinstance(v, str) else f"{v!r}".upper() for k, v in {**TAN, **CD}.items()} | changes
    data = "".join(f"{k:8}= {v}".ljust(80) for k, v in cards.items()).encode("latin-1")
    text, notes = celestial_wcs(Header(data), SHAPE)
    if text:
        sky: NDArray[np.float64] = np.array(pixel_to_sky(parse_wcs(text), np.array([299.5]), np.array([199.5])))
        assert np.isfinite(sky).all()
    else:
        assert notes or "CTYPE1" in changes or "CTYPE2" in changes


def test_real_wcs(shared_data: Callable[[str], Path]) -> None:
    usable = 0
    paths = [p for n in ("2mass_m101_J", "als_samples") for p in sorted(shared_data(n).iterdir())[:2]]
    paths += sorted(shared_data("decam_stamps_grz").rglob("*ooi*"))[::6]
    for path in paths:
        file = examine(path)[0]
        text, _ = celestial_wcs(file.wcs_header, file.source.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path) as hdus:
                expected = WCS(next(h.header for h in hdus if "CTYPE1" in h.header and h.data is not None))
        sky = SkyCoord(*expected.all_pix2world(X / 10, Y / 10, 0), unit="deg")
        got = SkyCoord(*pixel_to_sky(parse_wcs(text), X / 10, Y / 10), unit="deg")
        assert got.separation(sky).max() < 1e-3 * units.arcsec, path
        usable += 1
    assert usable == len(paths) > 6
