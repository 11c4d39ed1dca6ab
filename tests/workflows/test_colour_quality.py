"""What is said of deconvolution."""

from __future__ import annotations

import numpy as np
import xarray as xr

from skyloom.workflows.colour_quality import colour_lines


def said(widths: list[float], done: str) -> list[str]:
    fwhm = np.array(widths)[:, None, None] * np.ones((1, 2, 2))
    psf = xr.Dataset({"fwhm": (("band", "y", "x"), fwhm)}, {"band": ["B", "G", "L"][: len(widths)]})
    return colour_lines({"psf": psf, "deconvolve": xr.Dataset(attrs={"deconvolved": done, "target": 0.5})})


def test_bands_that_stay_as_they_are_are_named() -> None:
    left = "px left as they are: pixels show nothing sharper than 2.0 px as round"
    assert said([4.0, 5.0, 9.0], "B, G") == ["deconvolve: FWHM B 4.0, G 5.0 px, towards 2.2"]
    assert said([1.4, 2.1, 3.0], "B, G, L") == [f"deconvolve: FWHM L 3.0 px, towards 2.0; B 1.4, G 2.1 {left}"]
    assert said([1.4, 2.1, 3.0], "B") == [f"deconvolve: B 1.4 {left}"]
    # A result of an earlier version says nothing of what it worked towards.
    assert colour_lines({"psf": xr.Dataset(), "deconvolve": xr.Dataset(attrs={"deconvolved": "B"})}) == []
