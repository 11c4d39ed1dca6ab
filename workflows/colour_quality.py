"""What was done to the colours of a picture, a line each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from skyloom.ops.restoration.aims import SHARPEST, aims


def colour_lines(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Sum up deconvolution, linear fit, background and white balance.

    Parameters
    ----------
    results
        Op → its result, as many as there are.

    Returns
    -------
    list of str
        Lines for people.
    """
    lines = []
    if "psf" in results and "target" in results.get("deconvolve", xr.Dataset()).attrs:
        lines.append(_deconvolved(results["deconvolve"], results["psf"]))
    if "linear_fit" in results:
        lines.append(_fit(results["linear_fit"]))
    if "neutralize" in results:
        found = results["neutralize"]
        levels = _by_band(found, found["level"].values, "{:.5g}")
        lines.append(f"neutralize: sky from {int(found['cells'].values)} dark cells, levels {levels}")
    if "white_balance" in results:
        found = results["white_balance"]
        stars = int(found["stars"].values)
        source = f"{stars} stars" if stars else "the white that was given"
        lines.append(f"white balance: from {source}, factors {_by_band(found, found['factor'].values, '{:.3f}')}")
    return lines


def _deconvolved(result: xr.Dataset, psf: xr.Dataset) -> str:
    bands = [str(b) for b in psf["band"].values]
    chosen = [bands.index(b) for b in str(result.attrs["deconvolved"]).split(", ")]
    fwhm = psf["fwhm"].values
    wanted, worth = aims(fwhm, chosen, float(result.attrs["target"]))
    done = ", ".join(f"{bands[b]} {np.median(fwhm[b]):.1f}" for b in worth)
    blind = [b for b in chosen if not np.isfinite(fwhm[b]).all()]
    left = ", ".join(f"{bands[b]} {np.median(fwhm[b]):.1f}" for b in chosen if b not in (*worth, *blind))
    said = f"FWHM {done} px, towards {wanted:.1f}" if done else ""
    if left:
        said += "; " if said else ""
        said += f"{left} px left as they are: pixels show nothing sharper than {SHARPEST:.1f} px as round"
    if blind:
        said += "; " if said else ""
        names = ", ".join(bands[b] for b in blind)
        said += f"{names} left as they are: too few stars for a PSF (psf_stars.least, .snr)"
    return f"deconvolve: {said}"


def _fit(table: xr.Dataset) -> str:
    reference = str(table.attrs.get("reference", ""))
    bands = [str(b) for b in table["band"].values]
    points = dict(zip(bands, table["points"].values.tolist(), strict=True))
    weak = [b for b in bands if points[b] == 0 and b != reference]
    text = f"linear fit: to {reference}, scales {_by_band(table, table['scale'].values, '{:.3f}')}"
    if weak:
        text += f"; too little signal, or none in common, in {', '.join(weak)}: noise levels made equal"
    return text


def _by_band(table: xr.Dataset, values: np.ndarray, form: str) -> str:
    return ", ".join(f"{b} {form.format(v)}" for b, v in zip(table["band"].values, values.tolist(), strict=True))
