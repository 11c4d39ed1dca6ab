"""What was done to the edges and the background of a mosaic, a line each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import xarray as xr


def background_lines(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Sum up how the canvas was cut and what slow light was found.

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
    if "edges" in results:
        attrs = results["edges"].attrs
        x0, y0, x1, y1 = attrs["crop"]
        if attrs["told"]:
            lines.append(f"edges: not cut: {attrs['told']}")
        elif attrs["kept"] < 1:
            share = 100 * attrs["kept"]
            lines.append(
                f"edges: cut to {x1 - x0} × {y1 - y0} px from ({x0}, {y0}), {share:.0f} % of what is covered"
            )
    if "gradient_model" in results:
        lines.extend(_gradient(results["gradient_model"], results.get("gradient")))
    return lines


def _gradient(model: xr.Dataset, gradient: xr.Dataset | None) -> list[str]:
    """A line a band, and what was left out of caution."""
    how = "divided by" if gradient is not None and gradient.attrs.get("gradient") == "divide" else "subtracted"
    how = how if gradient is not None else "found"
    units = str(model.attrs.get("units", ""))
    lines = []
    for band in model["band"].values.tolist():
        here = model.sel(band=band)
        degree, amplitude, stiffness = (float(here[n].values) for n in ("degree", "amplitude", "stiffness"))
        rms, samples, protected = (float(here[n].values) for n in ("rms", "samples", "protected"))
        if degree == 0 and amplitude == 0:
            lines.append(f"gradient: {band}: none taken away")
            continue
        kind = f"degree {degree:.0f}" if math.isnan(stiffness) else "spline"
        lines.append(
            f"gradient: {band}: {kind} {how}, {amplitude:.3g} {units} from end to end (rms {rms:.3g}), "
            f"from {samples:.0f} places of sky, {100 * protected:.0f} % protected"
        )
    notes = str(model["notes"].values)
    return lines + ([f"gradient: {notes}"] if notes else [])
