"""The WCS of a part of a frame's pixels."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.calibration.window_wcs import window_wcs
from skyloom.ops.grid import parse_wcs, pixel_to_sky, wcs_header

TAN = """CTYPE1  = 'RA---TAN'
CTYPE2  = 'DEC--TAN'
CRVAL1  = 83.6
CRVAL2  = -5.4
CRPIX1  = 512.3
CRPIX2  = 380.7"""
CD = f"{TAN}\nCD1_1   = -0.0005\nCD1_2   = 0.0001\nCD2_1   = 0.0001\nCD2_2   = 0.0005"
CROTA = f"{TAN}\nCDELT1  = -0.0005\nCDELT2  = 0.0005\nCROTA2  = 12.0"
CDELT = f"{TAN}\nCDELT1  = -0.0005\nCDELT2  = 0.0005\nPC1_2   = 0.2"
SIP = CD.replace("TAN'", "TAN-SIP'") + "".join(
    f"\n{key:<8}= {str(value).upper():>20}"
    for key, value in {
        "A_ORDER": 3, "A_2_0": 2e-6, "A_1_1": -1e-6, "A_0_3": 3e-9, "A_0_1": 1e-4,
        "B_ORDER": 2, "B_0_2": -2e-6, "B_1_0": 2e-4,
        "AP_ORDER": 2, "AP_2_0": -2e-6, "BP_ORDER": 2, "BP_0_2": 2e-6,
    }.items()
)  # fmt: skip
TPV = CD.replace("TAN'", "TPV'") + "".join(
    f"\nPV{k:<6}= {v}" for k, v in {"1_0": 0.0, "1_1": 1.0, "1_4": 0.002, "2_1": 1.0, "2_5": -0.001}.items()
)


@pytest.mark.parametrize("again", [False, True], ids=["as given", "as skyloom writes it"])
@pytest.mark.parametrize("text", [CD, CROTA, CDELT, SIP, TPV], ids=["CD", "CROTA", "CDELT", "SIP", "TPV"])
@pytest.mark.parametrize(("row", "column", "step"), [(7.0, 30.0, 1), (0.0, 1.0, 2), (0.5, 0.5, 2)])
def test_pixels_keep_their_place_on_the_sky(text: str, again: bool, row: float, column: float, step: int) -> None:
    whole = wcs_header(parse_wcs(text)) if again else text
    part = window_wcs(whole, row=row, column=column, step=step)
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(0, 500, 41), np.arange(0, 380, 37)))
    expected = pixel_to_sky(parse_wcs(text), column + step * x, row + step * y)
    found = pixel_to_sky(parse_wcs(part), x, y)
    assert np.hypot((found[0] - expected[0]) * np.cos(np.radians(5.4)), found[1] - expected[1]).max() < 1e-10


def test_no_wcs_stays_none() -> None:
    assert window_wcs("", row=3, step=2) == ""
